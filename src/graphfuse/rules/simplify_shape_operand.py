"""Shapes that are computed but known, up to the symbols, become constants; what computed them is then unused."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import sympy
from onnxscript.rewriter import MatchResult

from graphfuse.graph.dims import Dim, dim
from graphfuse.graph.infer import elements
from graphfuse.graph.origins import label
from graphfuse.rules.reshapes import target_of
from graphfuse.rules.rule import Rule, for_ops, no, yes
from graphfuse.rules.values import array, constant, dims, input_of, ints, producer, same_dim

STAGE = "simplify"
ERROR_CLASS = "exact"
ORDER = 15


# Reshape(x, computed) -> Reshape(x, constant with 0 for a dimension of x and one -1)
class ReshapeOperand(Rule):
    """Legal whenever at most one dimension is neither a number nor that of x at the same place."""

    def pattern(self, op: Any, x: Any, shape: Any) -> Any:
        return op.Reshape(x, shape, _outputs=["y"])

    def check(self, context: Any, x: ir.Value, shape: ir.Value, y: ir.Value, **_: Any) -> MatchResult:
        if array(shape) is not None or dims(x) is None or dims(y) is None:
            return no()
        return yes() if target_of(x, y) is not None else no()

    def rewrite(self, op: Any, x: ir.Value, y: ir.Value, **_: Any) -> ir.Value:
        target = target_of(x, y)
        assert target is not None
        result: ir.Value = op.Reshape(x, ints(op, target, f"{y.name}.shape"))
        return result


# Expand(x, computed) -> Expand(x, constant with 1 for a dimension of x)
class ExpandOperand(Rule):
    """Legal whenever every dimension of the result is a number or that of x."""

    def pattern(self, op: Any, x: Any, shape: Any) -> Any:
        return op.Expand(x, shape, _outputs=["y"])

    def check(self, context: Any, x: ir.Value, shape: ir.Value, y: ir.Value, **_: Any) -> MatchResult:
        if array(shape) is not None or dims(x) is None or dims(y) is None:
            return no()
        return yes() if _expand_target(x, y) is not None else no()

    def rewrite(self, op: Any, x: ir.Value, y: ir.Value, **_: Any) -> ir.Value:
        target = _expand_target(x, y)
        assert target is not None
        result: ir.Value = op.Expand(x, ints(op, target, f"{y.name}.shape"))
        return result


def _expand_target(x: ir.Value, y: ir.Value) -> list[int] | None:
    before, after = dims(x), dims(y)
    assert before is not None
    assert after is not None
    padded: list[Dim] = [*[1] * (len(after) - len(before)), *before]
    target = [d if isinstance(d, int) else 1 if same_dim(d, b) else None for b, d in zip(padded, after, strict=True)]
    return None if any(d is None for d in target) else [d for d in target if d is not None]


# Resize(x, sizes = k * size of x) -> Resize(x, scales = k)
class ResizeOperand(Rule):
    """Legal whenever every size is a number or a whole multiple of x's, for which the scale is exact."""

    def pattern(self, op: Any, x: Any) -> Any:
        return op.Resize(x, _allow_other_inputs=True, _outputs=["y"])

    def check(self, context: Any, x: ir.Value, y: ir.Value, **_: Any) -> MatchResult:
        node = y.producer()
        assert node is not None
        sizes, policy = input_of(node, 3), node.attributes.get_string("keep_aspect_ratio_policy", "stretch")
        if sizes is None or array(sizes) is not None or policy != "stretch" or elements(sizes) is None:
            return no()
        return yes() if _scales(node) is not None else no("its sizes are no whole multiples of its input's", sizes)

    def rewrite(self, op: Any, x: ir.Value, y: ir.Value, **_: Any) -> ir.Value:
        node = y.producer()
        assert node is not None
        factors = _scales(node)
        assert factors is not None
        like = ir.Value(type=ir.TensorType(ir.DataType.FLOAT))
        scales = constant(op, np.array(factors, np.float32), like, f"{y.name}.scales")
        result: ir.Value = op.Resize(x, input_of(node, 1), scales, **dict(node.attributes))
        return result


def _scales(node: ir.Node) -> list[int] | None:
    before, after = dims(node.inputs[0]), dims(node.outputs[0])
    if before is None or after is None:
        return None
    axes = node.attributes.get_ints("axes", range(len(before)))
    factors = [_factor(before[axis], after[axis]) for axis in axes]
    return None if any(f is None for f in factors) else [f for f in factors if f is not None]


