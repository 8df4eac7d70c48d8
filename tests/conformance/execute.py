"""One case through one engine: passed, failed or not applicable, and why."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from conformance.cases import Case
from graphfuse.compiler import compile_model
from graphfuse.errors import UnsupportedModelError, one_line
from graphfuse.options import CompileOptions

PASSED, FAILED, NOT_APPLICABLE = "passed", "failed", "not applicable"
ENGINES = ("graphfuse", "onnxruntime")
_REASON_LENGTH = 200
# bfloat16 results may be two units in the last place off, as in onnx's own runner, whatever the case says.
_BF16_RTOL = 2.0**-6

_TEXT_OPS = frozenset({"StringNormalizer", "StringConcat", "StringSplit", "RegexFullMatch", "TfIdfVectorizer"})
_RANDOM = frozenset({"Bernoulli", "RandomUniform", "RandomUniformLike", "RandomNormal", "RandomNormalLike"})
_UNKNOWN_LENGTH = "sequence or optional of unknown length"
_TRAINING = "ai.onnx.preview.training"

Run = Callable[[Mapping[str, Any]], Sequence[Any]]


@dataclass(frozen=True)
class Result:
    """What became of a case. reason: the first line of the error, "" when it passed."""

    status: str
    reason: str = ""
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Mismatch(Exception):
    """An output is not what the case says."""


class WrongElements(Mismatch):
    """An output has the dtype and the shape that the case says, and other elements."""


def execute(case: Case, engine: str, cache: Path | None = None) -> Result:
    """Run a case through an engine of ENGINES and compare every output. cache: folder for compiled objects."""
    started = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory(prefix="conformance-") as folder:
            run = _prepared(case.model(), engine, Path(folder), cache)
            for inputs, wanted in case.data_sets():
                compare(run(inputs), wanted, case.rtol, case.atol)
        status, reason = PASSED, ""
    except Exception as error:  # whatever goes wrong is the case's result
        reason = _first_words(error)
        scope = ""
        if isinstance(error, UnsupportedModelError):
            scope = out_of_scope(case.model()) or _open_ended(error)
        elif isinstance(error, WrongElements) and draws(case.model()):
            scope = "expects the draws of another generator"
        status = NOT_APPLICABLE if scope else FAILED
        reason = f"{scope}: {reason}" if scope else reason
    return Result(status, reason, round(time.perf_counter() - started, 3))


def _prepared(model: onnx.ModelProto, engine: str, folder: Path, cache: Path | None) -> Run:
    if engine == "onnxruntime":
        quiet = onnxruntime.SessionOptions()
        quiet.log_severity_level = 4
        quiet.intra_op_num_threads = 1
        peer = onnxruntime.InferenceSession(model.SerializeToString(), quiet, providers=["CPUExecutionProvider"])
        return lambda inputs: peer.run(None, dict(inputs))
    file = folder / "model.onnx"
    onnx.save(model, file)
    options = CompileOptions(verify=False, cache=False, threads=1, cache_dir=cache)
    session = compile_model(file, folder / "model.gf", options).session()
    return lambda inputs: session.run(None, inputs)


def _first_words(error: Exception) -> str:
    """The error on one line; of a model that cannot be compiled the first node's own reason."""
    if isinstance(error, UnsupportedModelError) and error.nodes:
        op, _, reason = error.nodes[0]
        return one_line(f"{op}: {reason}", _REASON_LENGTH)
    name = "" if isinstance(error, Mismatch) else f"{type(error).__name__}: "
    return one_line(name + str(error), _REASON_LENGTH)


def out_of_scope(model: onnx.ModelProto) -> str:
    """Why no one expects this model to compile, or "": what it works on is no tensor of numbers of known count."""
    graphs, nodes = [model.graph], [node for function in model.functions for node in function.node]
    for graph in graphs:
        nodes += graph.node
        graphs += [a.g for node in graph.node for a in node.attribute if a.HasField("g")]
    if any(node.domain == _TRAINING for node in nodes):
        return "training"
    if any(node.op_type == "ImageDecoder" for node in nodes):
        return "images"
    values = [value for graph in graphs for value in (*graph.input, *graph.output)]
    if any(node.op_type in _TEXT_OPS for node in nodes) or any(_is_text(value.type) for value in values):
        return "text"
    if any(value.type.WhichOneof("value") in ("sequence_type", "optional_type") for value in model.graph.input):
        return _UNKNOWN_LENGTH
    return ""


