"""An evil host on an event loop of its own, for tests that are no coroutines."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Sequence
from typing import Any

from robustness.swarm import Swarm

from kwaainet.identity.keys import PrivateKey
from kwaainet.native.host import NativeHost
from kwaainet.types import PeerId

SECONDS = 60.0


class Caller:
    """Connected to the relay; ``server`` is who serves behind it. Its loop runs only within ``run``."""

    def __init__(self, swarm: Swarm, listen: Sequence[str] = ()) -> None:
        self.server = PeerId.parse(swarm.server_id)
        self._runner = asyncio.Runner()
        self.host = self.run(NativeHost.create(PrivateKey(os.urandom(32)), listen))
        self.run(self.host.connect(swarm.tcp))

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Do it, within ``SECONDS``."""
        return self._runner.run(asyncio.wait_for(work, SECONDS))

    def close(self) -> None:
        """Leave."""
        self.run(self.host.close())
        self._runner.close()
