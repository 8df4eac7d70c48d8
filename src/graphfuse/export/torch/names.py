"""Names of modules and parameters: paths of attributes made from the user's names, safe in generated Python."""

from __future__ import annotations

import keyword
import re

from torch import fx

# The last part of names that weights have by custom: "layer1.0.conv1.weight" belongs to the module "layer1.0.conv1".
_ENDS = re.compile(r"[./](weight|bias|kernel|gamma|beta|W|B)$")


class Names:
    """Paths that are given out, each once, so that none lies inside another."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._inner: set[str] = set()

    def fresh(self, wanted: str) -> str:
        """`wanted`, or that with a number."""
        # A path inside one that is taken moves into a folder of another name: a parameter holds nothing.
        parts, n = wanted.split("."), len(wanted.split("."))
        depth = next((k for k in range(1, n) if ".".join(parts[:k]) in self._taken), n)
        name, k = wanted, 2
        while not self._is_free(name):
            name, k = ".".join([*parts[: depth - 1], f"{parts[depth - 1]}_{k}", *parts[depth:]]), k + 1
        self._taken.add(name)
        self._inner |= _heads(name)
        return name

    def _is_free(self, name: str) -> bool:
        return name not in self._taken and name not in self._inner and not (_heads(name) & self._taken)


def _heads(path: str) -> set[str]:
    parts = path.split(".")
    return {".".join(parts[:k]) for k in range(1, len(parts))}


def weight_path(name: str) -> str:
    """The path of a weight of this name: "encoder.0/weight:0" -> "encoder.0.weight_0"."""
    return ".".join(_safe(part) for part in re.split(r"[./]+", name) if part) or "weight"


def module_path(node: str, op_type: str, weight: str) -> str:
    """The path of a module for a node and its weight: theirs, where the weight's name says a module's.

    "/layer1/layer1.0/conv1/Conv" -> "layer1.0.conv1", as PyTorch's exporters write it.
    """
    end = _ENDS.search(weight)
    if end is not None:
        return weight_path(weight[: end.start()])
    parts = [part for part in node.split("/") if part]
    if len(parts) > 1 and re.fullmatch(rf"{re.escape(op_type)}(_\d+)?", parts[-1]):
        parts.pop()
    kept = [part for k, part in enumerate(parts) if not any(later.startswith(f"{part}.") for later in parts[k + 1 :])]
    return weight_path("/".join(kept) or op_type.lower())


def identifier(name: str, default: str) -> str:
    """A name for a variable of the generated code."""
    text = _safe(name)
    return text if text.isidentifier() else f"{default}_{text}" if text else default


def _safe(part: str) -> str:
    text = re.sub(r"[^0-9A-Za-z_]", "_", part)
    text = text.lstrip("_") or "_"
    return f"{text}_" if keyword.iskeyword(text) or text == "self" or hasattr(fx.GraphModule, text) else text
