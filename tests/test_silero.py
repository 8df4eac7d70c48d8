"""silero-vad: 25 Ifs, one for each of two sampling rates left, each with sizes of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from codegen.sanitizing import build_sanitized, run_sanitized
from control_flow import Feeds, run
from graphfuse.compiler import Compiled, compile_model
from graphfuse.errors import InputError
from graphfuse.options import CompileOptions
from graphfuse.runtime.session import Session

pytestmark = pytest.mark.real_model
NAME = "silero_vad"


def feeds(rate: int, samples: int, batch: int) -> Feeds:
    rng = np.random.default_rng(samples)
    sound = rng.standard_normal((batch, samples), np.float32) / 8
    return {"input": sound, "state": rng.standard_normal((2, batch, 128), np.float32), "sr": np.array(rate)}


@pytest.fixture(scope="module")
def compiled(real_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    return compile_model(real_model(NAME), tmp_path_factory.mktemp("silero") / "s.gf", CompileOptions(threads=1))


def compare(session: Session, model: onnx.ModelProto, given: Feeds) -> None:
    for ours, theirs in zip(session.run(None, given), run(model, given), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("rate, samples", [(16000, 576), (16000, 256), (8000, 288), (8000, 100)])
def test_both_rates(compiled: Compiled, real_model: Callable[[str], Path], rate: int, samples: int, batch: int) -> None:
    assert compiled.certificate is not None
    assert compiled.certificate.passed
    with compiled.session() as session:
        compare(session, onnx.load(real_model(NAME)), feeds(rate, samples, batch))


@pytest.mark.parametrize("rate, samples", [(16000, 100), (16000, 1024), (8000, 576)])
def test_chunks_of_another_length_are_refused(compiled: Compiled, rate: int, samples: int) -> None:
    """As onnxruntime does: only one frame at a time is what the network can take."""
    with compiled.session() as session, pytest.raises(InputError, match="decoder/Squeeze"):
        session.run(None, feeds(rate, samples, 1))


def test_one_if_is_left_and_every_node_accounted_for(compiled: Compiled) -> None:
    assert compiled.ledger.missing() == ()
    assert len(compiled.ledger.names) == 689
    model = compiled.job.results["recognize"]
    assert [node.op_type for node in model.graph] == ["Equal", "If"]


def test_it_stays_inside_its_memory(compiled: Compiled, real_model: Callable[[str], Path], tmp_path: Path) -> None:
    module = compiled.job.results["emit"]
    program = build_sanitized(module, compiled.job.target, tmp_path)
    cases = [feeds(16000, 576, 1), feeds(8000, 288, 2)]
    proto = onnx.load(real_model(NAME))
    for given, results in zip(cases, run_sanitized(program, module, cases), strict=True):
        for ours, theirs in zip(results, run(proto, given), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)
