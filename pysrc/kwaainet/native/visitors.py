"""The sockets that visitors of a site hold: so many in all, so many of one address and of one subnet.

Browsers keep a socket for a while after its last answer, and so may whoever wants to take them all. Follows
RFC 9112, 9.3: an idle connection may be closed at any time. Rule of the file: where there are too many, the
one gives way that has gone without an answer for longest, of those of whom there are too many; one that is
being answered never does.
"""

from __future__ import annotations

import asyncio
from typing import cast

from ..libp2p.admission import Admission, Kind, Origin
from ..types import PeerId
from .doors import Doors, MakeProtocol, peer_host
from .open_files import VISITORS

_NOBODY = Origin()


class Visitors:
    """Makes the protocols of a site's sockets around those of ``make``, and counts them."""

    make: MakeProtocol  # of who serves them

    def __init__(self, doors: Doors, admission: Admission | None, most: int = VISITORS) -> None:
        self._doors, self._admission, self._most = doors, admission, most
        # By what serves it; the longest without an answer first.
        self._open: dict[asyncio.BaseProtocol, Visit] = {}
        self._busy: set[asyncio.BaseProtocol] = set()

    def __call__(self) -> Visit:
        return Visit(self, cast(asyncio.Protocol, self.make()))

    def __len__(self) -> int:
        return len(self._open)

    def asked(self, served: asyncio.BaseProtocol) -> None:
        """A request came on this socket: until it is ``answered`` it stays."""
        self._busy.add(served)

    def answered(self, served: asyncio.BaseProtocol) -> None:
        """It is idle again, from now on."""
        self._busy.discard(served)
        if (visit := self._open.pop(served, None)) is not None:
            self._open[served] = visit

    def enter(self, visit: Visit, host: str) -> bool:
        """Whether there is room for one more from there, or is made."""
        if len(self._open) >= self._most and not self._give_way():
            return False
        if self._admission is not None and not self._doors.trusts(host):
            origin = self._admission.origin(None, host)
            while self._admission.take(Kind.VISIT, origin) is not None:
                if not self._give_way(self._admission.full(Kind.VISIT, origin)):
                    return False
            visit.origin = origin
        self._open[visit.served] = visit
        return True

    def leave(self, visit: Visit) -> None:
        """It is gone; once is enough."""
        self._busy.discard(visit.served)
        if self._open.pop(visit.served, None) is not None and self._admission is not None:
            self._admission.release(Kind.VISIT, visit.origin)

    def _give_way(self, full: tuple[str, PeerId | bytes] | None = None) -> bool:
        """One that is not being answered, of the address or subnet ``full`` names; whether there was one."""
        for served, visit in self._open.items():
            if served not in self._busy and (full is None or full in visit.origin.keys):
                self.leave(visit)
                visit.abort()
                return True
        return False


class Visit(asyncio.Protocol):
    """One socket; ``served`` gets what comes of it."""

    def __init__(self, visitors: Visitors, served: asyncio.Protocol) -> None:
        self.served, self.origin = served, _NOBODY
        self._visitors = visitors
        self._transport: asyncio.Transport | None = None
        self._admitted = False

    def abort(self) -> None:
        """End it at once."""
        assert self._transport is not None
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._admitted = self._visitors.enter(self, peer_host(transport))
        if self._admitted:
            self.served.connection_made(transport)
        else:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._visitors.leave(self)
        if self._admitted:
            self.served.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._admitted:
            self.served.data_received(data)

    def eof_received(self) -> bool | None:
        return self.served.eof_received() if self._admitted else None

    def pause_writing(self) -> None:
        self.served.pause_writing()

    def resume_writing(self) -> None:
        self.served.resume_writing()
