"""That the fuzzer under sanitizers notices an access of one byte beyond anything."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from codegen import redzones
from fuzz.planted import HARMFUL, HARMLESS


@pytest.mark.sanitize
def test_planted_accesses_are_noticed() -> None:
    environment = redzones.environment() | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "fuzz.planted"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {name: found[name] for name in HARMLESS} == dict.fromkeys(HARMLESS, "")
    kinds = {name: found[name].split("\n")[0] for name in HARMFUL}
    expected = {name: "signed-integer-overflow" if name == "overflow" else "use-after-poison" for name in HARMFUL}
    expected["behind scratch"] = "heap-buffer-overflow"
    assert kinds == expected
    assert all("_planted" in found[name] for name in HARMFUL), found
