"""Control flow: subgraphs that are called, chosen, repeated. Variables that they assign are results of theirs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import onnx_ir as ir

from graphfuse.importers.tflite.call import Call, Made
from graphfuse.importers.tflite.convert import Converter, Handle, Scope, handle_key
from graphfuse.importers.tflite.registry import NotSpelled, operator
from graphfuse.importers.tflite.schema import OperatorInfo, SubgraphInfo


@operator("CALL")
def call_subgraph(call: Call) -> list[Made]:
    return call.scope.converter.inline(call.options("CallOptions").Subgraph(), _arguments(call, 0))


@operator("STABLEHLO_COMPOSITE")
def composite(call: Call) -> list[Made]:
    """What it is made of: a subgraph that computes the same."""
    k = call.options("StableHLOCompositeOptions").DecompositionSubgraphIndex()
    return call.scope.converter.inline(k, _arguments(call, 0))


def _arguments(call: Call, first: int) -> list[Made]:
    return [call.made(k) for k in range(first, len(call))]


def _tensors(values: Sequence[Made]) -> list[ir.Value]:
    return [value for value in values if isinstance(value, ir.Value)]


@operator("IF")
def if_(call: Call) -> list[Made]:
    o, s, converter = call.options("IfOptions"), call.s, call.scope.converter
    condition, given = call.x(0), _arguments(call, 1)
    condition = s.reshape(condition, []) if s.rank(condition) else condition
    known = call.known(0)
    branches = {"then": o.ThenSubgraphIndex(), "else": o.ElseSubgraphIndex()}
    if known is not None:
        return converter.inline(branches["then" if known.ravel()[0] else "else"], given)
    keys = list(dict.fromkeys(key for k in branches.values() for key in assigned(converter, k, given)))
    for key in keys:
        converter.variable(key)
    bodies, results = {}, []
    for name, k in branches.items():
        with _kept(converter), s.body(f"{call.name}.{name}") as body:
            made = converter.inline(k, given)
            ends = [*_tensors(made), *(converter.variables[key].value for key in keys)]
            body.outputs.extend(s("Identity", value) for value in ends)
        bodies[f"{name}_branch"] = body
        results.append(made)
    if len({len(body.outputs) for body in bodies.values()}) > 1 or len(results[0]) != len(results[1]):
        raise NotSpelled("its branches have different numbers of outputs")
    count = len(bodies["then_branch"].outputs)
    return _handed_on(call, "If", [condition], bodies, results[0], keys, count)


def _handed_on(
    call: Call, kind: str, inputs: Sequence[ir.Value | None], bodies: dict[str, ir.Graph], like: Sequence[Made],
    keys: Sequence[str], count: int,
) -> list[Made]:  # fmt: skip
    """The node with its bodies; its results by what they are: tensors, then the variables."""
    converter = call.scope.converter
    if not count:
        return list(like)
    attributes: dict[str, Any] = dict(bodies)
    made = call.s(kind, *inputs, count=count, **attributes)
    values = list(made) if isinstance(made, tuple) else [made]
    for key, value in zip(keys, values[count - len(keys) :], strict=True):
        converter.variables[key].value = value
    tensors = iter(values)
    return [next(tensors) if isinstance(value, ir.Value) else value for value in like]


@contextlib.contextmanager
def _kept(converter: Converter) -> Iterator[None]:
    """What variables hold is as before behind the block."""
    before = {key: variable.value for key, variable in converter.variables.items()}
    try:
        yield
    finally:
        for key, variable in converter.variables.items():
            variable.value = before.get(key, variable.input)


@operator("WHILE")
def while_(call: Call) -> list[Made]:
    o, s, converter = call.options("WhileOptions"), call.s, call.scope.converter
    test, body_index, given = o.CondSubgraphIndex(), o.BodySubgraphIndex(), _arguments(call, 0)
    keys = list(dict.fromkeys(key for k in (test, body_index) for key in assigned(converter, k, given)))
    for key in keys:
        converter.variable(key)
    start = [*_tensors(given), *(converter.variables[key].value for key in keys)]
    first = _condition(call, test, given)
    with _kept(converter), s.body(f"{call.name}.body") as body:
        scalar = ir.Shape([])
        number = ir.Value(name=f"{call.name}.number", shape=scalar, type=ir.TensorType(ir.DataType.INT64))
        goes_on = ir.Value(name=f"{call.name}.goes_on", shape=scalar, type=ir.TensorType(ir.DataType.BOOL))
        carried = [_carried(call, value, k, body_index) for k, value in enumerate(start)]
        body.inputs.extend([number, goes_on, *carried])
        inside = iter(carried)
        arguments: list[Made] = [next(inside) if isinstance(value, ir.Value) else value for value in given]
        for key, value in zip(keys, inside, strict=True):
            converter.variables[key].value = value
        made = converter.inline(body_index, arguments)
        if len(made) != len(given) or any(isinstance(a, Handle) and a != b for a, b in zip(given, made, strict=True)):
            raise NotSpelled("its body does not hand on what it takes")
        again = _condition(call, test, made)
        ends = [again, *_tensors(made), *(converter.variables[key].value for key in keys)]
        body.outputs.extend(s("Identity", value) for value in ends)
    return _handed_on(call, "Loop", [None, first, *start], {"body": body}, given, keys, len(start))


def _condition(call: Call, test: int, given: Sequence[Made]) -> ir.Value:
    made = call.scope.converter.inline(test, given)
    if len(made) != 1 or not isinstance(made[0], ir.Value):
        raise NotSpelled("its condition is not one value")
    return call.s.reshape(made[0], []) if call.s.rank(made[0]) else made[0]


def _carried(call: Call, value: ir.Value, k: int, body: int) -> ir.Value:
    """A value as an iteration finds it: of the first one's type and rank, sizes open where the file says so."""
    info = call.scope.converter.subgraph(body)
    tensors = [info.tensors[index] for index in info.inputs]
    signature = tensors[k].signature if k < len(tensors) else None
    name = f"{call.name}.carried.{k}"
    shape = None
    if value.shape is not None:
        dims = list(value.shape)
        if signature is not None and len(signature) == len(dims):
            dims = [ir.SymbolicDim(f"carried{k}_{axis}") if d < 0 else own for axis, (d, own) in enumerate(
                zip(signature, dims, strict=True))]  # fmt: skip
        shape = ir.Shape(dims)
    return ir.Value(name=name, type=value.type, shape=shape)


