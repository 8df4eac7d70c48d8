"""Shape rules of If, Loop and Scan: what a body changes from one iteration to the next is a symbol of its own.

A size that an iteration hands on as it got it is that of the initial value; by induction that holds for every
iteration. So a body is inferred with the initial shapes first, sizes that come out otherwise become symbols, and it is
inferred again, until nothing changes.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
import sympy
from onnx_shape_inference import (  # type: ignore[import-untyped]
    SYM_DATA_KEY,
    OpUsageError,
    ShapeInferenceContext,
    registry,
)
from onnx_shape_inference._engine import _process_graph  # type: ignore[import-untyped]

from graphfuse.graph.bodies import (
    Carried,
    bodies,
    body_of,
    carried,
    changes_rank,
    inner_first,
    is_control,
    runs_to_the_end,
    scan_facts,
    set_varying,
    truth,
    varying,
)
from graphfuse.graph.shape_rules import OPSET, SymDim, expr, known, to_dim


def forget(graph: ir.Graph) -> None:
    """Drop what is known about the values of a graph and its bodies, except what its own inputs are."""
    for node in inner_first(graph):
        for body in bodies(node):
            for value in body.inputs:
                value.shape = None
        if is_control(node, "Loop"):
            _give_counters(node)
        for value in node.outputs:
            value.shape, value.const_value = None, None
            value.metadata_props.pop(SYM_DATA_KEY, None)


def _give_counters(node: ir.Node) -> None:
    """A Loop's body starts with the iteration's number and the condition."""
    for value, dtype in zip(body_of(node).inputs, (ir.DataType.INT64, ir.DataType.BOOL), strict=False):
        value.shape, value.dtype = ir.Shape([]), dtype


@registry.register("", "If", since_version=OPSET)
def _if(ctx: ShapeInferenceContext, node: ir.Node) -> None:
    """What both branches agree on; where they differ, a size is a symbol of its own, and a rank is unknown."""
    branches = [node.attributes[name].as_graph() for name in ("then_branch", "else_branch")]
    for k, result in enumerate(node.outputs):
        ends = [branch.outputs[k] for branch in branches]
        types = [end.type for end in ends]
        if not all(isinstance(kind, ir.TensorType | None) for kind in types):
            result.type = next(kind for kind in types if kind is not None)
            continue
        if None not in types and types[0] != types[1]:
            raise OpUsageError(node, f"output {k} has another element type in each branch: {types[0]} and {types[1]}")
        shapes = [end.shape for end in ends]
        ctx.set_shape_and_dtype(result, _either(ctx, shapes[0], shapes[1], result), ends[0].dtype or ends[1].dtype)


def _either(ctx: ShapeInferenceContext, a: ir.Shape | None, b: ir.Shape | None, result: ir.Value) -> ir.Shape | None:
    if a is None or b is None or len(a) != len(b):
        return None
    rows = enumerate(zip(a, b, strict=True))
    return ir.Shape([x if _equal(x, y) else _old(result, k) or ctx.new_symbolic_dim() for k, (x, y) in rows])


def _old(value: ir.Value, axis: int) -> SymDim | None:
    """The symbol that stood for this size when the node was inferred before; a new one each time would never settle."""
    dim = value.shape[axis] if value.shape is not None and axis < len(value.shape) else None
    return dim if isinstance(dim, ir.SymbolicDim) else None


def _equal(a: SymDim, b: SymDim) -> bool:
    return bool(sympy.expand(expr(a) - expr(b)) == 0)


@registry.register("", "Loop", since_version=OPSET)
def _loop(ctx: ShapeInferenceContext, node: ir.Node) -> None:
    """A Loop's carried values, and its scan outputs, stacked along a new first axis."""
    body, pairs = body_of(node), carried(node)
    _give_counters(node)
    _settle(ctx, body, pairs, {})
    _state_results(ctx, pairs)
    stacked = list(zip(node.outputs[len(pairs) :], body.outputs[1 + len(pairs) :], strict=False))
    trips = _trips(ctx, node, _old(stacked[0][0], 0)) if stacked else 0
    for result, end in stacked:
        shape = None if end.shape is None else ir.Shape([trips, *end.shape])
        ctx.set_shape_and_dtype(result, shape, end.dtype)


def _trips(ctx: ShapeInferenceContext, node: ir.Node, old: SymDim | None) -> SymDim:
    """How often a Loop runs: its trip count where nothing else ends it."""
    if len(node.inputs) > 1 and node.inputs[1] is not None and truth(node.inputs[1]) is False:
        return 0
    counts = known(ctx, node, 0)
    if counts is None or len(counts) != 1 or not runs_to_the_end(node):
        return old or ctx.new_symbolic_dim()
    count = expr(counts[0])
    return to_dim(count if count.is_nonnegative else sympy.Max(0, count))


