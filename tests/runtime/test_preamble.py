"""The text that starts every translation unit: complete, free of warnings, for every target."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from graphfuse.runtime.preamble import LANES, pool_source, preamble
from runtime.native import STRICT, builds

KERNEL = """
GF_KERNEL void soften(void *const *p, const int64_t *d, int64_t r0, int64_t r1, int64_t c0, int64_t c1, char *scratch);
GF_KERNEL void soften(void *const *p, const int64_t *d, int64_t r0, int64_t r1, int64_t c0, int64_t c1, char *scratch) {
    const float *x = p[0];
    float *y = p[1];
    (void)c0, (void)c1, (void)scratch;
    for (int64_t r = r0; r < r1; r++) {
        int64_t i = r * d[0], end = i + d[0];
        for (; i + GF_W <= end; i += GF_W) gf_store_f32(y + i, gf_softplus_f32(gf_load_f32(x + i)));
        gf_store_part_f32(y + i, gf_softplus_f32(gf_load_part_f32(x + i, end - i)), end - i);
    }
}
"""
DECLARATION = KERNEL.split(";")[0] + ";\n"
MAIN = """
int main(void) {
    float x[3 * 37], y[3 * 37];
    for (int i = 0; i < 3 * 37; i++) x[i] = 0;
    void *p[2] = {x, y};
    int64_t d[1] = {37};
    gf_pool *pool = gf_pool_create(2);
    gf_parallel(pool, soften, p, d, 3, 1, 1, 1, 1000000, 0, 0);
    gf_pool_destroy(pool);
    for (int i = 0; i < 3 * 37; i++) {
        if (fabsf(y[i] - 0.69314718f) > 1e-7f) return 1;
    }
    return 0;
}
"""


def compile_units(folder: Path, argv: list[str], **units: str) -> Path:
    files = [folder / f"{name}.c" for name in units]
    for file, text in zip(files, units.values(), strict=True):
        file.write_text(text)
    command = [*argv, "-Wall", "-Wextra", *STRICT, *map(str, files), "-o", str(folder / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "out"


@pytest.mark.parametrize("standard", ("-std=c11", "-std=gnu11"))
@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("build", [builds()[0], builds()[-1]], ids=str)
def test_any_lanes_on_any_machine(build, lanes: int, standard: str, tmp_path: Path) -> None:
    """Wider vectors than the machine's are slow, but right: one file, and one unit per kernel."""
    argv = [*build.argv(), "-O2", standard]
    libraries = ["-lm", "-lpthread"]
    whole = preamble(lanes, True) + pool_source() + KERNEL + MAIN
    program = compile_units(tmp_path, [*argv, *libraries], whole=whole)
    assert subprocess.run([program]).returncode == 0
    head = preamble(lanes, False)
    program = compile_units(
        tmp_path, [*argv, *libraries], kernel=head + KERNEL, main=head + pool_source() + DECLARATION + MAIN
    )
    assert subprocess.run([program]).returncode == 0


@pytest.mark.parametrize(
    ("target", "flags"),
    [
        ("aarch64-linux-gnu", []),
        ("riscv64-linux-musl", []),
        ("aarch64-macos-none", []),
        ("wasm32-wasi", ["-msimd128", "-DGF_NO_THREADS"]),
        ("x86_64-linux-gnu.2.17", []),
    ],
)
def test_other_targets_compile(target: str, flags: list[str], tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "ziglang", "cc", "-target", target, "-std=gnu11", "-O2", "-c", *flags]
    compile_units(tmp_path, argv, whole=preamble(4, True) + pool_source() + KERNEL + MAIN)


def test_the_text_stands_alone() -> None:
    text = preamble(8, False) + pool_source()
    included = [line for line in text.splitlines() if line.startswith("#include")]
    assert all("<" in line for line in included)
    assert preamble(8, False) == preamble(8, False)


def test_unknown_lanes_are_refused() -> None:
    with pytest.raises(ValueError, match="5 vector lanes"):
        preamble(5, True)
