"""Where the compiled C of these tests is kept between runs."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def object_folder(request: pytest.FixtureRequest) -> Path:
    """A folder inside pytest's cache, shared by all workers."""
    cache = request.config.cache
    assert cache is not None
    return cache.mkdir("graphfuse-runtime")
