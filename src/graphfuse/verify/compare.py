"""Comparing one output with a reference: what counts as equal, by how much it differs, and where."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

# Relative tolerance by dtype. float32: 1e-4 is 840 units in the last place; a network a hundred layers deep loses two
# to three digits to the order of its sums alone, and Winograd's transforms up to two bits more. The others in
# proportion to their precision; float16 and bfloat16 round every intermediate value, so they are given no more digits
# than they have.
DEFAULT_TOLERANCE = {"float32": 1e-4, "float64": 1e-10, "float16": 1e-2, "bfloat16": 8e-2}
# An output of a saturating function has the scale 1, and near 0 the reference is no better than two units in the last
# place of 1: onnxruntime's float32 sigmoid, for one, is 0 from about -16 on, where 1e-7 would be right.
SATURATING = ("HardSigmoid", "Sigmoid", "Softmax", "Tanh")
SATURATED_FLOOR = 2.4e-7
# How much farther from a float64 run than onnxruntime's float32 the result may be where it is outside the tolerance.
DOUBLE_FACTOR = 4.0
# Where onnxruntime itself is farther than this from a float64 run, relative to the output's root mean square, something
# other than rounding is at work - a wrong float64 run, say - and no result is judged by it.
DOUBLE_TRUST = {"float16": 0.2, "bfloat16": 0.5}
DOUBLE_TRUST_ELSE = 1e-2


@dataclass(frozen=True)
class Tolerance:
    """ours and reference agree where |ours - reference| <= atol + rtol * |reference|.

    rtol: None for the dtype's own (DEFAULT_TOLERANCE); atol: None for rtol times the root mean square of the
    reference's finite values. The rounding error of a sum goes with the size of its terms and not with that of the
    sum, so an output near zero is as uncertain as its neighbours are, and a fixed atol would be too wide for small
    outputs and too narrow for large ones. `floor` is the least that atol None means, for outputs of a known scale.
    Integers and booleans must be equal.
    """

    rtol: float | None = None
    atol: float | None = None
    floor: float = 0.0

    def of(self, dtype: np.dtype[Any], scale: float) -> tuple[float, float]:
        """(rtol, atol) for one output of `dtype` whose reference has the root mean square `scale`."""
        rtol = DEFAULT_TOLERANCE.get(dtype.name, 0.0) if self.rtol is None else self.rtol
        return rtol, max(rtol * scale, self.floor) if self.atol is None else self.atol


@dataclass(frozen=True)
class OutputReport:
    """How one output compares; errors are measured where both are finite.

    max_abs: largest |ours - reference|; max_rel: largest |ours - reference| / max(|reference|, scale), scale being the
    reference's root mean square; position: index of the worst element (empty for none); ours, expected: its two values;
    rtol, atol: tolerance used; finite: fraction of finite values in the reference; double_ours, double_reference:
    largest distance of either from a float64 run, None without one; passed, and the reason if not.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    passed: bool
    reason: str = ""
    max_abs: float = 0.0
    max_rel: float = 0.0
    position: tuple[int, ...] = ()
    ours: float = 0.0
    expected: float = 0.0
    rtol: float = 0.0
    atol: float = 0.0
    finite: float = 1.0
    double_ours: float | None = None
    double_reference: float | None = None


def compare(
    name: str, ours: Array, reference: Array, tolerance: Tolerance | None = None, double: Array | None = None
) -> OutputReport:
    """The report on output `name`; `double` is the same output of a float64 run of the original model.

    An output fails for another dtype or shape, a NaN or infinity that the other does not have in the same place with
    the same sign, or an element outside the tolerance - unless a float64 run shows that ours is at most DOUBLE_FACTOR
    times as far from it as the reference is: then the model is that sensitive to rounding, and the reference no better.
    """
    known: dict[str, Any] = {"name": name, "dtype": reference.dtype.name, "shape": tuple(reference.shape)}
    if ours.dtype != reference.dtype:
        return OutputReport(**known, passed=False, reason=f"the dtype is {ours.dtype}, expected {reference.dtype}")
    if ours.shape != reference.shape:
        return OutputReport(**known, passed=False, reason=f"the shape is {ours.shape}, expected {reference.shape}")
    if reference.size == 0:
        return OutputReport(**known, passed=True)
    if reference.dtype.name not in DEFAULT_TOLERANCE:
        return _compare_exactly(known, ours, reference)
    return _compare_floats(known, ours, reference, tolerance or Tolerance(), double)