@registry.register("", "Scan", since_version=OPSET)
def _scan(ctx: ShapeInferenceContext, node: ir.Node) -> None:
    """A Scan's states, and what it stacks along the axes it is told."""
    body, facts, pairs = body_of(node), scan_facts(node), carried(node)
    slices: dict[ir.Value, tuple[ir.Shape | None, ir.DataType | None]] = {}
    lengths: list[SymDim] = []
    sources = zip(node.inputs[facts.states :], facts.input_axes, body.inputs[facts.states :], strict=True)
    for source, axis, before in sources:
        shape = None if source is None else source.shape
        if shape is None or axis is None or axis >= len(shape):
            slices[before] = None, source.dtype if source is not None else None
            continue
        lengths.append(shape[axis])
        slices[before] = ir.Shape([d for k, d in enumerate(shape) if k != axis]), source.dtype  # type: ignore[union-attr]
    _settle(ctx, body, pairs, slices)
    _state_results(ctx, pairs)
    length = next((d for d in lengths if isinstance(d, int)), lengths[0] if lengths else ctx.new_symbolic_dim())
    axes = scan_facts(node).output_axes  # known now that the body's results are
    for result, end, axis in zip(node.outputs[len(pairs) :], body.outputs[len(pairs) :], axes, strict=False):
        dims = None if end.shape is None or axis is None else list(end.shape)
        if dims is not None and axis is not None:
            dims.insert(axis, length)
        ctx.set_shape_and_dtype(result, None if dims is None else ir.Shape(dims), end.dtype)


_Slices = dict[ir.Value, tuple[ir.Shape | None, ir.DataType | None]]


def _settle(ctx: ShapeInferenceContext, body: ir.Graph, pairs: Sequence[Carried], slices: _Slices) -> None:
    """Find shapes for the body's inputs that every iteration has, and infer the body with them."""
    symbols = {pair.before: varying(pair.before) for pair in pairs}  # kept, so that a second run finds the same
    for pair in pairs:
        if not changes_rank(pair.before) or not _is_tensor(pair.after):
            set_varying(pair.before, {})
    stale = _bind_slices(slices)
    while True:
        if _bind(pairs) or stale:
            forget(body)
            _process_graph(ctx, body, warn_on_missing=False, inference_cache={}, op_function_cache={})
        grown = [_grow(ctx, pair, symbols[pair.before]) for pair in pairs]
        if not any(grown):
            return
        stale = False


def _is_tensor(value: ir.Value) -> bool:
    return value.type is None or isinstance(value.type, ir.TensorType)


def _bind_slices(slices: _Slices) -> bool:
    """Give the scanned inputs of a body their shapes; whether any is another than before."""
    changed = False
    for value, (shape, dtype) in slices.items():
        if str(value.shape) != str(shape) or value.dtype != dtype:
            value.shape, changed = shape, True
            if dtype is not None:
                value.dtype = dtype
    return changed


def _bind(pairs: Sequence[Carried]) -> bool:
    """Give the body's inputs the shapes of the initial values, but for the axes that vary; whether any changed."""
    changed = False
    for pair in pairs:
        if pair.initial is None or not _is_tensor(pair.initial):
            if pair.initial is not None and pair.before.type is None:
                pair.before.type = pair.initial.type
            continue
        shape = _expected(pair)
        if str(pair.before.shape) != str(shape) or (pair.initial.dtype or pair.before.dtype) != pair.before.dtype:
            pair.before.shape, changed = shape, True
            if pair.initial.dtype is not None:
                pair.before.dtype = pair.initial.dtype
    return changed


def _expected(pair: Carried) -> ir.Shape | None:
    assert pair.initial is not None
    if pair.initial.shape is None or changes_rank(pair.before):
        return None
    axes = varying(pair.before)
    return ir.Shape([ir.SymbolicDim(axes[k]) if k in axes else d for k, d in enumerate(pair.initial.shape)])


def _grow(ctx: ShapeInferenceContext, pair: Carried, symbols: dict[int, str]) -> bool:
    """Let the axes vary that the body changes; whether there are more of them now."""
    before, after = pair.before.shape, pair.after.shape
    if before is None or not _is_tensor(pair.after):
        return False
    if after is not None and len(after) != len(before):
        set_varying(pair.before, None)
        return True
    axes = varying(pair.before)
    # An unknown result may have any sizes; that its rank stays is checked once it is known.
    more = [k for k, d in enumerate(before) if k not in axes and (after is None or not _equal(d, after[k]))]
    for axis in more:
        axes[axis] = symbols.get(axis) or str(ctx.new_symbolic_dim().value)
    set_varying(pair.before, axes)
    return bool(more)


def _state_results(ctx: ShapeInferenceContext, pairs: Sequence[Carried]) -> None:
    """The result of a carried value: the initial one's shape, but for the axes that vary, whose last size is new."""
    for pair in pairs:
        if pair.result is None:
            continue
        if not _is_tensor(pair.after):
            pair.result.type = pair.after.type
            continue
        shape = pair.before.shape if pair.after.shape is not None else None
        dtype = pair.after.dtype or pair.before.dtype
        if shape is not None:
            axes, result = varying(pair.before), pair.result
            last = [d if k not in axes else _old(result, k) or ctx.new_symbolic_dim() for k, d in enumerate(shape)]
            shape = ir.Shape(last)
        pair.result.shape = shape
        if dtype is not None:
            pair.result.dtype = dtype
