"""Layer norm, in the spellings of torch, TensorFlow and JAX exporters."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import MatchResult

from graphfuse.graph.origins import label
from graphfuse.rules.algebra import constant_term, mean_of, product_of, square_of
from graphfuse.rules.rule import Recognition, Rule, for_ops, no, yes
from graphfuse.rules.values import Array, array, constant, dims, exact, input_of, is_scalar, keeps_shape, producer, rank

STAGE = "recognize"
ERROR_CLASS = "reassociated"
ORDER = 45


@dataclasses.dataclass(frozen=True)
class _Norm:
    """x normalised over one run of axes, times `scale` where there is one, all constants of x's type."""

    x: ir.Value
    axes: tuple[int, ...]
    epsilon: float
    scale: Array | None


# (x - mean(x)) / sqrt(mean((x - mean(x))^2) + epsilon) -> LayerNormalization(x)
# the variance also as mean(x^2) - mean(x)^2, the quotient also with a reciprocal or a power, with a scale or without
class RecognizeLayerNorm(Recognition):
    """Over axes other than the last it becomes a transpose, a layer norm and a transpose."""

    def pattern(self, op: Any, a: Any, b: Any) -> Any:
        return getattr(op, self.op_type)(a, b, _outputs=["y"])

    def check(self, context: Any, y: ir.Value, **_: Any) -> MatchResult:
        found = _read(y)
        return yes() if isinstance(found, _Norm) else found

    def rewrite(self, op: Any, y: ir.Value, **_: Any) -> ir.Value:
        norm, count = _read(y), rank(y)
        assert isinstance(norm, _Norm)
        assert count is not None
        return normalized(op, "LayerNormalization", norm.x, norm.axes, norm.epsilon, norm.scale, y)


def normalized(
    op: Any, op_type: str, x: ir.Value, axes: tuple[int, ...], epsilon: float, scale: Array | None, y: ir.Value
) -> ir.Value:
    """The norm over these axes as one op on the last axes, transposed there and back where they are not the last."""
    shape = dims(x)
    assert shape is not None
    kept = [axis for axis in range(len(shape)) if axis not in axes]
    order = [*kept, *axes]
    sizes = [d for d in (shape[axis] for axis in axes) if isinstance(d, int)]
    factors = np.ones(sizes) if scale is None else np.transpose(_full(scale, shape, axes), order).reshape(sizes)
    gamma = constant(op, factors, x, f"{y.name}.scale")
    moved = order != sorted(order)
    source = op.Transpose(x, perm=order) if moved else x
    result: ir.Value = op.op(op_type, source, gamma, axis=-len(axes), epsilon=epsilon)
    return op.Transpose(result, perm=[order.index(axis) for axis in range(len(order))]) if moved else result


def _full(scale: Array, shape: tuple[Any, ...], axes: tuple[int, ...]) -> Array:
    """A scale broadcast along the normalised axes, of size one along the others."""
    target = [shape[axis] if axis in axes else 1 for axis in range(len(shape))]
    return np.broadcast_to(scale, target)


def scale_of(constants: list[tuple[ir.Value, float]], x: ir.Value, axes: tuple[int, ...]) -> Array | MatchResult | None:
    """The constants of a product as one factor that varies along `axes` only; None when there are none."""
    shape, scale = dims(x), None
    assert shape is not None
    for value, power in constants:
        if not float(power).is_integer():
            return no()
        elements = exact(value)
        padded = (1,) * (len(shape) - elements.ndim) + elements.shape
        if len(padded) != len(shape) or any(d not in (1, shape[k]) for k, d in enumerate(padded)):
            return no(f"{value.name} broadcasts the result", value)
        if any(d != 1 and k not in axes for k, d in enumerate(padded)):
            return no(f"{value.name} varies along an axis that is not normalised", value)
        factor = elements.reshape(padded) ** power
        scale = factor if scale is None else scale * factor
    return scale


# The ops reckon in float32 whatever they are given (ONNX LayerNormalization-17, stash_type).
_TYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def can_be_one_op(x: ir.Value, axes: tuple[int, ...]) -> MatchResult:
    """Refuses element types the op would round, and axes whose size is not a number: its scale must have a shape."""
    shape = dims(x)
    if shape is None or x.dtype not in _TYPES:
        return no()
    unknown = [axis for axis in axes if not isinstance(shape[axis], int)]
    return no(f"the size of axis {unknown[0]} of {x.name} is known only at run time", x) if unknown else yes()


