"""The weights of a module: each array once, on a cache line of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from graphfuse.codegen.writer import Writer
from graphfuse.ops.tensor import Tensor
from graphfuse.plan.memory import ALIGNMENT, aligned
from graphfuse.plan.site import Packed


@dataclass(frozen=True)
class Recipe:
    """How an array of the weights is made: of a constant, in a kernel's arrangement or as it is."""

    source: Tensor
    packed: Packed | None = None

    def array(self, value: np.ndarray) -> np.ndarray:
        """The array for this value of the constant."""
        return np.ascontiguousarray(value if self.packed is None else self.packed.arrange(value))


class Weights:
    """What kernels read that is known at compile time; offsets are in bytes. `recipes`: one for each of `arrays`."""

    def __init__(self) -> None:
        self.arrays: list[np.ndarray] = []
        self.recipes: list[Recipe] = []
        self._offsets: dict[object, int] = {}
        self._end = 0

    def packed(self, p: Packed) -> int:
        """The offset of a constant in a kernel's own arrangement."""
        key = (p.source, p.key)
        if key not in self._offsets:
            self._add(key, Recipe(p.source, p))
        return self._offsets[key]

    def constant(self, source: Tensor) -> int:
        """The offset of a constant as it is."""
        if source not in self._offsets:
            self._add(source, Recipe(source))
        return self._offsets[source]

    def _add(self, key: object, recipe: Recipe) -> None:
        array = recipe.array(_value(recipe.source))
        self._offsets[key] = self._end
        self.arrays.append(array)
        self.recipes.append(recipe)
        self._end += int(aligned(array.nbytes))  # type: ignore[call-overload]

    def embedded(self) -> str:
        """The weights as a C array; model_run takes it where it is given no other."""
        w = Writer()
        data = b"".join(chunks(self.arrays)) or bytes(4)
        words = np.frombuffer(data, "<u4")
        w.line("static const uint32_t model_weights[] __attribute__((aligned(64))) = {")
        for start in range(0, words.size, 8):
            w.line("  " + " ".join(f"0x{word:08x}u," for word in words[start : start + 8]))
        w.line("};")
        return w.text()


def chunks(arrays: Iterable[np.ndarray]) -> Iterator[bytes]:
    """The bytes of arrays one after the other, each padded to whole cache lines."""
    for array in arrays:
        yield array.tobytes()
        yield b"\0" * (-array.nbytes % ALIGNMENT)


def _value(t: Tensor) -> np.ndarray:
    assert t.value is not None
    assert t.value.const_value is not None
    return t.value.const_value.numpy()
