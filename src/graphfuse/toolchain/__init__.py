"""Compilers, and the cache of what they made."""

from __future__ import annotations

from graphfuse.toolchain.build import CModule, Progress, build, units_of
from graphfuse.toolchain.cache import CacheInfo, ObjectCache, content_key
from graphfuse.toolchain.compiler import Compiler, find_compiler

__all__ = [
    "CModule",
    "CacheInfo",
    "Compiler",
    "ObjectCache",
    "Progress",
    "build",
    "content_key",
    "find_compiler",
    "units_of",
]
