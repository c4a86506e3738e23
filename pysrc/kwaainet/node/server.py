"""A server of blocks: one object that both runtimes build, start and stop.

Rule of the file: the order of things. Handlers first, then a way in, then JOINING, then the weights,
and ONLINE last; on the way out OFFLINE first, and then requests are still answered for a while.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from ..errors import ConfigError, UsageError
from ..formats.manifest import ModelManifest
from ..ports import BlobStore, Clock, Engine, Gradients, Host, RangeSource, Report
from ..types import BlockRange, PeerId, Progress, ServerState
from .announce import MAX_PREFIXES_PER_PEER, Announcer
from .bandwidth import Bandwidth
from .blobs import Lender
from .config import NodeConfig
from .directory import ReadServers
from .draining import Drain
from .hosted import HostedSpan
from .hosting import HostedModel, SpanStatus, Surroundings
from .limits import Allowance, Reason
from .model import LoadStats
from .models import ModelHosts
from .rates import Rates
from .receipts import Receipts, Receive
from .rpc import answer_pings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """What a person wants to know of the node: of its first model, with sessions and tokens of all.

    ``state`` is the least of all models'; ``spans`` has each of them. ``error`` is the last thing that
    went wrong with any.
    """

    state: ServerState
    peer_id: PeerId
    addresses: tuple[str, ...]
    blocks: BlockRange
    backend: str
    weights: str = ""
    sessions: int = 0
    tokens_done: int = 0
    requests_done: int = 0
    busy: float = 0.0  # seconds that engines have computed
    paused: tuple[Reason, ...] = ()  # why, while it is
    cache_tokens_left: int = 0
    leaving_in: float | None = None  # while it drains: the seconds that may still take
    rebuilds: int = 0
    rates: Rates | None = None
    loaded: LoadStats | None = None
    error: str | None = None
    spans: tuple[SpanStatus, ...] = ()

    @property
    def draining(self) -> bool:
        """Whether it serves on after having said that it leaves."""
        return self.leaving_in is not None


class ServerNode:
    """Serves blocks of a model on ``host`` with ``engine``, and of those added before it starts.

    ``lends`` are the model's files where they lie on this machine, for others to borrow from.
    ``read_servers`` and ``chance`` (uniform in 0 to 1) are needed by a model whose place is to be
    chosen; with them it also tells how far the servers after it are, and borrows what it cannot fetch.
    ``bandwidth`` is measured while it serves; without it, what the configuration says is announced.
    ``on_receipt`` hears of each session or request that was served, when it has ended.
    """

    def __init__(
        self,
        config: NodeConfig,
        *,
        host: Host,
        engine: Engine,
        store: BlobStore,
        source: RangeSource,
        manifest: ModelManifest,
        announcer: Announcer,
        now: Clock,
        gradients: Gradients | None = None,
        lends: RangeSource | None = None,
        read_servers: ReadServers | None = None,
        chance: Callable[[], float] = lambda: 0.5,
        bandwidth: Bandwidth | None = None,
        on_receipt: Receive | None = None,
    ) -> None:
        self._config, self._host, self._now = config, host, now
        self._announcer = announcer
        self._bandwidth = bandwidth
        self._measuring: asyncio.Task[None] | None = None
        hosts = ModelHosts(host)
        receipts = Receipts(now, on_receipt)
        self._around = Surroundings(hosts, store, announcer, now, read_servers, chance, bandwidth, receipts)
        self._lender = Lender(store, now)
        self._spans: list[HostedSpan] = []
        self._report: Report = lambda progress: None
        self._started = False
        self._drain = Drain(config.drain_grace, self._is_busy)
        self._leaving: asyncio.Task[None] | None = None
        self.add(HostedModel(config, manifest, source, engine, gradients, lends))

    def add(self, model: HostedModel) -> None:
        """Serve this model too. Raises ``ConfigError`` for one that cannot be."""
        if self._started:
            raise UsageError("a node that has started takes no more models; add them before")
        prefixes = [span.status.prefix for span in self._spans]
        if model.config.prefix in prefixes or len(prefixes) >= MAX_PREFIXES_PER_PEER:
            raise ConfigError(
                f"{model.config.prefix} beside {prefixes}: a node serves at most {MAX_PREFIXES_PER_PEER} "
                "models, each once"
            )
        if model.config.movable and self._around.read_servers is None:
            raise ConfigError("nobody told this node how to read the swarm, so it cannot choose its blocks")
        self._lender.offer(model.manifest, model.lends)
        self._spans.append(HostedSpan(model, self._around, self._may_rebuild))

    @property
    def status(self) -> NodeStatus:
        """As of now."""
        spans = tuple(span.status for span in self._spans)
        first = spans[0]
        return NodeStatus(
            min(span.state for span in spans),
            self._host.peer_id,
            tuple(self._host.addresses),
            first.blocks,
            first.backend,
            first.weights,
            sessions=sum(span.sessions for span in spans),
            tokens_done=sum(span.tokens_done for span in spans),
            requests_done=sum(span.requests_done for span in spans),
            busy=sum(span.busy for span in spans),
            paused=first.paused,
            cache_tokens_left=first.cache_tokens_left,
            leaving_in=self._drain.seconds_left,
            rebuilds=first.rebuilds,
            rates=first.rates,
            loaded=first.loaded,
            error=next((span.error for span in spans if span.error), None),
            spans=spans,
        )

    def allow(self, allowance: Allowance) -> None:
        """Keep to what the machine's owner allows, from now on; may be said at any time, and again.

        Each model has its part of the memory. Weights stay loaded while it is paused.
        """
        share = replace(allowance, memory_bytes=-(-allowance.memory_bytes // len(self._spans)))
        self._lender.refusing = allowance.paused
        for span in self._spans:
            span.allow(share)

    def farewell(self) -> bytes:
        """See ``Announcer.farewell``; keep the latest where it can be sent when we vanish."""
        return self._announcer.farewell()

    async def announce_again(self) -> None:
        """Say once more what we are, after a relay that lost us has announced us as gone. Never raises."""
        for span in self._spans:
            if span.status.state != ServerState.OFFLINE:
                await span.announce_or_log()

    async def start(self, report: Report = lambda progress: None) -> None:
        """Returns when the node is ONLINE. On failure, or when cancelled, it has left again.

        Raises ``Unreachable``, ``IntegrityError``, ``EngineError`` and what announcing raises.
        """
        if self._started:
            raise UsageError("this node was started before; make a new one")
        self._started, self._report = True, report
        try:
            for span in self._spans:
                span.register()
            self._lender.register(self._host)
            if self._config.answer_ping:
                answer_pings(self._host, self._now)
            report(Progress("listen"))
            await self._host.listen()
            for span in self._spans:
                await span.join(report)
            for span in self._spans:
                await span.go_online()
            self._measure_bandwidth()
        except BaseException as error:
            self._spans[0].note(error)
            await self.stop()
            raise

    async def stop(self, drain: float = 0.0) -> None:
        """Leave: announce OFFLINE, serve on, tell every session, close host and engine. Never raises.

        Serving on takes ``drain`` seconds at most (see ``Drain`` for less); ``config.drain_limit``
        is what clients deserve. Called again while it lasts, the shorter time counts.
        """
        self._drain.limit(drain)
        if self._leaving is None:
            self._leaving = asyncio.ensure_future(self._leave())
        await asyncio.shield(self._leaving)

    async def _leave(self) -> None:
        if self._measuring is not None:
            self._measuring.cancel()
        served = False
        for span in self._spans:
            await span.halt()
            served = await span.leave() or served
        if served:
            self._report(Progress("draining"))
            await self._drain.wait()
        await self._host.close()
        self._lender.forget()
        for span in self._spans:
            await span.close()

    def _measure_bandwidth(self) -> None:
        """Once all is served, so that loading is not slowed down; what is found first is told at once."""
        if self._bandwidth is not None:
            self._measuring = asyncio.ensure_future(self._bandwidth.keep_measured(self.announce_again))

    def _may_rebuild(self) -> bool:
        """Whether a lost device is worth it; if it is not, there may be nothing left to serve with."""
        if self._leaving is not None and len(self._spans) == 1:
            self._drain.limit(0.0)
        return self._leaving is None

    def _is_busy(self) -> bool:
        return any(span.is_busy() for span in self._spans)
