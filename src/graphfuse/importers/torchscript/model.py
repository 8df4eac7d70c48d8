"""A TorchScript file as a model: loaded without running code of its own, read by the interpreter."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from graphfuse.errors import GraphfuseError, InputError, ModelFileError, UnsupportedModelError, one_line
from graphfuse.importers.common import StateVariable
from graphfuse.importers.source import Converted
from graphfuse.importers.spelling import Spelled, Speller
from graphfuse.importers.torch_archive import open_archive
from graphfuse.importers.torchscript.arguments import Argument, Input, arguments_of, built, inputs_of, leaves
from graphfuse.importers.torchscript.builder import Builder
from graphfuse.importers.torchscript.interpreter import Interpreter, Raises
from graphfuse.importers.torchscript.same import same_values
from graphfuse.importers.torchscript.specs import Fixed, Spec, Tensors, join, spec_of
from graphfuse.importers.torchscript.values import (
    TORCH_DTYPES,
    ListBox,
    NeedsInteger,
    Slot,
    Tensor,
    Unspellable,
    array_of,
)

_CALLS = 6  # after which the shapes of a model's states have to be what they stay
_FRESH = "fresh"
_MOST_CODE = 1 << 26  # bytes of one file of code
# What torch calls as it reads a file; operators that write files or speak to other machines, as members of anything.
_HARMFUL = re.compile(rb"\b(__setstate__)\b|\.(?:\s|\\\n|#[^\n]*\n)*(from_file|save|rpc_\w+)\b")


@dataclass
class Call:
    """One call of the model, read: what is spelled, its results by name, and the attributes behind it."""

    b: Builder
    outputs: dict[str, Tensor]
    slots: dict[str, Slot]


class TorchScript(Converted):
    """A program that torch.jit.save wrote."""

    format = "TorchScript"
    takes_hints = True
    path: Path

    def __init__(self, path: Path, trusted: bool = False) -> None:
        """trusted: the user lets the file execute what code it has."""
        super().__init__(str(path), path)
        self._trusted = trusted
        self._integers: frozenset[str] = frozenset()

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        """torch's module, and the functions beside it. Raises ModelFileError.

        Nothing of the file is executed unless it is trusted: code/ is parsed as TorchScript, a language of its own that
        is compiled when a method is called, and `__setstate__`, which torch would call, is refused; data.pkl and
        constants.pkl are read by torch's unpickler in C++ (torch/csrc/jit/serialization/unpickler.cpp), which makes
        TorchScript's types, tensors and containers and knows no Python objects: a global that names anything else is
        an error.
        """
        functions = torch._C.CompilationUnit()
        try:
            reader = open_archive(self.path)
            if not self._trusted:
                self._check_code(reader)
            traced = any(name.startswith("traced_inputs") for name in reader.get_all_records())
            module = torch._C.import_ir_module(functions, str(self.path), torch.device("cpu"), {}, traced)
        except (RuntimeError, ValueError, OSError, IndexError, AttributeError, UnicodeDecodeError) as error:
            why = one_line(str(error).strip().partition("\n")[0], 200)
            what, remedy = "torch cannot read this TorchScript file", "download or save the model again"
            raise ModelFileError(what, where=self.where, why=why, remedy=remedy) from error
        if not module._has_method("forward"):
            remedy = "save a module that has one"
            raise ModelFileError("the program has no method forward", where=self.where, remedy=remedy)
        return module, functions

    def _check_code(self, reader: Any) -> None:
        """Raises ModelFileError for code that would run while the file is read, or that writes files of its choice."""
        for member in reader.get_all_records():
            if not member.lower().startswith("code/"):
                continue
            if reader.get_record_size(member) > _MOST_CODE:
                raise ModelFileError("its code is too large", where=self.where, remedy="save the module again")
            found = _HARMFUL.search(reader.get_record(member))
            if found is not None:
                name = (found[1] or found[2]).decode()
                why = f"{one_line(member, 80)} has {name}, which runs as the file is read or reaches other files"
                remedy = "if you trust its origin, pass --allow-pickle; else save the module without that"
                raise ModelFileError("it could execute code", where=self.where, why=why, remedy=remedy)

    def fresh_module(self) -> Any:
        """torch's own module as it is in the file, to be run."""
        return torch.jit.load(str(self.path), map_location="cpu")

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """What forward is called with. Raises InputError for what neither the file nor the user says."""
        method = self._loaded[0]._get_method("forward")
        return arguments_of(method, self.hints, self._integers, self.where)

    def convert(self) -> Spelled:
        try:
            return self._converted()
        except UnsupportedModelError as error:
            cause = error.__cause__
            index = next((i for i in inputs_of(self.arguments) if i.assumed and self._is_input(cause, i)), None)
            if index is None or index.name in self._integers:
                raise
        self._integers |= {index.name}
        return self.convert()

    def _is_input(self, error: BaseException | None, given: Input) -> bool:
        if not isinstance(error, NeedsInteger):
            return False
        value: ir.Value | None = error.plain.value
        while value is not None and (maker := value.producer()) is not None:  # what only moves elements is in between
            value = maker.inputs[0] if maker.inputs else None
        return value is not None and value.name == given.name

    def _converted(self) -> Spelled:
        try:
            return self._read_calls()
        except Raises as error:
            why = one_line(error.message, 300)
            remedy = "give other shapes or values"
            raise InputError("the model raises an exception", where=self.where, why=why, remedy=remedy) from error
        except Unspellable as error:
            rows = [("forward", "forward", error.reason)]
            raise UnsupportedModelError(rows, where=self.where, remedy=error.remedy) from error
        except (RecursionError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            if isinstance(error, GraphfuseError):
                raise
            # a program that torch would refuse when it runs
            why = one_line(f"{type(error).__name__}: {error}", 200)
            remedy = "run it in torch: it should fail there too; save the module again"
            raise ModelFileError("the program cannot be read", where=self.where, why=why, remedy=remedy) from error

    # ------------------------------------------------------------ calls

    def _read_calls(self) -> Spelled:
        """The model as its calls go once the shapes of what it keeps are what they stay."""
        first = self._call({})
        kept = _kept(first)
        if not kept:
            return self._spelled(first, {}, {})
        file = {path: slot.initial for path, slot in first.slots.items()}
        steady, kept = self._steady(kept)
        tensors = {path: spec for path, spec in kept.items() if isinstance(spec, Tensors)}
        initial = {path: _start(spec, file.get(path)) for path, spec in tensors.items()}
        as_it_is = all(_fits(spec, file.get(path)) for path, spec in kept.items())
        if as_it_is:
            return self._spelled(steady, tensors, initial)
        # Models that start with empty tensors most often make zeros of them: then zeros are what the first call finds.
        known = {path: self._known(spec, initial.get(path)) for path, spec in kept.items()}
        other = self._call(known)
        if _same_call(first, other, list(kept)):
            return self._spelled(steady, tensors, initial)
        return self._either(kept, tensors, initial)

    def _known(self, spec: Spec, value: torch.Tensor | None) -> Any:
        return value if value is not None else spec.value if isinstance(spec, Fixed) else None

    def _steady(self, kept: dict[str, Spec]) -> tuple[Call, dict[str, Spec]]:
        for k in range(_CALLS):
            call = self._call(kept)
            after = {path: _end(call.slots[path]) if path in call.slots else kept[path] for path in kept}
            after |= {path: spec for path, spec in _kept(call).items() if path not in kept}
            if after == kept:
                return call, kept
            kept = after if k == 0 else _joined(kept, call, after)
        raise Unspellable("what the model keeps between calls has another shape after each of them")

    def _call(self, start: dict[str, Any]) -> Call:
        """Read a call; start: what attributes hold then, as specs of open values, or torch's tensors and numbers."""
        b = Builder(Speller())
        inputs = {i.name: b.tensor(b.speller.input(i.name, i.dtype, i.shape)) for i in inputs_of(self.arguments)}
        states = {path: b.speller.input(path, spec.dtype, spec.shape) for path, spec in start.items()
                  if isinstance(spec, Tensors)}  # fmt: skip
        return self._run(b, inputs, start, states)

    def _run(self, b: Builder, inputs: dict[str, Tensor], start: dict[str, Any], states: dict[str, ir.Value]) -> Call:
        module, functions = self._loaded
        run = Interpreter(b, module, functions.find_function, self.where)
        for path, given in start.items():
            if isinstance(given, Tensors):
                tensor = b.tensor(states[path])
                held: Any = b.number(tensor) if given.number else tensor
            else:
                held = run.lifted(given.value if isinstance(given, Fixed) else given)
            run.slots[path] = Slot(path, None, b.touch, held)
        given_ = [built(a, lambda i: inputs[i.name], run.lifted, lambda v: ListBox(v, b.touch)) for a in self.arguments]
        result = run.call(run.module, "forward", given_)
        outputs: dict[str, Tensor] = {}
        for name, value in leaves(result):
            if isinstance(value, ListBox):
                raise Unspellable("the model returns a list of which only the data says how long it is")
            outputs[name] = b.as_tensor(value)
        if not outputs:
            raise Unspellable("the model returns no tensor")
        return Call(b, outputs, run.slots)

    # ------------------------------------------------------------ the finished model

    def _spelled(self, call: Call, states: dict[str, Tensors], initial: dict[str, torch.Tensor]) -> Spelled:
        b = call.b
        results = [_result(b, tensor, name) for name, tensor in call.outputs.items()]
        variables = []
        for path, spec in states.items():
            after = call.slots[path].now
            after = b.as_tensor(after, TORCH_DTYPES[spec.dtype])
            value = _result(b, after, f"{path}.next")
            results.append(value)
            variables.append(StateVariable(path, str(value.name), array_of(initial[path])))
        return self._finished(b, results, variables)

    def _either(self, kept: dict[str, Spec], tensors: dict[str, Tensors], initial: dict[str, torch.Tensor]) -> Spelled:
        """The first call and all others as the branches of an If on a state that says which it is."""
        b = Builder(Speller())
        inputs = {i.name: b.tensor(b.speller.input(i.name, i.dtype, i.shape)) for i in inputs_of(self.arguments)}
        states = {path: b.speller.input(path, spec.dtype, spec.shape) for path, spec in tensors.items()}
        flag = next(n for n in (_FRESH, "first.call", "the.first.call") if n not in inputs and n not in states)
        fresh = b.speller.input(flag, ir.DataType.BOOL, [])
        graphs, ends = [], []
        with b.speller.operator("first call", "If"):
            for name, start in (("first", {}), ("steady", kept)):
                with b.speller.body(name) as graph:
                    call = self._run(b, inputs, start, states)
                    values = [*call.outputs.values()]
                    values += [b.as_tensor(call.slots[p].now, TORCH_DTYPES[s.dtype]) for p, s in tensors.items()]
                    graph.outputs.extend(b.speller("Identity", v.value) for v in values)
                for value, made in zip(values, graph.outputs, strict=True):
                    made.type, made.shape = ir.TensorType(value.dtype), ir.Shape(value.shape)
                graphs.append(graph)
                ends.append((list(call.outputs), [spec_of(v) for v in values]))
            if ends[0][0] != ends[1][0]:
                raise Unspellable("the first call returns other things than the next ones")
            count = len(values)
            found = b.speller("If", fresh, count=count, then_branch=graphs[0], else_branch=graphs[1])
        chosen = [found] if count == 1 else list(found)
        merged = [join(x, v) for x, v in zip(ends[0][1], values, strict=True)]
        ours = [spec.made(b, iter([value])) for spec, value in zip(merged, chosen, strict=True)]
        names = [*ends[0][0], *(f"{path}.next" for path in tensors)]
        results = [_result(b, tensor, name) for tensor, name in zip(ours, names, strict=True)]
        variables = [
            StateVariable(path, str(value.name), array_of(initial[path]))
            for path, value in zip(tensors, results[len(ends[0][0]) :], strict=True)
        ]
        later = _result(b, b.const(torch.tensor(False)), f"{flag}.next")
        variables.append(StateVariable(flag, str(later.name), np.array(True)))
        return self._finished(b, [*results, later], variables)

    def _finished(self, b: Builder, results: list[ir.Value], variables: list[StateVariable]) -> Spelled:
        for argument in self.arguments:
            if not isinstance(argument, Input) and getattr(argument, "value", None) is not None:
                b.note(argument.name, f"fixed when the model is read: {argument.value!r}")  # type: ignore[union-attr]
        spelled = b.speller.spelled(results, variables)
        return Spelled(spelled.model, spelled.operators, spelled.states, tuple(b.notes))


def _result(b: Builder, tensor: Tensor, name: str) -> ir.Value:
    """A result of the graph: a value of its own, under its name."""
    value: ir.Value = b.speller("Identity", tensor.value)
    value.type, value.shape = ir.TensorType(tensor.dtype), ir.Shape(tensor.shape)
    return b.speller.called(value, name)


def _kept(call: Call) -> dict[str, Spec]:
    """The attributes that the call changed, as they are left."""
    return {path: _end(slot) for path, slot in call.slots.items() if slot.changed}


def _end(slot: Slot) -> Spec:
    """What an attribute is left as: a tensor for a tensor, whether its value is known or not."""
    value = slot.now
    if isinstance(value, Tensor):
        spec = spec_of(value)
        assert isinstance(spec, Tensors)
        if spec.shape is None or not all(isinstance(d, int) for d in spec.shape):
            reason = f"the attribute {slot.path!r} survives the call, and its shape is not known"
            raise Unspellable(reason, "give sizes as numbers, not letters, where the state's shape depends on them")
        return spec
    if isinstance(value, ListBox | tuple | dict):
        raise Unspellable(f"the attribute {slot.path!r} survives the call, and is no tensor or number")
    return Fixed(value)


def _joined(kept: dict[str, Spec], call: Call, after: dict[str, Spec]) -> dict[str, Spec]:
    """What holds both for a call and the one behind it: numbers that change are computed in the graph."""
    found: dict[str, Spec] = {}
    for path, spec in after.items():
        before = kept.get(path, spec)
        is_number = isinstance(before, Fixed) or (isinstance(before, Tensors) and before.number)
        found[path] = join(before, call.slots[path].now) if is_number and path in call.slots else spec
    return found


def _start(spec: Tensors, held: Any) -> torch.Tensor:
    """What a state starts from: what the file has, or zeros where that has another shape."""
    shape = [d for d in spec.shape or () if isinstance(d, int)]
    if _fits(spec, held):
        return torch.as_tensor(held, dtype=TORCH_DTYPES[spec.dtype])
    return torch.zeros(shape, dtype=TORCH_DTYPES[spec.dtype])


def _fits(spec: Spec, held: Any) -> bool:
    if isinstance(spec, Fixed):
        return type(spec.value) is type(held) and spec.value == held
    assert isinstance(spec, Tensors)
    if isinstance(held, torch.Tensor):
        return held.dtype == TORCH_DTYPES[spec.dtype] and tuple(held.shape) == spec.shape
    return spec.number and isinstance(held, bool | int | float)


def _same_call(one: Call, two: Call, paths: list[str]) -> bool:
    """Whether two calls compute the same."""
    if list(one.outputs) != list(two.outputs):
        return False
    pairs: list[tuple[Any, Any]] = list(zip(one.outputs.values(), two.outputs.values(), strict=True))
    pairs += [(one.slots[path].now, two.slots[path].now) for path in paths]
    tensors = [(x, y) for x, y in pairs if isinstance(x, Tensor) and isinstance(y, Tensor)]
    known = [(x, y) for x, y in pairs if not isinstance(x, Tensor) or not isinstance(y, Tensor)]
    if any(isinstance(x, Tensor) != isinstance(y, Tensor) or x != y for x, y in known):
        return False
    return same_values([(x.value, y.value) for x, y in tensors])
