"""What a client knows of the swarm: who announces which blocks, how far away, and who is to be left alone.

Follows Petals' ``RemoteSequenceManager``: the view is renewed in the background and after failures, round
trips are smoothed over renewals. Rule of the file: routes come from what is known; only the very first
waits until it is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress

from ..errors import HandshakeError, KwaaiNetError, RpcError, Unreachable
from ..ports import Clock, Host
from ..swarm.coverage import is_gateway
from ..swarm.deadlines import StepDeadlines
from ..swarm.health import MAX_PEERS, PeerHealth, Reason
from ..swarm.round_trips import RoundTrips
from ..swarm.routing import UNKNOWN_ROUND_TRIP, Candidate, Hop, max_throughput, min_latency
from ..swarm.server_info import ServerInfo, Span, compute_spans
from ..types import BlockRange, PeerId
from ..wire.messages import PingRequest
from .client_options import ClientOptions

log = logging.getLogger(__name__)

PING = "DHTProtocol.rpc_ping"
NOBODY_SPEAKS = "KwaaiNet.nobody_speaks_this"  # what every libp2p host answers, with a no
PING_TIMEOUT = 5.0  # seconds to find, dial and ping a server
FIRST_LOOK = 2.0  # seconds that the first route waits for round trips: Petals' ping_timeout
MAX_PINGS = 16  # servers measured at each renewal

ReadBlocks = Callable[[], Awaitable[Sequence[Mapping[PeerId, ServerInfo]]]]


class SwarmView:
    """The servers of one model. ``read`` gives the records of its blocks; ``chance`` is in [0, 1)."""

    def __init__(
        self,
        host: Host,
        read: ReadBlocks,
        options: ClientOptions,
        *,
        now: Clock,
        chance: Callable[[], float],
    ) -> None:
        self.health = PeerHealth()
        self.round_trips = RoundTrips()
        self._host, self._read, self._options = host, read, options
        self._now, self._chance = now, chance
        self._deadlines: dict[PeerId, StepDeadlines] = {}  # the one used longest ago first
        self._spans: list[Span] | None = None
        self._looked_at = 0.0
        self._renewal: asyncio.Task[None] | None = None
        self._pings: dict[asyncio.Task[None], PeerId] = {}
        self._keeper: asyncio.Task[None] | None = None
        self._users = 0

    @property
    def spans(self) -> Sequence[Span]:
        """As of the last look."""
        return self._spans or ()

    async def route(self, blocks: BlockRange, cache_tokens: int, avoid: Collection[PeerId] = ()) -> list[Hop]:
        """A chain for ``blocks`` without ``avoid``; through a gateway, which does no more than we do, or
        a banned server only where nobody else holds a block. Raises ``Unreachable``."""
        if self._spans is None:
            await self.renew()
        now = self._now()
        pool = [span for span in self.spans if span.peer not in avoid]
        allowed = [span for span in pool if not self.health.is_banned(span.peer, now)]
        faulty = {peer for peer, ban in self.health.bans(now).items() if ban.reason is Reason.FAULTY}
        themselves = [span for span in allowed if not is_gateway(span.info)]
        for spans in (themselves, allowed):
            with suppress(Unreachable):
                return self._choose(spans, blocks, cache_tokens)
        return self._choose([span for span in pool if span.peer not in faulty], blocks, cache_tokens)

    def can_replace(self, hop: Hop) -> bool:
        """Whether others that are not banned hold the blocks of ``hop``."""
        now = self._now()
        others = [
            span for span in self.spans if span.peer != hop.peer and not self.health.is_banned(span.peer, now)
        ]
        return all(
            any(block in span.blocks for span in others) for block in range(hop.blocks.start, hop.blocks.end)
        )

    def can_roll_back(self, peer: PeerId) -> bool:
        """Whether the server understands ``start_from_position``: Petals does after 2.2, ours all do."""
        version = next((span.info.version for span in self.spans if span.peer == peer), None)
        return version is not None and not version.startswith(("1.", "2.0.", "2.1.", "2.2."))

    def push_saves(self, one: PeerId, other: PeerId) -> float:
        """Seconds by which the way from ``one`` to ``other`` is shorter than by way of us; below 0 if longer.

        Where ``one`` announces no ping to ``other``, they are taken to be as far apart as they are from us.
        """
        now = self._now()
        trips = [self.round_trips.get(peer, now) for peer in (one, other)]
        through_us = sum(UNKNOWN_ROUND_TRIP if trip is None else trip for trip in trips) / 2
        span = next((span for span in self.spans if span.peer == one), None)
        pings = (span.info.next_pings if span is not None else None) or {}
        return through_us - pings.get(str(other), through_us) / 2

    def announced_seconds(self, hop: Hop) -> float:
        """What one token through ``hop`` takes by the server's own words."""
        spans = (span for span in self.spans if span.peer == hop.peer)
        candidates = [self._candidate(span) for span in spans]
        return candidates[0].compute_seconds + 2 * candidates[0].one_way if candidates else 1.0

    def deadlines(self, peer: PeerId) -> StepDeadlines:
        """What is known of how long the server takes."""
        known = self._deadlines.pop(peer, None) or StepDeadlines()
        self._deadlines[peer] = known
        if len(self._deadlines) > MAX_PEERS:
            del self._deadlines[next(iter(self._deadlines))]
        return known

    def failed(self, peer: PeerId, reason: Reason, text: str) -> None:
        """A server failed a request of ours; look at the swarm again soon."""
        ban = self.health.fail(peer, reason, text, self._now())
        log.info("server %s is %s (%d in a row): %s", peer, reason.name.lower(), ban.failures, text)
        self._start_renewal()

    def served(self, peer: PeerId) -> None:
        """A server did what it was asked."""
        self.health.succeed(peer)

    async def renew(self) -> None:
        """Look now, or wait for the look that is under way. Raises what reading raises."""
        await asyncio.shield(self._start_renewal())

    async def catch_up(self) -> None:
        """Look if the last look is old: while no session is open nobody looks."""
        if self._spans is not None and self._now() - self._looked_at > 2 * self._options.refresh_period:
            await self.renew()

    def renew_soon(self) -> None:
        """Look in the background."""
        self._start_renewal()

    @asynccontextmanager
    async def kept_fresh(self) -> AsyncIterator[None]:
        """Look again every ``refresh_period`` while inside."""
        self._users += 1
        if self._keeper is None:
            self._keeper = asyncio.ensure_future(self._keep_fresh())
        try:
            yield
        finally:
            self._users -= 1
            if not self._users and self._keeper is not None:
                self._keeper.cancel()
                self._keeper = None

    def round_trip(self, peer: PeerId) -> float | None:
        """Seconds to the peer and back; ``None`` if that was not measured lately."""
        return self.round_trips.get(peer, self._now())

    async def ping(self, peer: PeerId, timeout: float) -> float:
        """The peer's round trip in seconds, measured now. Raises ``Unreachable``, ``StreamReset``,
        ``HandshakeError``, ``TimeoutError``."""
        started = self._now()
        try:
            await self._host.call(peer, PING, PingRequest().encode(), timeout=timeout)
        except RpcError:
            log.debug("%s refuses pings but answers", peer)
        seconds = self._now() - started
        self.round_trips.add(peer, seconds, self._now())
        self.health.answers(peer, self._now())
        return seconds

    async def reaches(self, peer: PeerId, timeout: float) -> bool:
        """Whether the peer's network answers, be its Python ever so busy: in a tab that is another thread."""
        try:
            await self._host.call(peer, NOBODY_SPEAKS, b"", timeout=timeout)
        except (HandshakeError, RpcError):  # it says that it does not speak this
            return True
        except (KwaaiNetError, TimeoutError):
            return False
        return True

    async def announces(self, peer: PeerId) -> bool:
        """Whether the swarm still has the peer as a server, by a look now; a look that fails says yes.

        The relay takes a tab's announcements down as soon as it loses it.
        """
        try:
            spans = compute_spans(await self._read())
        except (KwaaiNetError, TimeoutError):
            return True
        return any(span.peer == peer for span in spans)

    def _choose(self, spans: Sequence[Span], blocks: BlockRange, cache_tokens: int) -> list[Hop]:
        candidates = [self._candidate(span) for span in spans]
        if self._options.routing == "max_throughput":
            return max_throughput(candidates, blocks, self._chance)
        return min_latency(candidates, blocks, cache_tokens)

    def _candidate(self, span: Span) -> Candidate:
        info = span.info
        return Candidate(
            span.peer,
            span.blocks,
            rate=info.inference_rps,
            round_trip=self.round_trip(span.peer),
            throughput=info.throughput,
            cache_tokens_left=info.cache_tokens_left,
            next_pings=info.next_pings or {},
        )

    def _start_renewal(self) -> asyncio.Task[None]:
        if self._renewal is None or self._renewal.done():
            self._renewal = asyncio.ensure_future(self._renew())
            self._renewal.add_done_callback(_look_at)
        return self._renewal

    async def _renew(self) -> None:
        spans = compute_spans(await self._read())
        own, usable = self._host.peer_id, self._options.usable
        spans = [span for span in spans if span.peer != own and usable(span.peer)]
        first = self._spans is None
        waiting = [
            self._measure(peer)
            for peer in self.round_trips.longest_unmeasured((span.peer for span in spans), MAX_PINGS)
        ]
        if first and waiting:
            await asyncio.wait(waiting, timeout=FIRST_LOOK)
        self._spans, self._looked_at = spans, self._now()

    def _measure(self, peer: PeerId) -> asyncio.Task[None]:
        task = asyncio.ensure_future(self._measured(peer))
        self._pings[task] = peer
        task.add_done_callback(lambda done: self._pings.pop(done, None))
        return task

    async def _measured(self, peer: PeerId) -> None:
        try:
            await self.ping(peer, PING_TIMEOUT)
        except (KwaaiNetError, TimeoutError) as error:
            self.health.fail(peer, Reason.GONE, f"no answer to a ping: {error}", self._now())

    async def _keep_fresh(self) -> None:
        while True:
            await asyncio.sleep(self._options.refresh_period)
            self._start_renewal()


def _look_at(renewal: asyncio.Task[None]) -> None:
    """A look in the background that failed leaves the view as it was; who waits for it is told."""
    if not renewal.cancelled() and (error := renewal.exception()) is not None:
        log.info("the swarm could not be read: %s", error)
