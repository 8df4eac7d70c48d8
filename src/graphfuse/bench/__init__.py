"""This project against its peers, on the same machine, in turns."""

from __future__ import annotations

from graphfuse.bench.compare import bench
from graphfuse.bench.result import BenchResult, Timing, render

__all__ = ["BenchResult", "Timing", "bench", "render"]
