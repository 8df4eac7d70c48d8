"""From a module's C to libmodel.so: units compiled side by side through the object cache, then linked."""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from graphfuse.errors import GraphfuseError, InternalError, ToolchainError
from graphfuse.options import CompileOptions
from graphfuse.target import Target, physical_cores
from graphfuse.toolchain.cache import ObjectCache, content_key
from graphfuse.toolchain.compiler import Compiler, find_compiler
from graphfuse.toolchain.files import disk_errors, full_disk, write_atomic
from graphfuse.toolchain.process import Children, Finished

# Starting the compiler and reading the preamble takes 60 to 80 ms, a short kernel 2 to 10 ms more, a convolution 50 to
# 100: short kernels share units of this many characters, long ones keep theirs for other models to find in the cache.
_UNIT_CHARACTERS = 12_000
_MOST_JOBS = 8
LIBRARY = "libmodel.so"
_ROOM = 4 << 20  # bytes that the files of one compiler call fit in
_MAIN = "model.main"  # no kernel can be called so
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}", re.ASCII)
_NO_SPACE = ("No space left on device", "NoSpaceLeft", "Disk quota exceeded", "File too large", "FileTooBig")
# gcc 12 breaks down over float32 that is widened and compared, in a pass that can be left out.
_COMPILERS_BUG = "internal compiler error: in convert_mode_scalar"
_WITHOUT_THE_BUG = "-fno-tree-forwprop"

Progress = Callable[[int, int, str], None]  # (steps done, steps in all, what was done last)


class CModule(Protocol):
    """The C of one model. `preamble`, one kernel and `preamble`, `main` are each a complete translation unit.

    kernels: C source by function name; main: the thread pool, declarations of the kernels, model_run and companions.
    """

    @property
    def preamble(self) -> str: ...
    @property
    def kernels(self) -> Mapping[str, str]: ...
    @property
    def main(self) -> str: ...


@dataclass(frozen=True)
class Unit:
    """One translation unit: a file name's stem and the whole C text."""

    name: str
    text: str


def build(
    module: CModule, target: Target, options: CompileOptions, folder: Path, progress: Progress | None = None
) -> Path:
    """Compiles `module` for `target` and writes libmodel.so into `folder`; returns its path.

    Whatever the cache holds is not compiled again. Raises ToolchainError when there is no compiler, it refuses the C
    (then the source is kept and named), or the disk is full; nothing half-written is left then, nor after an interrupt.
    """
    compiler = find_compiler(options.cc, target)
    cache = ObjectCache(options.cache_root(), options.cache_bytes)
    compile_flags = compiler.compile_flags(target, options.cflags)
    units = units_of(module)
    link_commands = compiler.link_commands(target, [f"{unit.name}.o" for unit in units], LIBRARY, options.cflags)
    keys = [content_key(compiler.version, *compile_flags, unit.name, unit.text) for unit in units]
    # The compiler's path is no part of what it makes, so the programs' names are left out.
    library_key = content_key(
        "library", compiler.version, *(flag for command in link_commands for flag in command[1:]), *keys
    )
    library = cache.get(library_key)
    if library is None:
        with cache.workdir() as work, _Build(compiler, cache, work) as job:
            report = progress or _silent
            job.compile_all(units, keys, compile_flags, report)
            library = job.link(link_commands)
            report(len(units) + 1, len(units) + 1, LIBRARY)
            cache.put(library_key, library)
        cache.prune()
    path = folder / LIBRARY
    with disk_errors(ToolchainError, path):
        write_atomic(path, library)
    return path


def units_of(module: CModule) -> list[Unit]:
    """The module's translation units in a fixed order: kernels, short ones together, then the main unit."""
    groups: list[list[str]] = []
    room = 0
    for name, text in module.kernels.items():
        if not _IDENTIFIER.fullmatch(name):
            raise InternalError(f"a kernel has a name that is no C identifier: {name!r}")
        if len(text) > room or not groups:
            groups.append([])
            room = _UNIT_CHARACTERS
        groups[-1].append(name)
        room -= len(text)
    units = [Unit(names[0], "\n".join((module.preamble, *map(module.kernels.__getitem__, names)))) for names in groups]
    return [*units, Unit(_MAIN, f"{module.preamble}\n{module.main}")]


