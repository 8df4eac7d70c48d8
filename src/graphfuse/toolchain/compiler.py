"""C compilers: zig from the package ziglang by default, any gcc or clang by its path."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from graphfuse.errors import ToolchainError
from graphfuse.target import Target
from graphfuse.toolchain.process import Children, Finished

# Flags that keep every result as IEEE 754 has it. Contraction into fused multiply-add is the one licence taken; errno
# and floating-point traps are side effects that no kernel reads, and without them sqrt and selects become single
# instructions. (zig takes -O3 as clang's -O2.)
_COMMON = (
    "-O3", "-std=gnu11", "-fPIC", "-g0",
    "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fomit-frame-pointer",
)  # fmt: skip
# The oldest GNU C library that a zig-built artifact runs on: that of manylinux2014.
_GLIBC = "2.17"
# What could change zig's output from outside; a compiler given by path may need its own settings.
_ENV_OF_HEADERS = ("CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH", "LIBRARY_PATH", "COMPILER_PATH", "GCC_EXEC_PREFIX")
_REMEDY = "install the package ziglang, or name a working gcc or clang with --cc"


@dataclass(frozen=True)
class Compiler:
    """A C compiler that was found and answers.

    argv: the program and its fixed first arguments; family: "zig" | "clang" | "gcc"; version: its own words, part of
    every cache key.
    """

    argv: tuple[str, ...]
    family: str
    version: str

    def compile_flags(self, target: Target, extra: Sequence[str] = ()) -> tuple[str, ...]:
        """Flags to compile one unit for `target`, the caller's own last."""
        return (*_COMMON, *self._machine_flags(target), *extra)

    def link_commands(
        self, target: Target, objects: Sequence[str], output: str, extra: Sequence[str] = ()
    ) -> tuple[tuple[str, ...], ...]:
        """Commands to link a shared library in which every symbol is found; the first that succeeds counts."""
        libraries = ("-lm", "-lpthread")
        if self.family != "zig":
            flags = ("-shared", "-Wl,-z,defs", "-Wl,--build-id=none", *extra)
            return ((*self.argv, *flags, *objects, *libraries, "-o", output),)
        # For the lowest level of the architecture, so that zig builds its own runtime once and not once for every CPU.
        lowest = Target(target.arch, target.os, target.abi, "x86_64" if target.arch == "x86_64" else "aarch64")
        flags = ("-shared", "-O2", "-Wl,-z,defs", *self._machine_flags(lowest), *extra)
        whole = (*self.argv, *flags, *objects, *libraries, "-o", output)
        if extra:
            return (whole,)
        # Kernels hardly ever call the compiler's own runtime, which takes zig 4 to 5 s to build the first time.
        machine = ("-target", _zig_triple(target), f"-mcpu={_zig_cpu(lowest)}")
        without = ("-fno-compiler-rt", "-fno-ubsan-rt", "-z", "defs")
        short = (self.argv[0], "build-lib", "-dynamic", "-O", "ReleaseFast", *machine, *without, "-lc", *libraries)
        return ((*short, *objects, f"-femit-bin={output}"), whole)

    def run(self, children: Children, command: Sequence[str], cwd: Path, zig_cache: Path) -> Finished:
        """Runs a whole command in `cwd`, which takes its temporary files; zig keeps its runtime in `zig_cache`."""
        env = {name: value for name, value in os.environ.items() if self.family != "zig" or name not in _ENV_OF_HEADERS}
        env |= {"LC_ALL": "C", "TMPDIR": str(cwd)}
        env |= {"ZIG_GLOBAL_CACHE_DIR": str(zig_cache), "ZIG_LOCAL_CACHE_DIR": str(cwd / "zig-local")}
        return children.run(command, cwd, env)

    def _machine_flags(self, target: Target) -> tuple[str, ...]:
        if self.family == "zig":
            return ("-target", _zig_triple(target), f"-mcpu={_zig_cpu(target)}", "-fno-sanitize=undefined")
        if target.arch == "aarch64":
            base = "armv8.2-a" if target.features else "armv8-a"
            return ("-march=" + "+".join((base, *target.features)),)
        wide = ("-mprefer-vector-width=512",) if target.lanes == 16 else ()
        return (
            f"-march={target.cpu.replace('_v', '-v').replace('86_', '86-')}",
            *map("-m".__add__, target.features),
            *wide,
            "-Wno-psabi",  # gcc's note that it once passed such vectors otherwise; none is passed between units
        )


def _zig_triple(target: Target) -> str:
    return f"{target.arch}-{target.os}-" + (f"gnu.{_GLIBC}" if target.abi == "gnu" else target.abi)


def _zig_cpu(target: Target) -> str:
    if target.arch == "aarch64":
        return "+".join(("generic", *target.features))
    # LLVM's x86_64_v4 prefers 256-bit registers and splits every 512-bit vector: 2.5 times slower where measured.
    prefer = "-prefer_256_bit" if target.lanes == 16 else ""
    return "+".join((target.cpu + prefer, *target.features))


def find_compiler(cc: str, target: Target) -> Compiler:
    """The compiler that `cc` names: "zig", or the name or path of a zig, clang or gcc.

    Raises ToolchainError if there is none, it does not answer, or it makes code for another architecture than `target`.
    """
    path = _zig_path() if cc == "zig" else shutil.which(cc)
    if path is None:
        raise ToolchainError("no such compiler", where=cc, remedy=_REMEDY)
    compiler, machine = _ask(os.path.abspath(path), os.stat(path).st_mtime_ns)
    if compiler.family != "zig" and not machine.startswith(target.arch):
        why = f"it compiles for {machine or 'an unknown machine'}, the target is {target.arch}"
        raise ToolchainError(
            "this compiler is for another machine", where=cc, why=why, remedy="use zig, which is for all"
        )
    return compiler


@lru_cache(maxsize=8)
def _ask(path: str, _modified: int) -> tuple[Compiler, str]:
    """The compiler at `path` by its own answers, and the machine it compiles for."""
    children, cwd = Children(), Path("/")
    if os.path.basename(path).startswith("zig"):
        version = _answer(children, cwd, path, "version")
        return Compiler((path, "cc"), "zig", f"zig {version}"), ""
    version = _answer(children, cwd, path, "--version").partition("\n")[0]
    machine = _answer(children, cwd, path, "-dumpmachine")
    return Compiler((path,), "clang" if "clang" in version else "gcc", f"{version} {machine}"), machine


def _answer(children: Children, cwd: Path, path: str, question: str) -> str:
    finished = children.run((path, question), cwd, {**os.environ, "LC_ALL": "C"})
    if finished.status != 0 or not finished.output.strip():
        why = f"{question!r} ended with status {finished.status}"
        raise ToolchainError("this compiler does not answer", where=path, why=why, remedy=_REMEDY)
    return finished.output.strip()


def _zig_path() -> str | None:
    # Found, not imported, and run directly: `python -m ziglang` would start a second interpreter for every call.
    spec = importlib.util.find_spec("ziglang")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = os.path.join(folder, "zig")
        if os.access(path, os.X_OK):
            return path
    return shutil.which("zig")
