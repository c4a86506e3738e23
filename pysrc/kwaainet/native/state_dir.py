"""What a relay keeps between runs, all in one folder: its identity, whom it knew in the swarm, and its bans.

Rule of the file: a file is whole or not there; one that was damaged costs what it said, never a start.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ..errors import ConfigError
from ..libp2p.bans import MAX_BYTES as MAX_BAN_BYTES

log = logging.getLogger(__name__)

IDENTITY, PEERS, BANS, SOCKET = "identity.key", "peers.json", "bans.json", "admin.sock"
MAX_PEERS = 64  # addresses kept
MAX_BYTES = 1 << 16
_MODE = 0o700


class StateDir:
    """The folder ``path``, made (mode 0700) if it is not there; ``ConfigError`` if it cannot be used."""

    def __init__(self, path: Path) -> None:
        try:
            path.mkdir(mode=_MODE, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"--state-dir {path} cannot be made: {error.strerror}") from None
        if not os.access(path, os.W_OK | os.X_OK):
            raise ConfigError(f"--state-dir {path} cannot be written")
        self.path = path

    @property
    def identity(self) -> Path:
        """The file of the identity."""
        return self.path / IDENTITY

    def known_peers(self) -> list[str]:
        """Multiaddrs of peers of the swarm, as kept last; none if there are none that can be read."""
        try:
            data = (self.path / PEERS).read_bytes()
            if len(data) > MAX_BYTES:
                raise ValueError(f"it has {len(data)} bytes; {MAX_BYTES} are allowed")
            value = json.loads(data)
            if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
                raise ValueError("it is no list of addresses")
            return value[:MAX_PEERS]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, RecursionError) as error:
            log.warning("%s is left aside: %s", self.path / PEERS, error)
            return []

    def keep_peers(self, addresses: Iterable[str]) -> None:
        """Replace the peers kept; a disk that refuses is only logged."""
        self._keep(PEERS, json.dumps(list(addresses)[:MAX_PEERS], indent=1) + "\n")

    @property
    def socket(self) -> Path:
        """Where the relay that runs here can be asked."""
        return self.path / SOCKET

    def bans(self) -> bytes:
        """The file of bans as it is; empty if there is none that can be read."""
        try:
            with (self.path / BANS).open("rb") as file:
                return file.read(MAX_BAN_BYTES + 1)
        except FileNotFoundError:
            return b""
        except OSError as error:
            log.warning("%s is left aside: %s", self.path / BANS, error.strerror)
            return b""

    def keep_bans(self, text: str) -> None:
        """Replace the bans kept; a disk that refuses is only logged."""
        self._keep(BANS, text)

    def _keep(self, name: str, text: str) -> None:
        part = self.path / f"{name}.part"
        try:
            part.write_text(text)
            part.replace(self.path / name)
        except OSError as error:
            log.warning("%s cannot be kept in %s: %s", name, self.path, error.strerror)
            with suppress(OSError):  # what is half written only takes room
                part.unlink(missing_ok=True)
