"""Fixtures for every test: models of the zoo and published ones, by name."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

import real_models
import zoo

# The same examples every time: a failure seen once is seen again.
settings.register_profile("graphfuse", derandomize=True, deadline=None)
settings.load_profile("graphfuse")

# A shell starts its background jobs deaf to Ctrl-C; in the tests, and in what they start, it is heard.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def zoo_model() -> Callable[..., Path]:
    """zoo_model("resnet18", seed=0) -> its .onnx file."""
    return zoo.path


@pytest.fixture(scope="session")
def real_model() -> Callable[[str], Path]:
    """real_model("magika") -> its .onnx file; without a network the test is skipped, under CI=true it fails."""

    def fetch(name: str) -> Path:
        try:
            return real_models.fetch(name)
        except real_models.Unavailable as error:
            reason = f"the published model '{name}' cannot be had: {error}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)

    return fetch
