"""The interpreter: runs a TorchScript program on values that may depend on data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx_ir as ir
import torch

from graphfuse.errors import UnsupportedModelError
from graphfuse.importers.torchscript import control, prims
from graphfuse.importers.torchscript.builder import Builder
from graphfuse.importers.torchscript.registry import apply, is_known, parsed
from graphfuse.importers.torchscript.values import (
    DTYPES,
    ListBox,
    Module,
    Number,
    Slot,
    Tensor,
    Unspellable,
)

_DEEPEST = 200  # calls inside calls
_MOST_STEPS = 1_000_000  # nodes that are read, loops that are unrolled included

Env = dict[str, Any]


class Raises(Exception):
    """The program raises an exception."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class Interpreter:
    """Runs methods of a loaded module.

    module: torch's ScriptModule; functions: a qualified name -> torch's function; where: what messages call the file.
    """

    def __init__(self, b: Builder, module: Any, functions: Callable[[str], Any], where: str) -> None:
        self.b, self.where = b, where
        self.module = Module("", module)
        self.slots: dict[str, Slot] = {}
        self.registers = True
        self._functions = functions
        self._scopes: list[str] = []
        self._steps = 0

    # ------------------------------------------------------------ calls

    def call(self, module: Module, name: str, arguments: Sequence[Any]) -> Any:
        """The result of a method. Raises UnsupportedModelError, or Raises where the program does."""
        method = module.object._get_method(name)
        return self._run_graph(method.graph, [module, *arguments], module.path)

    def _run_graph(self, graph: Any, arguments: Sequence[Any], scope: str) -> Any:
        if len(self._scopes) > _DEEPEST:
            raise UnsupportedModelError([("call", scope, f"calls are more than {_DEEPEST} deep")], where=self.where)
        env = {value.debugName(): given for value, given in zip(graph.inputs(), arguments, strict=True)}
        self._scopes.append(scope)
        try:
            results = self.run_block(graph, env)
        finally:
            self._scopes.pop()
        return results[0] if len(results) == 1 else tuple(results)

    def run_block(self, block: Any, env: Env) -> list[Any]:
        """The results of a block, whose inputs are in `env`."""
        for node in block.nodes():
            self._run_node(node, env)
        return [env[value.debugName()] for value in block.outputs()]

    # ------------------------------------------------------------ nodes

    def _run_node(self, node: Any, env: Env) -> None:
        self._steps += 1
        if self._steps > _MOST_STEPS:
            raise UnsupportedModelError([("loop", self.scope, "its loops are too long to unroll")], where=self.where)
        kind = node.kind()
        given = [env[value.debugName()] for value in node.inputs()]
        try:
            results = self._results(node, kind, given, env)
        except Unspellable as error:
            raise self._refused(node, kind, given, error) from error
        for value, result in zip(node.outputs(), results, strict=True):
            env[value.debugName()] = result

    def _results(self, node: Any, kind: str, given: list[Any], env: Env) -> Sequence[Any]:
        if kind in ("prim::If", "prim::Loop"):
            return control.run(self, node, given, env)
        if kind == "prim::CallMethod":
            target, name = given[0], node.s("name")
            if not isinstance(target, Module):
                raise Unspellable("methods of objects that are no modules are not supported")
            return [self.call(target, name, given[1:])]
        if kind == "prim::CallFunction":
            return [self._run_graph(self._functions(given[0].name).graph, given[1:], self.scope)]
        prim = prims.TABLE.get(kind)
        if prim is not None:
            found = prim(self, node, *given)
            if found is not NotImplemented:
                return found if node.outputsSize() != 1 else [found]
        return self._operator(node, kind, given)

    def _operator(self, node: Any, kind: str, given: list[Any]) -> Sequence[Any]:
        schema = parsed(node.schema()) if node.schema() != "(no schema)" else None
        if schema is None or not is_known(kind):
            raise Unspellable("there is no spelling for this operator")
        if any(value.type().kind() == "FloatType" for value in node.outputs()):
            given = [_as_double(self.b, x) for x in given]
        with self.operator(kind, given):
            result = apply(self.b, kind, schema, given)
        if node.outputsSize() == 1:
            return [self._returned(node.output(), result)]
        return result if isinstance(result, tuple) else [result]

    def _returned(self, value: Any, result: Any) -> Any:
        """An operator's only result: a number where the program has one, a list of its own for a list."""
        if isinstance(result, list):
            return ListBox(result, self.b.touch)
        kind = value.type().kind()
        if not isinstance(result, Tensor) or kind not in _NUMBERS:
            return result
        wanted = _NUMBERS[kind]
        return self.b.number(self.b.cast(result, wanted) if wanted is not None else result)

    def operator(self, kind: str, given: Sequence[Any]) -> Any:
        """What is spelled inside belongs to an operator of the user's, named by where it stands."""
        path = self.scope
        for value in given:
            if isinstance(value, Tensor) and value.path and value.path.startswith(path):
                path = value.path.rpartition(".")[0] or path
        name = kind.partition("::")[2]
        return self.b.speller.operator(f"{path}/{name}" if path else name, kind)

    @property
    def scope(self) -> str:
        """The path of the module whose method runs."""
        return self._scopes[-1] if self._scopes else ""

    def _refused(self, node: Any, kind: str, given: Sequence[Any], error: Unspellable) -> UnsupportedModelError:
        remedy = error.remedy
        if kind.startswith("aten::") and not is_known(kind) and kind not in prims.TABLE:
            kinds = sorted(k for k in _kinds(self.module.object) if not _has_spelling(k))
            rows = [(k, self.scope or "forward", "there is no spelling for this operator") for k in kinds]
            if (kind, self.scope or "forward", error.reason) in rows:
                return UnsupportedModelError(rows, where=self.where, remedy=remedy)
        shown = ", ".join(_shown(value) for value in given)
        source = node.sourceRange().strip().splitlines()
        place = next((line.strip() for line in source if line.strip().startswith("File ")), "")
        reason = f"{error.reason} [{kind.partition('::')[2]}({shown}){', ' + place if place else ''}]"
        return UnsupportedModelError([(kind, self.scope or "forward", reason)], where=self.where, remedy=remedy)

    # ------------------------------------------------------------ attributes

    def attribute(self, module: Module, name: str) -> Any:
        """An attribute of a module, as it is now."""
        path = module.inside(name)
        if path not in self.slots:
            self.slots[path] = self._slot(path, module.object.getattr(name))
        return self.slots[path].now

    def assign(self, module: Module, name: str, value: Any) -> None:
        self.attribute(module, name)
        self.slots[module.inside(name)].assign(value)

    def _slot(self, path: str, held: Any) -> Slot:
        if isinstance(held, torch._C.ScriptModule):
            return Slot(path, None, self.b.touch, Module(path, held))
        return Slot(path, held, self.b.touch, self.lifted(held, path))

    def lifted(self, held: Any, path: str = "") -> Any:
        """torch's value as one of ours."""
        if isinstance(held, torch.Tensor):
            self._check(held)
            return self.b.weight(held, path) if path else self.b.const(held)
        if isinstance(held, list):
            parts = [self.lifted(v, f"{path}.{k}" if path else "") for k, v in enumerate(held)]
            return ListBox(parts, self.b.touch)
        if isinstance(held, tuple):
            return tuple(self.lifted(v, f"{path}.{k}" if path else "") for k, v in enumerate(held))
        if isinstance(held, dict):
            return {k: self.lifted(v, f"{path}.{k}" if path else "") for k, v in held.items()}
        if held is None or isinstance(held, bool | int | float | str | torch.device):
            return held
        raise Unspellable(f"an attribute of type {type(held).__name__} is not supported")

    def _check(self, held: torch.Tensor) -> None:
        if held.is_quantized or held.layout != torch.strided or held.dtype not in DTYPES:
            what = "a quantised" if held.is_quantized else f"a {held.layout}, {held.dtype}"
            raise Unspellable(f"{what} tensor of the model is not supported")


