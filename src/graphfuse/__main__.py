"""`python -m graphfuse` is `graphfuse`."""

from __future__ import annotations

from graphfuse.cli import main

main()
