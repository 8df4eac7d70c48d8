"""How much memory onnxruntime takes for what lies between a model's inputs and outputs, measured in a worker.

onnxruntime plans its memory as the graph runs and reports no size. Without its arena every tensor is a block of its
own, and without the C library's caching (see ENVIRONMENT) a large block comes from the kernel and goes back when it is
freed; the most that the process holds while it runs, less what it held before, is then the peak of activations,
scratch memory of kernels and outputs together.
"""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path

from graphfuse.bench.peers import Ready, Subject

ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_TOP_PAD_": "0"}


def version() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)


def prepare(subject: Subject) -> Ready:
    """Runs the model; notes: activation_bytes."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.intra_op_num_threads = subject.threads
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(subject.model), options, providers=["CPUExecutionProvider"])
    inputs, names = dict(subject.inputs), list(subject.outputs)
    for _ in range(2):  # the first run also makes threads and packs weights
        session.run(names, inputs)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _memory("VmHWM")
    values = session.run(names, inputs)
    found = {"activation_bytes": _memory("VmHWM") - before}
    return Ready(lambda: values, lambda _: dict(zip(names, values, strict=True)), found)


def _memory(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))
