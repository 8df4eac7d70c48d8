"""python -m zoo NAME FILE: write one model of the zoo to a file."""

from __future__ import annotations

import sys

import onnx

import zoo

if len(sys.argv) != 3 or sys.argv[1] not in zoo.NAMES:
    raise SystemExit(f"usage: python -m zoo NAME FILE, with NAME one of: {', '.join(zoo.NAMES)}")
onnx.save(zoo.load(sys.argv[1]), sys.argv[2])
