"""The thread pool: every element once, any number of threads, callers, forks; fast while hot, quiet while idle."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from runtime.native import HERE, Build, builds, compile_c, has_gcc, instruction_sets

CASES = ("cover", "split", "churn", "idle", "share", "fork", "pauses")
THREADS = (1, 2, 3, 8)
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(program: Path, case: str, threads: int) -> str:
    """What the case printed; a hang ends in TimeoutExpired."""
    done = subprocess.run([program, case, str(threads)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{case} with {threads} threads: exit {done.returncode}\n{done.stderr}"
    return done.stdout


def plain_build() -> Build:
    return builds()[0]


@pytest.fixture(scope="module")
def program(object_folder: Path) -> Path:
    return compile_c(plain_build(), HERE / "pool.c", object_folder)


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("case", CASES)
def test_pool(program: Path, case: str, threads: int) -> None:
    run(program, case, threads)


@pytest.mark.skipif(CORES < 2, reason="one core has nothing to fork to")
def test_a_hot_fork_and_join_takes_less_than_two_microseconds(program: Path) -> None:
    assert float(run(program, "latency", 2).split()[0]) < 2


def test_more_threads_than_cores_do_not_crawl(program: Path) -> None:
    """Mean of 2000 forks on four times as many threads as cores, in microseconds."""
    assert float(run(program, "crowd", 4 * CORES).split()[0]) < 2000


SANITIZERS = {
    "address": ("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    # the fence orders a flag, not data, and forks with threads are beyond this sanitizer
    "thread": ("-fsanitize=thread", "-Wno-tsan"),
}


@pytest.mark.sanitize
@pytest.mark.skipif(not has_gcc(), reason="the sanitizers come with gcc")
@pytest.mark.parametrize("threads", (2, 5))
@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_pool_under_sanitizers(sanitizer: str, threads: int, object_folder: Path) -> None:
    build = Build("gcc", instruction_sets()[0])
    program = compile_c(build, HERE / "pool.c", object_folder, "-O1", "-g", *SANITIZERS[sanitizer])
    for case in CASES:
        if (sanitizer, case) != ("thread", "fork"):
            run(program, case, threads)


@pytest.mark.skipif(not has_gcc(), reason="a second compiler")
def test_pool_built_by_gcc(object_folder: Path) -> None:
    program = compile_c(Build("gcc", instruction_sets()[-1]), HERE / "pool.c", object_folder)
    for case in CASES:
        run(program, case, 3)


def test_pool_without_threads(tmp_path: Path) -> None:
    """-DGF_NO_THREADS: no header of threads, gf_parallel is a call."""
    source = tmp_path / "alone.c"
    source.write_text("""
#include "gf_pool.c"
static void count(void *const *p, const int64_t *d, int64_t r0, int64_t r1, int64_t c0, int64_t c1, char *scratch) {
    (void)scratch;
    *(int64_t *)p[0] += (r1 - r0) * (c1 - c0) * d[0];
}
int main(void) {
    int64_t sum = 0, one = 1;
    void *p[1] = {&sum};
    gf_pool *pool = gf_pool_create(4);
    gf_parallel(pool, count, p, &one, 7, 2, 5, 1, 1000000000, 0, 0);
    gf_parallel(pool, count, p, &one, 0, 2, 5, 1, 1000000000, 0, 0);
    int threads = gf_pool_threads(pool);
    gf_pool_destroy(pool);
    return !(sum == 35 && threads == 1);
}
""")
    program = compile_c(plain_build(), source, tmp_path, "-DGF_NO_THREADS")
    assert subprocess.run([program]).returncode == 0
