"""Ops as native code in the element types that their own samples are not of: one library for each op."""

from __future__ import annotations

import pytest

from codegen.test_op_cases import emit, native
from graphfuse.ops.registry import all_ops
from ops.other_types import Retyped, retyped
from ops.test_other_types import assert_close, oracle

OF = {op.name: op for op in all_ops() if not op.domain}


def check(name: str, cpu: str) -> None:
    cases: dict[str, Retyped] = {}
    emits = []
    for case in retyped(OF[name], samples=1):
        if oracle(case) is None:
            continue
        for emitted in emit(case.id, case.case, False, cpu):
            cases[case.id] = case
            emits.append(emitted)
    for built in native(emits):
        case = cases[built.id]
        try:
            assert_close(case, built.run(case.case.inputs), oracle(case) or [])
        except AssertionError as error:
            raise AssertionError(f"{built.id}: {error}") from error


@pytest.mark.parametrize("op", OF)
def test_compiled(op: str) -> None:
    check(op, "native")


@pytest.mark.parametrize("op", ["Add", "Sqrt", "Softmax", "Gather", "MatMul"])
def test_narrow_vectors(op: str) -> None:
    check(op, "x86_64")
