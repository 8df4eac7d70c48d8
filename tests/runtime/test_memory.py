"""Partial vectors touch nothing beyond their elements: pages that fault on either side, and the sanitizers."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from runtime.native import HERE, Build, builds, compile_c, has_gcc, instruction_sets


def run(program: Path) -> None:
    done = subprocess.run([program], capture_output=True, text=True)
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stderr}"


@pytest.mark.parametrize("build", builds(), ids=str)
def test_partial_vectors_stay_inside(build: Build, object_folder: Path) -> None:
    run(compile_c(build, HERE / "edges.c", object_folder))


@pytest.mark.sanitize
@pytest.mark.skipif(not has_gcc(), reason="the sanitizers come with gcc")
@pytest.mark.parametrize("isa", instruction_sets())
def test_partial_vectors_under_sanitizers(isa: str, object_folder: Path) -> None:
    flags = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    run(compile_c(Build("gcc", isa), HERE / "edges.c", object_folder, *flags))