# How TorchScript calls its numbers.
_NUMBERS: Mapping[str, ir.DataType | None] = {
    "IntType": ir.DataType.INT64, "FloatType": ir.DataType.DOUBLE, "BoolType": ir.DataType.BOOL, "NumberType": None,
}  # fmt: skip


def _as_double(b: Builder, x: Any) -> Any:
    """A number of the program as the float that it is computed with."""
    if isinstance(x, Number):
        return b.number(b.cast(x, ir.DataType.DOUBLE))
    return float(x) if isinstance(x, int) and not isinstance(x, bool) else x


def _kinds(module: Any) -> set[str]:
    """The operators in all methods that a call of the model may run."""
    found: set[str] = set()

    def walk(block: Any) -> None:
        for node in block.nodes():
            found.add(node.kind())
            for inner in node.blocks():
                walk(inner)

    graph = module._get_method("forward").graph.copy()
    torch._C._jit_pass_inline(graph)
    walk(graph)
    return found


def _has_spelling(kind: str) -> bool:
    return not kind.startswith("aten::") or kind in prims.TABLE or is_known(kind)


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        try:
            dims = ", ".join("?" if d is None else str(d) for d in value.shape)
            return f"{value.dtype.name.lower()}[{dims}]"
        except Unspellable:
            return "tensor"
    if isinstance(value, ListBox):
        return "[" + ", ".join(_shown(v) for v in value.items) + "]"
    if isinstance(value, Module):
        return value.path or "self"
    return repr(value) if isinstance(value, bool | int | float | str | None) else type(value).__name__
