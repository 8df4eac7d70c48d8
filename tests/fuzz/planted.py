"""python -m fuzz.planted: accesses planted in the kernels of small models; which of them the sanitizer notices."""

from __future__ import annotations

import json
import multiprocessing
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from codegen import redzones
from codegen.building import Emitted, Runner, parse
from fuzz.running import Build, Library, emit

WEIGHTS = ",".join("1" * 35)
PRODUCT = f"g (float[N, 5] x) => (float[N, 7] y) <float[5, 7] w = {{{WEIGHTS}}}> {{ a = MatMul(x, w) y = Softmax(a) }}"
SELECTION = "g (float[N, 5] x) => (int64[2, K] y) { y = NonZero(x) }"
X = np.arange(1, 16, dtype=np.float32).reshape(3, 5)


@dataclass(frozen=True)
class Planted:
    """What a kernel, by its number, does first: `access` in C."""

    text: str
    kernel: int
    access: str


def _reads(place: str, byte: int) -> str:
    return f"(void)*((const volatile char *){place} + {byte});"


def _writes(place: str, byte: int) -> str:
    return f"*((volatile char *){place} + {byte}) = 0;"


# With N = 3: x has 60 bytes, w 320 when packed, a and y 84; the places of the 15 elements that NonZero finds, 120.
HARMLESS = {
    "to the last byte": Planted(PRODUCT, 0, _reads("p[0]", 59) + _reads("p[1]", 319) + _writes("p[2]", 83)),
    "scratch": Planted(PRODUCT, 1, _writes("scratch", 63)),
    "measured": Planted(SELECTION, 1, _writes("p[2]", 119)),
}
HARMFUL = {
    "behind an input": Planted(PRODUCT, 0, _reads("p[0]", 60)),
    "before an input": Planted(PRODUCT, 0, _reads("p[0]", -1)),
    "a row behind an input": Planted(PRODUCT, 0, _reads("p[0]", 79)),
    "behind weights": Planted(PRODUCT, 0, _reads("p[1]", 320)),
    "written behind a buffer": Planted(PRODUCT, 0, _writes("p[2]", 84)),
    "read behind a buffer": Planted(PRODUCT, 1, _reads("p[1]", 84)),
    "read before a buffer": Planted(PRODUCT, 1, _reads("p[1]", -1)),
    "written behind an output": Planted(PRODUCT, 1, _writes("p[0]", 84)),
    "written before an output": Planted(PRODUCT, 1, _writes("p[0]", -1)),
    "behind scratch": Planted(PRODUCT, 1, _writes("scratch", 64)),
    "no scratch": Planted(PRODUCT, 0, _reads("scratch", 0)),
    "behind what is measured": Planted(SELECTION, 1, _writes("p[2]", 120)),
    "overflow": Planted(PRODUCT, 0, "volatile int32_t most = INT32_MAX; most = most + 1;"),
}


def _emitted(planted: Planted, number: int, folder: Path) -> Emitted:
    """The model with a kernel changed, under a name of its own."""
    made = emit(parse(planted.text), "default", Build(flags=redzones.FLAGS), folder)
    module = made.module
    name = list(module.kernels)[planted.kernel]
    others = {other: text for other, text in module.kernels.items() if other != name}
    head, brace, body = module.kernels[name].partition("{")
    mine = f"{name}_planted{number}"
    kernels = {**others, mine: f"{head.replace(name, mine)}{brace} {planted.access} {body}"}
    return replace(made, module=replace(module, kernels=kernels, entry=module.entry.replace(name, mine)))


def _run(runner: Runner) -> None:
    redzones.keep_report()
    runner({"x": X})


def main() -> None:
    """Prints what became of each: the sanitizer's report, or nothing, as JSON."""
    cases = {**HARMLESS, **HARMFUL}
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = [_emitted(planted, k, folder) for k, planted in enumerate(cases.values())]
        library = Library(made, Build(flags=redzones.FLAGS), folder)
        for case, runner in zip(cases, library.runners, strict=True):
            process = multiprocessing.get_context("fork").Process(target=_run, args=(runner,))
            process.start()
            process.join()
            found[case] = redzones.report(process.pid) or (f"exit code {process.exitcode}" if process.exitcode else "")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
