"""The pipeline: the stages in order, each a function from one value to the next."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from graphfuse import __version__, rules
from graphfuse.artifact import reuse
from graphfuse.artifact.bundle import Bundle, Staging, read_bundle, stage_bundle
from graphfuse.artifact.fused_model import fused_model, write_fused_model
from graphfuse.artifact.manifest import Manifest
from graphfuse.artifact.manifest import Tensor as ManifestTensor
from graphfuse.codegen import strip
from graphfuse.codegen.module import Module, assemble
from graphfuse.errors import ArtifactError, GraphfuseError, InputError, VerificationError
from graphfuse.fusion.program import lower_graph
from graphfuse.fusion.regions import Fusion, Region, fuse
from graphfuse.graph.dims import TYPICAL
from graphfuse.graph.lists import results
from graphfuse.graph.randomness import give_seeds
from graphfuse.graph.text import model_text
from graphfuse.importers.common import StateVariable
from graphfuse.importers.open import open_model
from graphfuse.importers.source import Source
from graphfuse.kernels import CONTRACTION_KERNELS, NEST_KERNELS, rows
from graphfuse.ledger import Ledger
from graphfuse.options import CompileOptions, Hints
from graphfuse.plan.account import account
from graphfuse.plan.calls import Choose, Plan, cheapest, leanest
from graphfuse.plan.footprint import note_memory, note_weights
from graphfuse.plan.in_place import take_places
from graphfuse.plan.planner import plan
from graphfuse.plan.strips import chain_calls
from graphfuse.plan.text import fusion_text, plan_text
from graphfuse.runtime.preamble import pool_source, preamble, slots_source
from graphfuse.runtime.session import Session
from graphfuse.target import Target, missing_here
from graphfuse.toolchain.build import build
from graphfuse.toolchain.cache import ObjectCache
from graphfuse.toolchain.compiler import find_compiler
from graphfuse.tune.tuner import Maker, tune
from graphfuse.verify import Certificate, first_wrong_region, generate_inputs, intermediate_values, verify
from graphfuse.verify.probe import region_values

Progress = Callable[[str], None]

# The error classes of rules and kernels that strict numerics allows.
STRICT = ("exact", "reassociated")
# Products that strict numerics adds up one after another: so many terms of a sum round as those of a long one do not.
STRICT_SUM_BLOCK = 128


@dataclass
class Job:
    """One compilation: what goes in, and what each stage made of it.

    model: the model, or the path of its file; output: where the artifact goes (None: nowhere, the stages up to "emit"
    are all that can run); inputs and dims: what verification uses, generated where not given; profile: build the
    library with `model_profile` (see `assemble`); updatable: keep the imported graph as `pristine`, for `Updater`;
    hints, allow_pickle: of a file, see `open_model`.
    """

    model: Source | Path
    options: CompileOptions
    output: Path | None = None
    inputs: Mapping[str, np.ndarray] = field(default_factory=dict)
    dims: Mapping[str, int] = field(default_factory=dict)
    progress: Progress = lambda _: None
    profile: bool = False
    updatable: bool = False
    pristine: ir.Model | None = None
    hints: Hints = field(default_factory=Hints)
    allow_pickle: bool = False
    staging: Staging | None = None
    states: tuple[StateVariable, ...] = ()
    ranges: Mapping[str, tuple[int, int | None]] = field(default_factory=dict)
    ledger: Ledger = field(default_factory=Ledger)
    results: dict[str, Any] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)

    @cached_property
    def source(self) -> Source:
        """What is compiled. Raises ModelFileError for a path that is no model's."""
        if not isinstance(self.model, Path):
            return self.model
        return open_model(self.model, self.allow_pickle, self.hints, self.inputs)

    @property
    def where(self) -> str:
        """What messages call the model."""
        return str(self.model) if isinstance(self.model, Path) else self.model.where

    @cached_property
    def target(self) -> Target:
        return self.options.target()


@dataclass(frozen=True)
class Stage:
    """A named step; `dump` renders its result as text."""

    name: str
    run: Callable[[Job, Any], Any]
    dump: Callable[[Any], str]


def import_model(job: Job, _: None) -> ir.Model:
    imported = job.source.read()
    job.ledger, job.states, job.ranges = imported.ledger, imported.states, imported.ranges
    for state in imported.states:
        job.ledger.note("import", state.input, f"a state, kept between calls: the next is {state.output}")
    give_seeds(imported.model, job.options.seed, job.ledger)
    job.pristine = imported.model.clone() if job.updatable else None
    return imported.model


