"""What the random ops draw: the generator's known answers, distributions, independence, the same numbers every time."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest

from codegen.building import Runner, build, emitted, parse
from graphfuse.compiler import compile_model
from graphfuse.errors import InputError
from graphfuse.graph.dtypes import U64
from graphfuse.ops.scalars import apply
from graphfuse.options import CompileOptions
from graphfuse.verify.check import DRAWN
from ops.cases import inferred
from ops.running import interpret

N = 200_003  # neither a multiple of the lanes nor of the threads' shares
TYPES = {"float": 1, "double": 11}


def drawn(text: str, **inputs: np.ndarray) -> list[np.ndarray]:
    """The outputs of a graph with random ops, compiled; one thread and two give the same bits."""
    run = compiled(text)
    result = run(inputs)
    again = run(inputs, threads=2)
    assert [a.tobytes() for a in result] == [b.tobytes() for b in again]
    return result


@cache
def compiled(text: str, cpu: str = "native") -> Runner:
    return build([emitted(inferred(parse(text)), cpu)])[0]


def distance(values: np.ndarray, cdf: Callable[[np.ndarray], np.ndarray]) -> float:
    """Kolmogorov and Smirnov's: the largest difference from a distribution function, times sqrt(n)."""
    x = np.sort(values.astype(np.float64))
    steps = np.arange(x.size + 1) / x.size
    expected = cdf(x)
    return float(max(np.abs(expected - steps[1:]).max(), np.abs(expected - steps[:-1]).max())) * math.sqrt(x.size)


