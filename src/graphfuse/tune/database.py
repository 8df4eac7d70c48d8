"""What was measured on one kind of machine: a JSON file in the cache folder, `tuning/MACHINE.json`."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from graphfuse.errors import ToolchainError
from graphfuse.target import Target, processor_name
from graphfuse.toolchain.files import disk_errors, write_atomic

_FORMAT = 1


@dataclass(frozen=True)
class Record:
    """What was found best, and the best microseconds of each way that was measured."""

    best: str
    microseconds: dict[str, float]


class Database:
    """Records by key. A file that is damaged, or of another format, counts as empty."""

    def __init__(self, root: Path, target: Target, threads: int) -> None:
        machine = hashlib.sha256(f"{processor_name()} {target.plan_key()} {threads}".encode()).hexdigest()[:16]
        self.path = root / "tuning" / f"{machine}.json"
        self.records = self._read()

    def _read(self) -> dict[str, Record]:
        with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
            data = json.loads(self.path.read_text(encoding="utf-8"))
            if data["format"] == _FORMAT:
                return {str(key): Record(**record) for key, record in data["records"].items()}
        return {}

    def add(self, key: str, best: str, microseconds: dict[str, float]) -> None:
        rounded = {way: round(time, 3) for way, time in microseconds.items()}
        self.records[key] = Record(best, rounded)

    def save(self) -> None:
        """Write the file, with what other processes have written since. Raises ToolchainError when it cannot."""
        self.records = {**self._read(), **self.records}
        records = {key: asdict(self.records[key]) for key in sorted(self.records)}
        with disk_errors(ToolchainError, self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self.path, json.dumps({"format": _FORMAT, "records": records}, indent=1).encode())