def simplify(job: Job, model: ir.Model) -> ir.Model:
    return rules.simplify(model, job.ledger, _disabled(job))


def recognize(job: Job, model: ir.Model) -> ir.Model:
    return rules.recognize(model, job.ledger, _disabled(job))


def _disabled(job: Job) -> frozenset[str]:
    """The rules to leave out: those the user names, and with strict numerics those that change what is rounded."""
    disabled = set(job.options.disabled_rules)
    if job.options.numerics == "strict":
        disabled |= {file.name for file in rules.rule_files() if file.error_class not in STRICT}
    return frozenset(disabled)


def fuse_model(job: Job, model: ir.Model) -> Fusion:
    strict = job.options.numerics == "strict"
    return fuse(lower_graph(model.graph, job.where, job.dims, strict))


def plan_fusion(job: Job, fusion: Fusion) -> Plan:
    options = job.options
    kernels = [k for k in CONTRACTION_KERNELS if options.numerics != "strict" or k.error_class in STRICT]
    sum_block = STRICT_SUM_BLOCK if options.numerics == "strict" else 0

    usual = leanest(job.target.l2) if options.optimize == "memory" else cheapest

    def improve(planned: Plan) -> Plan:
        if options.strips:
            planned = chain_calls(planned, strip, job.target, options.optimize)
        return take_places(planned)

    def calls_of(fusion: Fusion, choose: Choose) -> Plan:
        return plan(fusion, kernels, rows.emit, job.target, job.where, NEST_KERNELS, choose, sum_block, improve)

    if options.tune:
        planned = take_places(_tuned(job, fusion, calls_of, usual))
    else:
        planned = improve(calls_of(fusion, usual))
    account(job.results["fuse"], planned, job.ledger)
    note_memory(planned, job.ledger)
    return planned


def _tuned(job: Job, fusion: Fusion, calls_of: Callable[[Fusion, Choose], Plan], usual: Choose) -> Plan:
    """The plan chosen by measurement; the fusion too may be another then."""
    if missing_here(job.target):
        remedy = "compile on the machine itself, or leave out the tuning"
        raise InputError(f"{job.target.cpu_name} code cannot be measured here: it does not run", remedy=remedy)

    def arrays(module: Module) -> dict[str, np.ndarray]:
        manifest = _manifest(job, module)
        model = job.source.proto()
        dims = {name: job.dims.get(name, fusion.program.one_item.get(name, TYPICAL)) for name in module.dims}
        return {**generate_inputs(manifest, model, dims, seed=0), **job.inputs}

    maker = Maker(calls_of, usual, lambda planned: emit(job, planned, clocks=True), arrays)
    tuned = tune(fusion, maker, job.target, job.options, job.ledger, job.progress)
    job.results["fuse"] = tuned.fusion
    return tuned.plan


def emit(job: Job, planned: Plan, clocks: bool = False) -> Module:
    lanes = job.target.lanes
    preambles = (preamble(lanes, False), preamble(lanes, True))
    return assemble(planned, preambles, pool_source(), slots_source(), job.options.embed_weights, job.profile or clocks)


def emit_module(job: Job, planned: Plan) -> Module:
    module = emit(job, planned)
    note_weights(module.weights, job.ledger)
    return module


def build_library(job: Job, module: Module) -> Bundle:
    assert job.staging is not None
    report = _steps(job.progress)
    build(module, job.target, job.options, job.staging.folder, report)
    job.staging.add("model.c", module.source())
    job.staging.add("model.h", module.header)
    if not job.options.embed_weights:
        job.staging.add("weights.bin", module.weight_chunks())
    if job.states:
        job.staging.add("states.bin", [np.ascontiguousarray(state.initial).tobytes() for state in job.states])
    job.staging.add("ledger.json", job.ledger.to_json())
    fused = fused_model(job.results["fuse"], job.results["recognize"])
    write_fused_model(fused, job.staging.folder / "fused.onnx")
    return job.staging.seal(_manifest(job, module))


def verify_library(job: Job, bundle: Bundle) -> Certificate | None:
    if not job.options.verify:
        return None
    if missing_here(job.target):
        job.ledger.note("verify", job.where, f"not verified: {job.target.cpu_name} code does not run on this machine")
        return None
    with Session(bundle, threads=job.options.threads) as session:
        certificate = verify(
            session,
            job.source,
            inputs=job.inputs or None,
            dims=job.dims,
            rtol=job.options.rtol,
            atol=job.options.atol,
        )
    if not certificate.passed and not job.options.keep_going:
        raise VerificationError(certificate.verdict, where=job.where, why=locate(job, certificate))
    return certificate