def assigned(converter: Converter, k: int, given: Sequence[Made], depth: int = 0) -> list[str]:
    """The variables that a subgraph, or one that it calls, assigns."""
    info = converter.subgraph(k)
    if depth > 16:
        raise NotSpelled("subgraphs that call one another without end")
    handles = {index: value for index, value in zip(info.inputs, given, strict=False) if isinstance(value, Handle)}
    found: list[str] = []
    for op in info.operators:
        converter.spend()
        if op.type == "VAR_HANDLE" and op.outputs:
            handles[op.outputs[0]] = Handle(handle_key(Call(Scope(converter, info), op, "")))
        elif op.type == "ASSIGN_VARIABLE" and op.inputs and op.inputs[0] in handles:
            found.append(handles[op.inputs[0]].key)
        for inner, first in _called(converter, info, op):
            # Tensors do not matter here; any value stands for one.
            passed: list[Made] = [handles.get(i, Handle("")) for i in op.inputs[first:]]
            found += assigned(converter, inner, passed, depth + 1)
    return [key for key in dict.fromkeys(found) if key]


def _called(converter: Converter, info: SubgraphInfo, op: OperatorInfo) -> list[tuple[int, int]]:
    """The subgraphs that an operator calls, and from which input on it hands them its own."""
    call = Call(Scope(converter, info), op, "")
    if call.type == "CALL":
        return [(call.options("CallOptions").Subgraph(), 0)]
    if call.type == "IF":
        o = call.options("IfOptions")
        return [(o.ThenSubgraphIndex(), 1), (o.ElseSubgraphIndex(), 1)]
    if call.type == "WHILE":
        o = call.options("WhileOptions")
        return [(o.CondSubgraphIndex(), 0), (o.BodySubgraphIndex(), 0)]
    return []