def normal_cdf(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def test_known_answers() -> None:
    """Those that come with Random123, the authors' own library."""
    counters = np.array([0, 2**64 - 1, 0x85A308D3243F6A88], np.uint64)
    keys = np.array([0, 2**64 - 1, 0x0370734413198A2E], np.uint64)
    wanted = [0x99BA4EFE6B200159, 0xBB002BE71CB996FC, 0x483DF7A0C4923A9C]
    assert apply("threefry", [counters, keys], U64).tolist() == wanted


@pytest.mark.parametrize("dtype", ["float", "double"])
def test_uniform(dtype: str) -> None:
    op = f"RandomUniform<shape = [{N}], dtype = {TYPES[dtype]}, low = -2., high = 5.>"
    (y,) = drawn(f"g () => ({dtype}[{N}] y) {{ y = {op}() }}")
    assert y.min() >= -2
    assert y.max() <= 5
    assert distance(y, lambda x: (x + 2) / 7) < 1.95  # exceeded once in a thousand
    assert len(np.unique(y)) > 0.98 * N


@pytest.mark.parametrize("dtype", ["float", "double"])
def test_normal(dtype: str) -> None:
    op = f"RandomNormal<shape = [{N}], dtype = {TYPES[dtype]}, mean = 3., scale = 2.>"
    (y,) = drawn(f"g () => ({dtype}[{N}] y) {{ y = {op}() }}")
    z = (y.astype(np.float64) - 3) / 2
    assert abs(z.mean()) < 4 / math.sqrt(N)
    assert abs(z.var() - 1) < 4 * math.sqrt(2 / N)
    assert abs((z**4).mean() - 3) < 4 * math.sqrt(96 / N)
    assert distance(z, normal_cdf) < 1.95


def test_neighbours_and_nodes_are_independent() -> None:
    text = f"""g () => (float[{N}] a, float[{N}] b, float[{N}] c) {{
        a = RandomUniform<shape = [{N}], seed = 1.>()
        b = RandomUniform<shape = [{N}], seed = 1.>()
        c = RandomUniform<shape = [{N}], seed = 2.>() }}"""
    a, b, c = drawn(text)
    pairs = [(a, b), (a, c), (b, c), *((a[k:], a[:-k]) for k in (1, 2, 7, 16, 1024))]
    for x, y in pairs:
        assert abs(np.corrcoef(x, y)[0, 1]) < 4 / math.sqrt(N)
        assert not np.array_equal(x, y)


def test_places_count_across_all_axes() -> None:
    """The same numbers whatever the shape, sizes known or not."""
    flat, square = "y = RandomNormal<shape = [60]>()", "y = RandomNormal<shape = [3, 4, 5]>()"
    (a,), (b,) = drawn(f"g () => (float[60] y) {{ {flat} }}"), drawn(f"g () => (float[3, 4, 5] y) {{ {square} }}")
    x = np.zeros((3, 4, 5), np.float32)
    (c,) = drawn("g (float[P, Q, R] x) => (float[P, Q, R] y) { y = RandomNormalLike(x) }", x=x)
    assert a.tolist() == b.reshape(-1).tolist() == c.reshape(-1).tolist()


@pytest.mark.parametrize(
    "op, close",
    [("RandomUniform<shape = [999], low = 0.1, high = 0.7>()", 0), ("RandomNormal<shape = [999]>()", 3e-6)],
)
def test_the_same_on_every_machine(op: str, close: float) -> None:
    text = f"g () => (float[999] y) {{ y = {op} }}"
    (wanted,) = interpret(inferred(parse(text)), {})
    for cpu in ("native", "x86_64"):
        (actual,) = compiled(text, cpu)({})
        np.testing.assert_allclose(actual, wanted, rtol=0, atol=close)


def test_bernoulli() -> None:
    p = np.linspace(0, 1, N, dtype=np.float32)
    (y,) = drawn(f"g (float[{N}] p) => (bool[{N}] y) {{ y = Bernoulli<dtype = 9, seed = 4.>(p) }}", p=p)
    assert abs(y.mean() - 0.5) < 4 * math.sqrt(1 / 6 / N)
    assert y[p > 0.9].mean() > 0.93
    assert y[p < 0.1].mean() < 0.07
    assert distance(p[~y], lambda x: 1 - (1 - x) ** 2) < 1.95


def test_multinomial() -> None:
    p = np.array([[0.5, 0.25, 0.0, 0.25], [0.1, 0.2, 0.3, 0.4]])
    with np.errstate(divide="ignore"):
        x = (np.log(p) + 7).astype(np.float32)
    (y,) = drawn("g (float[2, 4] x) => (int32[2, 20001] y) { y = Multinomial<sample_size = 20001>(x) }", x=x)
    for row, share in zip(y, p, strict=True):
        counts = np.bincount(row, minlength=4) / row.size
        assert (np.abs(counts - share) <= 4 * np.sqrt(share * (1 - share) / row.size)).all()


def test_dropout_in_training() -> None:
    text = f"""g (float[{N}] x, float r, bool t) => (float[{N}] y, bool[{N}] mask, float[{N}] z) {{
        y, mask = Dropout<seed = 5>(x, r, t) z = Dropout<seed = 5>(x, r, t) }}"""
    x = np.linspace(-3, 3, N, dtype=np.float32)
    given = {"x": x, "r": np.array(0.3, np.float32)}
    y, mask, z = drawn(text, t=np.array(True), **given)
    assert abs(mask.mean() - 0.7) < 4 * math.sqrt(0.21 / N)
    np.testing.assert_allclose(y, np.where(mask, x / np.float32(0.7), 0), rtol=3e-7)
    assert not np.array_equal(y, z)
    y, mask, z = drawn(text, t=np.array(False), **given)
    assert mask.all()
    assert np.array_equal(x, y)
    assert np.array_equal(x, z)


TWINS = """g (float[N, 8] x) => (float[N, 8] a, float[N, 8] b, float[N, 8] c) {
    s = RandomNormalLike(x) t = RandomNormalLike(x) a = Add(x, s) b = Add(x, t)
    p = Constant<value = float[8] {0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5}>()
    m = Bernoulli<seed = 1.>(p) n = Bernoulli<seed = 1.>(p) d = Sub(m, n) c = Add(x, d) }"""


def test_whole_pipeline(tmp_path: Path) -> None:
    """Draws are neither folded nor merged; a seed for those that have none; verified as far as that can be."""
    path = tmp_path / "model.onnx"
    onnx.save(parse(TWINS), path)
    x = {"x": np.zeros((5, 8), np.float32)}
    found: list[list[np.ndarray]] = []
    for seed in (0, 0, 7):
        compiled = compile_model(path, tmp_path / f"{len(found)}.gf", CompileOptions(seed=seed))
        assert compiled.certificate is not None
        assert [r.reason for r in compiled.certificate.outputs] == [DRAWN] * 3
        assert compiled.certificate.passed
        texts = [note.text for note in compiled.ledger.notes if "has no seed" in note.text]
        assert len(texts) == 2
        assert f"seed {seed}," in texts[0]
        with compiled.session() as session:
            found.append(session.run(None, x))
            assert all(np.array_equal(p, q) for p, q in zip(found[-1], session.run(None, x), strict=True))
    (a, b, c), again, (other, _, same) = found
    assert not np.array_equal(a, b)
    assert np.array_equal(a, again[0])
    assert not np.array_equal(a, other)
    assert np.array_equal(c, same)
    assert set(np.unique(c)) == {-1.0, 0.0, 1.0}


def test_seed_out_of_range() -> None:
    with pytest.raises(InputError, match="option seed"):
        CompileOptions(seed=-1)
