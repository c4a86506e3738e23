"""A small site on loopback for the tests that drive a real browser."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from kwaainet.native.model import Model, open_model

PAGE = """<!doctype html><title>a page</title><p>hello</p>
<script>
addEventListener("pagehide", () => navigator.sendBeacon("/left"));
const worker = new Worker("worker.js");
worker.onmessage = (message) => dispatchEvent(new CustomEvent("worked", { detail: message.data }));
console.warn("a warning", 5);
</script>"""
WORKER = """fetch("data.bin").then((r) => r.arrayBuffer()).then((b) => {
console.error("from the worker"); postMessage({ size: b.byteLength }); });"""
DATA_SIZE = 50_000


class Site(SimpleHTTPRequestHandler):
    """The files of a folder; remembers what was POSTed to."""

    posted: list[str]

    def do_POST(self) -> None:
        self.posted.append(self.path)
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def posted() -> list[str]:
    """The paths that the site's pages POSTed to."""
    return []


@pytest.fixture
def site(tmp_path: Path, posted: list[str]) -> Iterator[str]:
    """The address of a page with a worker that fetches ``DATA_SIZE`` bytes and tells the page."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "index.html").write_text(PAGE)
    (folder / "worker.js").write_text(WORKER)
    (folder / "data.bin").write_bytes(bytes(DATA_SIZE))
    handler = type("BoundSite", (Site,), {"posted": posted})
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def tiny_model(tmp_path: Path, write_gguf: Callable[..., Path], tiny_weights: Any) -> Model:
    """Two blocks, random weights, a context of 64 tokens, ``tiny-hf``."""
    return open_model(write_gguf(tmp_path / "tiny.gguf", tiny_weights))


@pytest.fixture
def tiny_gguf(tmp_path: Path, write_gguf: Callable[..., Path], tiny_weights: Any) -> Path:
    """Two blocks, random weights."""
    return write_gguf(tmp_path / "tiny.gguf", tiny_weights)
