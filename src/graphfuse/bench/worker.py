"""One runtime in a process of its own: `python -m graphfuse.bench.worker`, spoken to in lines of JSON.

The first line asks for preparation, each further one for a turn of timed calls or for the end; see `driver.py`. What
libraries print goes to stderr, which the driver keeps in a file.
"""

from __future__ import annotations

import ctypes
import gc
import hashlib
import importlib
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from graphfuse.bench.peers import Ready, Subject
from graphfuse.bench.timing import turn
from graphfuse.errors import GraphfuseError, one_line

Array = np.ndarray[Any, Any]

READY, UNSUPPORTED, MISSING, FAILED = "ready", "unsupported", "missing", "failed"  # as in record.py, which imports more


def main() -> None:
    """Serve until told to end, or until the driver is gone."""
    requests, answers = _channel()
    first = json.loads(requests.readline())
    answer, ready = _prepared(first)
    _send(answers, answer)
    if ready is None:
        return
    gc.disable()
    for line in requests:
        request = json.loads(line)
        if request["do"] == "turn":
            times = turn(ready.call, request["seconds"], request["warm"], request["least"], request["most"])
            _send(answers, {"times": times})
            continue
        _send(answers, {"peak_bytes": _status_bytes("VmHWM"), "digest": digest(_outputs(ready))})
        return


def _channel() -> tuple[TextIO, TextIO]:
    """Where requests come from and answers go; everything that is printed goes to stderr from now on."""
    requests = os.fdopen(os.dup(0), "r", encoding="utf-8")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    return requests, answers


def _send(answers: TextIO, answer: Mapping[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def _prepared(request: Mapping[str, Any]) -> tuple[dict[str, Any], Ready | None]:
    try:
        runtime = importlib.import_module(request["module"])
        version = runtime.version()
        base = _status_bytes("VmRSS")
        started = time.perf_counter()
        ready = runtime.prepare(_subject(request))
        seconds = time.perf_counter() - started
        found = _outputs(ready)
    except ImportError as error:
        return {"status": MISSING, "reason": one_line(str(error), 200)}, None
    except GraphfuseError as error:
        return {"status": UNSUPPORTED, "reason": one_line(str(error), 200)}, None
    except Exception as error:  # a runtime raises whatever it likes; the row says it and the others go on
        return {"status": FAILED, "reason": one_line(f"{type(error).__name__}: {error}", 200)}, None
    save_arrays(Path(request["results"]), found)
    answer = {
        "status": READY,
        "version": version,
        "load_s": seconds,
        "base_bytes": base,
        "load_peak_bytes": _status_bytes("VmHWM"),
        "notes": dict(ready.notes or {}),
        "digest": digest(found),
    }
    _forget_peak()
    return answer, ready


def _outputs(ready: Ready) -> dict[str, Array]:
    """What a run gives, by name; the tensors of a list one by one."""
    arrays: dict[str, Array] = {}
    for name, value in ready.outputs(ready.call()).items():
        listed = isinstance(value, list | tuple)
        arrays.update({f"{name}.{k}": tensor for k, tensor in enumerate(value)} if listed else {name: value})
    return arrays


def _subject(request: Mapping[str, Any]) -> Subject:
    return Subject(
        Path(request["model"]),
        load_arrays(Path(request["inputs"])),
        tuple(request["outputs"]),
        request["threads"],
        Path(request["folder"]),
        Path(request["artifact"]) if request.get("artifact") else None,
        request.get("torch_form", ""),
    )


def save_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Arrays by name, whatever their names are made of."""
    numbered: dict[str, Any] = {str(index): array for index, array in enumerate(arrays.values())}
    with path.open("wb") as file:
        np.savez(file, names=np.array(json.dumps(list(arrays))), **numbered)


def load_arrays(path: Path) -> dict[str, Array]:
    """What save_arrays wrote."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[str(index)] for index, name in enumerate(json.loads(str(file["names"])))}


def digest(arrays: Mapping[str, Array]) -> str:
    """Equal for equal bits of all outputs."""
    found = hashlib.sha256()
    for name, array in arrays.items():
        found.update(f"{name}\0{array.dtype}\0{array.shape}\0".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:16]


def _status_bytes(field: str) -> int:
    """A figure of this process's memory as the kernel keeps it, in bytes; 0 where there is none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(field)), 0)


def _forget_peak() -> None:
    """Let the peak start anew from what is in use now, so that it tells of running and not of loading."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        pass


if __name__ == "__main__":
    sys.path = [entry for entry in sys.path if entry]
    main()
