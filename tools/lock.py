"""Renew requirements/*.txt: exact versions of what the project and an extra need, with the backend.

Resolves once for each interpreter named, oldest first, and marks the pins in which they differ:

    python tools/lock.py python3.10 python3.11
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "requirements"
BUILD = ["hatchling", "editables"]  # `pip install -e . --no-build-isolation` finds them in the environment
# file -> extra, what its first line says
LOCKS = {
    "lock.txt": ("dev", "`make demo` and `make test` install (run time and development)"),
    "torch.txt": (
        "torch-tests",
        "`make test` adds for PyTorch (its CUDA packages, if any, are left open)",
    ),
    "bench.txt": ("bench", "`make bench` installs (run time and peers; torch's CUDA packages, if any, are left open)"),
}
ADDED = ("torch.txt",)  # installed on top of lock.txt, whose pins hold
HEADER = """\
# Exact versions of everything that {what}, Python 3.10 to 3.13.
# Python 3.10 has pins of its own where a project's newest release no longer supports it. To renew: `make lock`.

"""
# torch exists with and without them, and nothing here uses them.
ACCELERATOR = re.compile(r"(nvidia|cuda|triton)(-|$)")


def python_version(interpreter: str) -> str:
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    return subprocess.run([interpreter, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def resolved(interpreter: str, extra: str) -> dict[str, str]:
    """Normalised name -> version of everything pip would put into an empty environment of `interpreter`."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([interpreter, "-m", "venv", folder], check=True)
        report = Path(folder) / "report.json"
        command = [f"{folder}/bin/python", "-m", "pip", "install", "-q", "--dry-run", "--report", str(report)]
        subprocess.run([*command, f"{ROOT}[{extra}]", *BUILD], check=True)
        installed = json.loads(report.read_text())["install"]
    pins = {re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower(): item["metadata"]["version"] for item in installed}
    del pins["graphfuse"]
    # "2.13.0+cpu" is one build of 2.13.0
    return {name: version.partition("+")[0] for name, version in pins.items() if not ACCELERATOR.match(name)}


def lock_lines(old: dict[str, str], new: dict[str, str], border: str) -> list[str]:
    """Pins of two resolutions; `border` is the Python version from which the second one holds."""
    lines = []
    for name in sorted({*old, *new}):
        if old.get(name) == new.get(name):
            lines.append(f"{name}=={old[name]}")
            continue
        if name in old:
            lines.append(f'{name}=={old[name]} ; python_version < "{border}"')
        if name in new:
            lines.append(f'{name}=={new[name]} ; python_version >= "{border}"')
    return lines


def main() -> None:
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    oldest, newer = sys.argv[1:]
    for file, (extra, what) in LOCKS.items():
        old, new = resolved(oldest, extra), resolved(newer, extra)
        if file in ADDED:
            known = {line.partition("==")[0] for line in (FOLDER / "lock.txt").read_text().splitlines()}
            old, new = ({name: v for name, v in pins.items() if name not in known} for pins in (old, new))
        lines = lock_lines(old, new, python_version(newer))
        (FOLDER / file).write_text(HEADER.format(what=what) + "\n".join(lines) + "\n")
        print(f"{FOLDER / file}: {len(lines)} pins")


if __name__ == "__main__":
    main()
