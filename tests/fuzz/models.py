"""From a seed to a model: a few inputs, three to a dozen nodes, some of them taken from the samples of the ops."""

from __future__ import annotations

import random
import warnings
from functools import cache

import numpy as np

from fuzz.bodies import CONTROL
from fuzz.draw import Drawing, Drawn, Unfit, depends, model_of
from fuzz.steps import STEPS, Step, new_input
from graphfuse.graph.randomness import RANDOM_OPS
from graphfuse.ops.registry import Op, all_ops
from graphfuse.ops.samples import Sample
from ops.cases import case_of, inferred
from ops.running import lower_model

SAMPLES = 0.25  # the share of nodes that come from samples
CONTROLLED = 0.15  # the share of models that may hold control flow
_ATTEMPTS = 60
_EXTREMES = (2, 3)  # a TreeEnsemble's aggregate_function


def draw(seed: int) -> Drawn:
    """The model of a seed."""
    d = Drawing(random.Random(seed))
    for _ in range(d.one(1, 1, 2, 3)):
        new_input(d)
    wanted = d.pick.randint(1, 12)
    controlled = d.chance(CONTROLLED)
    for _ in range(_ATTEMPTS):
        if len(d.nodes) >= wanted:
            break
        step = d.any(CONTROL) if controlled and d.chance(0.3) else _step(d)
        try:
            step(d)
        except Unfit:
            continue
    outputs = _outputs(d)
    model = model_of(d, outputs)
    given = {name: d.values[name] for name in d.inputs}
    return Drawn(seed, model, given, dict(d.inputs), frozenset(d.kept), d.fixed)


def _step(d: Drawing) -> Step:
    return from_sample if d.chance(SAMPLES) else new_input if d.chance(0.05) else d.any(STEPS)


def _outputs(d: Drawing) -> list[str]:
    """The latest value, mostly all that nobody reads, and now and then one that is read too, an input, a constant."""
    read = {x for node in d.nodes for x in node.input}
    computed = [y for node in d.nodes for y in node.output if y]
    ends = [y for y in computed if y not in read and d.chance(0.8)]
    more = [y for y in computed if d.chance(0.08)]
    odd = [d.any(list(d.values))] if d.chance(0.05) else []
    chosen = list(dict.fromkeys([*computed[-1:], *ends, *more, *odd])) or list(d.inputs)[:1]
    d.pick.shuffle(chosen)
    return chosen[:5]


def from_sample(d: Drawing) -> None:
    """A node as an op's sample has it, on the sample's arrays or on values that are there, brought to their shapes."""
    op, k = d.any(_usable())
    sample = _samples(op)[k]
    if not _is_lowered(op, k):
        raise Unfit
    names = [
        "" if x is None else _operand(d, x, position in sample.constants) for position, x in enumerate(sample.inputs)
    ]
    if op.name in ("Cast", "CastLike"):
        raise Unfit  # steps.cast looks at the values
    if sample.attrs.get("aggregate_function") in (*_EXTREMES, "MIN", "MAX"):
        raise Unfit  # the extreme of no leaf is 0 in onnxruntime, in the evaluator a number that later ones overflow
    d.add(op.name, names, count=sample.outputs, domain=op.domain, **sample.attrs)


def _operand(d: Drawing, x: np.ndarray, constant: bool) -> str:
    if constant:
        return d.constant(x)
    if x.dtype.kind == "f" and d.chance(0.7):
        found = _fitting(d, x)
        if found is not None:
            return found
    if x.dtype.kind in "biu" and d.chance(0.3):
        return d.constant(x)
    # The data of a sample may be in the domain of its function: it is kept, unless it is plain numbers.
    return d.input(x, kept=x.dtype.kind != "f" or d.chance(0.5))


def _fitting(d: Drawing, x: np.ndarray) -> str | None:
    """A value of this type and shape, or one brought to that shape by a gather."""
    same = [name for name, v in d.values.items() if v.dtype == x.dtype and v.shape == x.shape]
    if same and d.chance(0.8):
        return str(d.any(same))
    sources = [name for name, v in d.values.items() if v.dtype == x.dtype and v.size and name not in d.constants]
    if not sources or any(depends(n) for n in x.shape):
        return None
    source = d.any(sources[-4:])
    least = d.values[source].size
    for n in d.values[source].shape:
        least = least // n if depends(n) else least
    flat = d.add("Reshape", [source, d.integers(-1)])
    return d.add("Gather", [flat, d.constant(d.noise().integers(0, max(1, least), x.shape), np.int64)])


@cache
def _usable() -> list[tuple[Op, int]]:
    ops = [op for op in all_ops() if op.name not in RANDOM_OPS]
    # Every op is as likely, however many samples it has.
    most = max(len(_samples(op)) for op in ops)
    return [(op, k % len(_samples(op))) for op in ops for k in range(most) if _samples(op)]


@cache
def _samples(op: Op) -> list[Sample]:
    return [s for s in op.samples() if not s.rejected]


@cache
def _is_lowered(op: Op, k: int) -> bool:
    """Whether the sample can be compiled as it stands; what cannot would only make the rest of the model wait."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            lower_model(inferred(case_of(op, _samples(op)[k], k).model))
    except Exception:
        return False
    return True
