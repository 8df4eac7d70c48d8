"""Transposes between channels first and channels last meet, so that they go.

Converters of models whose channels are last put a transpose on either side of every convolution. What stands between
two convolutions and does not care for the order of axes (pointwise ops, concats, paddings, reductions) is done in the
order that the convolution has, and the transpose behind it, where it meets the next one. The order of memory is another
matter: `plan/layout.py` decides it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from graphfuse.graph.bodies import graphs, supersede
from graphfuse.graph.origins import merge_origins, origins, set_origins
from graphfuse.ledger import Ledger
from graphfuse.rules.builder import Builder
from graphfuse.rules.eliminate_transpose import permutation
from graphfuse.rules.values import array, dims, input_of, rank

STAGE = "simplify"
ERROR_CLASS = "exact"
ORDER = 30

_IMAGES = frozenset(
    {"AveragePool", "BatchNormalization", "Conv", "ConvInteger", "ConvTranspose", "DepthToSpace", "GlobalAveragePool",
     "GlobalMaxPool", "LRN", "LpPool", "MaxPool", "QLinearConv", "Resize", "SpaceToDepth"}
)  # fmt: skip
_POINTWISE = frozenset(
    {"Abs", "Add", "And", "BitShift", "Cast", "Ceil", "Clip", "Cos", "Div", "Elu", "Equal", "Erf", "Exp", "Floor",
     "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max",
     "Min", "Mish", "Mul", "Neg", "Not", "Or", "PRelu", "Pow", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign",
     "Sin", "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Swish", "Tanh", "ThresholdedRelu", "Where", "Xor"}
)  # fmt: skip
_REDUCTIONS = frozenset({"ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum"})
_MOVABLE = _POINTWISE | _REDUCTIONS | {"Concat", "Pad", "Slice", "Softmax"}
_DEPTH = 32  # how far to look for what has an order of its own


def apply(model: ir.Model, ledger: Ledger) -> bool:
    """Move transposes behind what follows them; whether any were moved."""
    nodes = [node for graph in graphs(model.graph) for node in graph]
    build: Builder | None = None
    for node in nodes:
        if node.graph is None or node.domain:
            continue
        move = _raise_above_pad if node.op_type == "Transpose" else _sink
        wanted = _above_pad(node) if node.op_type == "Transpose" else _layout(node)
        reshape = _reshape_ahead(node)
        if wanted is None and reshape is None:
            continue
        build = build or Builder(model)
        if wanted is not None:
            move(node, wanted, build)
        elif reshape is not None:
            _sink_reshape(node, reshape, build)
    return build is not None


# Op(Transpose(a, p), Transpose(b, p), ...) -> Transpose(Op'(a, b, ...), p)
def _sink(node: ir.Node, perm: tuple[int, ...], build: Builder) -> None:
    found = _moved(node, perm)
    assert found is not None
    attributes, replaced, after = found
    operands = [
        build.constant(replaced[k], f"{node.name}.{k}") if k in replaced else _operand(value, perm, build)
        for k, value in enumerate(node.inputs)
    ]
    sources = [value.producer() for value in node.inputs if value is not None and _transposed(value) == perm]
    dying = [source for source in dict.fromkeys(sources) if source is not None and _only_reader(source) is node]
    result = build.node(node, node.op_type, operands, attributes, origins=origins(node))[0]
    carried = merge_origins(dying)
    if after == sorted(after):
        # The transposes' own operators are part of this one now.
        maker = result.producer()
        assert maker is not None
        set_origins(maker, (*origins(node), *carried))
    else:
        result = build.node(node, "Transpose", [result], {"perm": after}, origins=carried)[0]
    _take_place(node, result, dying)


def _take_place(node: ir.Node, result: ir.Value, dying: Sequence[ir.Node]) -> None:
    supersede(node, [result])
    for source in dying:
        if source.graph is not None and not source.outputs[0].uses():
            source.graph.remove(source, safe=True)


def _only_reader(node: ir.Node) -> ir.Node | None:
    readers = {user for user, _ in node.outputs[0].uses()}
    return readers.pop() if len(readers) == 1 and not node.outputs[0].is_graph_output() else None


def _layout(node: ir.Node) -> tuple[int, ...] | None:
    """The permutation between channels first and last to move behind a node: that of all its operands with axes."""
    if node.op_type not in _MOVABLE or len(node.outputs) != 1:
        return None
    found: set[tuple[int, ...]] = set()
    parameters = 1 if node.op_type in ("Pad", "Slice") or node.op_type in _REDUCTIONS else len(node.inputs)
    for value in node.inputs[:parameters]:
        if value is None or _is_small(value):
            continue
        perm = _transposed(value)
        if perm is not None:
            found.add(perm)
        elif array(value) is None:
            return None
    if len(found) != 1:
        return None
    perm = found.pop()
    ranks = [rank(value) for value in node.inputs[:parameters] if value is not None]
    if any(r is None or r > len(perm) for r in ranks):
        return None
    fits = _is_layout(perm) and _is_worth_it(node, perm) and _moved(node, perm) is not None
    return perm if fits else None


def _is_layout(perm: Sequence[int]) -> bool:
    n = len(perm)
    first, last = [0, n - 1, *range(1, n - 1)], [0, *range(2, n), 1]
    return n > 2 and list(perm) in (first, last)


def _is_small(value: ir.Value) -> bool:
    """Whether it has one element, so that its axes do not matter."""
    return value.shape is not None and all(d == 1 for d in value.shape) and len(value.shape) <= 1


def _transposed(value: ir.Value | None) -> tuple[int, ...] | None:
    node = value.producer() if value is not None else None
    return permutation(node) if node is not None and node.op_type == "Transpose" and node.domain == "" else None


def _is_worth_it(node: ir.Node, perm: tuple[int, ...]) -> bool:
    """Whether the operands come from what has an order of its own, or a transpose that undoes theirs comes behind."""
    sources = [value.producer() for value in node.inputs if value is not None and _transposed(value) == perm]
    made = [source.inputs[0] for source in sources if source is not None]
    seen: dict[ir.Node, bool] = {}
    return all(_is_image(value, _DEPTH, seen) for value in made) or _leads(node, perm, _DEPTH, seen={})


def _is_image(value: ir.Value | None, depth: int, seen: dict[ir.Node, bool]) -> bool:
    """Whether it is computed by a convolution, pooling and the like, or pointwise from such."""
    maker = value.producer() if value is not None else None
    if maker is None or maker.domain or depth == 0:
        return False
    if maker.op_type in _IMAGES:
        return True
    if maker.op_type not in _MOVABLE:
        return False
    if maker not in seen:
        parts = [x for x in maker.inputs if x is not None and array(x) is None and not _is_small(x)]
        seen[maker] = bool(parts) and all(_is_image(x, depth - 1, seen) for x in parts)
    return seen[maker]


def _leads(node: ir.Node, perm: tuple[int, ...], depth: int, seen: dict[ir.Node, bool]) -> bool:
    """Whether what follows, pointwise, comes to a transpose that undoes this one."""
    if node not in seen:
        inverse = tuple(np.argsort(perm).tolist())
        users = [user for user, _ in node.outputs[0].uses()]
        seen[node] = any(user.op_type == "Transpose" and permutation(user) == inverse for user in users) or (
            depth > 0
            and any(_leads(user, perm, depth - 1, seen) for user in users if user.op_type in _POINTWISE | {"Concat"})
        )
    return seen[node]


def _operand(value: ir.Value | None, perm: tuple[int, ...], build: Builder) -> ir.Value | None:
    """The operand ahead of the transpose: what it is of, a constant turned back, or what has no axes."""
    if value is None or _is_small(value):
        return value
    if _transposed(value) == perm:
        source = value.producer()
        assert source is not None
        return source.inputs[0]
    known = array(value)
    assert known is not None
    whole = known.reshape((1,) * (len(perm) - known.ndim) + known.shape)
    turned = np.ascontiguousarray(whole.transpose(np.argsort(perm)))
    return build.constant(turned, f"{value.name}.turned")


_Moved = tuple[dict[str, Any], dict[int, np.ndarray[Any, Any]], list[int]]


def _moved(node: ir.Node, perm: tuple[int, ...]) -> _Moved | None:
    """The attributes ahead of the transpose, the inputs that name axes, and the permutation behind."""
    attributes: dict[str, Any] = dict(node.attributes)
    n = len(perm)
    if node.op_type in ("Concat", "Softmax"):
        axis = node.attributes.get_int("axis", -1) % n
        return attributes | {"axis": perm[axis]}, {}, list(perm)
    if node.op_type in _REDUCTIONS:
        axes = array(input_of(node, 1))
        if axes is None or not axes.size:
            return None
        reduced = {perm[int(k) % n] for k in axes.ravel()}
        turned = np.array(sorted(reduced), np.int64)
        if node.attributes.get_int("keepdims", 1):
            return attributes, {1: turned}, list(perm)
        left = [k for k in range(n) if k not in reduced]
        return attributes, {1: turned}, [left.index(k) for k in perm if k in left]
    if node.op_type == "Pad":
        pads = array(input_of(node, 1))
        if pads is None or input_of(node, 3) is not None or pads.size != 2 * n:
            return None
        back = np.argsort(perm)
        return attributes, {1: np.concatenate([pads[:n][back], pads[n:][back]]).astype(np.int64)}, list(perm)
    if node.op_type == "Slice":
        axes = array(input_of(node, 3))
        if axes is None:
            return None
        return attributes, {3: np.array([perm[int(k) % n] for k in axes.ravel()], np.int64)}, list(perm)
    return attributes, {}, list(perm)


# Transpose(Pad(x), p), read by convolutions alone -> Pad'(Transpose(x, p)), which they take in
def _raise_above_pad(node: ir.Node, perm: tuple[int, ...], build: Builder) -> None:
    pad = node.inputs[0].producer() if node.inputs[0] is not None else None
    assert pad is not None
    pads = array(input_of(pad, 1))
    assert pads is not None
    n, order = len(perm), list(perm)
    turned = np.concatenate([pads[:n][order], pads[n:][order]]).astype(np.int64)
    moved = build.node(node, "Transpose", [pad.inputs[0]], {"perm": order}, origins=origins(node))[0]
    operands = [moved, build.constant(turned, f"{pad.name}.pads"), *pad.inputs[2:]]
    result = build.node(node, "Pad", operands, dict(pad.attributes), origins=origins(pad))[0]
    _take_place(node, result, [pad])


def _above_pad(node: ir.Node) -> tuple[int, ...] | None:
    """The permutation to move ahead of a padding that nothing else reads."""
    perm = permutation(node)
    pad = node.inputs[0].producer() if perm is not None and node.inputs[0] is not None else None
    if perm is None or pad is None or pad.op_type != "Pad" or pad.domain or not _is_layout(perm):
        return None
    pads, users = array(input_of(pad, 1)), [user for user, _ in node.outputs[0].uses()]
    if pads is None or pads.size != 2 * len(perm) or input_of(pad, 3) is not None:
        return None
    if _transposed(pad.inputs[0]) is not None or _only_reader(pad) is not node:
        return None
    return perm if users and all(user.op_type in ("Conv", "ConvInteger") for user in users) else None


# Op(Reshape(x, s)) -> Reshape(Op(x), s), where only axes of size one come and go and x is a convolution's
def _sink_reshape(node: ir.Node, reshape: ir.Node, build: Builder) -> None:
    source = reshape.inputs[0]
    operands = [source if value is reshape.outputs[0] else value for value in node.inputs]
    dying = [reshape] if _only_reader(reshape) is node else []
    result = build.node(node, node.op_type, operands, dict(node.attributes), origins=origins(node))[0]
    carried = origins(reshape) if dying else ()
    result = build.node(node, "Reshape", [result, reshape.inputs[1]], dict(reshape.attributes), origins=carried)[0]
    _take_place(node, result, dying)


def _reshape_ahead(node: ir.Node) -> ir.Node | None:
    """The reshape of a convolution's result that a pointwise node of one operand reads."""
    if node.op_type not in _POINTWISE or len(node.outputs) != 1:
        return None
    wide = [value for value in node.inputs if value is not None and not _is_small(value)]
    maker = wide[0].producer() if len(wide) == 1 else None
    if maker is None or maker.op_type != "Reshape" or maker.domain or maker.graph is not node.graph:
        return None
    before, after = dims(maker.inputs[0]), dims(maker.outputs[0])
    if before is None or after is None or [d for d in before if d != 1] != [d for d in after if d != 1]:
        return None
    return maker if _is_image(maker.inputs[0], _DEPTH, {}) else None


