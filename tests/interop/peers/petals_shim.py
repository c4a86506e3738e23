"""Lets the unmodified petals 2.2.0.post1 import against the unmodified hivemind 1.1.12.

hivemind 1.1.12 no longer re-exports its submodules' names, petals still does
``from hivemind import DHT, PeerID``. Importing this module before petals puts the names back where
they are missing. Rule of the file: nothing on disk is touched and no name that exists is replaced.

As a program it runs another module afterwards: ``python petals_shim.py petals.cli.run_server ARGS...``
"""

from __future__ import annotations

import os
import runpy
import sys
from importlib import import_module

REEXPORTED = (
    "hivemind.utils.timed_storage",
    "hivemind.utils.tensor_descr",
    "hivemind.utils.asyncio",
    "hivemind.utils.nested",
    "hivemind.utils",
    "hivemind.compression",
    "hivemind.p2p",
    "hivemind.dht",
    "hivemind.moe",
)

# petals refuses to start when hivemind is not the exact version it pins.
os.environ.setdefault("PETALS_IGNORE_DEPENDENCY_VERSION", "1")


def restore_names() -> None:
    """Copy the public names of the listed modules onto ``hivemind`` where it lacks them."""
    hivemind = import_module("hivemind")
    for module_name in REEXPORTED:
        module = import_module(module_name)
        for name in vars(module):
            if not name.startswith("_") and not hasattr(hivemind, name):
                setattr(hivemind, name, getattr(module, name))


restore_names()

if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python petals_shim.py MODULE [ARGS...]")
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