def locate(job: Job, certificate: Certificate) -> str:
    """Where a wrong result first arises, in words: a region of the compiled model, or the rewriting before it.

    Needs the results of the stages up to "emit", and runs on the inputs that the certificate was made with.
    """
    inputs = _verified_inputs(job, certificate)
    fusion: Fusion = job.results["fuse"]
    ours = region_values(fusion, job.results["plan"], lambda planned: emit(job, planned), job.options, inputs)
    rewritten = ir.to_proto(job.results["recognize"])
    computed = {name for node in rewritten.graph.node for name in node.output}
    regions = [(_title(fusion, r), [n for n in _value_names(r) if n in ours and n in computed]) for r in fusion.regions]
    theirs = intermediate_values(rewritten, [name for _, names in regions for name in names], inputs)

    def pick(values: Mapping[str, np.ndarray]) -> Callable[[Sequence[str]], Mapping[str, np.ndarray]]:
        return lambda names: {name: values[name] for name in names}

    wrong = first_wrong_region(regions, pick(ours), pick(theirs))
    if wrong is None:
        return "every region agrees with the rewritten model, so the fault lies in a rewrite rule"
    return f"first wrong in region {wrong.region}: the value {wrong.reports[0].name!r}, {wrong.reports[0].reason}"


def _verified_inputs(job: Job, certificate: Certificate) -> dict[str, np.ndarray]:
    """The inputs that a certificate was made with: those given, and the others generated once more."""
    positive = any("positive" in record.origin for record in certificate.inputs)
    manifest = _manifest(job, job.results["emit"])
    return {**generate_inputs(manifest, job.source.proto(), certificate.dims, certificate.seed, positive), **job.inputs}


def _title(fusion: Fusion, region: Region) -> str:
    names = dict.fromkeys(fusion.program.name(t) for t in region.tensors)
    return f"{region.name} ({', '.join(names)})"


def _value_names(region: Region) -> list[str]:
    return [t.value.name for t in region.outputs if t.value is not None and t.value.name]


def bundle_artifact(job: Job, certificate: Certificate | None) -> Bundle:
    assert job.staging is not None
    if certificate is not None:
        job.staging.add("certificate.json", certificate.to_json())
    return job.staging.seal(_manifest(job, job.results["emit"]))


STAGES = (
    Stage("import", import_model, model_text),
    Stage("simplify", simplify, model_text),
    Stage("recognize", recognize, model_text),
    Stage("fuse", fuse_model, fusion_text),
    Stage("plan", plan_fusion, plan_text),
    Stage("emit", emit_module, lambda module: module.source()),
    Stage("build", build_library, lambda bundle: f"{bundle.library.name}\n"),
    Stage("verify", verify_library, lambda certificate: certificate.to_json() if certificate else "not verified\n"),
    Stage("bundle", bundle_artifact, lambda bundle: bundle.manifest.to_json()),
)
# The stages that need a place to write.
_WRITING = ("build", "verify", "bundle")


def run_stages(job: Job, *, stop_after: str | None = None, dump: Callable[[str, str], None] | None = None) -> Job:
    """Run the stages up to `stop_after` (default: all); `dump` is called with each stage's name and its result as text.

    Raises GraphfuseError. An artifact appears at `job.output` only when every stage went well.
    """
    names = [s.name for s in STAGES]
    last = stop_after or names[-1]
    if last not in names:
        raise InputError(f"there is no stage {last!r}", remedy=f"choose one of {', '.join(names)}")
    with ExitStack() as stack:
        value: Any = None
        for stage in STAGES[: names.index(last) + 1]:
            if stage.name in _WRITING and job.staging is None:
                job.staging = stack.enter_context(stage_bundle(_output(job)))
            job.progress(stage.name)
            started = time.perf_counter()
            value = stage.run(job, value)
            job.timings[stage.name] = time.perf_counter() - started
            job.results[stage.name] = value
            if dump is not None:
                dump(stage.name, stage.dump(value))
    return job


def _output(job: Job) -> Path:
    if job.output is None:
        raise InputError("an artifact needs a place", remedy="give an output folder, such as model.gf")
    return job.output


@dataclass
class Compiled:
    """A finished compilation."""

    artifact: Path
    job: Job

    @property
    def ledger(self) -> Ledger:
        return self.job.ledger

    @property
    def certificate(self) -> Certificate | None:
        found: Certificate | None = self.job.results["verify"]
        return found

    def session(self, threads: int | None = None) -> Session:
        return load(self.artifact, threads=threads or self.job.options.threads)


