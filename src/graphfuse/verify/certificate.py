"""The certificate: what was compared with what, on which inputs, and how it came out."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

from graphfuse.verify.compare import OutputReport


@dataclass(frozen=True)
class InputRecord:
    """One input of the comparison; origin: "given" or how it was generated; sha256: of its bytes in C order."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    origin: str
    sha256: str


@dataclass(frozen=True)
class Certificate:
    """The outcome of one verification, kept in the artifact as certificate.json.

    dims: values of the model's free dimensions; seed: of the generated inputs; versions: of graphfuse, the reference
    and NumPy; rule: the tolerance in words.
    """

    passed: bool
    outputs: tuple[OutputReport, ...]
    inputs: tuple[InputRecord, ...]
    dims: dict[str, int]
    seed: int
    threads: int
    versions: dict[str, str]
    rule: str

    @property
    def reference(self) -> str:
        """What was compared with: "onnxruntime", or "onnx.reference" for element types that it lacks."""
        return next((name for name in self.versions if name not in ("graphfuse", "numpy")), "onnxruntime")

    @property
    def verdict(self) -> str:
        """One line: that all agree and the largest error, or the first output that does not, where and by how much."""
        failed = [report for report in self.outputs if not report.passed]
        if not self.outputs:
            return "there is no output to compare: lists of no tensors"
        if not failed:
            worst = max(self.outputs, key=lambda report: report.max_rel)
            count = len(self.outputs)
            agree = "the output agrees" if count == 1 else f"all {count} outputs agree"
            return f"{agree} with {self.reference}, largest relative error {worst.max_rel:.2g} (output {worst.name!r})"
        first = failed[0]
        more = f"; {len(failed) - 1} more outputs differ" if len(failed) > 1 else ""
        where = (
            f": {first.ours:.9g} instead of {first.expected:.9g} at {list(first.position)}" if first.position else ""
        )
        return f"the output {first.name!r} differs from {self.reference}'s, {first.reason}{where}{more}"

    def to_json(self) -> str:
        """The text of certificate.json: strict JSON, NaN and infinity spelled as strings."""
        fields = {"passed": self.passed, "verdict": self.verdict, **_plain(asdict(self))}
        return json.dumps(fields, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
