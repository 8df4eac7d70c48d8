"""ncnn in float32, on what pnnx makes of the ONNX file for the shapes of the inputs."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graphfuse.errors import InputError, one_line

if TYPE_CHECKING:
    from graphfuse.bench.peers import Ready, Subject

PACKAGES = ("ncnn", "pnnx")
VIES = True
TOLERANCE = 1e-3

_CONVERT_SECONDS = 240
_TYPES = {"float32": "f32", "int64": "i64", "int32": "i32", "float16": "f16", "float64": "f64"}
# The converter's own example says along which axis a tensor's batch lies; ncnn keeps it apart. 233: none.
_INPUT = re.compile(r'ex\.input\("(in\d+)", ncnn\.Mat\(\w+(?:\.squeeze\(\d+\))?\.numpy\(\), batch_index=(\d+)\)')
_OUTPUT = re.compile(r"(out\d+)\.numpy\(batch_index=(\d+)\)")


def version() -> str:
    import ncnn

    if importlib.util.find_spec("pnnx") is None:  # it converts; importing it would bring in torch
        raise ImportError("No module named 'pnnx'")
    return str(ncnn.__version__)


def prepare(subject: Subject) -> Ready:
    """The converted network. Raises InputError when pnnx does not convert the model."""
    import ncnn

    from graphfuse.bench.peers import Ready

    stem = _converted(subject)
    example = stem.with_name(f"{stem.name}_ncnn.py").read_text()
    inputs, outputs = _INPUT.findall(example), _OUTPUT.findall(example)
    if len(inputs) != len(subject.inputs) or len(outputs) != len(subject.outputs):
        raise InputError("not converted to ncnn", why="the converted network has other inputs or outputs")
    net = ncnn.Net()
    net.opt.num_threads = subject.threads
    for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(net.opt, option, False)
    if net.load_param(f"{stem}.ncnn.param") or net.load_model(f"{stem}.ncnn.bin"):
        raise InputError("not converted to ncnn", why=_unknown_layers(stem))
    mats = [
        (name, ncnn.Mat(_narrow(array), batch_index=int(axis)).clone())
        for (name, axis), array in zip(inputs, subject.inputs.values(), strict=True)
    ]

    def call() -> list[Any]:
        extractor = net.create_extractor()
        for name, mat in mats:
            extractor.input(name, mat)
        found = []
        for name, _ in outputs:
            status, value = extractor.extract(name)
            if status:
                raise InputError("ncnn does not run this model", why=f"extracting {name} returned {status}")
            found.append(value)
        return found

    def read(found: list[Any]) -> dict[str, np.ndarray[Any, Any]]:
        arrays = (value.numpy(batch_index=int(axis)).copy() for value, (_, axis) in zip(found, outputs, strict=True))
        return dict(zip(subject.outputs, arrays, strict=True))

    call()
    return Ready(call, read)


def _unknown_layers(stem: Path) -> str:
    """What pnnx left as it found it: its own ops have a dot in their names, ncnn's layers have none."""
    lines = stem.with_name(f"{stem.name}.ncnn.param").read_text().splitlines()[2:]
    unknown = dict.fromkeys(line.split()[0] for line in lines if "." in line.split()[0])
    return f"ncnn has no layer {', '.join(unknown)}" if unknown else "ncnn does not load what pnnx wrote"


def _narrow(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return array.astype(np.int32) if array.dtype == np.int64 else array


def _converted(subject: Subject) -> Path:
    """The stem of the converted network's files, from an earlier run where there was one."""
    shapes = [f"[{','.join(map(str, a.shape))}]{_TYPES.get(a.dtype.name, 'f32')}" for a in subject.inputs.values()]
    kept = subject.folder / "ncnn"
    stem = kept / "model"
    if Path(f"{stem}.ncnn.bin").exists():
        return stem
    program = shutil.which("pnnx") or _own_program()
    subject.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=subject.folder) as folder:
        copy = Path(folder) / "model.onnx"
        shutil.copyfile(subject.model, copy)
        command = [program, str(copy), f"inputshape={','.join(shapes)}", "fp16=0"]
        try:
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, timeout=_CONVERT_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise InputError("not converted to ncnn", why=f"pnnx took over {_CONVERT_SECONDS} seconds") from None
        if done.returncode or not Path(folder, "model.ncnn.bin").exists():
            said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
            why = f"pnnx ended with exit code {done.returncode}, its last words {one_line(said, 80)}"
            raise InputError("not converted to ncnn", why=why)
        copy.unlink()
        shutil.copytree(folder, kept, ignore=shutil.ignore_patterns("*.pnnx.*"), dirs_exist_ok=True)
    return stem


def _own_program() -> str:
    """The program inside the package, where no script folder is on the path."""
    found = importlib.util.find_spec("pnnx")
    return str(Path(found.origin).with_name("pnnx")) if found and found.origin else "pnnx"
