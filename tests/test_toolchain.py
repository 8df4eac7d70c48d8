"""The toolchain: nothing is built twice, and every way to fail leaves one clear error and nothing else."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from graphfuse.errors import InternalError, ToolchainError
from graphfuse.options import CompileOptions
from graphfuse.target import target_for
from graphfuse.toolchain import ObjectCache, build, content_key, find_compiler, units_of
from graphfuse.toolchain.compiler import Compiler
from handmade import copy_module, rows_module, warm_options

HERE = Path(__file__).parent
LANES = target_for().lanes


def script(path: Path, text: str) -> str:
    """An executable shell script; returns its path."""
    path.write_text("#!/bin/sh\n" + textwrap.dedent(text))
    path.chmod(0o755)
    return str(path)


def fake_gcc(path: Path, compiling: str, machine: str = "$(uname -m)-linux-gnu") -> str:
    """A program that answers as gcc does and runs `compiling` when it should compile."""
    text = f'case "$1" in --version) echo "gcc (fake) 1";; -dumpmachine) echo {machine};; *) {compiling};; esac\n'
    return script(path, text)


def counting_zig(folder: Path) -> tuple[str, Path]:
    """A zig that notes every compilation and link in a file."""
    log = folder / "log"
    log.touch()
    zig = find_compiler("zig", target_for()).argv[0]
    return script(folder / "zig-counting", f'[ "$1" = version ] || echo "$@" >> {log}\nexec {zig} "$@"\n'), log


def run_python(code: str, **kwargs: object) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": str(HERE)}
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.Popen(command, env=env, stdout=pipe, stderr=pipe, text=True, **kwargs)  # type: ignore[call-overload]


def leftovers(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.name.startswith(".tmp-")] + list((cache / "tmp").glob("*"))


def test_a_library_shows_its_face_and_hides_its_kernels(tmp_path: Path) -> None:
    options = warm_options(tmp_path / "cache")
    steps: list[tuple[int, int, str]] = []
    path = build(rows_module(LANES), options.target(), options, tmp_path, lambda *step: steps.append(step))
    library = ctypes.CDLL(str(path))
    face = ("model_run", "model_call", "model_arena_bytes", "model_output_shapes", "model_release", "gf_pool_create")
    for name in face:
        assert hasattr(library, name)
    assert not hasattr(library, "relu_scale")
    assert [step[0] for step in steps] == [1, 2, 3]
    assert {step[1] for step in steps} == {3}
    assert not leftovers(tmp_path / "cache")


def test_the_same_source_gives_the_same_bytes(tmp_path: Path) -> None:
    made = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        options = warm_options(tmp_path / name / "cache")
        made.append(build(rows_module(LANES), options.target(), options, tmp_path / name).read_bytes())
    assert made[0] == made[1]


def test_nothing_is_compiled_twice(tmp_path: Path) -> None:
    zig, log = counting_zig(tmp_path)
    options = warm_options(tmp_path / "cache", cc=zig)
    module = rows_module(LANES)
    first = build(module, options.target(), options, tmp_path).read_bytes()
    assert len(log.read_text().splitlines()) == 3  # kernels, main, link
    assert build(module, options.target(), options, tmp_path).read_bytes() == first
    assert len(log.read_text().splitlines()) == 3
    module.entry += "/* changed */"
    build(module, options.target(), options, tmp_path)
    assert len(log.read_text().splitlines()) == 5  # main, link
    other = warm_options(tmp_path / "cache", cc=zig, cflags=("-DOTHER",))
    build(module, options.target(), other, tmp_path)
    assert len(log.read_text().splitlines()) == 8


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: data[:-1] + b"?"]
)
def test_a_damaged_cache_entry_is_noticed_and_made_anew(tmp_path: Path, damage: object) -> None:
    options = warm_options(tmp_path / "cache")
    first = build(rows_module(LANES), options.target(), options, tmp_path).read_bytes()
    entries = [path for path in (tmp_path / "cache" / "objects").rglob("*") if path.is_file()]
    assert len(entries) == 3
    sound = {path: path.read_bytes() for path in entries}
    for path in entries:
        path.write_bytes(damage(sound[path]))  # type: ignore[operator]
    assert build(rows_module(LANES), options.target(), options, tmp_path).read_bytes() == first
    assert {path: path.read_bytes() for path in entries} == sound


def test_refused_c_is_kept_and_named(tmp_path: Path) -> None:
    options = warm_options(tmp_path / "cache")
    module = rows_module(LANES)
    module.kernels["relu_scale"] += "\nthis is no C"
    with pytest.raises(ToolchainError, match=r"failed on relu_scale .*error: ") as caught:
        build(module, options.target(), options, tmp_path)
    assert caught.value.exit_code == 2
    assert "this is no C" in Path(caught.value.where).read_text()
    assert not (tmp_path / "libmodel.so").exists()
    assert not leftovers(tmp_path / "cache")


def test_a_missing_symbol_is_an_error_when_linking(tmp_path: Path) -> None:
    options = warm_options(tmp_path / "cache")
    module = rows_module(LANES)
    module.entry += "int nowhere(void); GF_API int other(void) { return nowhere(); }"
    with pytest.raises(ToolchainError, match=r"linker failed.*nowhere"):
        build(module, options.target(), options, tmp_path)


def test_what_needs_the_compilers_runtime_links_too(tmp_path: Path) -> None:
    # Division of 128-bit integers is no instruction: the short way to link, without that runtime, cannot do it.
    options = warm_options(tmp_path / "cache")
    module = rows_module(LANES)
    module.entry += "GF_API long wide(long a, long b) { return (long)((__int128)a * a * b / ((__int128)b * a)); }"
    library = ctypes.CDLL(str(build(module, options.target(), options, tmp_path)))
    library.wide.restype = ctypes.c_long
    library.wide.argtypes = [ctypes.c_long, ctypes.c_long]
    assert library.wide(1 << 40, 7) == 1 << 40


@pytest.mark.parametrize(
    "compiling, told",
    [
        ("kill -SEGV $$", "killed by signal 11"),
        ("echo 'fatal error: oh dear' >&2; exit 3", "status 3: fatal error: oh dear"),
        ("exit 0", "status 0: it said nothing"),
    ],
)
def test_a_compiler_that_breaks_down(tmp_path: Path, compiling: str, told: str) -> None:
    cc = fake_gcc(tmp_path / "cc", compiling)
    options = warm_options(tmp_path / "cache", cc=cc)
    with pytest.raises(ToolchainError, match=told) as caught:
        build(rows_module(LANES), options.target(), options, tmp_path)
    assert Path(caught.value.where).is_file()
    assert not leftovers(tmp_path / "cache")


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc here")
def test_a_known_bug_of_a_compiler_is_gone_round(tmp_path: Path) -> None:
    """gcc 12 ends with an internal error in a pass that can be left out."""
    broken = "echo 'internal compiler error: in convert_mode_scalar, at expr.c:412' >&2; exit 1"
    cc = fake_gcc(tmp_path / "cc", f'case "$*" in *-shared*|*-fno-tree-forwprop*) exec gcc "$@";; *) {broken};; esac')
    options = warm_options(tmp_path / "cache", cc=cc)
    assert build(rows_module(LANES), options.target(), options, tmp_path).is_file()


@pytest.mark.parametrize(
    "cc, told",
    [
        (lambda folder: str(folder / "absent"), "no such compiler"),
        (lambda folder: script(folder / "mute", "exit 1\n"), "does not answer"),
        (lambda folder: fake_gcc(folder / "cross", "exit 1", "mips-linux"), "mips-linux, the target is"),
    ],
)
def test_no_working_compiler(tmp_path: Path, cc: object, told: str) -> None:
    options = CompileOptions(cc=cc(tmp_path), cache_dir=tmp_path / "cache")  # type: ignore[operator]
    with pytest.raises(ToolchainError, match=told) as caught:
        build(rows_module(LANES), options.target(), options, tmp_path)
    assert "zig" in caught.value.remedy
    assert not (tmp_path / "cache").exists()


def test_without_zig_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolchainError, match="install the package ziglang"):
        find_compiler("zig", target_for())


def test_a_cache_that_cannot_be_written_says_which_folder_to_choose(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    options = CompileOptions(cache_dir=tmp_path / "file")
    with pytest.raises(ToolchainError, match="GRAPHFUSE_CACHE_DIR"):
        build(rows_module(LANES), options.target(), options, tmp_path)


def test_a_full_disk_seen_by_us(tmp_path: Path) -> None:
    # A limit on the size of files stands in for a full disk: the same calls fail, and it needs no mount.
    warm_options(tmp_path / "cache")
    code = f"""
        import resource, sys
        from pathlib import Path
        from handmade import *
        from graphfuse.errors import ToolchainError
        options = warm_options(Path({str(tmp_path / "cache")!r}))
        find_compiler("zig", options.target())
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        try:
            build(rows_module({LANES}), options.target(), options, Path({str(tmp_path)!r}))
        except ToolchainError as error:
            print(error)
    """
    child = run_python(code)
    output, errors = child.communicate(timeout=100)
    assert "no space left to write; free some space" in output, errors
    assert not (tmp_path / "libmodel.so").exists()
    assert not leftovers(tmp_path / "cache")


@pytest.mark.parametrize("sign", ["write error: No space left on device", "error: unable to save: NoSpaceLeft"])
def test_a_full_disk_seen_by_the_compiler(tmp_path: Path, sign: str) -> None:
    cc = fake_gcc(tmp_path / "cc", f"echo '{sign}' >&2; exit 1")
    options = warm_options(tmp_path / "cache", cc=cc)
    with pytest.raises(ToolchainError, match="no space left to write; free some space"):
        build(rows_module(LANES), options.target(), options, tmp_path)


def test_an_interrupt_ends_the_compilers_and_leaves_nothing(tmp_path: Path) -> None:
    # The compiler is a shell that waits for a child of its own: both have to go.
    pids = tmp_path / "pids"
    cc = fake_gcc(tmp_path / "cc", f"sleep 300 & echo $$ $! >> {pids}; wait")
    code = f"""
        from pathlib import Path
        from handmade import *
        options = warm_options(Path({str(tmp_path / "cache")!r}), cc={cc!r})
        build(rows_module({LANES}), options.target(), options, Path({str(tmp_path)!r}))
    """
    child = run_python(code)
    deadline = time.monotonic() + 60
    while not (pids.exists() and pids.read_text().endswith("\n")) and time.monotonic() < deadline:
        time.sleep(0.05)
    running = [int(pid) for pid in pids.read_text().split()]
    assert running
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=20)
    assert "KeyboardInterrupt" in errors
    deadline = time.monotonic() + 10
    while any(is_running(pid) for pid in running) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(is_running(pid) for pid in running)
    assert not leftovers(tmp_path / "cache")
    assert not (tmp_path / "libmodel.so").exists()


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_processes_share_a_cache(tmp_path: Path) -> None:
    warm_options(tmp_path / "cache")
    code = f"""
        import sys
        from pathlib import Path
        from handmade import *
        folder = Path({str(tmp_path)!r}) / sys.argv[0].replace("-c", "") / str(__import__("os").getpid())
        folder.mkdir()
        options = warm_options(Path({str(tmp_path / "cache")!r}))
        for k in range(3):
            build(rows_module({LANES}), options.target(), options, folder)
            ObjectCache = __import__("graphfuse.toolchain", fromlist=["x"]).ObjectCache
            ObjectCache(options.cache_root(), 0).prune()
        print(__import__("hashlib").sha256((folder / "libmodel.so").read_bytes()).hexdigest())
    """
    children = [run_python(code) for _ in range(3)]
    results = [child.communicate(timeout=200) for child in children]
    assert {child.returncode for child in children} == {0}, results
    assert len({output for output, _ in results}) == 1
    assert not leftovers(tmp_path / "cache")


def test_units_hold_short_kernels_together_and_long_ones_alone() -> None:
    module = copy_module(LANES, "float32", 4, ["N"])
    module.kernels = {"a": "x" * 100, "b": "x" * 20_000, "c": "x" * 7000, "d": "x" * 4000, "e": "x" * 7000}
    units = units_of(module)
    assert [unit.name for unit in units] == ["a", "b", "c", "e", "model.main"]
    assert units[2].text.count("x" * 4000) >= 2
    assert all(unit.text.startswith(module.preamble) for unit in units)


@pytest.mark.parametrize("name", ["../../etc/passwd", "a b", "1a", "", "ä", "a\n"])
def test_a_kernel_name_that_is_no_identifier_reaches_no_path(name: str) -> None:
    module = copy_module(LANES, "float32", 4, ["N"])
    module.kernels = {name: "void f(void) {}"}
    with pytest.raises(InternalError, match="C identifier"):
        units_of(module)


@pytest.mark.parametrize("cpu", ["x86_64", "x86_64_v3", "x86_64_v4+avx512vnni", "aarch64+dotprod"])
@pytest.mark.parametrize("family", ["zig", "gcc", "clang"])
def test_flags_name_the_instruction_set_and_keep_ieee_results(cpu: str, family: str) -> None:
    flags = Compiler(("cc",), family, "1").compile_flags(target_for(cpu), ("-DMINE",))
    assert flags[-1] == "-DMINE"
    assert not {"-ffast-math", "-Ofast", "-march=native", "-mcpu=native", "-funsafe-math-optimizations"} & {*flags}
    assert "-fPIC" in flags
    if cpu.startswith("x86_64_v4"):
        # Otherwise LLVM splits every 512-bit vector in two.
        assert any("prefer_256_bit" in flag or flag == "-mprefer-vector-width=512" for flag in flags)


@pytest.mark.parametrize("cpu", ["x86_64", "x86_64_v3", "aarch64"])
def test_zig_builds_for_other_machines(tmp_path: Path, cpu: str) -> None:
    options = warm_options(tmp_path / "cache", cpu=cpu)
    library = build(rows_module(options.target().lanes), options.target(), options, tmp_path).read_bytes()
    assert library[:4] == b"\x7fELF"
    assert int.from_bytes(library[18:20], "little") == {"x86_64": 62, "aarch64": 183}[options.target().arch]


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc here")
def test_gcc_builds_too(tmp_path: Path) -> None:
    options = warm_options(tmp_path / "cache", cc="gcc")
    library = ctypes.CDLL(str(build(rows_module(LANES), options.target(), options, tmp_path)))
    assert hasattr(library, "model_run")
    assert not hasattr(library, "relu_scale")


def test_the_cache_is_pruned_by_age(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path, limit=10_000)
    keys = [content_key(str(k)) for k in range(12)]
    for age, key in enumerate(keys):
        cache.put(key, bytes(1000))
        path = next((tmp_path / "objects").glob(f"*/{key}"))
        os.utime(path, (1e9 + age, 1e9 + age))
    assert cache.get(keys[0]) == bytes(1000)  # now the one used last
    assert cache.prune() >= 2000
    assert cache.info().object_bytes <= 8000
    assert cache.get(keys[0]) is not None
    assert cache.get(keys[1]) is None
    assert cache.get(keys[11]) is not None
    assert cache.prune() == 0


def test_old_models_and_leftovers_are_pruned(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path, limit=1000)
    for folder in (
        cache.models / "old.gf",
        cache.models / "new.gf",
        tmp_path / "tmp" / "stale",
        tmp_path / "tmp" / "live",
    ):
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(bytes(600))
    for folder in (cache.models / "old.gf", tmp_path / "tmp" / "stale"):
        os.utime(folder, (1e9, 1e9))
    cache.prune()
    assert [path.name for path in sorted(tmp_path.glob("*/*"))] == ["new.gf", "live"]


def test_a_cache_tells_what_it_holds_and_is_cleared(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path)
    assert cache.info().entries == 0
    cache.put(content_key("a"), b"12345")
    (cache.zig / "o").mkdir(parents=True)
    (cache.zig / "o" / "x").write_bytes(bytes(100))
    info = cache.info()
    assert (info.entries, info.object_bytes, info.zig_bytes, info.other_bytes) == (1, 70, 100, 0)
    assert cache.clear() == 170
    assert cache.info().object_bytes == cache.info().zig_bytes == 0
    assert cache.get(content_key("a")) is None


def test_keys_do_not_run_together() -> None:
    assert len({content_key("ab", "c"), content_key("a", "bc"), content_key("abc"), content_key("abc", "")}) == 4
