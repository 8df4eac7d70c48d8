"""onnxruntime with its own best settings: every graph optimisation, its thread pool, its CPU provider."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphfuse.errors import InputError, one_line

if TYPE_CHECKING:
    from graphfuse.bench.peers import Ready, Subject

PACKAGES = ("onnxruntime",)
VIES = True
TOLERANCE = 1e-3


def version() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)


def prepare(subject: Subject) -> Ready:
    """The model loaded. Raises InputError when onnxruntime refuses it or the inputs."""
    import onnxruntime

    from graphfuse.bench.peers import Ready

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = subject.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    inputs, names = dict(subject.inputs), list(subject.outputs)
    try:
        session = onnxruntime.InferenceSession(str(subject.model), options, providers=["CPUExecutionProvider"])
        session.run(names, inputs)
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise InputError(
            "onnxruntime does not run this model", where=str(subject.model), why=one_line(str(error))
        ) from error
    return Ready(lambda: session.run(names, inputs), lambda values: dict(zip(names, values, strict=True)))