def _read(y: ir.Value) -> _Norm | MatchResult:
    product = product_of(y)
    centred, root = product.value_with(1.0), product.value_with(-0.5)
    if centred is None or root is None or len(product.powers) != 2 or product.coefficient <= 0:
        return no()
    difference = producer(centred, "Sub")
    mean = mean_of(difference.inputs[1]) if difference is not None else None
    shifted = constant_term(root)
    if difference is None or mean is None or shifted is None or mean[0] is not difference.inputs[0]:
        return no()
    x, axes = mean
    if not _is_variance(shifted[0], x, axes, centred):
        return no()
    fit = can_be_one_op(x, axes)
    if not fit:
        return fit
    scale = scale_of(product.constants, x, axes)
    if isinstance(scale, MatchResult):
        return scale
    if product.coefficient != 1.0:
        scale = np.asarray(product.coefficient * (1.0 if scale is None else scale)).reshape(
            scale.shape if scale is not None else (1,) * len(dims(x) or ())
        )
    return _Norm(x, axes, shifted[1], scale) if keeps_shape(x, y) else no()


def _is_variance(value: ir.Value, x: ir.Value, axes: tuple[int, ...], centred: ir.Value) -> bool:
    """Whether the value is the variance of x: mean((x - mean)^2), or mean(x^2) - mean^2, held above zero or not."""
    at_least = producer(value, "Max")
    if at_least is not None and len(at_least.inputs) == 2 and any(is_scalar(v, 0.0, 0.0) for v in at_least.inputs):
        value = next(v for v in at_least.inputs if v is not None and not is_scalar(v, 0.0, 0.0))
    mean = mean_of(value)
    if mean is not None and mean[1] == axes:
        inner = square_of(mean[0])
        return inner is centred or _same_difference(inner, centred)
    moments = producer(value, "Sub")
    if moments is None:
        return False
    squares, square = mean_of(moments.inputs[0]), square_of(moments.inputs[1])
    average = mean_of(square)
    return (
        squares is not None
        and average is not None
        and squares[1] == axes == average[1]
        and square_of(squares[0]) is x
        and average[0] is x
    )


def _same_difference(a: ir.Value | None, b: ir.Value) -> bool:
    """Whether two Sub nodes, which exporters repeat, subtract the same mean from the same value."""
    first, second = producer(a, "Sub"), producer(b, "Sub")
    if first is None or second is None or first.inputs[0] is not second.inputs[0]:
        return False
    return mean_of(first.inputs[1]) is not None and mean_of(first.inputs[1]) == mean_of(second.inputs[1])


class _Absorb(Rule):
    """A constant over the normalised axes that follows a norm becomes its own."""

    keeps = "norm"
    reason = "its constant is part of the norm"

    def operand(self, c: ir.Value, norm: ir.Value) -> Array | MatchResult:
        """The constant with the shape of the norm's scale."""
        node = norm.producer()
        assert node is not None
        gamma, count = array(input_of(node, 1)), rank(norm)
        if array(c) is None or gamma is None or count is None:
            return no()
        elements = exact(c)
        if elements.ndim > count:
            return no(f"{c.name} broadcasts the result of {label(node)}", c)
        padded = elements.reshape((1,) * max(0, gamma.ndim - elements.ndim) + elements.shape)
        outer: tuple[int, ...] = padded.shape[: padded.ndim - gamma.ndim]
        if any(d != 1 for d in outer):
            return no(f"{c.name} varies along an axis that {label(node)} does not normalise", c)
        try:
            return np.broadcast_to(padded.reshape(padded.shape[len(outer) :]), gamma.shape)
        except ValueError:
            return no(f"{c.name} broadcasts the result of {label(node)}", c)

    def check(self, context: Any, norm: ir.Value, c: ir.Value, **_: Any) -> MatchResult:
        found = self.operand(c, norm)
        return found if isinstance(found, MatchResult) else yes()


# LayerNormalization(x, g, b) * c -> LayerNormalization(x, g * c, b * c), the same with RMSNormalization
class AbsorbScale(_Absorb):
    """Scale, and with it the bias."""

    def pattern(self, op: Any, x: Any, c: Any) -> Any:
        return op.Mul(getattr(op, self.op_type)(x, _allow_other_inputs=True, _outputs=["norm"]), c)

    def rewrite(self, op: Any, norm: ir.Value, c: ir.Value, **_: Any) -> ir.Value:
        node, factor = norm.producer(), self.operand(c, norm)
        assert node is not None
        assert not isinstance(factor, MatchResult)
        x, gamma, bias = node.inputs[0], input_of(node, 1), input_of(node, 2)
        assert gamma is not None
        operands = [x, constant(op, exact(gamma) * factor, gamma, f"{norm.name}.scale")]
        if bias is not None:
            operands.append(constant(op, exact(bias) * factor, gamma, f"{norm.name}.bias"))
        result: ir.Value = op.op(node.op_type, *operands, **dict(node.attributes))
        return result

    def check(self, context: Any, norm: ir.Value, c: ir.Value, **_: Any) -> MatchResult:
        bias = input_of(norm.producer(), 2)  # type: ignore[arg-type]
        return no() if bias is not None and array(bias) is None else super().check(context, norm, c)


