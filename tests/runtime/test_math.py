"""Elementary functions: largest error in ULP against libm in float64, as stated in gf_math.h.

GF_EXHAUSTIVE=1 checks every float32 (a quarter of an hour per build) instead of two million of them.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from runtime.native import HERE, RUNTIME, Build, builds, compile_c, has_gcc, instruction_sets

STEP = 1 if os.environ.get("GF_EXHAUSTIVE") == "1" else 2039
EXACT = ("floor", "ceil", "trunc", "round", "sign", "abs")


def stated_bounds() -> dict[str, float]:
    """The table at the head of gf_math.h, ULP by three kinds of machines: the largest is the bound."""
    rows = re.findall(r"^ \* {3}(\w+)((?: +\d\.\d+){3})$", (RUNTIME / "gf_math.h").read_text(), re.MULTILINE)
    return {name: max(map(float, errors.split())) for name, errors in rows}


@pytest.mark.parametrize("build", builds(), ids=str)
def test_error_is_within_the_stated_bound(build: Build, object_folder: Path) -> None:
    program = compile_c(build, HERE / "ulp.c", object_folder)
    lines = subprocess.run([program, str(STEP)], capture_output=True, text=True, check=True).stdout.splitlines()
    bounds = {**stated_bounds(), "sqrt": 0.5, **dict.fromkeys(EXACT, 0.0)}
    assert sorted(line.split()[0] for line in lines) == sorted(bounds.keys() - {"pow"})
    for line in lines:
        name, ulp, at, wrong = line.split()
        assert float(ulp) <= bounds[name] + 5e-5, f"{name}({at}) is off by {ulp} ULP"
        assert wrong == "0", f"{name}: {wrong} wrong specials, one at {at}"


@pytest.mark.sanitize
@pytest.mark.skipif(not has_gcc(), reason="the sanitizers come with gcc")
def test_no_undefined_behaviour(object_folder: Path) -> None:
    flags = ("-O1", "-fsanitize=undefined", "-fno-sanitize-recover=all")
    program = compile_c(Build("gcc", instruction_sets()[0]), HERE / "ulp.c", object_folder, *flags)
    done = subprocess.run([program, "100003"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_hot_functions_promise_two_ulp() -> None:
    bounds = stated_bounds()
    assert all(bounds[name] <= 2 for name in ("exp", "log", "tanh", "sigmoid", "erf", "sin", "cos"))


def test_the_harness_sees_an_error(tmp_path: Path) -> None:
    """exp against exp of an argument one part in a million away: about eight ULP, and the bound must say so."""
    source = tmp_path / "ulp.c"
    text = (HERE / "ulp.c").read_text()
    assert "X(exp, exp)" in text
    source.write_text(text.replace("X(exp, exp)", "X(exp, off)").replace(
        "#define FUNCTIONS(X)", "static double off(double x) { return exp(x) * 1.000001; }\n#define FUNCTIONS(X)"
    ))  # fmt: skip
    program = compile_c(builds()[0], source, tmp_path)
    line = subprocess.run([program, "100003", "exp"], capture_output=True, text=True, check=True).stdout
    assert float(line.split()[1]) > stated_bounds()["exp"]


def pow_points() -> tuple[np.ndarray, np.ndarray]:
    """Every pair of special values, and 360 000 random pairs over the whole range where the result is finite."""
    special = np.array(
        [0.0, -0.0, 1, -1, 2, -2, 3, -3, 0.5, -0.5, 0.99999994, 1.0000001, -1.0000001, 1e-45, -1e-45, 1.1754944e-38,
         3.4028235e38, -3.4028235e38, np.inf, -np.inf, np.nan, 16777216, 16777215, 8388609, -16777215, 1e30, 33, -33,
         0.33333334, 1.5, -2.5],
        np.float32,
    )  # fmt: skip
    a, b = (grid.ravel() for grid in np.meshgrid(special, special))
    rng = np.random.default_rng(7)
    base = np.exp(rng.uniform(-87, 88, 300_000)).astype(np.float32)
    near_one = np.exp(rng.normal(0, 0.01, 60_000)).astype(np.float32)
    base = np.concatenate([base, near_one])
    base[base == 1] = 3
    exponent = (rng.uniform(-104, 89, base.size) / np.log(base.astype(np.float64))).astype(np.float32)
    base[::5] *= -1
    exponent[::5] = np.round(exponent[::5])
    return np.concatenate([a, base]), np.concatenate([b, exponent])


@pytest.mark.parametrize("build", builds(), ids=str)
def test_pow(build: Build, object_folder: Path) -> None:
    from runtime.test_vector import Operations

    ops = Operations(compile_c(build, HERE / "vector_ops.c", object_folder, "-shared", "-fPIC"))
    x, y = pow_points()
    got = ops.binary("pow_f32", x, y, np.float32)
    with np.errstate(all="ignore"):
        exact = np.power(x.astype(np.float64), y.astype(np.float64))
        want = exact.astype(np.float32)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    finite = np.isfinite(want) & np.isfinite(got) & (want != 0)
    unit = np.spacing(np.minimum(np.abs(want[finite]), np.float32(3e38))).astype(np.float64)
    error = np.abs(got[finite].astype(np.float64) - exact[finite]) / unit
    assert error.max() <= stated_bounds()["pow"]
    rest = ~finite & ~np.isnan(want)
    np.testing.assert_array_equal(got[rest], want[rest])
    np.testing.assert_array_equal(np.signbit(got[rest]), np.signbit(want[rest]))
