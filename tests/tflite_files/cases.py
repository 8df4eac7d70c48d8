"""One small model for each form of each operator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .builder import Model, Q

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class X:
    """An operand: an input of the model, or a constant of it."""

    array: Array
    q: Q | None = None
    constant: bool = False


@dataclass(frozen=True)
class Y:
    """A result's type and scale."""

    dtype: str = "float32"
    q: Q | None = None


@dataclass(frozen=True)
class Case:
    """steps: by how many steps of the result's scale ours may be off, where LiteRT's own kernels disagree.

    reference: whether LiteRT's reference kernels are right here; else its optimised ones are compared with.
    """

    name: str
    kind: str
    operands: Sequence[X | None]
    results: Sequence[Y] = (Y(),)
    options: str = ""
    values: dict[str, Any] = field(default_factory=dict)
    steps: int = 0
    tolerance: float = 2e-6
    reference: bool = True

    def model(self) -> tuple[Model, dict[str, Array]]:
        """The file, and values of its inputs."""
        model = Model()
        inputs, outputs = self.add_to(model)
        model.main.outputs(*outputs)
        return model, inputs

    def add_to(self, model: Model, prefix: str = "") -> tuple[dict[str, Array], list[int]]:
        """Puts the operator into a model; values of its inputs, and its results."""
        inputs, indices = {}, []
        for k, x in enumerate(self.operands):
            if x is None:
                indices.append(-1)
            elif x.constant:
                indices.append(model.main.constant(x.array, x.q, f"{prefix}w{k}"))
            else:
                inputs[f"{prefix}x{k}"] = x.array
                indices.append(model.main.input(f"{prefix}x{k}", x.array.dtype.name, x.array.shape, x.q))
        outputs = [model.main.tensor(f"{prefix}y{k}", y.dtype, [], y.q) for k, y in enumerate(self.results)]
        model.main.op(self.kind, indices, outputs, self.options, **self.values)
        return inputs, outputs


def floats(*shape: int, low: float = -2, high: float = 2, seed: int = 0) -> Array:
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)


