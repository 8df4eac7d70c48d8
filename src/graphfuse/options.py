"""What a user may choose about one compilation, checked before any work starts."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs

from graphfuse.errors import InputError
from graphfuse.target import Target, target_for

if TYPE_CHECKING:
    import numpy as np

NUMERICS = ("default", "strict")
OPTIMIZE = ("speed", "memory")
MOST_SEEDS = 1 << 24  # integers that ONNX's seeds, float32 numbers, tell apart
CACHE_VARIABLE = "GRAPHFUSE_CACHE_DIR"


@dataclass(frozen=True)
class CompileOptions:
    """Choices for one compilation. Raises InputError, naming the option, for a value that cannot be.

    cpu: see `target_for`; cc: "zig" (the compiler of the package ziglang) or the path or name of a gcc or clang;
    cflags: flags added to every compiler call; threads: default of a session (None: all cores that it may use);
    cache_dir: folder of the object cache (None: GRAPHFUSE_CACHE_DIR, else the user's cache folder);
    cache_bytes: size that the cache is pruned to; disabled_rules: names of rewrite rules to leave out;
    numerics: "strict" allows only exact and reassociating rewrites, and adds up in blocks;
    verify: compare with onnxruntime before the library is handed out; rtol, atol: tolerance of that comparison (None:
    by dtype); embed_weights: weights in model.c;
    optimize: "speed", or "memory" for the smallest arena; strips: whether neighbouring calls may run strip by strip;
    tune: seconds to choose by measurement on this machine, 0 for predictions alone;
    seed: what random ops without a seed of their own draw from, an integer below 2^24;
    cache: take an artifact that was compiled before with the same options, and keep this one;
    keep_going: hand out a library that failed verification, marked as such in its certificate.
    """

    cpu: str = "native"
    cc: str = "zig"
    cflags: tuple[str, ...] = ()
    threads: int | None = None
    cache_dir: Path | None = None
    cache_bytes: int = 2 << 30
    disabled_rules: tuple[str, ...] = ()
    numerics: str = "default"
    verify: bool = True
    rtol: float | None = None
    atol: float | None = None
    embed_weights: bool = False
    optimize: str = "speed"
    strips: bool = True
    tune: float = 0.0
    seed: int = 0
    keep_going: bool = False
    cache: bool = True

    def __post_init__(self) -> None:
        if not self.cc:
            raise InputError("the option cc is empty", remedy='give "zig" or the path of a C compiler')
        if self.threads is not None and not 1 <= self.threads <= 256:
            raise InputError(f"the option threads is {self.threads}", remedy="give a number from 1 to 256, or None")
        if self.numerics not in NUMERICS:
            raise InputError(f"the option numerics is {self.numerics!r}", remedy=f"choose one of {', '.join(NUMERICS)}")
        if self.optimize not in OPTIMIZE:
            raise InputError(f"the option optimize is {self.optimize!r}", remedy=f"choose one of {', '.join(OPTIMIZE)}")
        if not 0 <= self.tune <= 86_400:
            raise InputError(f"the option tune is {self.tune}", remedy="give a number of seconds from 0 to 86400")
        if not 0 <= self.seed < MOST_SEEDS:
            raise InputError(f"the option seed is {self.seed}", remedy=f"give an integer from 0 to {MOST_SEEDS - 1}")
        if self.cache_bytes < 0:
            raise InputError(f"the option cache_bytes is {self.cache_bytes}", remedy="give a number of bytes, or 0")
        for name, value in (("rtol", self.rtol), ("atol", self.atol)):
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise InputError(f"the option {name} is {value}", remedy="give a finite number that is not negative")
        lists: tuple[tuple[str, object], ...] = (("cflags", self.cflags), ("disabled_rules", self.disabled_rules))
        for name, values in lists:
            if not isinstance(values, tuple):
                raise InputError(f"the option {name} is no tuple", remedy="give a tuple of strings")
        self.target()

    def target(self) -> Target:
        """The target that `cpu` names."""
        return target_for(self.cpu)

    def session_threads(self) -> int:
        """Threads of a session unless its user says otherwise: `threads`, or one for each core that may be used."""
        return self.threads or self.target().cores

    def cache_root(self) -> Path:
        """The folder of the object cache, existing or not: `cache_dir`, GRAPHFUSE_CACHE_DIR or the user's cache."""
        return self.cache_dir or default_cache_root()


def default_cache_root() -> Path:
    """The cache folder when no option names one: GRAPHFUSE_CACHE_DIR, else graphfuse in the user's cache folder."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named) if named else platformdirs.user_cache_path("graphfuse", appauthor=False)


@dataclass(frozen=True)
class Hints:
    """What a user says of a model that its file does not.

    shapes: of inputs by name, sizes or the names of sizes that stay open; dtypes: of inputs, as NumPy calls them;
    values: of arguments that are no tensors, which are fixed when the model is read.
    """

    shapes: Mapping[str, Sequence[int | str]] = field(default_factory=dict)
    dtypes: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.shapes or self.values)

    def refuse(self, where: str, why: str) -> None:
        """Raises InputError where something is said: the model says all that itself."""
        if self:
            given = ", ".join(map(repr, (*self.shapes, *self.values)))
            raise InputError(f"no shapes or values can be given: {given}", where=where, why=why)

    @classmethod
    def of(cls, shapes: Mapping[str, str | Sequence[int | str]], values: Mapping[str, Any]) -> Hints:
        """From shapes as sequences or as text, "1x3x224x224", "Nx512", or with the element type "1x16:int64".

        Raises InputError for a text that is no shape.
        """
        sizes: dict[str, Sequence[int | str]] = {}
        dtypes: dict[str, str] = {}
        for name, given in shapes.items():
            text, _, dtype = given.partition(":") if isinstance(given, str) else ("", "", "")
            sizes[name] = _dims(name, text) if isinstance(given, str) else tuple(given)
            if dtype:
                dtypes[name] = dtype
        for name, dtype in dtypes.items():
            if dtype not in _DTYPES:
                remedy = f"choose one of {', '.join(_DTYPES)}"
                raise InputError(f"there is no element type {dtype!r}", where=f"input {name!r}", remedy=remedy)
        return cls(sizes, dtypes, dict(values))

    def with_arrays(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Hints:
        """The same, and for inputs that it says nothing of the shapes and types of these arrays."""
        fresh = {name: array for name, array in arrays.items() if name not in self.shapes}
        return Hints(
            {**self.shapes, **{name: array.shape for name, array in fresh.items()}},
            {**{name: array.dtype.name for name, array in fresh.items()}, **self.dtypes},
            self.values,
        )

    def key(self) -> str:
        """Equal for equal hints: part of what a compiled artifact is found by; empty for none."""
        return repr([sorted(part.items()) for part in (self.shapes, self.dtypes, self.values)]) if self else ""


def _dims(name: str, text: str) -> tuple[int | str, ...]:
    parts = text.split("x") if text else []
    if not all(part.isidentifier() or (part.isascii() and part.isdigit() and len(part) < 19) for part in parts):
        remedy = "write sizes with an x between them, as in 1x3x224x224, letters for sizes that stay open, as in Nx512"
        raise InputError(f"{text!r} is no shape", where=f"input {name!r}", remedy=remedy)
    return tuple(int(part) if part.isdigit() else part for part in parts)


_DTYPES = (
    "float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool",
)  # fmt: skip
