"""Verification: the compiled model against the original in onnxruntime, on the same inputs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
import onnx_ir as ir

from graphfuse import __version__
from graphfuse.artifact.manifest import Manifest
from graphfuse.errors import InputError
from graphfuse.graph.randomness import random_values
from graphfuse.importers.source import Source
from graphfuse.runtime.binder import bind_symbols
from graphfuse.verify.certificate import Certificate, InputRecord
from graphfuse.verify.compare import DEFAULT_TOLERANCE, DOUBLE_FACTOR, SATURATED_FLOOR, SATURATING, Tolerance, compare
from graphfuse.verify.inputs import SIZES, generate_inputs, plausible_dims
from graphfuse.verify.originals import Original, Runner, original_of
from graphfuse.verify.reference import run_double
from graphfuse.verify.sensitivity import FACTOR, quantises, settle

Array = np.ndarray[Any, Any]


# What only moves elements, so that an output's scale is that of what lies behind.
_MOVING = frozenset({"Cast", "Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})
# The remark on an output that depends on random numbers.
DRAWN = "depends on random numbers: only type and shape are compared"

# Calls, one after the other, that a model with states is verified by: the last ones' outputs are compared.
CALLS = 3
# Inputs, the origin of each, expected outputs, our outputs.
_Accepted = tuple[dict[str, Array], dict[str, str], dict[str, Array], dict[str, Array]]


class Verified(Protocol):
    """What is verified: a session, or anything that runs a model as one does."""

    @property
    def manifest(self) -> Manifest:
        """Its inputs, outputs, symbols and states."""

    @property
    def threads(self) -> int:
        """Threads that one call may use."""

    def run(self, output_names: Sequence[str] | None, inputs: Mapping[str, Any]) -> list[Any]:
        """As `Session.run`."""

    def typed(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """As `Session.typed`."""

    def reset(self) -> None:
        """As `Session.reset`."""


def verify(
    session: Verified,
    model: Source | str | Path | onnx.ModelProto,
    inputs: Mapping[str, Array] | None = None,
    *,
    dims: Mapping[str, int] | None = None,
    seed: int = 0,
    rtol: float | None = None,
    atol: float | None = None,
    double: bool | None = None,
) -> Certificate:
    """Runs `session` and the original `model` in its own framework, and compares every output.

    model: as it was read, or an ONNX file; that runs in onnxruntime, all its optimisations off; inputs: arrays by name,
    those left out are generated from `seed`; dims: sizes of free dimensions by name, those left out get plausible ones;
    rtol, atol: see Tolerance; double: also compare both with a float64 run (None: only where the outputs are outside
    the tolerance). Never raises for a difference: look at `passed`. Raises InputError when the inputs or sizes given do
    not fit, or none can be found that the reference accepts.
    """
    original = original_of(model)
    proto, reference = original.graph(False), original.runner
    tolerance = Tolerance(rtol, atol)
    chosen, origin, expected, ours = _first_accepted(
        session, proto, reference, session.typed(inputs or {}), dims or {}, seed
    )
    names = [tensor.name for tensor in session.manifest.outputs]
    tolerances = {name: _tolerance(proto, name, tolerance) for name in names}
    drawn = random_values(ir.from_proto(proto))
    if drawn & set(names):
        expected = {name: _in_place_of_draws(ours[name], e) if name in drawn else e for name, e in expected.items()}
    reports = [compare(name, ours[name], expected[name], tolerances[name]) for name in names]
    if double or (double is None and not all(report.passed for report in reports)):
        exact = _in_double(original, chosen)
        exact = spelled(session.manifest.results, exact) if exact else {}
        reports = [compare(name, ours[name], expected[name], tolerances[name], exact.get(name)) for name in names]
    if not original.states and not all(report.passed for report in reports) and quantises(proto):
        whole = original.graph(True)
        reports = [settle(r, whole, chosen, ours[r.name], expected[r.name]) for r in reports]
    reports = [replace(r, reason=r.reason or DRAWN) if r.name in drawn else r for r in reports]
    shapes = [chosen[tensor.name].shape for tensor in session.manifest.inputs]
    return Certificate(
        passed=all(report.passed for report in reports),
        outputs=tuple(reports),
        inputs=tuple(_record(name, array, origin[name]) for name, array in chosen.items()),
        dims=bind_symbols(session.manifest.inputs, shapes, session.manifest.symbols),
        seed=seed,
        threads=session.threads,
        versions={"graphfuse": __version__, reference.name: reference.version, "numpy": np.__version__},
        rule=_rule(tolerance, reference.name),
    )


def _in_double(original: Original, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs in float64, of the last of CALLS calls where there are states; empty where nothing computes them."""
    graph = original.graph(True)
    values = {state.input: state.initial for state in original.states}
    outputs: dict[str, Array] = {}
    for _ in range(CALLS if original.states else 1):
        outputs = run_double(graph, {**inputs, **values}) or {}
        if not outputs:
            break
        values = {state.input: outputs.pop(state.output).astype(state.initial.dtype) for state in original.states}
    return outputs


def _in_place_of_draws(ours: Array, expected: Array) -> Array:
    """What to compare with where numbers are drawn: nobody draws the same, but their type and shape are known."""
    return ours if (ours.dtype, ours.shape) == (expected.dtype, expected.shape) else expected


