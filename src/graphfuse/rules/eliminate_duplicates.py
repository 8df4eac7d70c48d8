"""Nodes that compute the same from the same inputs become one."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as passes

from graphfuse.graph.randomness import is_random
from graphfuse.ledger import Ledger
from graphfuse.rules.engine import account_for

STAGE = "simplify"
ERROR_CLASS = "exact"
ORDER = 80

_NUMBER = "graphfuse.number"


def apply(model: ir.Model, ledger: Ledger) -> bool:
    """Merge equal nodes; whether any were."""
    return account_for(model, ledger, lambda: _merge(model), "eliminate_duplicates", _why)


def _merge(model: ir.Model) -> None:
    """Equal draws are no duplicates: a number tells them apart while the pass looks."""
    drawing = [node for node in model.graph if is_random(node)]
    for k, node in enumerate(drawing):
        node.attributes.add(ir.AttrInt64(_NUMBER, k))
    passes.CommonSubexpressionEliminationPass()(model)
    for node in drawing:
        del node.attributes[_NUMBER]


def _why(node: ir.Node) -> str:
    return "another node computes the same"


HITS = ("g (float[2, 3] x) => (float[2, 3] y) { a = Exp(x) b = Exp(x) y = Add(a, b) }",)
NEAR_MISSES = ()
