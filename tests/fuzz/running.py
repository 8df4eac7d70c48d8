"""Models through the compiler, many in one C file, and their results against the references."""

from __future__ import annotations

import _ctypes
import ctypes
import os
import subprocess
import tempfile
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from codegen import redzones
from codegen.building import Emitted, GuardFailed, Runner, joined
from fuzz.domain import is_defined
from fuzz.draw import SYMBOLS, Array, Drawn
from fuzz.judge import Judge
from fuzz.oracles import NoAnswer
from graphfuse import rules
from graphfuse.compiler import Job, run_stages
from graphfuse.errors import UnsupportedModelError
from graphfuse.graph.origins import all_nodes, origins
from graphfuse.graph.text import model_text
from graphfuse.importers.onnx import import_onnx
from graphfuse.ledger import Ledger
from graphfuse.options import CompileOptions
from graphfuse.target import target_for
from graphfuse.toolchain.compiler import find_compiler

# gcc 12 for AVX-512 gives up on the larger of 0 and float64 widened from float32 (not with -fno-tree-forwprop).
_COMPILERS_BUG = "internal compiler error: in convert_mode_scalar"
STRICT = ("-Wall", "-Wextra", "-Werror")


def ways() -> dict[str, dict[str, Any]]:
    """Options of the ways to compile a model; each has its own path through the rules and kernels."""
    everything = tuple(file.name for file in rules.rule_files())
    return {
        "default": {},
        "plain": {"disabled_rules": everything, "strips": False},
        "strict": {"numerics": "strict"},
        "memory": {"optimize": "memory"},
    }


@dataclass(frozen=True)
class Build:
    """How a batch is compiled: for which CPU, with what optimisation."""

    cpu: str = "native"
    flags: tuple[str, ...] = ("-O1",)

    @property
    def is_sanitized(self) -> bool:
        """Whether every access to memory is watched; the process has the sanitizer loaded then."""
        return any(flag.startswith("-fsanitize=") for flag in self.flags)


@dataclass(frozen=True)
class Failure:
    """What went wrong with a model: `kind` in a word, where from (`way`), and the particulars."""

    seed: int
    way: str
    kind: str
    text: str


