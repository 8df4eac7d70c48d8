"""Dropout that stays: each call draws numbers of its own.

Random operators draw the same numbers in every run. Here three uniform numbers u, v, w are drawn for each element, and
call k takes the fraction of u + k (v + k w): uniform in each call, and independent between any three of them (Joffe,
"On a set of almost deterministic k-independent random variables", Annals of Probability 2, 1974). In float64 that has
the 24 bits of a float32 up to some ten thousand calls, and 16 bits up to some hundred thousand.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from graphfuse.graph.origins import origins, set_origins
from graphfuse.importers.common import StateVariable

CALLS = "dropout.calls"
_DOUBLE = int(ir.DataType.DOUBLE)


def redraw(model: ir.Model) -> list[StateVariable]:
    """Make the main graph's dropouts and uniform draws depend on the number of the call, which becomes a state."""
    graph = model.graph
    nodes = [node for node in graph if _is_draw(node)]
    if not nodes:
        return []
    calls = ir.Value(name=CALLS, shape=ir.Shape([]), type=ir.TensorType(ir.DataType.DOUBLE))
    graph.inputs.append(calls)
    for node in nodes:
        _Spelling(node, calls).replace()
    following = _Spelling(nodes[0], calls)
    value = following.add("Add", calls, following.constant(1.0), name=f"{CALLS}.next")
    graph.extend(following.nodes)
    value.type, value.shape = calls.type, calls.shape
    graph.outputs.append(value)
    return [StateVariable(CALLS, f"{CALLS}.next", np.array(0.0))]


def _is_draw(node: ir.Node) -> bool:
    if node.op_type == "RandomUniformLike":
        return True
    mode = node.inputs[2] if node.op_type == "Dropout" and len(node.inputs) > 2 else None
    known = ir.convenience.get_const_tensor(mode) if mode is not None else None
    return known is not None and bool(known.numpy().reshape(()))


class _Spelling:
    """The nodes that one draw becomes."""

    def __init__(self, node: ir.Node, calls: ir.Value) -> None:
        self._node, self._calls = node, calls
        self.nodes: list[ir.Node] = []

    def add(self, op_type: str, *inputs: ir.Value | None, name: str = "", **attributes: Any) -> ir.Value:
        name = name or f"{self._node.outputs[0].name}:{op_type}.{len(self.nodes)}"
        made = ir.node(op_type, list(inputs), attributes, name=name)
        made.outputs[0].name = name
        self.nodes.append(made)
        return made.outputs[0]

    def constant(self, number: float) -> ir.Value:
        return self.add("Constant", value=ir.tensor(np.array(number, np.float64)))

    def replace(self) -> None:
        """Put them in the place of the node."""
        node = self._node
        x = node.inputs[0]
        if node.op_type == "Dropout":
            results = self._dropout(x)
        else:
            low, high = (node.attributes.get_float(name, default) for name, default in (("low", 0.0), ("high", 1.0)))
            scaled = self.add("Mul", self._uniform(x), self.constant(high - low))
            shifted = self.add("Add", scaled, self.constant(low))
            wanted = node.attributes.get_int("dtype", 0)
            results = [self.add("Cast", shifted, to=wanted) if wanted else self.add("CastLike", shifted, x)]
        set_origins(self.nodes[-1], origins(node))
        assert node.graph is not None
        ir.convenience.replace_nodes_and_values(
            node.graph, node, [node], self.nodes, list(node.outputs[: len(results)]), results
        )

    def _uniform(self, x: ir.Value | None) -> ir.Value:
        """The fraction of u + k (v + k w)."""
        u, v, w = (self.add("RandomUniformLike", x, dtype=_DOUBLE) for _ in range(3))
        step = self.add("Add", v, self.add("Mul", w, self._calls))
        total = self.add("Add", u, self.add("Mul", step, self._calls))
        return self.add("Sub", total, self.add("Floor", total))

    def _dropout(self, x: ir.Value | None) -> list[ir.Value]:
        given = self._node.inputs[1]
        ratio = ir.convenience.get_const_tensor(given) if given is not None else None
        share = 0.5 if ratio is None else float(ratio.numpy().reshape(()))
        mask = self.add("GreaterOrEqual", self._uniform(x), self.constant(share))
        scale = self.add("CastLike", self.constant(1.0 / (1.0 - share) if share < 1 else 0.0), x)
        kept = self.add("Where", mask, self.add("Mul", x, scale), self.add("CastLike", self.constant(0.0), x))
        return [kept, mask][: len(self._node.outputs)]
