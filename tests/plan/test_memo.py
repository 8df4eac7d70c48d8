"""Equal sites share a kernel's answers, and nothing that a kernel may look at is overlooked."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import zoo
from codegen.building import Emitted, emitted, imported, parse
from fusion.graphs import draw_graph
from graphfuse.codegen.module import Module
from graphfuse.compiler import Job, run_stages
from graphfuse.kernels.conv_winograd import ConvWinograd
from graphfuse.kernels.gemm import Gemm
from graphfuse.options import CompileOptions
from graphfuse.plan.memo import KernelMemo
from ops.cases import inferred
from zoo.builders import repeated_blocks


def without_memory(monkeypatch: pytest.MonkeyPatch, make: Callable[[], Module]) -> Module:
    """What is made when every kernel is asked anew for every site."""
    with monkeypatch.context() as patch:
        patch.setattr(KernelMemo, "cost", lambda self, kernel, site: kernel.cost(site, self._target))
        patch.setattr(KernelMemo, "lines", lambda self, kernel, site: kernel.lines(site, self._target))
        patch.setattr(
            KernelMemo,
            "emit",
            lambda self, kernel, site, any_rows=False: kernel.emit(site, self._target, any_rows=any_rows),
        )
        return make()


def check_same(a: Module, b: Module) -> None:
    assert a.source() == b.source()
    assert len(a.weights) == len(b.weights)
    assert all(np.array_equal(x, y, equal_nan=True) for x, y in zip(a.weights, b.weights, strict=True))


@pytest.mark.parametrize("strips", [True, False])
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "vit_tiny", "repeated_blocks"])
def test_the_same_module(name: str, strips: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def make() -> Module:
        job = Job(zoo.path(name), CompileOptions(strips=strips))
        module: Module = run_stages(job, stop_after="emit").results["emit"]
        return module

    check_same(make(), without_memory(monkeypatch, make))


@pytest.mark.parametrize("symbolic", [False, True])
def test_the_same_random_graphs(symbolic: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(8000, 8060):
        model = draw_graph(random.Random(seed).choice, symbolic)
        check_same(
            emitted(inferred(model)).module, without_memory(monkeypatch, lambda m=model: emitted(inferred(m)).module)
        )


def test_work_grows_with_distinct_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight times as many layers: not one more emission."""
    counts: Counter[str] = Counter()
    for kind in (ConvWinograd, Gemm):
        original = kind.emit

        def counted(self, *args, original=original, **kwargs):  # type: ignore[no-untyped-def]
            counts[self.name] += 1
            return original(self, *args, **kwargs)

        monkeypatch.setattr(kind, "emit", counted)

    def emissions(blocks: int) -> int:
        counts.clear()
        onnx.save(repeated_blocks(blocks=blocks), tmp_path / "model.onnx")
        job = run_stages(Job(tmp_path / "model.onnx", CompileOptions()), stop_after="emit")
        assert len(job.results["plan"].calls) >= blocks
        return sum(counts.values())

    assert emissions(4) == emissions(32) > 0


# Two products that differ in one thing alone.
PAIRS = {
    "strides": """g (float[N, 4, 6] x, float[N, 6, 4] z) => (float[N, 4, 8] y, float[N, 4, 8] q) {W}
        {{ y = MatMul(x, w) t = Transpose<perm = [0, 2, 1]>(z) q = MatMul(t, v) }}""",
    "activation": """g (float[N, 6] x, float[N, 6] z) => (float[N, 8] y, float[N, 8] q) {W}
        {{ a = MatMul(x, w) y = Relu(a) b = MatMul(z, v) q = Tanh(b) }}""",
    "a constant": """g (float[N, 6] x, float[N, 6] z) => (float[N, 8] y, float[N, 8] q) {W}
        {{ k = Constant<value = float {{2.0}}>() l = Constant<value = float {{3.0}}>()
        a = MatMul(x, w) y = Mul(a, k) b = MatMul(z, v) q = Mul(b, l) }}""",
    "which operand": """g (float[N, 8] x, float[N, 8] z, float[N, 6] a) => (float[N, 8] y, float[N, 8] q) {W}
        {{ b = MatMul(a, w) y = Sub(b, x) c = MatMul(a, v) q = Sub(z, c) }}""",
    "the same operand twice": """g (float[N, 8] x, float[N, 8] z, float[N, 6] a) => (float[N, 8] y, float[N, 8] q) {W}
        {{ b = MatMul(a, w) c = Mul(x, z) d = Add(b, x) y = Mul(d, z) e = MatMul(a, v)
        f = Add(e, x) q = Mul(f, x) }}""",
    "nothing": """g (float[N, 6] x, float[N, 6] z) => (float[N, 8] y, float[N, 8] q) {W}
        {{ a = MatMul(x, w) y = Relu(a) b = MatMul(z, v) q = Relu(b) }}""",
}


@pytest.mark.parametrize("name", PAIRS)
def test_what_tells_sites_apart(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = [", ".join(map(str, np.random.default_rng(k).standard_normal(48).round(3))) for k in range(2)]
    weights = f"<float[6, 8] w = {{{numbers[0]}}}, float[6, 8] v = {{{numbers[1]}}}>"
    text = PAIRS[name].replace("{W}", weights).replace("{{", "{").replace("}}", "}")

    def make() -> Emitted:
        return emitted(imported(parse(text), tmp_path))

    both = make()
    products = [call.code.name for call in both.plan.calls if call.kernel == "gemm"]
    assert len(products) == 2
    # A constant is a pointer like any other: the text is the same, what is loaded is not.
    assert len(set(products)) == (1 if name in ("nothing", "a constant") else 2)
    check_same(both.module, without_memory(monkeypatch, lambda: make().module))