# LayerNormalization(x, g, b) + c -> LayerNormalization(x, g, b + c)
class AbsorbBias(_Absorb):
    """Bias."""

    op_type = "LayerNormalization"

    def pattern(self, op: Any, x: Any, c: Any) -> Any:
        return op.Add(op.LayerNormalization(x, _allow_other_inputs=True, _outputs=["norm"]), c)

    def rewrite(self, op: Any, norm: ir.Value, c: ir.Value, **_: Any) -> ir.Value:
        node, shift = norm.producer(), self.operand(c, norm)
        assert node is not None
        assert not isinstance(shift, MatchResult)
        gamma, bias = input_of(node, 1), input_of(node, 2)
        assert gamma is not None
        total = shift if bias is None else exact(bias) + shift
        value = constant(op, np.asarray(total, np.float64), gamma, f"{norm.name}.bias")
        result: ir.Value = op.LayerNormalization(node.inputs[0], gamma, value, **dict(node.attributes))
        return result

    def check(self, context: Any, norm: ir.Value, c: ir.Value, **_: Any) -> MatchResult:
        bias = input_of(norm.producer(), 2)  # type: ignore[arg-type]
        return no() if bias is not None and array(bias) is None else super().check(context, norm, c)


RULES = (
    *for_ops(RecognizeLayerNorm, "Mul", "Div"),
    *for_ops(AbsorbScale, "LayerNormalization", "RMSNormalization"),
    AbsorbBias,
)

_CONSTANTS = """
    two = Constant<value = float {2.0}>() eps = Constant<value = float {0.00001}>()
    half = Constant<value = float {0.5}>()
    g = Constant<value = float[4] {1.0, 2.0, -1.0, 0.5}>() b = Constant<value = float[4] {0.5, 0.0, 1.0, -1.0}>()
    k = Constant<value = int64[1] {-1}>()
"""
_HEAD = "g (float[N, H, 4] x) => (float[N, H, 4] y)"
HITS = (
    f"""{_HEAD} {{ {_CONSTANTS} m = ReduceMean(x, k) d = Sub(x, m) q = Pow(d, two) v = ReduceMean(q, k) e = Add(v, eps)
        r = Sqrt(e) n = Div(d, r) s = Mul(n, g) y = Add(s, b) }}""",
    f"""{_HEAD} {{ {_CONSTANTS} m = ReduceMean(x, k) d = Sub(x, m) d2 = Sub(x, m) q = Mul(d2, d2) v = ReduceMean(q, k)
        e = Add(eps, v) r = Pow(e, half) n = Div(d, r) s = Mul(g, n) y = Add(b, s) }}""",
    f"""{_HEAD} {{ {_CONSTANTS} m = ReduceMean(x, k) d = Sub(x, m) q = Mul(d, d) v = ReduceMean(q, k)
        e = Add(v, eps) r = Sqrt(e) i = Reciprocal(r) w = Mul(i, g) y = Mul(d, w) }}""",
    f"""{_HEAD} {{ {_CONSTANTS} z = Constant<value = float {{0.0}}>() c = Constant<value = float {{0.25}}>()
        t = ReduceSum(x, k) m = Mul(t, c) x2 = Mul(x, x) t2 = ReduceSum(x2, k) a = Mul(t2, c) m2 = Mul(m, m)
        v0 = Sub(a, m2) v = Max(z, v0) e = Add(v, eps) r = Sqrt(e) d = Sub(x, m) y = Div(d, r) }}""",
    f"""g (float[N, 4, H] x) => (float[N, 4, H] y) {{ {_CONSTANTS} a = Constant<value = int64[1] {{1}}>()
        gc = Constant<value = float[4, 1] {{1.0, 2.0, -1.0, 0.5}}>()
        m = ReduceMean(x, a) d = Sub(x, m) q = Mul(d, d) v = ReduceMean(q, a) e = Add(v, eps) r = Sqrt(e)
        i = Reciprocal(r) w = Mul(i, gc) y = Mul(d, w) }}""",
)
_BODY = """m = ReduceMean(x, k) d = Sub(x, m) q = Mul(d, d) v = ReduceMean(q, k) e = Add(v, eps) r = Sqrt(e)
    y = Div(d, r)"""
NEAR_MISSES = (
    (f"g (float[N, H, W] x) => (float[N, H, W] y) {{ {_CONSTANTS} {_BODY} }}", "known only at run time"),
    (
        f"""g (float[N, 3, 4] x) => (float[N, 3, 4] y) {{ {_CONSTANTS}
            h = Constant<value = float[3, 1] {{1., 2., 3.}}>()
            one = Constant<value = float[4] {{1., 1., 1., 1.}}>()
            n = LayerNormalization(x, one) y = Mul(n, h) }}""",
        "does not normalise",
    ),
)
