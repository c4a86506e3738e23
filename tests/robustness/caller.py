"""An evil host on an event loop and in a thread of its own, for tests that are no coroutines.

Rule of the file: the loop never stands still, or what it sent last, a reset for one, may never leave.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine, Sequence
from typing import Any

from robustness.swarm import Swarm

from kwaainet.identity.keys import PrivateKey
from kwaainet.native.host import NativeHost
from kwaainet.types import PeerId

SECONDS = 300.0  # the longest takes 5 on a quiet machine


class Caller:
    """Connected to the relay; ``server`` is who serves behind it."""

    def __init__(self, swarm: Swarm, listen: Sequence[str] = ()) -> None:
        self.server = PeerId.parse(swarm.server_id)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="caller", daemon=True)
        self._thread.start()
        self.host = self.run(NativeHost.create(PrivateKey(os.urandom(32)), listen))
        self.run(self.host.connect(swarm.tcp))

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Do it, within ``SECONDS``."""
        return asyncio.run_coroutine_threadsafe(asyncio.wait_for(work, SECONDS), self._loop).result()

    def close(self) -> None:
        """Leave."""
        self.run(self.host.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(SECONDS)
        self._loop.close()
