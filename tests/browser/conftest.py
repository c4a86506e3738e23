"""What the browser tests share: small models on disk, and one relay process per module that serves one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser.peers import PREFIX, write_small_model
from browser.talking import PREFIX as TALKING_PREFIX
from browser.talking import write_talking_model
from interop.running import relay


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random Llama as a Hugging Face directory."""
    return write_small_model(tmp_path_factory.mktemp("model") / "small")


@pytest.fixture(scope="module")
def origin(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A relay that offers the small model; its ready event."""
    folder = tmp_path_factory.mktemp("relay")
    with relay(folder, "--model", small_model, "--prefix", PREFIX) as ready:
        yield ready


@pytest.fixture(scope="session")
def talking_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random Llama that can be talked to."""
    return write_talking_model(tmp_path_factory.mktemp("model") / "talking")


@pytest.fixture(scope="module")
def talking_origin(talking_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A relay that offers it; its ready event."""
    folder = tmp_path_factory.mktemp("relay")
    with relay(folder, "--model", talking_model, "--prefix", TALKING_PREFIX) as ready:
        yield ready