def spelled(lists: Mapping[str, Sequence[str] | None], values: Mapping[str, Any]) -> dict[str, Array]:
    """The tensors of a reference's results: lists, as `Manifest.results` has them, taken apart. Raises InputError."""
    found: dict[str, Array] = {}
    for name, value in values.items():
        names = lists.get(name)
        if names is not None and len(names) != len(value):
            raise InputError(f"the reference returns {len(value)} tensors, not {len(names)}", where=f"output {name!r}")
        found.update({name: value} if names is None else zip(names, value, strict=True))
    return found


def _first_accepted(
    session: Verified,
    model: onnx.ModelProto,
    reference: Runner,
    given: Mapping[str, Array],
    dims: Mapping[str, int],
    seed: int,
) -> _Accepted:
    """(inputs, their origins, expected outputs, our outputs) for the first inputs that reference and session accept.

    Inputs that make an output mostly NaN or infinite compare little: they are used only if nothing better is found.
    """
    names = [tensor.name for tensor in session.manifest.inputs]
    if unknown := [name for name in given if name not in names]:
        raise InputError(f"no input is called {unknown[0]!r}", remedy=f"the inputs are {', '.join(map(repr, names))}")
    refused: InputError | None = None
    fallback: _Accepted | None = None
    for chosen, origin in _candidates(session, model, given, dims, seed):
        try:
            reference.restart()
            session.reset()
            for _ in range(CALLS if session.manifest.states else 1):
                expected = spelled(session.manifest.results, reference.run(chosen))
                outputs = session.run([tensor.name for tensor in session.manifest.outputs], chosen)
        except InputError as error:
            refused = refused or error
            continue
        ours = dict(zip((tensor.name for tensor in session.manifest.outputs), outputs, strict=True))
        accepted = chosen, origin, expected, ours
        if all(_is_telling(expected[name]) for name in ours):
            return accepted
        fallback = fallback or accepted
    if fallback is not None:
        return fallback
    assert refused is not None
    if set(given) == set(names):
        raise refused
    remedy = "give sizes for the free dimensions, or inputs"
    raise InputError("no inputs could be found to verify with", why=str(refused), remedy=remedy) from refused


def _tolerance(model: onnx.ModelProto, output: str, tolerance: Tolerance) -> Tolerance:
    """The tolerance for one output: the scale of what a saturating function returns is known."""
    producers = {name: node for node in model.graph.node for name in node.output}
    node = producers.get(output)
    while node is not None and node.op_type in _MOVING and node.input:
        node = producers.get(node.input[0])
    saturates = node is not None and node.op_type in SATURATING
    return replace(tolerance, floor=SATURATED_FLOOR) if saturates else tolerance


def _is_telling(values: Array) -> bool:
    return values.dtype.kind != "f" or values.size == 0 or float(np.isfinite(values).mean()) >= 0.5


def _candidates(
    session: Verified, model: onnx.ModelProto, given: Mapping[str, Array], dims: Mapping[str, int], seed: int
) -> Iterator[tuple[dict[str, Array], dict[str, str]]]:
    """Inputs to try in turn, with the origin of each: the given ones, and generated ones of several sizes."""
    manifest = session.manifest
    if all(tensor.name in given for tensor in manifest.inputs):
        yield {tensor.name: given[tensor.name] for tensor in manifest.inputs}, dict.fromkeys(given, "given")
        return
    known = _dims_of(session, given)
    tried: list[dict[str, int]] = []
    for batch, other in SIZES:
        sizes = plausible_dims(manifest, batch, other, {**known, **dims})
        if sizes in tried:
            continue
        tried.append(sizes)
        for positive in (False, True):
            arrays = {**generate_inputs(manifest, model, sizes, seed, positive), **given}
            how = f"generated from seed {seed}" + (", positive" if positive else "")
            yield arrays, {name: "given" if name in given else how for name in arrays}


def _dims_of(session: Verified, given: Mapping[str, Array]) -> dict[str, int]:
    """The free dimensions that the given inputs settle by themselves."""
    return {
        dim: size
        for tensor in session.manifest.inputs
        if tensor.name in given
        for dim, size in zip(tensor.shape, given[tensor.name].shape, strict=False)
        if isinstance(dim, str) and dim in session.manifest.symbols
    }


def _record(name: str, array: Array, origin: str) -> InputRecord:
    digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
    return InputRecord(name, array.dtype.name, tuple(array.shape), origin, digest)


def _rule(tolerance: Tolerance, reference: str) -> str:
    rtol = "rtol by dtype (" + ", ".join(f"{name} {value:g}" for name, value in DEFAULT_TOLERANCE.items()) + ")"
    rtol = rtol if tolerance.rtol is None else f"rtol {tolerance.rtol:g}"
    scaled = f"max(rtol * rms(expected), {SATURATED_FLOOR:g} behind a saturating function)"
    atol = scaled if tolerance.atol is None else f"{tolerance.atol:g}"
    return (
        f"|ours - expected| <= {atol} + rtol * |expected| with {rtol}, or no farther from a float64 run than "
        f"{DOUBLE_FACTOR:g} times what {reference} is; of quantised models no farther from {reference} than {FACTOR:g} "
        "times what it moves by when its constants move to their neighbours; NaN and infinity in the same places; "
        "integers and booleans equal"
    )
