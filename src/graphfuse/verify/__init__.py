"""Verification of a compiled model against independent references."""

from __future__ import annotations

from graphfuse.verify.certificate import Certificate, InputRecord
from graphfuse.verify.check import verify
from graphfuse.verify.compare import OutputReport, Tolerance, compare
from graphfuse.verify.inputs import generate_inputs, integer_range, plausible_dims
from graphfuse.verify.reference import Reference, intermediate_values, run_double, to_double
from graphfuse.verify.regions import WrongRegion, first_wrong_region

__all__ = [
    "Certificate",
    "InputRecord",
    "OutputReport",
    "Reference",
    "Tolerance",
    "WrongRegion",
    "compare",
    "first_wrong_region",
    "generate_inputs",
    "integer_range",
    "intermediate_values",
    "plausible_dims",
    "run_double",
    "to_double",
    "verify",
]
