"""This project against its peers, on the same machine, in turns: `compare.bench` one model, `suite.measure` many.

Nothing is imported here: a worker shares this package with the driver, and has to hold its own runtime alone.
"""

from __future__ import annotations