def ints(*shape: int, low: int = -128, high: int = 128, dtype: Any = np.int8, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(low, high, shape).astype(dtype)


def C(array: Any, q: Q | None = None, dtype: Any = None) -> X:
    return X(np.asarray(array, dtype), q, constant=True)


def I(*values: int) -> X:  # noqa: E743
    """A constant vector of int32."""
    return C(np.array(values, np.int32))


SAME, VALID = 0, 1
CASES: list[Case] = []


def case(name: str, kind: str, operands: Sequence[Any], results: Any = None, options: str = "", *, steps: int = 0,
         tolerance: float = 2e-6, reference: bool = True, **values: Any) -> None:  # fmt: skip
    given = [x if x is None or isinstance(x, X) else X(x) for x in operands]
    made = [Y()] if results is None else results if isinstance(results, list) else [results]
    CASES.append(Case(f"{kind} {name}".strip(), kind, given, made, options, values, steps, tolerance, reference))


I8, U8, I16, I32, BOOL = Y("int8"), Y("uint8"), Y("int16"), Y("int32"), Y("bool")

# ---------------------------------------------------------------- convolutions

_conv = {"options": "Conv2DOptions", "strideH": 1, "strideW": 1}
_dw = {"options": "DepthwiseConv2DOptions", "strideH": 1, "strideW": 1, "depthMultiplier": 1}
_w, _b = floats(5, 3, 3, 4, seed=1), floats(5, seed=2)
case("valid", "CONV_2D", [floats(2, 9, 7, 4), C(_w), C(_b)], padding=VALID, **_conv)
case(
    "same, stride",
    "CONV_2D",
    [floats(2, 9, 8, 4), C(_w), C(_b)],
    padding=SAME,
    fusedActivationFunction=3,
    **{**_conv, "strideH": 2, "strideW": 3},
)
case(
    "dilated",
    "CONV_2D",
    [floats(1, 13, 11, 4), C(_w), C(_b)],
    padding=SAME,
    fusedActivationFunction=1,
    dilationHFactor=2,
    dilationWFactor=3,
    **_conv,
)
case("groups", "CONV_2D", [floats(1, 6, 5, 8), C(floats(6, 3, 3, 4, seed=1)), C(floats(6))], padding=SAME, **_conv)
case(
    "computed weights",
    "CONV_2D",
    [floats(1, 6, 5, 4), floats(5, 3, 3, 4, seed=1), floats(5)],
    padding=SAME,
    fusedActivationFunction=2,
    **_conv,
)
case(
    "",
    "DEPTHWISE_CONV_2D",
    [floats(2, 9, 7, 6), C(floats(1, 3, 3, 6, seed=1)), C(floats(6))],
    padding=SAME,
    **{**_dw, "strideH": 2, "strideW": 2},
)
case(
    "multiplier, dilated",
    "DEPTHWISE_CONV_2D",
    [floats(1, 9, 7, 3), C(floats(1, 3, 2, 6, seed=1)), C(floats(6))],
    padding=VALID,
    dilationHFactor=2,
    dilationWFactor=1,
    fusedActivationFunction=3,
    **{**_dw, "depthMultiplier": 2},
)
case(
    "",
    "CONV_3D",
    [floats(1, 5, 6, 7, 3), C(floats(2, 3, 3, 3, 4, seed=1)), C(floats(4))],
    options="Conv3DOptions",
    padding=SAME,
    strideD=2,
    strideH=1,
    strideW=2,
)
for _pad, _size in ((SAME, (1, 11, 7, 5)), (SAME, (1, 12, 8, 5)), (VALID, (1, 13, 9, 5))):
    case(
        f"{_pad} {_size}",
        "TRANSPOSE_CONV",
        [I(*_size), C(floats(5, 3, 3, 4, seed=1)), floats(1, 6, 4, 4), C(_b)],
        options="TransposeConvOptions",
        padding=_pad,
        strideH=2,
        strideW=2,
    )
case(
    "",
    "CONV_3D_TRANSPOSE",
    [I(1, 5, 7, 9, 2), C(floats(2, 3, 3, 2, 4, seed=1)), floats(1, 4, 5, 7, 4)],
    options="Conv3DOptions",
    padding=VALID,
    strideD=1,
    strideH=1,
    strideW=1,
)

# Quantised: bytes with a scale for each channel, words, and bytes of the older kind with zero points everywhere.
_scales = np.linspace(0.002, 0.02, 5)
_qw, _qb = ints(5, 3, 3, 4, low=-127, seed=1), ints(5, low=-2000, high=2000, dtype=np.int32, seed=2)
for _act in (0, 1, 3):
    case(
        f"int8 {_act}",
        "CONV_2D",
        [X(ints(2, 9, 7, 4), Q(0.04, -7)), C(_qw, Q(_scales, 0, 0)), C(_qb, Q(_scales * 0.04))],
        Y("int8", Q(0.17, 5)),
        padding=SAME,
        fusedActivationFunction=_act,
        **_conv,
    )
case(
    "int8, fine",
    "CONV_2D",
    [X(ints(2, 9, 7, 4), Q(0.04, -128)), C(_qw, Q(_scales, 0, 0)), C(_qb, Q(_scales * 0.04))],
    Y("int8", Q(0.031, -128)),
    padding=VALID,
    **_conv,
)
case(
    "int8, larger",
    "CONV_2D",
    [X(ints(1, 5, 5, 4), Q(0.9, 3)), C(_qw, Q(_scales * 20, 0, 0)), C(_qb, Q(_scales * 18))],
    Y("int8", Q(0.2, 1)),
    padding=VALID,
    **_conv,
)
case(
    "uint8",
    "CONV_2D",
    [
        X(ints(1, 9, 7, 4, low=0, high=256, dtype=np.uint8), Q(0.04, 120)),
        C(ints(5, 3, 3, 4, low=0, high=256, dtype=np.uint8, seed=1), Q(0.01, 131)),
        C(_qb, Q(0.0004)),
    ],
    Y("uint8", Q(0.17, 99)),
    padding=SAME,
    **_conv,
)
case(
    "int16",
    "CONV_2D",
    [
        X(ints(1, 9, 7, 4, low=-32768, high=32768, dtype=np.int16), Q(0.0004)),
        C(_qw, Q(_scales, 0, 0)),
        C(_qb.astype(np.int64) * 99, Q(_scales * 0.0004)),
    ],
    Y("int16", Q(0.0007)),
    padding=SAME,
    **_conv,
)
case(
    "int8",
    "DEPTHWISE_CONV_2D",
    [
        X(ints(2, 9, 7, 5), Q(0.04, -7)),
        C(ints(1, 3, 3, 5, low=-127, seed=1), Q(_scales, 0, 3)),
        C(_qb, Q(_scales * 0.04)),
    ],
    Y("int8", Q(0.06, 5)),
    padding=SAME,
    **{**_dw, "strideH": 2, "strideW": 2},
)
case(
    "int8, multiplier",
    "DEPTHWISE_CONV_2D",
    [
        X(ints(1, 9, 7, 1), Q(0.04, -7)),
        C(ints(1, 5, 1, 5, low=-127, seed=1), Q(_scales, 0, 3)),
        C(_qb, Q(_scales * 0.04)),
    ],
    Y("int8", Q(0.06, 5)),
    padding=VALID,
    **{**_dw, "depthMultiplier": 5},
)
case(
    "uint8",
    "DEPTHWISE_CONV_2D",
    [
        X(ints(1, 9, 7, 5, low=0, high=256, dtype=np.uint8), Q(0.04, 120)),
        C(ints(1, 3, 3, 5, low=0, high=256, dtype=np.uint8, seed=1), Q(0.01, 131)),
        C(_qb, Q(0.0004)),
    ],
    Y("uint8", Q(0.06, 99)),
    padding=SAME,
    **_dw,
)
case(
    "int8",
    "TRANSPOSE_CONV",
    [I(1, 11, 7, 5), C(_qw, Q(_scales, 0, 0)), X(ints(1, 6, 4, 4), Q(0.04, -7)), C(_qb, Q(_scales * 0.04))],
    Y("int8", Q(0.2, 5)),
    options="TransposeConvOptions",
    padding=SAME,
    strideH=2,
    strideW=2,
)

# ---------------------------------------------------------------- poolings

for _kind in ("AVERAGE_POOL_2D", "MAX_POOL_2D", "L2_POOL_2D"):
    for _pad in (SAME, VALID):
        _pool = {
            "options": "Pool2DOptions",
            "padding": _pad,
            "strideH": 2,
            "strideW": 1,
            "filterHeight": 3,
            "filterWidth": 2,
        }
        case(f"{_pad}", _kind, [floats(2, 9, 8, 3)], **_pool)
        if _kind != "L2_POOL_2D":
            case(
                f"int8 {_pad}",
                _kind,
                [X(ints(2, 9, 8, 3), Q(0.1, 3))],
                Y("int8", Q(0.1, 3)),
                fusedActivationFunction=1,
                **_pool,
            )
            case(
                f"uint8 {_pad}",
                _kind,
                [X(ints(2, 9, 8, 3, low=0, high=256, dtype=np.uint8), Q(0.1, 3))],
                Y("uint8", Q(0.1, 3)),
                **_pool,
            )
            case(
                f"int16 {_pad}",
                _kind,
                [X(ints(2, 9, 8, 3, low=-9999, high=9999, dtype=np.int16), Q(0.1))],
                Y("int16", Q(0.1)),
                **_pool,
            )
case("", "L2_NORMALIZATION", [floats(3, 5, 7)], options="L2NormOptions")
case(
    "",
    "LOCAL_RESPONSE_NORMALIZATION",
    [floats(1, 3, 4, 7)],
    options="LocalResponseNormalizationOptions",
    radius=2,
    bias=1.0,
    alpha=0.3,
    beta=0.6,
    tolerance=1e-5,
    reference=False,
)

# ---------------------------------------------------------------- arithmetic

_pairs = [(floats(2, 3, 5), floats(5, seed=1, low=0.5)), (floats(4, 1, 3), floats(2, 1, seed=1, low=-3, high=-0.5))]
for _kind, _options in (
    ("ADD", "AddOptions"),
    ("SUB", "SubOptions"),
    ("MUL", "MulOptions"),
    ("DIV", "DivOptions"),
    ("MAXIMUM", ""),
    ("MINIMUM", ""),
    ("SQUARED_DIFFERENCE", ""),
    ("FLOOR_DIV", ""),
    ("FLOOR_MOD", ""),
):
    for _k, (_x, _y) in enumerate(_pairs):
        case(f"{_k}", _kind, [_x, _y], options=_options)
    case("int32", _kind, [ints(3, 4, dtype=np.int32), ints(3, 4, low=1, dtype=np.int32, seed=1)], I32, options=_options)
for _kind, _options in (
    ("ADD", "AddOptions"),
    ("SUB", "SubOptions"),
    ("MUL", "MulOptions"),
    ("SQUARED_DIFFERENCE", ""),
):
    for _act in (0, 1, 3) if _options else (0,):
        _more = {"fusedActivationFunction": _act} if _options else {}
        case(
            f"int8 {_act}",
            _kind,
            [X(ints(7, 9), Q(0.05, 3)), X(ints(7, 9, seed=1), Q(0.031, -9))],
            Y("int8", Q(0.06, 7)),
            options=_options,
            **_more,
        )
    if _kind != "SQUARED_DIFFERENCE":
        case(
            "uint8",
            _kind,
            [
                X(ints(7, 9, low=0, high=256, dtype=np.uint8), Q(0.05, 3)),
                X(ints(7, 9, low=0, high=256, dtype=np.uint8, seed=1), Q(0.031, 99)),
            ],
            Y("uint8", Q(0.06, 7)),
            options=_options,
        )
        case(
            "int16",
            _kind,
            [
                X(ints(7, 9, low=-32768, high=32768, dtype=np.int16), Q(0.0005)),
                X(ints(7, 9, low=-32768, high=32768, dtype=np.int16, seed=1), Q(0.00031)),
            ],
            Y("int16", Q(0.0006)),
            options=_options,
            **({"potScaleInt16": False} if _kind in ("ADD", "SUB") else {}),
        )
case("int8", "MAXIMUM", [X(ints(7, 9), Q(0.05, 3)), X(ints(7, 9, seed=1), Q(0.05, 3))], Y("int8", Q(0.05, 3)))
case("", "POW", [floats(3, 4, low=0.2), floats(4, seed=1)], tolerance=1e-5)
case("", "ATAN2", [floats(30), floats(30, seed=1)])
case("axes", "ATAN2", [np.array([0, 0, 1, -1, 2, -2], np.float32), np.array([1, -1, 0, 0, -1, -1], np.float32)])
case("", "ADD_N", [floats(2, 3), floats(2, 3, seed=1), floats(2, 3, seed=2)])
for _kind in ("EQUAL", "NOT_EQUAL", "LESS", "LESS_EQUAL", "GREATER", "GREATER_EQUAL"):
    case("", _kind, [ints(5, 7, low=0, high=3, dtype=np.int32), ints(7, low=0, high=3, dtype=np.int32, seed=1)], BOOL)
    case("floats", _kind, [floats(5, 7), floats(5, 7, seed=1)], BOOL)
    case("int8", _kind, [X(ints(5, 7), Q(0.1, 3)), X(ints(5, 7, seed=1), Q(0.1, 3))], BOOL)
for _kind in ("LOGICAL_AND", "LOGICAL_OR"):
    case("", _kind, [floats(3, 4) > 0, floats(3, 4, seed=1) > 0], BOOL)
case("", "LOGICAL_NOT", [floats(3, 4) > 0], BOOL)
case("", "BITWISE_XOR", [ints(9, dtype=np.int32), ints(9, dtype=np.int32, seed=1)], I32)
case("", "RIGHT_SHIFT", [ints(9, dtype=np.int32), ints(9, low=0, high=6, dtype=np.int32, seed=1)], I32)
case("int8", "RIGHT_SHIFT", [ints(9), ints(9, low=0, high=6, seed=1)], I8)

# ---------------------------------------------------------------- functions

_positive = {"LOG", "SQRT", "RSQRT"}
_plain = (
    "ABS",
    "CEIL",
    "COS",
    "EXP",
    "FLOOR",
    "LOG",
    "LOGISTIC",
    "NEG",
    "RELU",
    "RELU6",
    "RELU_N1_TO_1",
    "RELU_0_TO_1",
    "ROUND",
    "RSQRT",
    "SIGN",
    "SIN",
    "SQRT",
    "SQUARE",
    "TANH",
    "ELU",
    "HARD_SWISH",
    "ZEROS_LIKE",
)
for _kind in _plain:
    case("", _kind, [floats(3, 17, low=0.1 if _kind in _positive else -8, high=8)], tolerance=1e-5)
case("halves", "ROUND", [np.array([0.5, 1.5, -0.5, -1.5, 2.5, 3.2], np.float32)])
_every = np.arange(-128, 128, dtype=np.int8).reshape(4, 64)
# Fixed-point arithmetic in the reference kernels; tables in LiteRT's others.
for _kind, _q, _out, _steps in (
    ("LOGISTIC", Q(0.05, 3), Q(1 / 256, -128), 1), ("TANH", Q(0.03, 3), Q(1 / 128, 0), 1),
    ("EXP", Q(0.02, 3), Q(0.06, -128), 1), ("LOG", Q(0.02, -128), Q(0.05, 5), 1), ("ELU", Q(0.03, 3), Q(0.02, -70), 0),
    ("HARD_SWISH", Q(0.06, 3), Q(0.03, -110), 1), ("RELU", Q(0.05, 3), Q(0.03, -128), 0),
    ("RELU6", Q(0.05, 3), Q(0.03, -128), 0), ("RELU_N1_TO_1", Q(0.05, 3), Q(0.03, 1), 0),
    ("ABS", Q(0.05, 3), Q(0.03, -128), 0), ("RSQRT", Q(0.05, -128), Q(0.03, -128), 1),
):  # fmt: skip
    case("int8", _kind, [X(_every, _q)], Y("int8", _out), steps=_steps)
case("", "GELU", [floats(3, 17, low=-8, high=8)], options="GeluOptions", approximate=False, tolerance=1e-5)
case("tanh", "GELU", [floats(3, 17, low=-8, high=8)], options="GeluOptions", approximate=True, tolerance=1e-5)
case("int8", "GELU", [X(_every, Q(0.05, 3))], Y("int8", Q(0.04, -120)), options="GeluOptions", approximate=False)
case("", "LEAKY_RELU", [floats(3, 7)], options="LeakyReluOptions", alpha=0.3)
case("int8", "LEAKY_RELU", [X(_every, Q(0.05, 3))], Y("int8", Q(0.04, -10)), options="LeakyReluOptions", alpha=0.3)
case("", "PRELU", [floats(2, 3, 4, 5), C(floats(1, 1, 5, seed=1))])
case(
    "int8",
    "PRELU",
    [X(ints(2, 3, 4, 5), Q(0.05, 3)), C(ints(1, 1, 5, seed=1), Q(0.02, 3))],
    Y("int8", Q(0.06, 2)),
    steps=1,
)
case("", "SOFTMAX", [floats(3, 4, 7)], options="SoftmaxOptions", beta=1.0)
case("beta", "SOFTMAX", [floats(5, 7)], options="SoftmaxOptions", beta=0.5)
case(
    "int8",
    "SOFTMAX",
    [X(ints(9, 17), Q(0.1, 3))],
    Y("int8", Q(1 / 256, -128)),
    options="SoftmaxOptions",
    beta=1.0,
    steps=1,
)
case("", "LOG_SOFTMAX", [floats(3, 7)], options="LogSoftmaxOptions", tolerance=1e-5)
for _to in ("int32", "int64", "int8", "bool", "float64"):
    case(_to, "CAST", [floats(20, low=-99, high=99)], Y(_to))
case("int64", "CAST", [ints(20, dtype=np.int64)])
case("", "DEQUANTIZE", [X(ints(3, 5), Q(0.07, 3))])
case("float16", "DEQUANTIZE", [C(floats(3, 5).astype(np.float16))])
case("per channel", "DEQUANTIZE", [X(ints(3, 5), Q([0.1, 0.2, 0.3], 0, 0))])
case("", "QUANTIZE", [floats(30, low=-9, high=9)], Y("int8", Q(0.0625, 3)))
case("uint8", "QUANTIZE", [floats(30, low=-9, high=9)], Y("uint8", Q(0.0625, 130)))
case("int16", "QUANTIZE", [floats(30, low=-9, high=9)], Y("int16", Q(0.0003)))
case("again", "QUANTIZE", [X(_every, Q(0.05, 3))], Y("int8", Q(0.031, -7)))
case("unsigned", "QUANTIZE", [X(_every, Q(0.05, 3))], Y("uint8", Q(0.05, 131)))
case(
    "",
    "FAKE_QUANT",
    [floats(30, low=-3, high=3)],
    options="FakeQuantOptions",
    min=-1.0,
    max=2.0,
    numBits=8,
    narrowRange=False,
)

# ---------------------------------------------------------------- products

_fc = {"options": "FullyConnectedOptions"}
case("", "FULLY_CONNECTED", [floats(3, 7), C(floats(5, 7, seed=1)), C(_b)], fusedActivationFunction=1, **_fc)
case("rows", "FULLY_CONNECTED", [floats(2, 3, 7), C(floats(5, 7, seed=1)), None], **_fc)
case("kept", "FULLY_CONNECTED", [floats(2, 3, 7), C(floats(5, 7, seed=1)), C(_b)], keepNumDims=True, **_fc)
case("flat", "FULLY_CONNECTED", [floats(2, 3, 2, 4), C(floats(5, 24, seed=1)), C(_b)], **_fc)
case(
    "int8",
    "FULLY_CONNECTED",
    [X(ints(9, 31), Q(0.05, -5)), C(ints(5, 31, low=-127, seed=1), Q(0.01)), C(_qb, Q(0.0005))],
    Y("int8", Q(0.09, 4)),
    fusedActivationFunction=1,
    **_fc,
)
case(
    "int8 channels",
    "FULLY_CONNECTED",
    [X(ints(9, 31), Q(0.05, -5)), C(ints(5, 31, low=-127, seed=1), Q(_scales)), C(_qb, Q(_scales * 0.05))],
    Y("int8", Q(0.09, 4)),
    **_fc,
)
case(
    "uint8",
    "FULLY_CONNECTED",
    [
        X(ints(9, 31, low=0, high=256, dtype=np.uint8), Q(0.05, 131)),
        C(ints(5, 31, low=0, high=256, dtype=np.uint8, seed=1), Q(0.01, 120)),
        C(_qb, Q(0.0005)),
    ],
    Y("uint8", Q(0.09, 4)),
    **_fc,
)
case(
    "int16",
    "FULLY_CONNECTED",
    [
        X(ints(9, 31, low=-32768, high=32768, dtype=np.int16), Q(0.0005)),
        C(ints(5, 31, low=-127, seed=1), Q(0.01)),
        C(_qb.astype(np.int64), Q(0.000005)),
    ],
    Y("int16", Q(0.0009)),
    **_fc,
)
for _ax, _ay in ((False, False), (True, False), (False, True)):
    _a, _bm = floats(2, 3, 4, 5), floats(2, 1, 5, 6, seed=1)
    case(
        f"{_ax} {_ay}",
        "BATCH_MATMUL",
        [_a.swapaxes(-1, -2).copy() if _ax else _a, _bm.swapaxes(-1, -2).copy() if _ay else _bm],
        options="BatchMatMulOptions",
        adjX=_ax,
        adjY=_ay,
    )
case(
    "int8",
    "BATCH_MATMUL",
    [X(ints(2, 4, 17), Q(0.05, 3)), X(ints(2, 17, 6, seed=1), Q(0.03, -4))],
    Y("int8", Q(0.4, 2)),
    options="BatchMatMulOptions",
)

# ---------------------------------------------------------------- reductions

for _kind in ("MEAN", "SUM", "REDUCE_PROD", "REDUCE_MAX", "REDUCE_MIN"):
    for _keep in (False, True):
        case(f"{_keep}", _kind, [floats(2, 3, 4, 5), I(1, 2)], options="ReducerOptions", keepDims=_keep)
    case("negative", _kind, [floats(2, 3, 4), I(-1)], options="ReducerOptions", keepDims=False)
for _kind in ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN"):
    _out = Q(0.05, 3) if "REDUCE" in _kind else Q(0.02, -5) if _kind == "MEAN" else Q(0.5, -5)
    case(
        "int8",
        _kind,
        [X(ints(2, 7, 5, 9), Q(0.05, 3)), I(1, 2)],
        Y("int8", _out),
        options="ReducerOptions",
        keepDims=True,
        reference=_kind != "SUM",
    )
for _kind in ("REDUCE_ANY", "REDUCE_ALL"):
    case("", _kind, [floats(3, 4) > 0.8, I(1)], BOOL, options="ReducerOptions")
for _kind in ("ARG_MAX", "ARG_MIN"):
    case(
        "",
        _kind,
        [floats(3, 4, 5), I(1)],
        I32,
        options="ArgMaxOptions" if _kind == "ARG_MAX" else "ArgMinOptions",
        outputType=2,
    )
case("", "CUMSUM", [floats(3, 4), C(np.int32(1))], options="CumsumOptions", exclusive=True, reverse=False)
case("reverse", "CUMSUM", [floats(3, 4), C(np.int32(0))], options="CumsumOptions", exclusive=False, reverse=True)
case("", "TOPK_V2", [floats(3, 9), C(np.int32(4))], [Y(), I32])