def _factor(before: Dim, after: Dim) -> int | None:
    """The whole number of times that one size is the other."""
    if isinstance(before, int) and isinstance(after, int):
        return after // before if before and after % before == 0 else None
    return next((k for k in (1, 2, 3, 4, 8, 16, 32) if same_dim(before * k, after)), None)


# Slice(x, computed bounds) -> Slice(x, constant bounds)
class SliceOperand(Rule):
    """Legal where a bound is a number, the size of the axis, or a number less than that."""

    def pattern(self, op: Any, x: Any, starts: Any, ends: Any) -> Any:
        return op.Slice(x, starts, ends, _allow_other_inputs=True, _outputs=["y"])

    def check(self, context: Any, x: ir.Value, starts: ir.Value, ends: ir.Value, y: ir.Value, **_: Any) -> MatchResult:
        if array(starts) is not None and array(ends) is not None:
            return no()
        node = y.producer()
        assert node is not None
        if _bounds(node, starts) is None or _bounds(node, ends) is None:
            known = elements(starts) is not None and elements(ends) is not None
            return no(f"a bound of {label(node)} depends on another tensor's size", node) if known else no()
        return yes()

    def rewrite(self, op: Any, x: ir.Value, starts: ir.Value, ends: ir.Value, y: ir.Value, **_: Any) -> ir.Value:
        node = y.producer()
        assert node is not None
        low, high = _bounds(node, starts), _bounds(node, ends)
        assert low is not None
        assert high is not None
        constants = (ints(op, low, f"{y.name}.starts"), ints(op, high, f"{y.name}.ends"))
        result: ir.Value = op.Slice(x, *constants, *node.inputs[3:])
        return result


def _bounds(node: ir.Node, bound: ir.Value) -> list[int] | None:
    shape, given = dims(node.inputs[0]), elements(bound)
    axes_value = input_of(node, 3)
    axes = array(axes_value)
    if shape is None or given is None or (axes_value is not None and axes is None):
        return None
    chosen = range(len(given)) if axes is None else [int(a) % len(shape) for a in axes]
    found = [_bound(e, shape[axis]) for e, axis in zip(given, chosen, strict=True)]
    return None if any(b is None for b in found) else [b for b in found if b is not None]


def _bound(bound: int | ir.SymbolicDim, size: Dim) -> int | None:
    if isinstance(bound, int):
        return bound
    place = sympy.sympify(dim(bound))
    difference = sympy.expand(place - size)
    if not difference.is_Integer:
        return None
    if difference >= 0:
        return 2**63 - 1
    # Were the bound itself negative it would count from the end.
    return int(difference) if place.is_nonnegative else None


# Op(..., computed) -> Op(..., Concat(constants, sizes of the model's inputs))
class Operand(Rule):
    """The shortest computation of a shape that no constant can spell; it stands for none of the user's nodes."""

    commute = False

    def pattern(self, op: Any) -> Any:
        return getattr(op, self.op_type)(_allow_other_inputs=True, _outputs=["y"])

    def check(self, context: Any, y: ir.Value, **_: Any) -> MatchResult:
        node = y.producer()
        assert node is not None
        shape = node.inputs[_SHAPE_INPUT[self.op_type]]
        if array(shape) is not None or dims(y) is None or shape is None or shape.dtype != ir.DataType.INT64:
            return no()
        if _is_shortest(shape):
            return no()
        sizes = elements(shape)
        if sizes is None:
            return no(f"the shape that {label(node)} is given depends on more than the sizes of the inputs", shape)
        if any(not isinstance(d, int) and _input_axis(node.graph, d) is None for d in sizes):
            return no(f"the shape that {label(node)} is given is more than a list of numbers and input sizes", shape)
        return yes()

    def rewrite(self, op: Any, y: ir.Value, **_: Any) -> ir.Value:
        node = y.producer()
        assert node is not None
        place = _SHAPE_INPUT[self.op_type]
        sizes = elements(node.inputs[place])
        assert sizes is not None
        parts = [self._part(op, node, d, k) for k, d in enumerate(sizes)]
        operands = list(node.inputs)
        operands[place] = op.Concat(*parts, axis=0)
        result: ir.Value = op.op(self.op_type, *operands, **dict(node.attributes))
        return result

    @staticmethod
    def _part(op: Any, node: ir.Node, d: int | ir.SymbolicDim, k: int) -> ir.Value:
        if isinstance(d, int):
            return ints(op, [d], f"{node.outputs[0].name}.size{k}")
        found = _input_axis(node.graph, d)
        assert found is not None
        source, axis = found
        part: ir.Value = op.Shape(source, start=axis, end=axis + 1)
        return part


