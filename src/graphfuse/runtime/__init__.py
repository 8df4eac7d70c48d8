"""The C that travels with every artifact: vectors, elementary functions, thread pool."""

from __future__ import annotations