@dataclass
class Tally:
    """What became of the models: counts by word, and the failures."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        self.counts += other.counts
        self.failures += other.failures


class Broken(Exception):
    """A stage that fails on a valid model."""


def emit(model: onnx.ModelProto, way: str, build: Build, folder: Path) -> Emitted:
    """The model through all stages up to the C. Raises UnsupportedModelError; Broken for any other error."""
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    job = Job(path, CompileOptions(cpu=build.cpu, **ways()[way]))
    try:
        with redzones.spread_out() if build.is_sanitized else nullcontext():
            run_stages(job, stop_after="emit")
    except UnsupportedModelError:
        raise
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise Broken(f"{type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno})") from error
    return Emitted(job.results["fuse"], job.results["plan"], job.results["emit"], job.target)


def check_rest(model: onnx.ModelProto, folder: Path) -> None:
    """The rewriting comes to rest: done once more it changes nothing. Raises Broken, UnsupportedModelError."""
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    imported = import_onnx(path)
    rules.simplify(imported.model, imported.ledger)
    for stage in (rules.simplify, rules.recognize, rules.recognize):
        before = model_text(imported.model)
        ledger = Ledger()
        for node in all_nodes(imported.model.graph):
            for name in origins(node):
                ledger.register(name, node.op_type)
        stage(imported.model, ledger)
        after = model_text(imported.model)
        if before != after and stage is rules.simplify:
            raise Broken(f"simplify does not come to rest:\n{before}\nbecomes\n{after}")


class Library:
    """Several models compiled into one library; to be closed. Raises Broken with the compiler's words."""

    def __init__(self, models: Sequence[Emitted], build: Build, folder: Path) -> None:
        target = target_for(build.cpu)
        compiler = find_compiler("gcc", target)
        # However little there is to do, every call is shared among the threads.
        flags = compiler.compile_flags(target, (*STRICT, *build.flags))
        source, path = folder / "models.c", folder / "models.so"
        source.write_text(joined([m.module for m in models], exact=build.is_sanitized))
        command = [*compiler.argv, *flags, "-DGF_WORK_PER_THREAD=1", "-shared", str(source), "-o", str(path)]
        # The compiler itself is not to be watched.
        environment = {name: text for name, text in os.environ.items() if name != "LD_PRELOAD"}
        command += ["-lm", "-lpthread"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            raise Broken(f"the C compiler: {done.stderr[:2000]}")
        self._library = ctypes.CDLL(str(path))
        self.runners = [
            Runner(m.module, self._library, f"_{k}", m.plan if build.is_sanitized else None)
            for k, m in enumerate(models)
        ]

    def close(self) -> None:
        _ctypes.dlclose(self._library._handle)


def runs_of(drawn: Drawn) -> dict[str, dict[str, Array]]:
    """The sets of inputs that a model runs on: the drawn ones, other sizes, extreme values."""
    sizes = {s: SYMBOLS[s] for s in drawn.symbols}
    found = {"drawn": drawn.inputs(sizes)}
    if drawn.fixed:
        return found
    if sizes:
        other = {s: (1, 2, 5, 16)[(drawn.seed + k) % 4] for k, s in enumerate(sizes)}
        found[f"{other}"] = drawn.inputs(other)
    if drawn.seed % 3 == 0:
        found["special"] = drawn.inputs(sizes, special=True)
    return found


def judges_of(model: onnx.ModelProto, runs: Mapping[str, Mapping[str, Array]]) -> dict[str, Judge]:
    """The runs that a reference accepts."""
    found = {}
    for name, inputs in runs.items():
        try:
            if is_defined(model, inputs):
                found[name] = Judge(model, inputs)
        except NoAnswer:
            continue
    return found


def check_runs(runner: Runner, judges: Mapping[str, Judge]) -> tuple[Counter[str], str, str]:
    """The verdicts, and the first failure's kind and text, empty where there is none."""
    counts: Counter[str] = Counter()
    for name, judge in judges.items():
        try:
            results = runner(judge.inputs)
            again = runner(judge.inputs, threads=2)
        except GuardFailed:
            counts["guarded"] += 1
            continue
        except AssertionError as error:
            return counts, "memory", f"{name}: {error}"
        except Exception as error:
            return counts, "crash", f"{name}: {type(error).__name__}: {error}"
        if [_bits(y) for y in results] != [_bits(y) for y in again]:
            return counts, "threads", f"{name}: two threads give other bits than one"
        verdict = judge(results)
        counts[verdict.how] += 1
        if verdict.how == "wrong":
            return counts, "wrong", f"{name}: {verdict.text}"
    return counts, "", ""


def _bits(y: Array) -> bytes:
    """An array's bytes, every NaN the same: its sign goes with the order of operands, which nobody promises."""
    return np.where(np.isnan(y), np.nan, y).astype(y.dtype).tobytes() if y.dtype.kind in "fV" else y.tobytes()


def check_batch(models: Sequence[Drawn], build: Build, extra: bool = True) -> Tally:
    """Each model by default and in one way more, all in one library."""
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="graphfuse-fuzz-") as name:
        folder = Path(name)
        prepared: list[tuple[Drawn, str, Emitted]] = []
        for drawn in models:
            others = [way for way in ways() if way != "default"]
            for way in ["default", *([others[drawn.seed % len(others)]] if extra else [])]:
                _prepare(drawn, way, build, folder, tally, prepared)
        for library, part in _libraries(prepared, build, folder, tally):
            known: dict[int, dict[str, Judge]] = {}
            for runner, (drawn, way, _) in zip(library.runners, part, strict=True):
                if drawn.seed not in known:
                    known = {drawn.seed: judges_of(drawn.model, runs_of(drawn))}
                counts, kind, text = check_runs(runner, known[drawn.seed])
                tally.counts += counts
                if kind:
                    tally.failures.append(Failure(drawn.seed, way, kind, text))
            library.close()
    return tally


def _prepare(
    drawn: Drawn, way: str, build: Build, folder: Path, tally: Tally, prepared: list[tuple[Drawn, str, Emitted]]
) -> None:
    try:
        prepared.append((drawn, way, emit(drawn.model, way, build, folder)))
        tally.counts[f"compiled {way}"] += 1
        if way == "default" and drawn.seed % 4 == 0:
            check_rest(drawn.model, folder)
    except UnsupportedModelError as error:
        tally.counts["refused"] += 1
        for op, _, reason in error.nodes:
            tally.counts[f"refused: {op}: {reason}"[:100]] += 1
    except Broken as error:
        tally.failures.append(Failure(drawn.seed, way, "broken", str(error)))


def _libraries(prepared: list[tuple[Drawn, str, Emitted]], build: Build, folder: Path, tally: Tally) -> Any:
    """All in one library; where the C compiler refuses that, each in one of its own."""
    if not prepared:
        return
    try:
        yield Library([e for _, _, e in prepared], build, folder), prepared
        return
    except Broken as error:
        if len(prepared) == 1:
            drawn, way, _ = prepared[0]
            if _COMPILERS_BUG in str(error):
                tally.counts[_COMPILERS_BUG] += 1
                return
            tally.failures.append(Failure(drawn.seed, way, "C", str(error)))
            return
    for one in prepared:
        yield from _libraries([one], build, folder, tally)