def _compare_exactly(known: dict[str, Any], ours: Array, reference: Array) -> OutputReport:
    differs = ours != reference
    if ours.dtype.name.startswith("float"):  # float 8 and float 4: NaN matches NaN
        differs &= ~(np.isnan(ours.astype(np.float32)) & np.isnan(reference.astype(np.float32)))
    if not differs.any():
        return OutputReport(**known, passed=True)
    distance = np.abs(ours.astype(np.float64) - reference.astype(np.float64))
    known |= _worst(np.where(differs, distance, -1.0), ours, reference)
    reason = f"{int(differs.sum())} of {differs.size} elements differ"
    return OutputReport(**known, passed=False, reason=reason, max_abs=float(distance.max()))


def _compare_floats(
    known: dict[str, Any], ours: Array, reference: Array, tolerance: Tolerance, double: Array | None
) -> OutputReport:
    a, b = ours.astype(np.float64), reference.astype(np.float64)
    finite = np.isfinite(b)
    scale = _root_mean_square(b[finite])
    rtol, atol = tolerance.of(reference.dtype, scale)
    known |= {"rtol": rtol, "atol": atol, "finite": float(finite.mean())}
    # NaN matches NaN whatever its bits, infinity only the same infinity.
    strange = ~finite | ~np.isfinite(a)
    wrong = strange & ~((a == b) | (np.isnan(a) & np.isnan(b)))
    if wrong.any():
        known |= _worst(wrong.astype(np.float64), ours, reference)
        return OutputReport(**known, passed=False, reason="a NaN or infinity does not match")
    with np.errstate(invalid="ignore"):
        distance = np.where(strange, 0.0, np.abs(a - b))
    limit = np.where(strange, 1.0, atol + rtol * np.abs(b))
    with np.errstate(divide="ignore", invalid="ignore"):
        excess = np.where(distance > 0, distance / limit, 0.0)
        relative = np.where(distance > 0, distance / np.maximum(np.where(strange, 1.0, np.abs(b)), scale), 0.0)
    known |= _worst(excess, ours, reference)
    known |= {"max_abs": float(distance.max()), "max_rel": float(relative.max())}
    known |= _distances(a, b, double)
    outside = int((distance > limit).sum())
    if not outside:
        return OutputReport(**known, passed=True)
    far, reference_far = known["double_ours"], known["double_reference"]
    trust = DOUBLE_TRUST.get(reference.dtype.name, DOUBLE_TRUST_ELSE) * scale
    if far is not None and far <= DOUBLE_FACTOR * reference_far and reference_far <= trust:
        return OutputReport(**known, passed=True, reason="judged by a float64 run: the reference is as far from it")
    return OutputReport(
        **known, passed=False, reason=f"{outside} of {distance.size} elements are outside the tolerance"
    )


def _distances(a: Array, b: Array, double: Array | None) -> dict[str, float | None]:
    """The largest distances of ours and of the reference from the float64 run, where all three are finite."""
    if double is None or double.shape != b.shape:
        return {"double_ours": None, "double_reference": None}
    exact = double.astype(np.float64)
    with np.errstate(invalid="ignore"):
        both = np.isfinite(a) & np.isfinite(b) & np.isfinite(exact)
        ours, reference = (np.where(both, np.abs(value - exact), 0.0).max() for value in (a, b))
    return {"double_ours": float(ours), "double_reference": float(reference)}


def _worst(badness: Array, ours: Array, reference: Array) -> dict[str, Any]:
    position = tuple(int(i) for i in np.unravel_index(int(np.argmax(badness)), badness.shape))
    return {"position": position, "ours": float(ours[position]), "expected": float(reference[position])}


def _root_mean_square(values: Array) -> float:
    if values.size == 0:
        return 0.0
    largest = float(np.abs(values).max())  # squares of values near the limit of float64 would overflow
    return largest * math.sqrt(float(np.mean((values / largest) ** 2))) if largest > 0 else 0.0
