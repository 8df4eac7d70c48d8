"""Targets: the instruction set, cores and caches that code is generated and compiled for.

A target is always an instruction-set level plus a sorted list of extra features, never "native": the same name means
the same machine code wherever it is compiled, so a cache may be shared between machines and an artifact can say what it
needs.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from graphfuse.errors import InputError

# Levels of the x86-64 psABI, each with the /proc/cpuinfo flags it adds ("abm" is how Linux spells lzcnt).
X86_LEVELS: dict[str, tuple[str, ...]] = {
    "x86_64": ("sse2",),
    "x86_64_v2": ("cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"),
    "x86_64_v3": ("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"),
    "x86_64_v4": ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"),
}
AARCH64_LEVELS: dict[str, tuple[str, ...]] = {"aarch64": ("asimd",)}

# Extra features that kernels may use, as zig and gcc both name them -> (lowest level they go with, /proc/cpuinfo flag).
FEATURES: dict[str, tuple[str, str]] = {
    "avx512bf16": ("x86_64_v4", "avx512_bf16"),
    "avx512vbmi": ("x86_64_v4", "avx512vbmi"),
    "avx512vnni": ("x86_64_v4", "avx512_vnni"),
    "avxvnni": ("x86_64_v3", "avx_vnni"),
    "bf16": ("aarch64", "bf16"),
    "dotprod": ("aarch64", "asimddp"),
    "i8mm": ("aarch64", "i8mm"),
}

# CPUs by name, as level plus features, so that one of them can be asked for without knowing its instruction sets.
NAMED_CPUS: dict[str, str] = {
    "haswell": "x86_64_v3",
    "skylake": "x86_64_v3",
    "alderlake": "x86_64_v3+avxvnni",
    "skylake_avx512": "x86_64_v4",
    "cascadelake": "x86_64_v4+avx512vnni",
    "icelake_server": "x86_64_v4+avx512vbmi+avx512vnni",
    "sapphirerapids": "x86_64_v4+avx512bf16+avx512vbmi+avx512vnni+avxvnni",
    "znver1": "x86_64_v3",
    "znver2": "x86_64_v3",
    "znver3": "x86_64_v3",
    "znver4": "x86_64_v4+avx512bf16+avx512vbmi+avx512vnni",
    "znver5": "x86_64_v4+avx512bf16+avx512vbmi+avx512vnni+avxvnni",
    "cortex_a72": "aarch64",
    "cortex_a76": "aarch64+dotprod",
    "neoverse_n1": "aarch64+dotprod",
    "neoverse_v1": "aarch64+bf16+dotprod+i8mm",
}

_LANES = {"x86_64": 4, "x86_64_v2": 4, "x86_64_v3": 8, "x86_64_v4": 16, "aarch64": 4}
_REGISTERS = {"x86_64": 16, "x86_64_v2": 16, "x86_64_v3": 16, "x86_64_v4": 32, "aarch64": 32}

# Assumed where the system does not tell: the smallest found on desktop and server cores of the last ten years.
_DEFAULT_L1, _DEFAULT_L2, _DEFAULT_L3 = 32 << 10, 512 << 10, 8 << 20


@dataclass(frozen=True)
class Target:
    """The machine that code is made for.

    arch: "x86_64" | "aarch64"; os: "linux"; abi: C library, "gnu" | "musl"; cpu: instruction-set level in zig's
    spelling; features: extra instruction sets, zig's names, sorted; cores: physical cores to run on; l1, l2, l3: data
    cache bytes (l1 and l2 of one core, l3 shared). Raises ValueError for an unknown arch, cpu or feature.
    """

    arch: str
    os: str = "linux"
    abi: str = "gnu"
    cpu: str = "x86_64"
    features: tuple[str, ...] = ()
    cores: int = field(default=1, compare=False)
    l1: int = _DEFAULT_L1
    l2: int = _DEFAULT_L2
    l3: int = _DEFAULT_L3

    def __post_init__(self) -> None:
        if self.arch not in ("x86_64", "aarch64") or self.cpu not in _levels(self.arch):
            raise ValueError(f"{self.arch!r} has no instruction-set level {self.cpu!r}")
        if unknown := [name for name in self.features if name not in _features_of(self.cpu)]:
            raise ValueError(f"{self.cpu!r} has no feature {unknown[0]!r}")

    @property
    def converts_f16(self) -> bool:
        """Whether the instruction set converts half precision: F16C, which comes with AVX2, or NEON."""
        return self.lanes > 4 or self.arch == "aarch64"

    @property
    def lanes(self) -> int:
        """float32 lanes of one vector register: 16 (AVX-512), 8 (AVX2) or 4 (SSE, NEON)."""
        return _LANES[self.cpu]

    @property
    def vector_registers(self) -> int:
        """Architectural vector registers: 32 with AVX-512 and on AArch64, else 16."""
        return _REGISTERS[self.cpu]

    @property
    def cpu_name(self) -> str:
        """Level and features in one string that `target_for` takes, e.g. "x86_64_v4+avx512vnni"."""
        return "+".join((self.cpu, *self.features))

    def key(self) -> str:
        """What the machine code depends on: same key, same instructions. Holds no core count or cache size."""
        return f"{self.arch}-{self.os}-{self.abi}-{self.cpu_name}"

    def plan_key(self) -> str:
        """What the generated C depends on: `key` plus the cache sizes that tile and strip sizes are chosen by."""
        return f"{self.key()}-{self.l1}-{self.l2}-{self.l3}"

    def required_flags(self) -> tuple[str, ...]:
        """The /proc/cpuinfo flags that the machine code needs, sorted."""
        flags: set[str] = set()
        for level, added in _levels(self.arch).items():
            flags.update(added)
            if level == self.cpu:
                break
        return tuple(sorted(flags | {FEATURES[name][1] for name in self.features}))


def missing_here(target: Target) -> tuple[str, ...]:
    """What this machine lacks to run code for `target`: an architecture, system or CPU flags; empty if it can run."""
    host = host_target()
    for needed, present in ((target.arch, host.arch), (target.os, host.os), (target.abi, host.abi)):
        if needed != present:
            return (needed,)
    flags = cpu_flags()
    return tuple(flag for flag in target.required_flags() if flag not in flags)


def target_for(cpu: str = "native") -> Target:
    """The target named `cpu`: "native" (this machine), a level, a CPU of NAMED_CPUS, each with "+feature" appended.

    Another CPU than this one's gets this machine's cores and caches if the architecture is the same, else the defaults.
    Raises InputError for a name that is not known, listing those that are.
    """
    host = host_target()
    if cpu == "native":
        return host
    base, *features = cpu.replace("-", "_").split("+")
    level, *implied = NAMED_CPUS.get(base, base).split("+")
    arch = "aarch64" if level in AARCH64_LEVELS else "x86_64"
    if level not in _levels(arch):
        known = ", ".join(("native", *X86_LEVELS, *AARCH64_LEVELS, *NAMED_CPUS))
        raise InputError(f"unknown CPU {cpu!r}", remedy=f"choose one of {known}")
    allowed = _features_of(level)
    for name in features:
        if name not in allowed:
            known = f"choose from {', '.join(allowed)}" if allowed else "it has none"
            raise InputError(f"{name!r} is no feature that {level} can be extended by, in {cpu!r}", remedy=known)
    extra = tuple(sorted({*implied, *features}))
    if arch != host.arch:
        return Target(arch, host.os, host.abi, level, extra)
    return Target(arch, host.os, host.abi, level, extra, host.cores, host.l1, host.l2, host.l3)


@lru_cache(maxsize=1)
def host_target() -> Target:
    """This machine, read from /proc and /sys without running any program.

    Raises InputError on an architecture or a system that graphfuse makes no code for.
    """
    arch = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    system = platform.system().lower()
    if arch not in ("x86_64", "aarch64") or system != "linux":
        raise InputError(f"graphfuse cannot make code for {system} on {arch}", remedy="use Linux on x86-64 or AArch64")
    level, features = level_of(arch, cpu_flags())
    l1, l2, l3 = cache_sizes()
    return Target(arch, system, c_library(), level, features, physical_cores(), l1, l2, l3)


def level_of(arch: str, flags: Iterable[str]) -> tuple[str, tuple[str, ...]]:
    """The highest instruction-set level that the /proc/cpuinfo flags allow, and the extra features above it."""
    present = set(flags)
    level = next(iter(_levels(arch)))
    for name, needed in _levels(arch).items():
        if not present.issuperset(needed):
            break
        level = name
    return level, tuple(name for name in _features_of(level) if FEATURES[name][1] in present)


def _levels(arch: str) -> dict[str, tuple[str, ...]]:
    return X86_LEVELS if arch == "x86_64" else AARCH64_LEVELS


def _features_of(level: str) -> tuple[str, ...]:
    """The features that a level can be extended by, sorted."""
    names = list(X86_LEVELS if level in X86_LEVELS else AARCH64_LEVELS)
    below = names[: names.index(level) + 1]
    return tuple(sorted(name for name, (least, _) in FEATURES.items() if least in below))


@lru_cache(maxsize=1)
def cpu_flags() -> frozenset[str]:
    """The CPU's flags as Linux names them; empty when /proc/cpuinfo cannot be read, which leaves the baseline level."""
    for line in _read("/proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def c_library() -> str:
    """The C library that this Python runs on, "gnu" or "musl": a library for the other one does not load."""
    return "gnu" if platform.libc_ver()[0] == "glibc" else "musl"


def processor_name() -> str:
    """The processor in its maker's words, or the architecture where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == "model name"]
    return names[0] if names else platform.machine()


def physical_cores() -> int:
    """Physical cores that this process may use: its affinity, without hyper-threads, within its container's quota."""
    usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    siblings = [
        _read(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").strip() or str(cpu) for cpu in usable
    ]
    return max(1, min(len(set(siblings)), cpu_quota() or len(siblings)))


def cpu_quota(root: str = "/sys/fs/cgroup") -> int | None:
    """CPUs that the control group (version 2, else 1) allows, rounded up; None if it sets no limit."""
    quota, _, period = _read(f"{root}/cpu.max").strip().partition(" ")
    if not period:
        quota = _read(f"{root}/cpu/cpu.cfs_quota_us").strip()
        period = _read(f"{root}/cpu/cpu.cfs_period_us").strip()
    if not quota.isdigit() or not period.isdigit() or int(period) == 0:
        return None
    return max(1, -(-int(quota) // int(period)))


def cache_sizes(root: str = "/sys/devices/system/cpu/cpu0/cache") -> tuple[int, int, int]:
    """Bytes of the level 1 data, level 2 and level 3 cache; a level without an entry gets a cautious default."""
    sizes = {1: _DEFAULT_L1, 2: _DEFAULT_L2, 3: _DEFAULT_L3}
    for folder in sorted(Path(root).glob("index*")):
        level, kind, size = (_read(str(folder / name)).strip() for name in ("level", "type", "size"))
        digits, unit = size.rstrip("KMG"), size[-1:]
        if kind == "Instruction" or not level.isdigit() or not digits.isdigit():
            continue
        sizes[int(level)] = int(digits) << {"K": 10, "M": 20, "G": 30}.get(unit, 0)
    return sizes[1], sizes[2], sizes[3]


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
