"""Pebble, Let's Encrypt's ACME test server, with a name server that says every name is this machine."""

from __future__ import annotations

import json
import socket
import ssl
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from authority import Authority

from .running import ROOT, free_port, started

BIN = ROOT / ".cache" / "debian" / "usr" / "bin"


@dataclass(frozen=True)
class Pebble:
    """Where it is, and the file of the authority that its own certificate is from."""

    directory: str
    root: Path
    management: str

    def issuer_root(self) -> bytes:
        """The root of the certificates that it issues, which is new at each start."""
        context = ssl.create_default_context(cafile=str(self.root))
        with urllib.request.urlopen(self.management + "roots/0", context=context) as answer:
            return bytes(answer.read())


@contextmanager
def pebble(folder: Path, http_port: int, tls_port: int, lifetime: int = 90 * 86400) -> Iterator[Pebble]:
    """It validates at ``http_port`` and ``tls_port``, and issues for ``lifetime`` seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    authority = Authority(folder / "authority")
    own = authority.issue("localhost", "127.0.0.1", file="pebble")
    ports = [free_port() for _ in range(4)]
    config = {
        "listenAddress": f"127.0.0.1:{ports[0]}",
        "managementListenAddress": f"127.0.0.1:{ports[1]}",
        "certificate": str(own.cert),
        "privateKey": str(own.key),
        "httpPort": http_port,
        "tlsPort": tls_port,
        "certificateValidityPeriod": lifetime,
    }
    (folder / "pebble.json").write_text(json.dumps({"pebble": config}))
    names = [BIN / "pebble-challtestsrv", "-defaultIPv6", "", "-http01", "", "-https01", "", "-tlsalpn01", ""]
    names += ["-dns01", f"127.0.0.1:{ports[2]}", "-management", f"127.0.0.1:{ports[3]}"]
    command = [BIN / "pebble", "-config", folder / "pebble.json", "-dnsserver", f"127.0.0.1:{ports[2]}"]
    with (
        started(names, folder, "names"),
        started(command, folder, "pebble", {"PEBBLE_VA_NOSLEEP": "1"}) as running,
    ):
        running.printed("ACME directory available")
        found = Pebble(f"https://localhost:{ports[0]}/dir", authority.root, f"https://localhost:{ports[1]}/")
        _await_port(ports[0])
        yield found


def _await_port(port: int) -> None:
    deadline = time.monotonic() + 180
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 5).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
