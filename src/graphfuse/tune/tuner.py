"""Which ways to compile a model are compared, and what is kept: kernels, then epilogues, then strips.

Every comparison is between two whole models that differ in many places at once; each call has a clock, so one pair of
models measures all of those places. What a place is called in the database is a digest of the texts of its kernels and
of their sizes: equal blocks of one model share their measurements, and so does the next model.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from graphfuse.codegen import strip
from graphfuse.codegen.module import Module
from graphfuse.fusion.regions import Fusion, fuse
from graphfuse.graph.dims import TYPICAL, evaluate, measured
from graphfuse.ledger import Ledger
from graphfuse.ops.tensor import Tensor
from graphfuse.options import CompileOptions
from graphfuse.plan.calls import Call, Candidate, Choose, Plan, cheapest
from graphfuse.plan.strips import Chain, chain_calls, joined, possible_chains
from graphfuse.runtime.binder import bind_symbols
from graphfuse.target import Target
from graphfuse.toolchain.build import build
from graphfuse.tune.clock import Timed, best_times
from graphfuse.tune.database import Database

# Candidates predicted to take longer than so many times the best are not measured.
_CLOSE = 2.5
# What is measured has to be faster by this share to be taken, as the clock is no better; by more to undo a fusion.
_MARGIN = 0.03
_MARGIN_APART = 0.06
# Chains predicted to lose more than this share of their calls' time are not measured.
_HOPELESS = 0.15
# Seconds that one comparison of two models runs at least; the second figure is in runs of the model.
_SECONDS, _RUNS = 0.4, 40


@dataclass
class Maker:
    """How a model is planned and built, and what it is run on.

    plan: the calls of a fusion, one by one, with the kernels that are chosen; usual: how those are chosen without
    measuring; module: their C, with clocks; arrays: an input for every port of a module.
    """

    plan: Callable[[Fusion, Choose], Plan]
    usual: Choose
    module: Callable[[Plan], Module]
    arrays: Callable[[Module], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Tuned:
    """What to compile: regions, and the calls with their strips."""

    fusion: Fusion
    plan: Plan


def tune(
    fusion: Fusion,
    maker: Maker,
    target: Target,
    options: CompileOptions,
    ledger: Ledger,
    progress: Callable[[str], None],
) -> Tuned:
    """Choose by measurement for `options.tune` seconds; what was measured before costs no time.

    Raises ToolchainError when something does not compile, InputError when the model refuses the sizes.
    """
    tuner = _Tuner(fusion, maker, target, options, ledger, progress)
    try:
        return tuner.run()
    finally:
        tuner.database.save()


class _Tuner:
    def __init__(
        self,
        fusion: Fusion,
        maker: Maker,
        target: Target,
        options: CompileOptions,
        ledger: Ledger,
        progress: Callable[[str], None],
    ) -> None:
        self.fusion, self.maker, self.target, self.options = fusion, maker, target, options
        self.ledger, self.progress = ledger, progress
        self.threads = options.session_threads()
        self.database = Database(options.cache_root(), target, self.threads)
        self.end = time.perf_counter() + options.tune
        first = maker.module(maker.plan(fusion, maker.usual))
        self.arrays = maker.arrays(first)
        self.sizes = bind_symbols(first.inputs, [self.arrays[port.name].shape for port in first.inputs], first.dims)

    def run(self) -> Tuned:
        # For the smallest arena kernels are chosen by the scratch they want, which no clock tells.
        choose = self.maker.usual if self.options.optimize == "memory" else self._kernels()
        fusion = self._epilogues(choose)
        apart = self.maker.plan(fusion, choose)
        tuned = Tuned(fusion, self._strips(apart) if self.options.strips else apart)
        return self._never_slower(tuned)

    def _never_slower(self, tuned: Tuned) -> Tuned:
        """What was tuned, or what would have been compiled without where all in all that is faster."""
        planned = self.maker.plan(self.fusion, self.maker.usual)
        if self.options.strips:
            planned = chain_calls(planned, strip, self.target, self.options.optimize)
        if [c.code.name for c in planned.calls] == [c.code.name for c in tuned.plan.calls]:
            return tuned
        texts = [call.code.source for plan in (planned, tuned.plan) for call in plan.calls]
        key = f"model {_digest([*texts, *map(str, self.sizes.values())])}"
        if key not in self.database.records:
            self.end = max(self.end, time.perf_counter() + 1)  # without this comparison the others are worth nothing
            pair = self._compare("tuned against predicted", planned, tuned.plan)
            assert pair is not None
            times = {"predicted": sum(pair[0]), "tuned": sum(pair[1])}
            self.database.add(key, min(times, key=lambda way: times[way]), times)
        record = self.database.records[key]
        self._note("the whole model", f"{record.best} choices", record.microseconds)
        return tuned if record.best == "tuned" else Tuned(self.fusion, planned)

    # ------------------------------------------------------------------ kernels

    def _kernels(self) -> Choose:
        """The kernel of every contraction: the fastest measured, and the cheapest where nothing was."""
        base = self.maker.plan(self.fusion, cheapest)
        open_: dict[str, list[Candidate]] = {}
        for call in base.calls:
            close = _close(call)
            if len(close) > 1 and self._key(call) not in self.database.records:
                open_[self._key(call)] = close
        most = max((len(c) for c in open_.values()), default=1)
        places = {call.region.anchor: self._key(call) for call in base.calls if call.region is not None}
        found: dict[str, dict[str, float]] = {}
        for rank in range(1, most):
            wanted = {anchor: rank for anchor, key in places.items() if key in open_}
            other = self.maker.plan(self.fusion, _ranked(wanted))
            pair = self._compare(f"kernels, choice {rank + 1} of {most}", base, other)
            if pair is None:
                break
            for first, second, ours, theirs in zip(base.calls, other.calls, *pair, strict=True):
                if self._key(first) in open_ and first.kernel != second.kernel:
                    times = found.setdefault(self._key(first), {})
                    times[first.kernel] = min(ours, times.get(first.kernel, np.inf))
                    times[second.kernel] = min(theirs, times.get(second.kernel, np.inf))
        for key, times in found.items():
            self.database.add(key, _fastest(times, open_[key][0].kernel.name), times)
        return self._chooser(base)

    def _chooser(self, base: Plan) -> Choose:
        wanted: dict[Tensor, str] = {}
        for call in base.calls:
            record = self.database.records.get(self._key(call)) if len(_close(call)) > 1 else None
            if record is not None and call.region is not None:
                wanted[call.region.anchor] = record.best
                self._note(call.label, record.best, record.microseconds)

        def choose(anchor: Tensor, candidates: Sequence[Candidate]) -> Candidate:
            named = [c for c in candidates if c.kernel.name == wanted.get(anchor)]
            return named[0] if named else candidates[0]

        return choose

    # ------------------------------------------------------------------ epilogues

    def _epilogues(self, choose: Choose) -> Fusion:
        """The fusion without the epilogues that measure slower on accumulators than in a call of their own."""
        together = self.maker.plan(self.fusion, choose)
        fused = {c.region.anchor: c for c in together.calls if c.region is not None and _has_epilogue(c)}
        keys = {anchor: f"epilogue {self._key(call)}" for anchor, call in fused.items()}
        unknown = frozenset(anchor for anchor, key in keys.items() if key not in self.database.records)
        if unknown:
            self._measure_epilogues(choose, together, unknown, keys)
        slower: list[Tensor] = []
        for anchor, key in keys.items():
            record = self.database.records.get(key)
            if record is not None and record.best == "apart":
                slower.append(anchor)
                self._note(fused[anchor].label, "not fused", record.microseconds)
        return fuse(self.fusion.program, frozenset(slower)) if slower else self.fusion

    def _measure_epilogues(
        self, choose: Choose, together: Plan, unknown: frozenset[Tensor], keys: Mapping[Tensor, str]
    ) -> None:
        apart = self.maker.plan(fuse(self.fusion.program, unknown), choose)
        pair = self._compare("fused against not fused", together, apart)
        if pair is None:
            return
        owner = {t: c.region.anchor for c in together.calls if c.region is not None for t in c.region.tensors}
        times: dict[Tensor, dict[str, float]] = {anchor: {"fused": 0.0, "apart": 0.0} for anchor in unknown}
        for plan, seconds, way in ((together, pair[0], "fused"), (apart, pair[1], "apart")):
            for call, t in zip(plan.calls, seconds, strict=True):
                anchor = owner.get(call.region.anchor) if call.region is not None else None
                if anchor in unknown:
                    times[anchor][way] += t
        best: dict[str, dict[str, float]] = {}
        for anchor, found in times.items():
            known = best.setdefault(keys[anchor], found)
            best[keys[anchor]] = {way: min(known[way], found[way]) for way in known}
        for key, found in best.items():
            self.database.add(key, _fastest(found, "fused", _MARGIN_APART), found)

    # ------------------------------------------------------------------ strips

    def _strips(self, apart: Plan) -> Plan:
        """The plan with the chains that win most, by measurement where there is one."""
        chains = [c for c in possible_chains(apart, strip, self.target) if self._hopeful(apart, c)]
        keys = {c: self._chain_key(apart, c) for c in chains}
        unknown = [c for c in chains if keys[c] not in self.database.records]
        while unknown:
            batch = _side_by_side(unknown, keys)
            pair = self._compare(f"strips, {len(unknown)} left", apart, joined(apart, strip, batch))
            if pair is None:
                break
            self._record_chains(batch, keys, *pair)
            unknown = [c for c in unknown if keys[c] not in self.database.records]

        def gain(chain: Chain) -> float | None:
            record = self.database.records.get(keys.get(chain, ""))
            if record is None:
                return None
            return record.microseconds["apart"] * (1 - _MARGIN) - record.microseconds["strips"]

        planned = chain_calls(apart, strip, self.target, self.options.optimize, gain)
        for call in planned.calls:
            if call.parts:
                self._note(call.label, call.code.describe.partition(":")[0], {})
        return planned

    def _record_chains(
        self, batch: Sequence[Chain], keys: Mapping[Chain, str], apart: Sequence[float], strips: Sequence[float]
    ) -> None:
        place = 0  # of the next call in the model with strips
        at = {c.first: c for c in batch}
        k = 0
        while k < len(apart):
            chain = at.get(k)
            last = k if chain is None else chain.last
            if chain is not None:
                times = {"apart": float(sum(apart[k : last + 1])), "strips": float(strips[place])}
                self.database.add(keys[chain], _fastest(times, "apart"), times)
            place += 1
            k = last + 1

    def _hopeful(self, plan: Plan, chain: Chain) -> bool:
        cost = sum(call.cost for call in plan.calls[chain.first : chain.last + 1]) / self.target.cores
        return chain.gain > -_HOPELESS * cost

    def _chain_key(self, plan: Plan, chain: Chain) -> str:
        members = [self._key(call) for call in plan.calls[chain.first : chain.last + 1]]
        return f"strips of {chain.height} {_digest(members)}"

    # ------------------------------------------------------------------ measuring

    def _key(self, call: Call) -> str:
        """A digest of what a call computes, by which kernels it might, on what sizes."""
        code = call.code
        dims = (code.rows, code.columns, *code.dims)
        guessed = dict.fromkeys(measured(*dims), TYPICAL)  # what only a run knows
        sizes = [evaluate(d, {**guessed, **self.sizes}) for d in dims]
        names = [c.kernel.name for c in call.candidates]
        return _digest([call.code.source, *names, *map(str, sizes)])

    def _compare(self, what: str, first: Plan, second: Plan) -> tuple[list[float], list[float]] | None:
        """The best microseconds of the calls of both; None when the time for tuning is over."""
        if time.perf_counter() >= self.end:
            self.ledger.note("tune", what, "not measured: the time for tuning was over")
            return None
        self.progress(f"tuning: {what}")
        with ExitStack() as stack:
            timed = []
            for plan in (first, second):
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="graphfuse-")))
                module = self.maker.module(plan)
                library = build(module, self.target, self.options, folder)
                timed.append(Timed(module, library, len(plan.calls), self.arrays, self.threads))
            runs = float(timed[0].run().sum()) * _RUNS
            found = best_times(timed, max(_SECONDS, 2 * runs))
        ours, theirs = ([float(t) * 1e6 for t in times] for times in found)
        return ours, theirs

    def _note(self, label: str, chosen: str, times: Mapping[str, float]) -> None:
        measured = ", ".join(f"{way} {us:.1f} us" for way, us in sorted(times.items(), key=lambda item: item[1]))
        self.ledger.note("tune", label, f"{chosen}, by measurement{f': {measured}' if measured else ''}")


def _ranked(ranks: Mapping[Tensor, int]) -> Choose:
    """Takes for each contraction the candidate of so high a rank, the first where none is near enough."""

    def choose(anchor: Tensor, candidates: Sequence[Candidate]) -> Candidate:
        close = [c for c in candidates if c.cost <= _CLOSE * candidates[0].cost]
        rank = ranks.get(anchor, 0)
        return close[rank] if rank < len(close) else candidates[0]

    return choose


def _close(call: Call) -> list[Candidate]:
    """The kernels that are near enough to the cheapest to be measured."""
    return [c for c in call.candidates if c.cost <= _CLOSE * call.candidates[0].cost]


def _has_epilogue(call: Call) -> bool:
    return call.region is not None and call.region.kind == "contraction" and len(call.region.tensors) > 1


def _fastest(times: Mapping[str, float], usual: str, margin: float = _MARGIN) -> str:
    """The way that won; the usual one where none wins by more than the clock can tell."""
    best = min(times, key=lambda way: times[way])
    return best if times[best] < times.get(usual, np.inf) * (1 - margin) else usual


def _side_by_side(chains: Iterable[Chain], keys: Mapping[Chain, str]) -> list[Chain]:
    """Chains that do not overlap, none of them twice."""
    batch: list[Chain] = []
    taken: set[str] = set()
    end = 0
    for c in sorted(chains, key=lambda c: (c.first, -c.gain)):
        if c.first >= end and keys[c] not in taken:
            batch.append(c)
            taken.add(keys[c])
            end = c.last + 1
    return batch


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