HITS = (
    """g (float[N, 7, 9, 3] x, float[4, 3, 3, 3] w, float[3, 4, 3, 3] v, float[4] c) => (float[N, 3, 3, 5] y) {
        b = Constant<value = float[4] {1.0, 2.0, -3.0, 0.5}>()
        a = Transpose<perm = [0, 3, 1, 2]>(x) p = Conv(a, w) q = Transpose<perm = [0, 2, 3, 1]>(p)
        r = Add(q, b) s = Relu(r) t = Transpose<perm = [0, 3, 1, 2]>(s) y = Conv(t, v) }""",
    """g (float[N, 7, 9, 3] x, float[4, 3, 3, 3] w) => (float[N, 8] y) {
        k = Constant<value = int64[2] {1, 2}>()
        a = Transpose<perm = [0, 3, 1, 2]>(x) p = Conv(a, w) q = Transpose<perm = [0, 2, 3, 1]>(p)
        r = Tanh(q) c = Concat<axis = -1>(q, r) y = ReduceMean<keepdims = 0>(c, k) }""",
    """g (float[N, 7, 9, 3] x, float[4, 3, 3, 3] w) => (float[N, 5, 7, 4] y) {
        a = Transpose<perm = [0, 3, 1, 2]>(x) p = Conv(a, w) q = Transpose<perm = [0, 2, 3, 1]>(p)
        s = Constant<value = float {0.5}>() r = Mul(q, s) y = Softmax<axis = -1>(r) }""",
    """g (float[N, 7, 9, 3] x, float[4, 3, 3, 3] w) => (float[N, 4, 7, 11] y) {
        k = Constant<value = int64[8] {0, 1, 2, 0, 0, 1, 2, 0}>()
        a = Pad(x, k) b = Transpose<perm = [0, 3, 1, 2]>(a) y = Conv(b, w) }""",
    """g (float[N, 3, 7, 9] x, float[4, 3, 3, 3] w, float[2, 4, 3, 3] v) => (float[N, 2, 5, 6] y) {
        k = Constant<value = int64[8] {0, 1, 0, 0, 0, 1, 0, 0}>()
        i = Constant<value = int64[1] {1}>() j = Constant<value = int64[1] {9}>() e = Constant<value = int64[1] {2}>()
        p = Conv(x, w) q = Transpose<perm = [0, 2, 3, 1]>(p) r = Pad(q, k) s = Slice(r, i, j, e)
        t = Transpose<perm = [0, 3, 1, 2]>(s) u = Conv(t, v) z = Constant<value = int64[4] {0, 0, 0, 0}>()
        y = Abs(u) }""",
    """g (float[N, 3, 7, 9] x, float[1, 3, 3, 3] w) => (float[N, 5, 7, 1] y) {
        p = Conv(x, w) q = Transpose<perm = [0, 2, 3, 1]>(p) y = Sigmoid(q) }""",
)
NEAR_MISSES = (
    ("g (float[N, 3, 4, 5] x) => (float[N, 4, 5, 3] y) { a = Transpose<perm = [0, 2, 3, 1]>(x) y = Relu(a) }", ""),
    (
        """g (float[N, 3, 7, 9] x, float[3, 3, 3, 3] w, float[N, 5, 7, 3] z) => (float[N, 5, 7, 3] y) {
            p = Conv(x, w) q = Transpose<perm = [0, 2, 3, 1]>(p) y = Add(q, z) }""",
        "",
    ),
)
