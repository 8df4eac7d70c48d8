"""Copies in runs arrive byte for byte, whatever the sizes, strides, types and threads; their work is what they move."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from codegen.building import Emitted, Runner, build, emitted, parse
from graphfuse.kernels.moves import RUN_BYTES
from ops.cases import inferred
from ops.running import interpret

COPIED = "copied in runs"
LONG = RUN_BYTES // 4
# Text and the values of its sizes.
CASES: dict[str, tuple[str, dict[str, int]]] = {
    "a row behind long rows": (
        f"g (float[3, {LONG + 7}, 2] a, float[3, 1, 2] b) => (float[3, {LONG + 8}, 2] y) {{ "
        "y = Concat<axis = 1>(a, b) }",
        {},
    ),
    "one long run of a size known late": (
        "g (float[N] a, float[5] b) => (float[M] y) { y = Concat<axis = 0>(a, b) }",
        {"N": 3 * LONG + 7},
    ),
    "nothing at all": ("g (float[N] a, float[N] b) => (float[M] y) { y = Concat<axis = 0>(a, b) }", {"N": 0}),
    "nothing beside something": (
        "g (float[7, N] a, float[7, 3] b) => (float[7, M] y) { y = Concat<axis = 1>(a, b) }",
        {"N": 0},
    ),
    "short runs": ("g (float[501, 3] a, float[501, 5] b) => (float[501, 8] y) { y = Concat<axis = 1>(a, b) }", {}),
    "rows in another order": (
        "g (float[2, 13, 7, 33] x) => (float[2, 7, 13, 33] y) { y = Transpose<perm = [0, 2, 1, 3]>(x) }",
        {},
    ),
    "rows backwards": (
        """g (float[9, 150] x) => (float[9, 150] y) {
            b = Constant<value = int64[1] {-1}>() e = Constant<value = int64[1] {-999}>()
            a = Constant<value = int64[1] {0}>() y = Slice(x, b, e, a, b)
        }""",
        {},
    ),
    "elements backwards": (
        """g (float[9, 150] x) => (float[9, 150] y) {
            b = Constant<value = int64[1] {-1}>() e = Constant<value = int64[1] {-999}>()
            a = Constant<value = int64[1] {1}>() y = Slice(x, b, e, a, b)
        }""",
        {},
    ),
    "gathered rows": ("g (float[40, 33] x, int64[150] i) => (float[150, 33] y) { y = Gather(x, i) }", {}),
    "gathered rows within items": (
        "g (float[3, 40, 17] x, int64[N] i) => (float[3, N, 17] y) { y = Gather<axis = 1>(x, i) }",
        {"N": 21},
    ),
    **{
        f"of type {dtype}": (
            f"g ({dtype}[37, N] a, {dtype}[37, 3] b) => ({dtype}[37, M] y) {{ y = Concat<axis = 1>(a, b) }}",
            {"N": 45},
        )
        for dtype in ("double", "float16", "int64", "int32", "int16", "uint8", "int8", "bool")
    },
}

TURNED = "transposed in registers"
# The shape, its order, and the values of its sizes.
TRANSPOSES: dict[str, tuple[str, tuple[int, ...], dict[str, int]]] = {
    "squares": ("32, 48", (1, 0), {}),
    "cut squares": ("50, 67", (1, 0), {}),
    "longer than a chunk": ("1090, 35", (1, 0), {}),
    "channels last": ("2, 19, 5, 21", (0, 2, 3, 1), {}),
    "channels first": ("2, 5, 21, 19", (0, 3, 1, 2), {}),
    "reversed": ("17, 3, 33", (2, 1, 0), {}),
    "of open sizes": ("A, B, C", (0, 2, 1), {"A": 3, "B": 41, "C": 50}),
    "smaller than a square": ("A, B, C", (2, 1, 0), {"A": 3, "B": 2, "C": 5}),
    "of no elements": ("A, B, C", (2, 0, 1), {"A": 3, "B": 0, "C": 5}),
}
for _name, (_shape, _order, _sizes) in TRANSPOSES.items():
    for _type in ("float", "double", "float16", "int64", "int16", "int8", "bool"):
        _open = ", ".join(f"O{k}" for k in _order)
        _text = f"g ({_type}[{_shape}] x) => ({_type}[{_open}] y) {{ y = Transpose<perm = {list(_order)}>(x) }}"
        CASES[f"transposed: {_name}, {_type}"] = (_text, _sizes)


@cache
def runners(cpu: str) -> dict[str, tuple[Emitted, Runner]]:
    emits = {name: emitted(inferred(parse(text)), cpu) for name, (text, _) in CASES.items()}
    built = build(list(emits.values()), flags=("-O1", "-fsanitize=undefined", "-fsanitize-undefined-trap-on-error"))
    return dict(zip(emits, zip(emits.values(), built, strict=True), strict=True))


def inputs_of(e: Emitted, sizes: dict[str, int]) -> dict[str, np.ndarray]:
    """Any bit patterns, NaN among them; indices lie in the axis, from its end too."""
    random = np.random.default_rng(0)
    values = {}
    for port in e.module.inputs:
        shape = tuple(d if isinstance(d, int) else sizes[d] for d in port.shape)
        dtype = np.dtype(port.dtype)
        if port.name == "i":
            values[port.name] = random.integers(-40, 40, shape)
        elif dtype.kind == "b":
            values[port.name] = random.integers(0, 2, shape).astype(bool)
        else:
            values[port.name] = np.frombuffer(random.bytes(int(np.prod(shape)) * dtype.itemsize), dtype).reshape(shape)
    return values


@pytest.mark.parametrize("cpu", ["native", "x86_64"])
@pytest.mark.parametrize("name", CASES)
def test_every_byte_arrives(name: str, cpu: str) -> None:
    text, sizes = CASES[name]
    e, run = runners(cpu)[name]
    how = TURNED if name.startswith("transposed") else COPIED
    assert any(how in call.code.describe for call in e.plan.calls) == (name != "elements backwards")
    inputs = inputs_of(e, sizes)
    wanted = [x.tobytes() for x in interpret(inferred(parse(text)), inputs, sizes)]
    for threads in (1, 2, 3, 7):
        assert [x.tobytes() for x in run(inputs, threads)] == wanted, f"{threads} threads"


@pytest.mark.parametrize(
    "text, least, most",
    [
        ("g (float[1000, 64] x, int64[128] i) => (float[128, 64] y) { y = Gather(x, i) }", 128 * 64 * 4, RUN_BYTES),
        ("g (uint8[2, 70, 1000] x) => (uint8[70, 2, 1000] y) { y = Transpose<perm = [1, 0, 2]>(x) }", 140000, 160000),
    ],
)
def test_the_work_is_what_is_moved(text: str, least: int, most: int) -> None:
    """In bytes and a little for every run: rows that fit in L1 wake nobody."""
    [call] = emitted(inferred(parse(text))).plan.calls
    assert least <= call.code.work < most
