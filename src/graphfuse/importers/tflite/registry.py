"""What spells an operator: functions in the files of `ops/`, found by the names of TFLite's BuiltinOperator."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphfuse.importers.tflite.call import Call

# A Call -> its outputs: a value, several, or None for an operator that has none.
Spelling = Callable[["Call"], Any]

_SPELLINGS: dict[str, Spelling] = {}


class NotSpelled(Exception):
    """This form of the operator has no spelling; the message says what about it."""


def operator(*names: str) -> Callable[[Spelling], Spelling]:
    """Registers what spells these operators; it tells them apart by `call.type`."""

    def register(spelling: Spelling) -> Spelling:
        for name in names:
            assert name not in _SPELLINGS, name
            _SPELLINGS[name] = spelling
        return spelling

    return register


@cache
def spellings() -> Mapping[str, Spelling]:
    """Those of every file in `ops/`."""
    from graphfuse.importers.tflite import ops

    for info in sorted(pkgutil.iter_modules(ops.__path__), key=lambda info: info.name):
        importlib.import_module(f"{ops.__name__}.{info.name}")
    return dict(sorted(_SPELLINGS.items()))
