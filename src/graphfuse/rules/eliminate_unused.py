"""Nodes whose results nobody uses are removed."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as passes

from graphfuse.graph.infer import elements
from graphfuse.ledger import Ledger
from graphfuse.rules.engine import account_for

STAGE = ("simplify", "recognize")
ERROR_CLASS = "exact"
ORDER = 90


def apply(model: ir.Model, ledger: Ledger) -> bool:
    """Remove unused nodes and initializers; whether any node was removed."""
    change = passes.RemoveUnusedNodesPass()
    return account_for(model, ledger, lambda: change(model), "eliminate_unused", _why)


def _why(node: ir.Node) -> str:
    shape_only = all(elements(value) is not None for value in node.outputs)
    return "shape computation, known at compile time" if shape_only else "its result is not used"


HITS = ("g (float[2, 3] x) => (float[2, 3] y) { z = Exp(x) y = Relu(x) }",)
NEAR_MISSES = ()
