"""Resource variables: states of the model."""

from __future__ import annotations

import onnx_ir as ir

from graphfuse.importers.tflite.call import Call
from graphfuse.importers.tflite.convert import Handle, handle_key
from graphfuse.importers.tflite.registry import NotSpelled, operator


@operator("VAR_HANDLE")
def var_handle(call: Call) -> Handle:
    return Handle(handle_key(call))


def _handle(call: Call) -> str:
    handle = call.made(0)
    if not isinstance(handle, Handle):
        raise NotSpelled("its first input is no variable")
    return handle.key


@operator("READ_VARIABLE")
def read_variable(call: Call) -> ir.Value:
    return call.scope.converter.variable(_handle(call), call.out()).value


@operator("ASSIGN_VARIABLE")
def assign_variable(call: Call) -> None:
    variable = call.scope.converter.variable(_handle(call), call.tensor(1))
    value = call.x(1)
    if value.dtype != variable.input.dtype:
        raise NotSpelled("a value of another type than the variable's")
    variable.value = value


@operator("CALL_ONCE")
def call_once(call: Call) -> None:
    call.scope.converter.initialize(call.options("CallOnceOptions").InitSubgraphIndex())
