"""An operator's install: the two wheels into a bare environment, from files alone, and the page is served."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
import urllib.request
from pathlib import Path

import kwaainet

ROOT = Path(__file__).parents[2]
DIST = ROOT / "dist"
WHEELS = """
import sys; sys.path.insert(0, "build/setup")
from fetch import wheels_of; from python import LOCK
print(wheels_of(LOCK))
"""


def test_the_extra_asks_for_the_page_of_the_same_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert f"kwaainet-web=={kwaainet.__version__}" in extras["relay"]
    assert "kwaainet[network]" in extras["native"]
    assert {one.split("==")[0] for one in extras["relay"]} == {"kwaainet[network,acme]", "kwaainet-web"}


def test_a_relay_from_two_wheels_serves_the_page(tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True)
    kept = subprocess.run(
        [sys.executable, "-c", WHEELS], cwd=ROOT, capture_output=True, text=True, check=True
    )
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        bare / "bin" / "python",
        "install",
        "--quiet",
        "--no-index",
    ]
    places = ["--find-links", kept.stdout.strip(), "--find-links", DIST]
    subprocess.run([*pip, "--no-compile", *places, "kwaainet[relay]"], check=True)
    command = [
        bare / "bin" / "kwaainet",
        "relay",
        "--http",
        "127.0.0.1:0",
        "--listen",
        "/ip4/127.0.0.1/tcp/0",
    ]
    with (tmp_path / "log").open("w+") as log:
        running = subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=log, text=True, env={"HOME": str(tmp_path)}
        )
        try:
            assert running.stdout is not None
            told = running.stdout.readline()
            assert told, (tmp_path / "log").read_text()
            page = json.loads(told)["http"]
            with urllib.request.urlopen(page, timeout=60) as answer:
                html = answer.read().decode()
            script = html.split('src="/')[1].split('"')[0]
            with urllib.request.urlopen(page + script, timeout=60) as answer:
                assert (answer.status, answer.headers["Content-Type"].split(";")[0]) == (
                    200,
                    "text/javascript",
                )
        finally:
            running.terminate()
            running.wait(60)
    assert running.returncode == 0, (tmp_path / "log").read_text()
