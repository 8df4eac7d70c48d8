"""Nodes that compute the same from the same inputs become one."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as passes

from graphfuse.ledger import Ledger
from graphfuse.rules.engine import account_for

STAGE = "simplify"
ERROR_CLASS = "exact"
ORDER = 80


def apply(model: ir.Model, ledger: Ledger) -> bool:
    """Merge equal nodes; whether any were."""
    change = passes.CommonSubexpressionEliminationPass()
    return account_for(model, ledger, lambda: change(model), "eliminate_duplicates", _why)


def _why(node: ir.Node) -> str:
    return "another node computes the same"


HITS = ("g (float[2, 3] x) => (float[2, 3] y) { a = Exp(x) b = Exp(x) y = Add(a, b) }",)
NEAR_MISSES = ()
