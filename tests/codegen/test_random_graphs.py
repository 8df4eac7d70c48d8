"""Random graphs through the generated code, against the interpreter: known and unknown sizes, one thread and two."""

from __future__ import annotations

import random

import numpy as np
import onnx
import pytest

from codegen.building import Emitted, Runner, build, emitted
from fusion.graphs import SYMBOLIC_SIZE, draw_graph, inputs_of
from ops.cases import inferred
from ops.running import interpret

# Sums of float32 in another order: a few units in the last place of the largest value on the way.
RTOL, ATOL = 1e-4, 2e-5
GRAPHS_PER_LIBRARY = 40


@pytest.mark.parametrize("block", range(5))
@pytest.mark.parametrize("cpu", ["native", "x86_64"])
def test_known_sizes(cpu: str, block: int) -> None:
    check_block(block * GRAPHS_PER_LIBRARY, cpu, symbolic=False, sizes=[SYMBOLIC_SIZE])


@pytest.mark.parametrize("block", range(5))
@pytest.mark.parametrize("cpu", ["native", "x86_64"])
def test_unknown_sizes(cpu: str, block: int) -> None:
    """One library for all sizes, 1 included."""
    check_block(5000 + block * GRAPHS_PER_LIBRARY, cpu, symbolic=True, sizes=[SYMBOLIC_SIZE, 1, 33])


def check_block(first: int, cpu: str, symbolic: bool, sizes: list[int]) -> None:
    models: list[tuple[int, onnx.ModelProto, Emitted]] = []
    for seed in range(first, first + GRAPHS_PER_LIBRARY):
        model = draw_graph(random.Random(seed).choice, symbolic)
        models.append((seed, model, emitted(inferred(model), cpu)))
    for (seed, model, _), run in zip(models, build([e for _, _, e in models]), strict=True):
        for n in sizes:
            check(f"graph {seed}, N = {n}", model, run, inputs_of(model, seed, n), n)


def check(name: str, model: onnx.ModelProto, run: Runner, inputs: dict[str, np.ndarray], n: int) -> None:
    wanted = interpret(inferred(model), inputs, {"N": n})
    actual = run(inputs)
    assert [a.tobytes() for a in actual] == [b.tobytes() for b in run(inputs, threads=2)], f"{name}: threads differ"
    for a, w in zip(actual, wanted, strict=True):
        assert a.shape == w.shape, name
        largest = max(1.0, float(np.abs(w).max(initial=0)))
        np.testing.assert_allclose(a, w, rtol=RTOL, atol=ATOL * largest, err_msg=name)