class _Build:
    """One build in its working folder; leaving the block ends every compiler that still runs."""

    def __init__(self, compiler: Compiler, cache: ObjectCache, work: Path) -> None:
        self.compiler = compiler
        self.cache = cache
        self.work = work
        self.children = Children()

    def __enter__(self) -> _Build:
        return self

    def __exit__(self, *_: object) -> None:
        self.children.kill()

    def compile_all(self, units: Sequence[Unit], keys: Sequence[str], flags: Sequence[str], progress: Progress) -> None:
        """Leaves one object for every unit in the working folder, from the cache or compiled."""
        with ThreadPoolExecutor(max_workers=min(physical_cores(), _MOST_JOBS)) as pool:
            names: dict[Future[None], str] = {}
            try:
                for unit, key in zip(units, keys, strict=True):
                    names[pool.submit(self._object, unit, key, flags)] = unit.name
                for done, future in enumerate(as_completed(names), start=1):
                    future.result()
                    progress(done, len(units) + 1, names[future])
            except BaseException:
                # An interrupt too: no compiler outlives the build, and the pool need not wait for one.
                pool.shutdown(wait=False, cancel_futures=True)
                self.children.kill()
                raise

    def link(self, commands: Sequence[Sequence[str]]) -> bytes:
        """The shared library that the first command to succeed makes of the objects in the working folder."""
        library = self.work / LIBRARY
        for command in commands:
            finished = self._run(command)
            if finished.status == 0 and library.is_file():
                return library.read_bytes()
            library.unlink(missing_ok=True)
            if self._lacks_space(finished):
                break
        remedy = "run `graphfuse cache clear` once; if it happens again, report it"
        raise self._failure("the linker failed", finished, "", remedy)

    def _object(self, unit: Unit, key: str, flags: Sequence[str]) -> None:
        output = self.work / f"{unit.name}.o"
        known = self.cache.get(key)
        with disk_errors(ToolchainError, output):
            if known is not None:
                output.write_bytes(known)
                return
            source = self.work / f"{unit.name}.c"
            source.write_text(unit.text, encoding="utf-8")
            command = (*self.compiler.argv, *flags, "-c", source.name, "-o", output.name)
            finished = self._run(command)
            if finished.status != 0 and _COMPILERS_BUG in finished.errors:
                finished = self._run((*command, _WITHOUT_THE_BUG))
            if finished.status != 0 or not output.is_file():
                kept = self.cache.keep_failed(f"{unit.name}-{key[:12]}.c", unit.text)
                what = f"the compiler failed on {unit.name}"
                raise self._failure(
                    what, finished, str(kept or ""), "please report it" + " with that file" * bool(kept)
                )
            self.cache.put(key, output.read_bytes())

    def _run(self, command: Sequence[str]) -> Finished:
        return self.compiler.run(self.children, command, self.work, self.cache.zig)

    def _failure(self, what: str, finished: Finished, where: str, remedy: str) -> GraphfuseError:
        if self._lacks_space(finished):
            return full_disk(ToolchainError, str(self.work.parent))
        lines = [line.strip() for line in finished.errors.splitlines() if line.strip()]
        told = next((line for line in lines if "error:" in line), lines[-1] if lines else "it said nothing")
        ended = f"killed by signal {-finished.status}" if finished.status < 0 else f"status {finished.status}"
        return ToolchainError(what, where=where, why=f"{ended}: {told}", remedy=remedy)

    def _lacks_space(self, finished: Finished) -> bool:
        if finished.status == -signal.SIGXFSZ or any(sign in finished.errors for sign in _NO_SPACE):
            return True
        # zig ends itself without a word when it cannot write: look whether there is room for what it was writing.
        return finished.status < 0 and shutil.disk_usage(self.work).free < _ROOM


def _silent(_done: int, _total: int, _what: str) -> None:
    pass
