"""Whether a result is right: near enough to one reference, or no farther off than rounding explains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import onnx

from fuzz.graphs import pruned
from fuzz.oracles import Array, NoAnswer, Stepwise, reference, second_reference
from graphfuse.verify.compare import DEFAULT_TOLERANCE, OutputReport, Tolerance, compare
from graphfuse.verify.reference import run_double

# Relative noise put on every float of the model and on what each node computes: twice float32's rounding.
NOISE = 2.0**-22
NOISY_RUNS = 6
# Relative tolerance by ONNX's number of a type.
RTOL = {1: DEFAULT_TOLERANCE["float32"], 10: DEFAULT_TOLERANCE["float16"], 16: DEFAULT_TOLERANCE["bfloat16"]}
# A result may be so many times as far off as the noise moves the reference.
NOISE_FACTOR = 8.0


@dataclass(frozen=True)
class Verdict:
    """`how`: "right", "reference" (the references differ as much from each other), "rounding" (noise of the size of
    rounding moves the reference as far), or "wrong"; the report on the output that decided.
    """

    how: str
    text: str = ""


class Judge:
    """One model on one set of inputs. Raises NoAnswer where no reference takes it."""

    def __init__(self, model: onnx.ModelProto, inputs: Mapping[str, Array]) -> None:
        self.model, self.inputs = model, inputs
        self.names = [y.name for y in model.graph.output]
        self.wanted = reference(model)(inputs)
        self._doubted: dict[str, _Output] = {}

    def __call__(self, results: Sequence[Array]) -> Verdict:
        """The worst verdict on the outputs."""
        found = [Verdict("right")]
        for name, y, wanted in zip(self.names, results, self.wanted, strict=True):
            if compare(name, y, wanted).passed:
                continue
            if name not in self._doubted:
                self._doubted[name] = _Output(name, pruned(self.model, [name]), self.inputs, wanted)
            found.append(self._doubted[name].judge(y))
        order = ("right", "rounding", "reference", "wrong")
        return max(found, key=lambda v: order.index(v.how))


@dataclass
class _Output:
    """One output that differs from the first reference, with what it needs of the model."""

    name: str
    model: onnx.ModelProto
    inputs: Mapping[str, Array]
    wanted: Array

    def __post_init__(self) -> None:
        self.inputs = {v.name: self.inputs[v.name] for v in self.model.graph.input}
        # What was computed narrowly before it was widened is no better than that.
        own = DEFAULT_TOLERANCE.get(self.wanted.dtype.name, 0.0)
        self.tolerance = Tolerance(max(own, *(RTOL.get(t, 0.0) for t in _element_types(self.model)), 0.0))

    @cached_property
    def second(self) -> Array | None:
        """The other reference, where there is one."""
        try:
            return second_reference(self.model)(self.inputs)[0]
        except NoAnswer:
            return None

    @cached_property
    def noisy(self) -> list[Array]:
        """The reference on inputs with noise, and with noise on what every node of the main graph makes."""
        try:
            results = [self._noisy_run(np.random.default_rng(k)) for k in range(NOISY_RUNS)]
        except NoAnswer:
            return []
        return [y for y in results if y.shape == self.wanted.shape]

    def _noisy_run(self, rng: np.random.Generator) -> Array:
        blur = partial(shaken, rng)
        return Stepwise(self.model)({name: blur(x) for name, x in self.inputs.items()}, blur)[0]

    @cached_property
    def exact(self) -> Array | None:
        return (run_double(self.model, self.inputs) or {}).get(self.name)

    def judge(self, y: Array) -> Verdict:
        report = compare(self.name, y, self.wanted, self.tolerance)
        if report.passed:
            return Verdict("right")
        text = f"{self.name}: {report.reason} at {report.position}: {report.ours!r} instead of {report.expected!r}"
        if self.second is not None:
            if compare(self.name, y, self.second, self.tolerance).passed:
                return Verdict("right")
            between = compare(self.name, self.second, self.wanted)
            if not between.passed and _explains(between, report):
                return Verdict("reference", text)
        if y.shape == self.wanted.shape and y.dtype == self.wanted.dtype:
            if self.noisy and self._is_rounding(y, report):
                return Verdict("rounding", text)
            if compare(self.name, y, self._without_overflow(y, report), double=self.exact).passed:
                return Verdict("rounding", text)
        return Verdict("wrong", text)

    def _without_overflow(self, y: Array, report: OutputReport) -> Array:
        """What is wanted; in a model with float16 ours, where that is what a float64 run gives and what is wanted is
        not finite: a value larger than float16 has overflowed behind an operator, where ours is rounded when stored.
        """
        if onnx.TensorProto.FLOAT16 not in _element_types(self.model) or self.exact is None:
            return self.wanted
        with np.errstate(over="ignore"):
            wide = self.exact.astype(y.dtype)
        near = np.isclose(y, wide, report.rtol, report.atol, equal_nan=True)
        return np.where(near & ~np.isfinite(self.wanted), y, self.wanted)

    def _is_rounding(self, y: Array, report: OutputReport) -> bool:
        runs = np.stack([r.astype(np.float64) for r in (*self.noisy, self.wanted)])
        ours, wanted = y.astype(np.float64), runs[-1]
        with np.errstate(invalid="ignore"):
            near = np.abs(ours - wanted) <= NOISE_FACTOR * (runs.max(0) - runs.min(0))
            close = np.abs(ours - wanted) <= report.atol + report.rtol * np.abs(wanted)
        strange = ~np.isfinite(runs)
        # NaN or infinity that comes and goes with the noise.
        fickle = strange.any(0) & ~(strange.all(0) & (np.isnan(runs).all(0) | (runs == wanted).all(0)))
        same = (ours == wanted) | (np.isnan(ours) & np.isnan(wanted))
        return bool((same | near | close | fickle).all())


def _element_types(model: onnx.ModelProto) -> set[int]:
    """The types of inputs, constants and casts."""
    types = {v.type.tensor_type.elem_type for v in model.graph.input} | {t.data_type for t in model.graph.initializer}
    return types | {a.i for node in model.graph.node for a in node.attribute if a.name == "to"}


def _explains(between: OutputReport, report: OutputReport) -> bool:
    """Whether the references are as far apart as we are from one of them, or disagree about what is finite or exact."""
    return between.max_abs * 2 >= report.max_abs or between.reason == report.reason


def shaken(rng: np.random.Generator, x: Array) -> Array:
    """A float32 or float64 array with noise, any other as it is."""
    noise = 1 + NOISE * rng.uniform(-1, 1, x.shape)
    return np.asarray(x * noise, x.dtype) if x.dtype in (np.float32, np.float64) else x
