"""Every sample of every op through fuse, plan, emit and a C compiler: one library for each op.

Sizes known and unknown, one thread and two, at the vector width of this machine and at the narrowest.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest

from codegen.building import Emitted, GuardFailed, Runner, build, emitted
from graphfuse.errors import UnsupportedModelError
from graphfuse.ops.samples import SPECIAL
from ops.cases import Case, all_cases, expected, inferred, symbolic_model
from ops.running import interpret
from ops.test_ops import assert_close

# What an op's samples may be refused for: the channels of a convolution lie along the lanes of packed weights.
REFUSALS = {
    "ConvInteger": "number of channels is not known",
    "com.microsoft.QLinearAveragePool": "number of channels is not known",
    "QLinearConv": "number of channels is not known",
}
# Where no two oracles agree on NaN and infinities, and why.
NO_SPECIAL_VALUES = {
    "Cast": "they have no integer",
    "CastLike": "they have no integer",
    "Mod": "the samples are integers and remainders by zero",
    "Range": "its length comes from them",
    "ReduceProd": "whether 0 times infinity occurs on the way depends on the order",
}


@dataclass
class Built:
    """A case as native code; `id` ends in "?" where the sizes are unknown to the compiler."""

    id: str
    case: Case
    run: Runner


@cache
def cases_by_op() -> dict[str, list[Case]]:
    found: dict[str, list[Case]] = {}
    for case in all_cases():
        found.setdefault(case.id.rsplit("-", 1)[0], []).append(case)
    return found


OPS = sorted(cases_by_op())


def models(op: str) -> Iterator[tuple[str, Case, Emitted]]:
    """The cases of an op, emitted; those refused for a reason of REFUSALS are left out."""
    for case in cases_by_op()[op]:
        yield from emit(case.id, case, False)
        if case.sample.symbolic and case.inputs:
            yield from emit(f"{case.id}?", case, True)


def emit(name: str, case: Case, symbolic: bool, cpu: str = "native") -> Iterator[tuple[str, Case, Emitted]]:
    model = symbolic_model(case)[0] if symbolic else case.model
    try:
        yield name, case, emitted(inferred(model), cpu)
    except UnsupportedModelError as error:
        allowed = REFUSALS.get(name.partition("-")[0])
        if allowed is None or not re.search(allowed, str(error)):
            raise AssertionError(f"{name}: {error}") from error


def native(emits: list[tuple[str, Case, Emitted]]) -> list[Built]:
    if not emits:
        return []
    runners = build([e for _, _, e in emits])
    return [Built(name, case, run) for (name, case, _), run in zip(emits, runners, strict=True)]


@pytest.mark.parametrize("op", OPS)
def test_compiled_equals_the_oracle(op: str) -> None:
    for built in native(list(models(op))):
        values = built.run(built.case.inputs)
        agree(built, values, expected(built.case))
        assert_same_bits(built.id, values, built.run(built.case.inputs, threads=2))
        special = with_special_values(built.case)
        if not special or op in NO_SPECIAL_VALUES:
            continue
        with contextlib.suppress(GuardFailed):  # no size comes from such a number
            agree(built, built.run(special), interpret(inferred(built.case.model), special), sums=True)


@pytest.mark.parametrize("op", OPS)
def test_narrow_vectors(op: str) -> None:
    emits = [e for case in cases_by_op()[op] for e in emit(case.id, case, False, "x86_64")]
    for built in native(emits):
        agree(built, built.run(built.case.inputs), expected(built.case))


def test_a_refused_case_has_others_beside_it() -> None:
    """Most samples of an op that may be refused are compiled all the same."""
    for op in REFUSALS:
        assert len(list(models(op))) > len(cases_by_op()[op]) / 2, op


def agree(built: Built, actual: list[np.ndarray], wanted: list[np.ndarray], *, sums: bool = False) -> None:
    try:
        assert_close(actual, wanted, sums=sums)
    except AssertionError as error:
        raise AssertionError(f"{built.id}: {error}") from error


def assert_same_bits(name: str, one: list[np.ndarray], two: list[np.ndarray]) -> None:
    assert [a.tobytes() for a in one] == [a.tobytes() for a in two], f"{name}: two threads give other bits"


def with_special_values(case: Case) -> dict[str, np.ndarray]:
    """The case's inputs with NaN, infinities, zeros and halves among the floats; nothing where there are none."""
    random = np.random.default_rng(7)
    changed = {}
    for name, x in case.inputs.items():
        if x.dtype.kind == "f" and x.size:
            x = x.copy()
            places = random.random(x.shape) < 0.2
            x[places] = random.choice(np.array(SPECIAL), int(places.sum()))
            changed[name] = x
    return {**case.inputs, **changed} if changed else {}
