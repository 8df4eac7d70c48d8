"""The float64 result that errors are measured against, computed in a worker as if it were one of the runtimes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx.reference
from onnx.reference.op_run import OpRun

from graphfuse.bench.peers import Ready, Subject
from graphfuse.errors import InputError, one_line
from graphfuse.verify.reference import Reference, doubled_inputs, to_double
from graphfuse.verify.reference_ops import FAST_OPS

Array = np.ndarray[Any, Any]

_TINY = 1e-300


class GlobalMaxPool(OpRun):  # type: ignore[misc]
    """onnx's own takes two axes whatever the input's rank."""

    op_domain = ""

    def _run(self, x: Array) -> tuple[Array]:
        return (x.max(axis=tuple(range(2, x.ndim)), keepdims=True),)


def version() -> str:
    return str(onnx.__version__)


def prepare(subject: Subject) -> Ready:
    """The model in float64: in onnxruntime where it has all its ops so, else in onnx's evaluator with NumPy's products.

    Raises InputError when neither can.
    """
    doubled = to_double(onnx.load(subject.model))
    feeds = doubled_inputs(subject.inputs)
    try:
        found, how = Reference(doubled).run(feeds), "float64 onnxruntime"
    except InputError:
        found, how = _evaluated(doubled, feeds, list(subject.outputs)), "float64 onnx evaluator"
    return Ready(lambda: found, lambda values: {name: values[name] for name in subject.outputs}, {"how": how})


def _evaluated(model: onnx.ModelProto, feeds: Mapping[str, Array], names: list[str]) -> dict[str, Array]:
    try:
        evaluator = onnx.reference.ReferenceEvaluator(model, new_ops=[*FAST_OPS, GlobalMaxPool])
        with np.errstate(all="ignore"):
            values = evaluator.run(names, dict(feeds))
    except Exception as error:  # whatever it lacks
        raise InputError("no float64 reference", why=one_line(str(error), 120)) from error
    return dict(zip(names, values, strict=True))


def distance(found: Mapping[str, Array], exact: Mapping[str, Array]) -> tuple[float, float]:
    """How far outputs are from exact ones: (largest, root mean square), as shares of the exact output's own.

    The worst output counts. Infinite for another shape, and for a NaN or infinity where the other has none.
    """
    pairs = [_distance(np.asarray(found[name]), np.asarray(value)) for name, value in exact.items()]
    return max((pair[0] for pair in pairs), default=0.0), max((pair[1] for pair in pairs), default=0.0)


def _distance(found: Array, exact: Array) -> tuple[float, float]:
    if _wide(found.shape) != _wide(exact.shape):  # some runtimes drop axes of size 1
        return math.inf, math.inf
    a, b = found.reshape(exact.shape).astype(np.float64), exact.astype(np.float64)
    finite = np.isfinite(b)
    if (np.isfinite(a) != finite).any() or not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return math.inf, math.inf
    a, b = a[finite], b[finite]
    if not b.size:
        return 0.0, 0.0
    apart = np.abs(a - b)
    largest = float(apart.max() / max(float(np.abs(b).max()), _TINY))
    return largest, float(np.sqrt(np.mean(apart**2)) / max(float(np.sqrt(np.mean(b**2))), _TINY))


def _wide(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)
