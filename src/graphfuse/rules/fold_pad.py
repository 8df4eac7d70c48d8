"""Zero padding before a convolution becomes the convolution's own."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult

from graphfuse.graph.origins import label
from graphfuse.rules.rule import Rule, no, yes
from graphfuse.rules.values import array, input_of, rank, scalar

STAGE = "simplify"
ERROR_CLASS = "exact"
ORDER = 22


# Conv(Pad(x, p), w, pads = q) -> Conv(x, w, pads = p + q)
class FoldPad(Rule):
    """For constant padding with zeros of the spatial axes only."""

    keeps = "y"
    reason = "the convolution pads"

    def pattern(self, op: Any, x: Any) -> Any:
        padded = op.Pad(x, _allow_other_inputs=True, _outputs=["padded"])
        return op.Conv(padded, _allow_other_inputs=True, _outputs=["y"])

    def check(self, context: Any, x: ir.Value, padded: ir.Value, y: ir.Value, **_: Any) -> MatchResult:
        pad, conv = padded.producer(), y.producer()
        assert pad is not None
        assert conv is not None
        if pad.attributes.get_string("mode", "constant") != "constant":
            return no(f"{label(pad)} pads with more than zeros", pad)
        value = input_of(pad, 2)
        if value is not None and scalar(value) != 0:
            return no(f"{label(pad)} pads with another value than zero", value)
        if conv.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
            return no(f"{label(conv)} reckons its padding from the size of its input", conv)
        pads = full_pads(pad)
        if pads is None:
            return no(f"the padding of {label(pad)} is computed at run time", pad)
        if any(p < 0 for p in pads):
            return no(f"{label(pad)} crops", pad)
        count = len(pads) // 2
        if any(pads[:2]) or any(pads[count : count + 2]):
            return no(f"{label(pad)} pads batch or channels", pad)
        return yes()

    def rewrite(self, op: Any, x: ir.Value, padded: ir.Value, y: ir.Value, **_: Any) -> ir.Value:
        pad, conv = padded.producer(), y.producer()
        assert pad is not None
        assert conv is not None
        pads = full_pads(pad)
        assert pads is not None
        count = len(pads) // 2
        spatial = pads[2:count] + pads[count + 2 :]
        own = conv.attributes.get_ints("pads", [0] * len(spatial))
        attributes = {k: v for k, v in conv.attributes.items() if k not in ("pads", "auto_pad")}
        total = [a + b for a, b in zip(spatial, own, strict=True)]
        result: ir.Value = op.Conv(x, *conv.inputs[1:], pads=total, **attributes)
        return result


def full_pads(pad: ir.Node) -> list[int] | None:
    """The padding of a Pad for all axes, beginnings first; None when it is not constant."""
    amounts, axes, count = array(input_of(pad, 1)), input_of(pad, 3), rank(pad.inputs[0])
    if amounts is None or count is None or (axes is not None and array(axes) is None):
        return None
    chosen = list(range(count)) if axes is None else [int(a) % count for a in _list(axes)]
    full = [0] * (2 * count)
    for k, axis in enumerate(chosen):
        full[axis], full[axis + count] = int(amounts[k]), int(amounts[k + len(chosen)])
    return full


def _list(value: ir.Value) -> list[int]:
    elements = array(value)
    return [] if elements is None else [int(e) for e in elements.ravel()]


RULES = (FoldPad,)

_W = "w = Constant<value = float[1, 1, 3, 3] {1., 2., 3., 4., 5., 6., 7., 8., 9.}>()"
HITS = (
    f"""g (float[N, 1, H, W] x) => (float[N, 1, H2, W2] y) {{ {_W}
        p = Constant<value = int64[8] {{0, 0, 1, 2, 0, 0, 3, 0}}>() a = Pad(x, p)
        y = Conv<strides = [2, 1]>(a, w) }}""",
    f"""g (float[2, 1, 5, 6] x) => (float[2, 1, 6, 6] y) {{ {_W}
        p = Constant<value = int64[2] {{1, 2}}>() z = Constant<value = float {{0.0}}>()
        k = Constant<value = int64[1] {{-2}}>() a = Pad(x, p, z, k) y = Conv<pads = [0, 1, 0, 1]>(a, w) }}""",
)
_HEAD = "g (float[2, 1, 5, 6] x) => (float[2, 1, 5, 6] y)"
_P = "p = Constant<value = int64[8] {0, 0, 1, 1, 0, 0, 1, 1}>()"
NEAR_MISSES = (
    (f'{_HEAD} {{ {_W} {_P} a = Pad<mode = "reflect">(x, p) y = Conv(a, w) }}', "more than zeros"),
    (
        f"{_HEAD} {{ {_W} {_P} z = Constant<value = float {{1.0}}>() a = Pad(x, p, z) y = Conv(a, w) }}",
        "another value than zero",
    ),
    (
        f"""g (float[2, 1, 5, 6] x) => (float[4, 1, 3, 4] y) {{ {_W}
            p = Constant<value = int64[8] {{1, 0, 0, 0, 1, 0, 0, 0}}>() a = Pad(x, p) y = Conv(a, w) }}""",
        "pads batch or channels",
    ),
    (
        f"""g (float[2, 1, 5, 6] x) => (float[2, 1, 2, 4] y) {{ {_W}
            p = Constant<value = int64[8] {{0, 0, -1, 0, 0, 0, 0, 0}}>() a = Pad(x, p) y = Conv(a, w) }}""",
        "crops",
    ),
)
