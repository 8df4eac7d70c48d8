"""The machine's limits: measured, plausible, remembered; kernels without warnings for every vector width."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from graphfuse.bench import limits as module
from graphfuse.bench.limits import KINDS, MachineLimits, machine_limits, working_sets
from graphfuse.errors import InputError
from graphfuse.options import CompileOptions
from graphfuse.target import Target, host_target


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> CompileOptions:
    return CompileOptions(cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def measured(options: CompileOptions) -> MachineLimits:
    return machine_limits((1, 2), options=options)


def test_figures_are_plausible(measured: MachineLimits) -> None:
    """Bounds so wide that they hold on every machine of the last fifteen years, and fail for a wrong unit or count."""
    assert [found.threads for found in measured.limits] == [1, 2]
    for found in measured.limits:
        lanes = host_target().lanes
        assert 0.5e9 * lanes < found.flops < 2 * 2 * 2 * 7e9 * lanes * found.threads
        assert 0 < found.fork < 1e-3
        names = [level.name for level in found.levels]
        assert names[:2] == ["L1", "L2"]
        assert names[-1] == "memory"
        for level in found.levels:
            for kind in KINDS:
                assert 5e8 < getattr(level, kind) < 2e12 * found.threads
    # On one thread alone: where others work too, two rarely run at the same time.
    alone = measured.limits[0]
    assert alone.levels[0].read > 1.2 * alone.levels[-1].read


def test_remembered(measured: MachineLimits, options: CompileOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(module, "_Bench", fail)
    assert machine_limits((1, 2), options=options) == measured
    assert machine_limits((2,), options=options).limits == measured.limits[1:]
    with pytest.raises(AssertionError, match="measured again"):
        machine_limits((1,), options=options, fresh=True)
    with pytest.raises(AssertionError, match="measured again"):
        machine_limits((3,), options=options)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 1}', "\0", "nan", '{"format": 1, "limits": [{"threads": 1}]}']
)
def test_damaged_memory_is_no_memory(measured: MachineLimits, options: CompileOptions, text: str) -> None:
    [file] = (options.cache_root() / "limits").glob("*.json")
    kept = file.read_text()
    try:
        file.write_text(text)
        assert module._read(file) is None
        data = json.loads(kept)
        data["limits"][0]["flops"] = float("nan")
        file.write_text(json.dumps(data))
        assert module._read(file) is None
    finally:
        file.write_text(kept)
    assert module._read(file) == measured


def test_wrong_threads() -> None:
    with pytest.raises(InputError, match="0 threads"):
        machine_limits((0,))


@pytest.mark.parametrize("l2, l3, threads", [(1 << 20, 32 << 20, 2), (2 << 20, 2 << 20, 1), (512 << 10, 8 << 20, 64)])
def test_working_sets_fit(l2: int, l3: int, threads: int) -> None:
    target = Target("x86_64", l1=32 << 10, l2=l2, l3=l3)
    sets = {name: (size, each) for name, size, each in working_sets(target, threads)}
    assert sets["L1"][1] < target.l1
    assert target.l1 < sets["L2"][1] < l2
    if "L3" in sets:
        assert 2 * l2 <= sets["L3"][1]
        assert sets["L3"][1] * threads <= l3
    assert sets["memory"][1] * threads >= min(4 * l3, module._memory() // 8) - threads


@pytest.mark.parametrize("lanes, chains", [(4, 12), (8, 12), (16, 28)])
@pytest.mark.parametrize("cc", ["gcc", "zig"])
def test_no_warnings(lanes: int, chains: int, cc: str, tmp_path: Path) -> None:
    from graphfuse.target import target_for
    from graphfuse.toolchain.compiler import find_compiler

    source = module._Source(lanes, chains)
    text = "\n".join([source.preamble, *source.kernels.values(), source.main])
    (tmp_path / "limits.c").write_text(text)
    target = target_for({4: "x86_64", 8: "x86_64_v3", 16: "x86_64_v4"}[lanes])
    compiler = find_compiler(cc, target)
    flags = [*compiler.compile_flags(target), "-Wall", "-Wextra", "-Werror"]
    command = [*compiler.argv, *flags, "-c", "limits.c", "-o", "limits.o"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:2000]
