"""Targets: read from a machine's own files, the same name for the same code, no code where it cannot run."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphfuse import target as targets
from graphfuse.errors import InputError
from graphfuse.options import CompileOptions, default_cache_root
from graphfuse.target import (
    FEATURES,
    NAMED_CPUS,
    X86_LEVELS,
    Target,
    cache_sizes,
    cpu_quota,
    host_target,
    level_of,
    missing_here,
    target_for,
)

V3_FLAGS = [flag for level in ("x86_64", "x86_64_v2", "x86_64_v3") for flag in X86_LEVELS[level]]
V4_FLAGS = [*V3_FLAGS, *X86_LEVELS["x86_64_v4"]]


def test_this_machine_runs_its_own_code() -> None:
    host = host_target()
    assert missing_here(host) == ()
    assert target_for(host.cpu_name) == host
    assert host.cores >= 1
    assert 8 << 10 <= host.l1 <= host.l2 <= host.l3 << 4


@pytest.mark.parametrize(
    "flags, expected",
    [
        (V4_FLAGS, ("x86_64_v4", ())),
        ([*V4_FLAGS, "avx512_vnni", "avx_vnni"], ("x86_64_v4", ("avx512vnni", "avxvnni"))),
        # A hypervisor may hide AVX-512 and leave the flag of its extension.
        ([*V3_FLAGS, "avx512_vnni", "avx_vnni"], ("x86_64_v3", ("avxvnni",))),
        ([flag for flag in V3_FLAGS if flag != "fma"], ("x86_64_v2", ())),
        ([], ("x86_64", ())),
    ],
)
def test_the_level_follows_from_the_flags(flags: list[str], expected: tuple[str, tuple[str, ...]]) -> None:
    assert level_of("x86_64", flags) == expected


@pytest.mark.parametrize(
    "cpu, lanes, registers",
    [("x86_64", 4, 16), ("x86_64_v3", 8, 16), ("znver4", 16, 32), ("haswell+avxvnni", 8, 16), ("cortex-a76", 4, 32)],
)
def test_lanes_and_registers(cpu: str, lanes: int, registers: int) -> None:
    target = target_for(cpu)
    assert (target.lanes, target.vector_registers) == (lanes, registers)


@pytest.mark.parametrize("cpu", NAMED_CPUS)
def test_every_named_cpu_is_a_target_that_its_own_name_gives_again(cpu: str) -> None:
    assert target_for(target_for(cpu).cpu_name).key() == target_for(cpu).key()


def test_keys_tell_instruction_sets_apart_and_nothing_else() -> None:
    keys = {target_for(cpu).key() for cpu in (*X86_LEVELS, "x86_64_v4+avx512vnni", "aarch64")}
    assert len(keys) == len(X86_LEVELS) + 2
    one, two = Target("x86_64", cores=1, l2=1 << 20), Target("x86_64", cores=64, l2=2 << 20)
    assert one.key() == two.key()
    assert one.plan_key() != two.plan_key()


@pytest.mark.parametrize("cpu", ["pentium", "x86_64_v9", "x86_64_v3+avx512vnni", "aarch64+avxvnni", "x86_64_v4+", ""])
def test_an_unknown_cpu_is_refused_with_the_known_ones(cpu: str) -> None:
    with pytest.raises(InputError, match=r"choose|has none"):
        target_for(cpu)


def test_what_a_machine_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "host_target", lambda: Target("x86_64", cpu="x86_64_v3"))
    monkeypatch.setattr(targets, "cpu_flags", lambda: frozenset(V3_FLAGS))
    assert missing_here(Target("x86_64", cpu="x86_64_v3")) == ()
    assert set(missing_here(Target("x86_64", cpu="x86_64_v4"))) == set(X86_LEVELS["x86_64_v4"])
    assert missing_here(Target("x86_64", cpu="x86_64_v3", features=("avxvnni",))) == (FEATURES["avxvnni"][1],)
    assert missing_here(Target("aarch64", cpu="aarch64")) == ("aarch64",)
    assert missing_here(Target("x86_64", abi="musl")) == ("musl",)


@pytest.mark.parametrize("wrong", [{"arch": "mips"}, {"cpu": "aarch64"}, {"features": ("dotprod",)}])
def test_a_target_that_cannot_be_is_no_target(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"has no"):
        Target(**{"arch": "x86_64", **wrong})  # type: ignore[arg-type]


def test_cache_sizes_come_from_sysfs(tmp_path: Path) -> None:
    caches = [("1", "Data", "48K"), ("1", "Instruction", "64K"), ("2", "Unified", "2M"), ("3", "Unified", "x")]
    for index, (level, kind, size) in enumerate(caches):
        folder = tmp_path / f"index{index}"
        folder.mkdir()
        for name, text in (("level", level), ("type", kind), ("size", size)):
            (folder / name).write_text(f"{text}\n")
    assert cache_sizes(str(tmp_path)) == (48 << 10, 2 << 20, Target("x86_64").l3)
    assert cache_sizes(str(tmp_path / "none")) == (Target("x86_64").l1, Target("x86_64").l2, Target("x86_64").l3)


@pytest.mark.parametrize(
    "text, expected", [("max 100000\n", None), ("150000 100000\n", 2), ("5000 100000", 1), ("", None)]
)
def test_a_containers_quota_limits_the_cores(tmp_path: Path, text: str, expected: int | None) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert cpu_quota(str(tmp_path)) == expected


def test_the_older_control_groups_quota(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("300000\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert cpu_quota(str(tmp_path)) == 3
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    assert cpu_quota(str(tmp_path)) is None


@pytest.mark.parametrize(
    "wrong, named",
    [
        ({"cpu": "pentium"}, "pentium"),
        ({"cc": ""}, "cc"),
        ({"threads": 0}, "threads"),
        ({"threads": 1000}, "threads"),
        ({"numerics": "fast"}, "numerics"),
        ({"rtol": float("nan")}, "rtol"),
        ({"atol": -1.0}, "atol"),
        ({"cache_bytes": -1}, "cache_bytes"),
        ({"disabled_rules": "fold_bn"}, "disabled_rules"),
    ],
)
def test_options_that_cannot_be_are_refused_by_name(wrong: dict[str, object], named: str) -> None:
    with pytest.raises(InputError, match=named):
        CompileOptions(**wrong)  # type: ignore[arg-type]


def test_the_cache_is_where_the_user_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHFUSE_CACHE_DIR", str(tmp_path / "a"))
    assert CompileOptions().cache_root() == tmp_path / "a"
    assert CompileOptions(cache_dir=tmp_path / "b").cache_root() == tmp_path / "b"
    monkeypatch.delenv("GRAPHFUSE_CACHE_DIR")
    assert default_cache_root().name == "graphfuse"


def test_a_session_gets_the_threads_asked_for_or_all_cores() -> None:
    assert CompileOptions(threads=3).session_threads() == 3
    assert CompileOptions().session_threads() == host_target().cores