def _open_ended(error: UnsupportedModelError) -> str:
    """The same where a run alone decides how long a sequence is, or whether an optional is there."""
    unknown = any("sequence or optional holds is not known" in reason for _, _, reason in error.nodes)
    return _UNKNOWN_LENGTH if unknown else ""


def draws(model: onnx.ModelProto) -> bool:
    """Whether the outputs of a model hold random numbers: what a generator draws, not what is computed."""
    return any(n.op_type in _RANDOM or (n.op_type == "Dropout" and len(n.input) > 2) for n in model.graph.node)


def _is_text(kind: onnx.TypeProto) -> bool:
    if kind.HasField("sequence_type"):
        return _is_text(kind.sequence_type.elem_type)
    if kind.HasField("optional_type"):
        return _is_text(kind.optional_type.elem_type)
    return kind.tensor_type.elem_type == onnx.TensorProto.STRING


# ---------------------------------------------------------------- comparison


def compare(got: Sequence[Any], wanted: Sequence[Any], rtol: float, atol: float) -> None:
    """Raise Mismatch unless every output has the dtype, the shape and, within tolerance, the elements wanted.

    Integers and booleans are compared exactly; of floats, NaN equals NaN and infinities must agree.
    """
    if len(got) != len(wanted):
        raise Mismatch(f"{len(got)} outputs instead of {len(wanted)}")
    for k, (ours, theirs) in enumerate(zip(got, wanted, strict=True)):
        for what, a, b in _leaves(f"output {k}", ours, theirs):
            _compare_arrays(what, a, b, rtol, atol)


def _leaves(what: str, got: Any, wanted: Any) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """The pairs of arrays in two outputs, which may be sequences. Raises Mismatch where one is and one is not."""
    if wanted is None or got is None:
        if wanted is not got:
            raise Mismatch(f"{what}: {type(got).__name__} instead of {type(wanted).__name__}")
        return
    if not isinstance(wanted, (list, tuple)):
        if isinstance(got, (list, tuple)):
            raise Mismatch(f"{what}: a sequence instead of a tensor")
        yield what, np.asarray(got), np.asarray(wanted)
        return
    if not isinstance(got, (list, tuple)) or len(got) != len(wanted):
        size = len(got) if isinstance(got, (list, tuple)) else "no"
        raise Mismatch(f"{what}: a sequence of {size} instead of {len(wanted)}")
    for k, (a, b) in enumerate(zip(got, wanted, strict=True)):
        yield from _leaves(f"{what}[{k}]", a, b)


def _compare_arrays(what: str, got: np.ndarray, wanted: np.ndarray, rtol: float, atol: float) -> None:
    if got.dtype != wanted.dtype:
        raise Mismatch(f"{what}: dtype {got.dtype} instead of {wanted.dtype}")
    if got.shape != wanted.shape:
        raise Mismatch(f"{what}: shape {got.shape} instead of {wanted.shape}")
    if got.dtype.kind in "biuOUS" or "int" in got.dtype.name:
        wrong = np.asarray(got != wanted)
        difference = "" if got.dtype.kind in "bOUS" else _largest(got.astype(np.float64), wanted.astype(np.float64))
    else:
        rtol = max(rtol, _BF16_RTOL) if got.dtype.name == "bfloat16" else rtol
        wide = np.complex128 if got.dtype.kind == "c" else np.float64
        a, b = got.astype(wide), wanted.astype(wide)
        wrong = ~np.isclose(a, b, rtol=rtol, atol=atol, equal_nan=True)
        difference = _largest(a, b)
    if wrong.any():
        first = tuple(int(i) for i in np.argwhere(wrong)[0])
        pair = f"{got[first]} instead of {wanted[first]}"
        raise WrongElements(
            f"{what}: {int(wrong.sum())} of {wrong.size} elements wrong{difference}, first at {first}: {pair}"
        )


def _largest(got: np.ndarray, wanted: np.ndarray) -> str:
    with np.errstate(all="ignore"):
        differences = np.abs(got - wanted)
    finite = differences[np.isfinite(differences)]
    return f" by up to {finite.max():.3g}" if finite.size else ""
