"""ONNX's own backend test suite, run through compiled models: `python -m conformance --help`."""

from __future__ import annotations
