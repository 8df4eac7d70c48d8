"""onnxruntime with its own best settings: every graph optimisation, its thread pool, its CPU provider."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphfuse.errors import InputError, one_line

if TYPE_CHECKING:
    import numpy as np

    from graphfuse.bench.peers import Run


def version() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)


def prepare(model: Path, threads: int) -> Run:
    """The model loaded for `threads` threads. Raises InputError when onnxruntime does not load it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise InputError("onnxruntime does not load this model", where=str(model), why=one_line(str(error))) from error
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Mapping[str, np.ndarray[Any, Any]]) -> Mapping[str, np.ndarray[Any, Any]]:
        try:
            return dict(zip(names, session.run(names, inputs), strict=True))
        except Exception as error:
            raise InputError("onnxruntime refuses these inputs", where=str(model), why=one_line(str(error))) from error

    return run