_SHAPE_INPUT = {"Reshape": 1, "Expand": 1, "ConstantOfShape": 0}


def _is_shortest(shape: ir.Value) -> bool:
    """Whether a shape is put together from constants and sizes of the model's inputs and nothing else."""
    node = producer(shape, "Concat")
    parts = [shape] if node is None else node.inputs
    if node is None and len(elements(shape) or ()) != 1:
        return False
    makers = [producer(value, "Shape") for value in parts if array(value) is None]
    sources = [maker.inputs[0] if maker is not None else None for maker in makers]
    return all(source is not None and source.is_graph_input() for source in sources)


def _input_axis(graph: ir.Graph | ir.Function | None, d: ir.SymbolicDim) -> tuple[ir.Value, int] | None:
    """The input of the graph that has this size, and its axis."""
    for value in graph.inputs if graph is not None else ():
        for axis, size in enumerate(value.shape or ()):
            if isinstance(size, ir.SymbolicDim) and size == d:
                return value, axis
    return None


RULES = (ReshapeOperand, ExpandOperand, ResizeOperand, SliceOperand, *for_ops(Operand, *_SHAPE_INPUT))

HITS = (
    """g (float[N, 3, H, W] x) => (float[N, 3, M] y) {
        s = Shape<start = 0, end = 2>(x) m = Constant<value = int64[1] {-1}>() t = Concat<axis = 0>(s, m)
        y = Reshape(x, t) }""",
    """g (float[N, 3, H, W] x) => (float[N, 3, P, Q] y) {
        s = Shape<start = 2>(x) two = Constant<value = int64 {2}>() d = Mul(s, two) h = Shape<end = 2>(x)
        t = Concat<axis = 0>(h, d)
        y = Resize<coordinate_transformation_mode = "asymmetric", nearest_mode = "floor">(x, , , t) }""",
    """g (float[N, H, 4] x) => (float[N, K, 4] y) {
        s = Shape<start = 1, end = 2>(x) one = Constant<value = int64[1] {1}>() e = Sub(s, one)
        y = Slice(x, one, e, one) }""",
    """g (float[N, 1, 4] x) => (float[N, 3, 4] y) {
        s = Shape<start = 0, end = 1>(x) c = Constant<value = int64[2] {3, 1}>() t = Concat<axis = 0>(s, c)
        y = Expand(x, t) }""",
    """g (float[1, 4] x, float[N, 4] z) => (float[P, 4] y) {
        s = Shape(z) k = Constant<value = int64[1] {0}>() one = Constant<value = int64[1] {1}>()
        i = Constant<value = int64 {0}>() n = Gather(s, i) n1 = Unsqueeze(n, k) t = Concat<axis = 0>(n1, one)
        a = Expand(x, t) y = Concat<axis = 0>(a, z) }""",
    """g (float[A, B, C] x) => (float[P, Q, R] y) {
        t = Transpose<perm = [2, 0, 1]>(x) s = Shape(t) y = Reshape(x, s) }""",
    """g (float[N, 4] x) => (float[N, 4] y) { s = Shape(x) z = ConstantOfShape(s) y = Add(x, z) }""",
    # A single size: the list of one is taken apart again, and that is the end.
    """g (float[N] x, float[N] z) => (float[N] y) {
        a = Add(x, z) s = Shape(a) o = ConstantOfShape(s) y = Add(x, o) }""",
)
NEAR_MISSES = (
    (
        """g (float[A, B, C] x) => (float[D, E, F] y) {
            t = Transpose<perm = [2, 0, 1]>(x) s = Shape(t) one = Constant<value = int64[1] {1}>()
            z = Concat<axis = 0>(s, one)
            two = Constant<value = int64[4] {2, 1, 1, 1}>() u = Mul(z, two) k = Constant<value = int64[1] {0}>()
            r = Concat<axis = 2>(x, x) y = Reshape(r, u) }""",
        "more than a list of numbers",
    ),
    (
        """g (float[N, 4] x, int64[2] s) => (float[M, 4] y) { one = Constant<value = int64[2] {1, 1}>() t = Max(s, one)
            y = Reshape(x, t) }""",
        "depends on more than the sizes",
    ),
)
