"""Compiles the C of these tests with the compilers and for the instruction sets that this machine can run."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import graphfuse.runtime

Array = np.ndarray[Any, Any]
SANITIZED = "sanitized"

RUNTIME = Path(graphfuse.runtime.__file__).parent
HERE = Path(__file__).parent
FLAGS = ("-std=gnu11", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-Wall", "-Wextra")
STRICT = ("-Werror", "-Wno-psabi")  # gcc notes the calling convention of wide vectors, whatever a pragma says

# Instruction sets by the CPU flags they need, and their names in gcc's spelling.
_X86 = (
    ("x86-64", ()),
    ("x86-64-v3", ("avx2", "fma", "bmi2")),
    ("x86-64-v4", ("avx512f", "avx512bw", "avx512dq", "avx512vl", "fma")),
)


@dataclass(frozen=True)
class Build:
    """A compiler and an instruction set ("" is the compiler's own choice)."""

    compiler: str
    isa: str

    def __str__(self) -> str:
        return f"{self.compiler}-{self.isa or platform.machine()}"

    def argv(self) -> list[str]:
        """The compiler's command, up to the files."""
        if self.compiler == "gcc":
            return ["gcc", *([f"-march={self.isa}"] if self.isa else [])]
        zig_name = self.isa.replace("86-64", "86_64").replace("-v", "_v")
        return [sys.executable, "-m", "ziglang", "cc", *([f"-march={zig_name}"] if self.isa else [])]


@cache
def instruction_sets() -> tuple[str, ...]:
    """Those of _X86 that this machine runs; one nameless set on other processors."""
    info = Path("/proc/cpuinfo")
    if platform.machine() != "x86_64" or not info.exists():
        return ("",)
    flags = next((line.split() for line in info.read_text().splitlines() if line.startswith("flags")), [])
    return tuple(name for name, needs in _X86 if set(needs) <= set(flags))


@cache
def has_gcc() -> bool:
    """Whether `gcc` is GCC (on some systems it is another compiler's name) and links."""
    if shutil.which("gcc") is None:
        return False
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.c")
        source.write_text("#ifdef __clang__\n#error clang\n#endif\nint main(void) { return 0; }\n")
        return subprocess.run(["gcc", source, "-o", Path(folder, "probe")], capture_output=True).returncode == 0


def builds() -> list[Build]:
    """ziglang for every instruction set, gcc for the least and the best of them."""
    sets = instruction_sets()
    with_gcc = [Build("gcc", isa) for isa in dict.fromkeys((sets[0], sets[-1]))] if has_gcc() else []
    return [Build("zig", isa) for isa in sets] + with_gcc


def compile_c(build: Build, source: Path, folder: Path, *flags: str) -> Path:
    """The program (or, with -shared, library) of a C file, kept in `folder` under a name made of all its sources."""
    key = hashlib.sha256(repr((build, flags)).encode())
    for file in sorted([*RUNTIME.glob("*.[ch]"), source]):
        key.update(file.read_bytes())
    output = folder / f"{source.stem}-{build}-{key.hexdigest()[:16]}"
    if output.exists():
        return output
    part = folder / f"{output.name}.{os.getpid()}"
    command = [*build.argv(), *FLAGS, *STRICT, *flags, f"-I{RUNTIME}", str(source), "-o", str(part), "-lm", "-lpthread"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}"
    part.rename(output)
    return output


def variants() -> list[Build | str]:
    """All builds, and gcc's undefined-behaviour sanitizer where there is gcc."""
    return [*builds(), *([SANITIZED] if has_gcc() else [])]


def compile_library(variant: Build | str, source: Path, folder: Path) -> Path:
    """A library of one of the variants."""
    shared = ("-shared", "-fPIC")
    if isinstance(variant, Build):
        return compile_c(variant, source, folder, *shared)
    build = Build("gcc", instruction_sets()[0])
    return compile_c(build, source, folder, *shared, "-O1", "-fsanitize=undefined")


class Operations:
    """The functions of a C file on NumPy arrays."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self.lanes = int(self._library.lanes())

    def call(self, name: str, *args: Array | int) -> None:
        """Arrays by address, integers as int64."""
        values = [ctypes.c_void_p(a.ctypes.data) if isinstance(a, np.ndarray) else ctypes.c_int64(int(a)) for a in args]
        getattr(self._library, name)(*values)

    def unary(self, name: str, a: Array, dtype: object) -> Array:
        a = np.ascontiguousarray(a)
        out = np.empty(a.size, dtype)
        self.call(name, a, out, a.size)
        return out

    def binary(self, name: str, a: Array, b: Array, dtype: object) -> Array:
        a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
        out = np.empty(a.size, dtype)
        self.call(name, a, b, out, a.size)
        return out

    def to_int64(self, x: float) -> int:
        self._library.to_int64.restype = ctypes.c_int64
        return int(self._library.to_int64(ctypes.c_double(x)))
