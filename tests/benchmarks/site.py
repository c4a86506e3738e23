"""Pages of benchmarks at an address of this machine, isolated as the relay's own is, for threads that share.

Rule of the file: nothing of what a page measures; a script is bundled as those of ``web`` are.
"""

from __future__ import annotations

import http.server
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from interop.running import ROOT

from kwaainet.native.assets import find_assets
from kwaainet.native.http import ISOLATION

HERE = Path(__file__).parent


@contextmanager
def site(folder: Path, page: str, *scripts: Path) -> Iterator[str]:
    """Where ``page`` (of this folder), scripts (TypeScript) and onnxruntime-web's files are served."""
    bundle = [ROOT / "node_modules" / ".bin" / "esbuild", *scripts, "--bundle", "--splitting"]
    options = ["--format=esm", "--target=es2023", "--conditions=browser", f"--outdir={folder}"]
    node = ROOT / ".venv" / "bin"
    environment = {**os.environ, "PATH": f"{node}{os.pathsep}{os.environ['PATH']}"}
    named = [*options, "--entry-names=[name]", "--log-level=warning"]
    subprocess.run([*bundle, *named], check=True, env=environment)
    shutil.copy(HERE / page, folder)
    (runtime,) = (find_assets() / "ort").iterdir()  # of one version
    (folder / "ort").symlink_to(runtime)
    handler = partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Says nothing of what it sends."""

    extensions_map: ClassVar[dict[str, str]] = {
        **http.server.SimpleHTTPRequestHandler.extensions_map,
        ".mjs": "text/javascript",
    }

    def end_headers(self) -> None:
        """With those that the relay sends."""
        for name, value in ISOLATION.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing."""
