"""Open HOP on a host: admits a circuit to a peer without a slot, and connects to it if need be.

The policy and its quotas are ``libp2p.open_hop``. Rule of the file: the address that counts is the one
that is connected to, after names are resolved; a record or a name is no reason to dial.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from ..errors import KwaaiNetError, RequestError
from ..libp2p.open_hop import Ledger, Quotas, Reason, is_public
from ..swarm.server_info import ServerInfo
from ..types import PeerId
from .host import NativeHost
from .link import Link

logger = logging.getLogger(__name__)

FIND_TIMEOUT = 6.0  # seconds to learn whether the target is announced
REACH_TIMEOUT = 8.0  # seconds to connect to it; js-libp2p waits 10 to 15 for a circuit, all in all

FindServer: TypeAlias = Callable[[PeerId], Awaitable[ServerInfo | None]]


class Refused(Exception):
    """No circuit. Carries the reason; the rest is for the log."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason}{f' ({detail})' if detail else ''}")
        self.reason = reason


@dataclass(slots=True)
class Lease:
    """An admitted circuit: the connection it goes over, and its place until ``release``."""

    link: Link
    _source: PeerId
    _ledger: Ledger

    def pace(self, size: int) -> float:
        """Count bytes; returns the seconds that the next ones should wait."""
        return self._ledger.carry(self._source, size, time.monotonic())

    def release(self) -> None:
        """The circuit has ended."""
        self._ledger.release(self._source)


class OpenHop:
    """For sources that hold a slot, towards servers that ``find_server`` knows."""

    def __init__(
        self,
        host: NativeHost,
        find_server: FindServer,
        *,
        allow_private: bool = False,
        quotas: Quotas | None = None,
    ) -> None:
        self._host, self._find_server = host, find_server
        self._allowed: Callable[[str], bool] = (lambda host: True) if allow_private else is_public
        self._ledger = Ledger(quotas)

    @property
    def status(self) -> dict[str, Any]:
        """For the operator: circuits open now, bytes carried, and refusals by reason."""
        refused = {reason.name.lower(): count for reason, count in self._ledger.refused.items()}
        return {"circuits": self._ledger.circuits, "bytes": self._ledger.carried, "refused": refused}

    async def admit(self, source: PeerId, target: PeerId, *, holds_slot: bool) -> Lease:
        """A place and a connection for a circuit. Raises ``Refused``, which is counted and logged."""
        try:
            return await self._admit(source, target, holds_slot)
        except Refused as refused:
            self._ledger.refused[refused.reason] += 1
            logger.info("no open circuit from %s to %s: %s", source, target, refused)
            raise

    async def _admit(self, source: PeerId, target: PeerId, holds_slot: bool) -> Lease:
        if not holds_slot:
            raise Refused(Reason.NO_SLOT)
        if target in (source, self._host.peer_id):
            raise Refused(Reason.NOT_ANNOUNCED, "it is one of us two")
        if reason := self._ledger.admit(source, time.monotonic()):
            raise Refused(reason)
        try:
            return Lease(await self._reach(target), source, self._ledger)
        except BaseException:
            self._ledger.release(source)
            raise

    async def _reach(self, target: PeerId) -> Link:
        try:
            async with asyncio.timeout(FIND_TIMEOUT):
                server = await self._find_server(target)
        except (KwaaiNetError, TimeoutError) as error:
            raise Refused(Reason.NOT_ANNOUNCED, f"looking it up failed: {error or 'timeout'}") from error
        if server is None:
            raise Refused(Reason.NOT_ANNOUNCED)
        if server.using_relay and self._host.network.link(target) is None:
            raise Refused(Reason.UNREACHABLE, "it is behind another relay, or has left this one")
        try:
            async with asyncio.timeout(REACH_TIMEOUT):
                return await self._host.reach_directly(target, self._allowed)
        except RequestError as error:
            raise Refused(Reason.PRIVATE, str(error)) from error
        except (KwaaiNetError, TimeoutError) as error:
            raise Refused(Reason.UNREACHABLE, str(error) or "timeout") from error
