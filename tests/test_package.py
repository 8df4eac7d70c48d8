"""What a user installs: the wheel holds every source, header and data file, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KINDS = {".py", ".c", ".h", ".onnx", ".npz", ".typed"}


def test_the_wheel_holds_the_package_and_its_data(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    subprocess.run([*command, str(ROOT)], check=True)
    [wheel] = tmp_path.glob("graphfuse-*-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        entry_points = archive.read(next(name for name in names if name.endswith("entry_points.txt"))).decode()
    source = ROOT / "src"
    expected = {
        p.relative_to(source).as_posix() for p in source.rglob("*") if p.suffix in KINDS or p.name == "py.typed"
    }
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert {"graphfuse/py.typed", "graphfuse/demo/digits.onnx", "graphfuse/demo/digits_test.npz"} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert "graphfuse = graphfuse.cli:main" in entry_points