def compile_model(
    model: Source | str | Path,
    output: str | Path,
    options: CompileOptions | None = None,
    progress: Progress | None = None,
    inputs: Mapping[str, np.ndarray] | None = None,
    dims: Mapping[str, int] | None = None,
    hints: Hints | None = None,
    allow_pickle: bool = False,
) -> Compiled:
    """Compile a model, or a file, into an artifact folder. Raises GraphfuseError; then nothing is left at `output`.

    hints, allow_pickle: for files, see `open_model`.
    """
    source = model if isinstance(model, Source) else Path(model)
    job = Job(
        source, options or CompileOptions(), Path(output), inputs or {}, dims or {}, progress or (lambda _: None),
        hints=hints or Hints(), allow_pickle=allow_pickle,
    )  # fmt: skip
    run_stages(job)
    return Compiled(Path(output), job)


def compile(path: str | Path, hints: Hints | None = None, allow_pickle: bool = False, **options: Any) -> Session:
    """A session for a model file, compiled for this machine and cached by content.

    hints, allow_pickle: see `open_model`; options: fields of `CompileOptions`. Raises GraphfuseError.
    """
    chosen, hints = CompileOptions(**options), hints or Hints()
    if not chosen.cache:
        with tempfile.TemporaryDirectory(prefix="graphfuse-") as folder:
            output = Path(folder) / "model.gf"
            return compile_model(path, output, chosen, hints=hints, allow_pickle=allow_pickle).session()
    found = reuse.find(Path(path), chosen, hints.key())
    if found is None:
        source = open_model(Path(path), allow_pickle, hints)
        compiled = compile_model(source, _kept_place(source, chosen, hints.key()), chosen)
        session = compiled.session()
        if not _is_sound(compiled.job):
            shutil.rmtree(compiled.artifact, ignore_errors=True)  # what is loaded stays
        return session
    try:
        return Session(found, threads=chosen.threads)
    except ArtifactError:  # pruned meanwhile
        return compile(path, hints, allow_pickle, **{**options, "cache": False})


def keep(job: Job, extra: str = "") -> None:
    """Keep a finished artifact in the cache for `reuse.find`, unless its results are wrong.

    A disk that does not take it is no error.
    """
    if not _is_sound(job):
        return
    with suppress(GraphfuseError, OSError):
        assert job.output is not None
        reuse.copy(read_bundle(job.output, runnable=False), _kept_place(job.source, job.options, extra))
        ObjectCache(job.options.cache_root(), job.options.cache_bytes).prune()


def _is_sound(job: Job) -> bool:
    certificate: Certificate | None = job.results.get("verify")
    return certificate is None or certificate.passed


def _kept_place(source: Source, options: CompileOptions, extra: str = "") -> Path:
    if source.path is None:
        raise ArtifactError("a model in memory has no place in the cache", where=source.where)
    reuse.know(source.path, options, source.companions())
    artifact = reuse.place(source.path, options, extra)
    if artifact is None:
        raise ArtifactError("the model's weights cannot be read", where=source.where)
    return artifact


def load(artifact: str | Path, threads: int | None = None) -> Session:
    """A session for an artifact folder. Raises ArtifactError."""
    return Session(read_bundle(artifact), threads=threads)


# ---------------------------------------------------------------- helpers


def _steps(progress: Progress) -> Callable[[int, int, str], None]:
    return lambda done, total, what: progress(f"build {done}/{total} {what}")


def _manifest(job: Job, module: Module) -> Manifest:
    def tensors(ports: list[Any]) -> tuple[ManifestTensor, ...]:
        return tuple(ManifestTensor(p.name, p.dtype, tuple(p.shape)) for p in ports)

    kept = len(job.states)
    inputs, outputs = tensors(module.inputs), tensors(module.outputs)
    inputs, states = inputs[: len(inputs) - kept], inputs[len(inputs) - kept :]
    lists = results(job.results["recognize"])
    return Manifest(
        inputs,
        outputs[: len(outputs) - kept],
        tuple(module.dims),
        tuple(module.guards),
        job.target,
        __version__,
        find_compiler(job.options.cc, job.target).version,
        measured=tuple(module.measured),
        results={name: names for name, names in lists.items() if name not in {state.output for state in job.states}},
        states=states,
        source=job.source.format,
        ranges={name: limits for name, limits in job.ranges.items() if name in module.dims},
    )
