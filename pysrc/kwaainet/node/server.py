"""A server of blocks: one object that both runtimes build, start and stop.

Rule of the file: the order of things. Handlers first, then a way in, then JOINING, then the weights,
and ONLINE last; on the way out OFFLINE first, and then requests are still answered for a while.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, replace
from typing import Any

from .. import __version__
from ..errors import DeviceLost, KwaaiNetError, UsageError
from ..formats.manifest import ModelManifest
from ..inference.llama import span_shape
from ..ports import BlobStore, Clock, Engine, Floats, Gradients, Host, RangeSource, Report
from ..swarm.announcement import Announcement
from ..swarm.server_info import ModelInfo, ServerInfo
from ..types import BlockRange, PeerId, Progress, ServerState
from .admission import Admission
from .announce import Announcer
from .config import NodeConfig
from .draining import Drain
from .gradients import SpanGradients
from .model import LoadStats, load_block, load_span
from .rates import Rates, measure, throughput
from .rpc import TransformerConnectionHandler, answer_pings
from .span import ServedSpan

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """What a person wants to know of the node; ``error`` is the last thing that went wrong."""

    state: ServerState
    peer_id: PeerId
    addresses: tuple[str, ...]
    blocks: BlockRange
    backend: str
    sessions: int = 0
    tokens_done: int = 0
    cache_tokens_left: int = 0
    leaving_in: float | None = None  # while it drains: the seconds that may still take
    rebuilds: int = 0
    rates: Rates | None = None
    loaded: LoadStats | None = None
    error: str | None = None


class ServerNode:
    """Serves ``config.blocks`` of ``manifest``'s model on ``host`` with ``engine``."""

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
    ) -> None:
        config.check_model(manifest.config)
        self._config, self._host, self._engine = config, host, engine
        self._store, self._source, self._manifest = store, source, manifest
        self._announcer, self._now = announcer, now
        self._report: Report = lambda progress: None
        admission = Admission(config.total_tokens(manifest.config), config.max_sessions)
        self._span = ServedSpan(admission, config.max_run_tokens, self._on_device_lost)
        self._training = self._train(gradients) if gradients is not None else None
        self._handler = TransformerConnectionHandler(config, manifest.config, self._span, self._training)
        self._status = NodeStatus(ServerState.OFFLINE, host.peer_id, (), config.blocks, engine.backend)
        self._tasks: set[asyncio.Task[None]] = set()
        self._telling = asyncio.Lock()
        self._started = False
        self._drain = Drain(config.drain_grace, self._is_busy)
        self._leaving: asyncio.Task[None] | None = None

    @property
    def status(self) -> NodeStatus:
        """As of now."""
        return replace(
            self._status,
            addresses=tuple(self._host.addresses),
            sessions=self._handler.sessions,
            tokens_done=self._span.tokens_done,
            cache_tokens_left=self._span.admission.tokens_left,
            leaving_in=self._drain.seconds_left,
        )

    def farewell(self) -> bytes:
        """See ``Announcer.farewell``; keep the latest where it can be sent when we vanish."""
        return self._announcer.farewell()

    async def announce_again(self) -> None:
        """Say once more what we are, after a relay that lost us has announced us as gone. Never raises."""
        if self._status.state != ServerState.OFFLINE:
            await self._announce_or_log()

    async def start(self, report: Report = lambda progress: None) -> None:
        """Returns when the node is ONLINE. On failure, or when cancelled, it has left again.

        Raises ``Unreachable``, ``IntegrityError``, ``EngineError`` and what announcing raises.
        """
        if self._started:
            raise UsageError("this node was started before; make a new one")
        self._started, self._report = True, report
        try:
            self._handler.register(self._host)
            if self._config.answer_ping:
                answer_pings(self._host, self._now)
            report(Progress("listen"))
            await self._host.listen()
            await self._announce(ServerState.JOINING)
            self._spawn(self._refresh())
            await self._load()
            await self._announce(ServerState.ONLINE)
        except BaseException as error:
            self._note(error)
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
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        before = self._status.state
        if before != ServerState.OFFLINE:
            await self._announce_or_log(ServerState.OFFLINE)
        if before == ServerState.ONLINE:
            self._report(Progress("draining"))
            await self._drain.wait()
        await self._host.close()
        self._span.suspend("the server is leaving")
        if self._training is not None:
            await self._training.close()
        await self._engine.close()

    def _is_busy(self) -> bool:
        return self._handler.sessions > 0 or self._span.admission.holders > 0

    # --- announcing -------------------------------------------------------------------------------

    async def _announce(self, state: ServerState | None = None) -> None:
        """Tell the swarm, by default once more what we are; our state changes even if that fails."""
        async with self._telling:
            state = self._status.state if state is None else state
            self._status = replace(self._status, state=state)
            await self._announcer.announce(self._announcement(state))
            self._report(Progress(state.name.lower()))

    async def _announce_or_log(self, state: ServerState | None = None) -> bool:
        try:
            await self._announce(state)
        except (KwaaiNetError, TimeoutError) as error:
            self._note(error)
            log.warning("announcing %s failed: %s", self._status.state.name, error)
            return False
        return True

    async def _refresh(self) -> None:
        """Announce again before the last announcement expires; a failed one is repeated sooner."""
        delay = self._config.update_period
        while True:
            await asyncio.sleep(delay)
            told = await self._announce_or_log()
            delay = self._config.update_period if told else self._config.retry_delay

    def _announcement(self, state: ServerState) -> Announcement:
        config, rates = self._config, self._status.rates
        network = config.network_bits_per_second / (32.0 * self._manifest.config.hidden_size)
        info = ServerInfo(
            state,
            throughput=throughput(rates, len(config.blocks), network, config.using_relay),
            start_block=config.blocks.start,
            end_block=config.blocks.end,
            public_name=config.public_name,
            version=__version__,
            network_rps=network,
            forward_rps=rates.forward if rates else None,
            inference_rps=rates.inference if rates else None,
            torch_dtype="float32",
            quant_type="none",
            using_relay=config.using_relay,
            cache_tokens_left=self._handler.cache_tokens_left,
        )
        model = ModelInfo(self._manifest.config.num_hidden_layers, config.repository)
        return Announcement(config.prefix, info, config.expiration, model)

    # --- the engine -------------------------------------------------------------------------------

    async def _load(self) -> None:
        """Fill the engine, time it, and let requests in."""
        loaded = await load_span(
            self._manifest,
            self._config.blocks,
            self._source,
            self._store,
            self._engine,
            self._report,
            parallel=self._config.fetch_parallel,
        )
        rates = await measure(
            self._engine, span_shape(self._manifest.config, len(self._config.blocks)), self._now
        )
        self._status = replace(self._status, loaded=loaded, rates=rates, backend=self._engine.backend)
        self._span.resume(self._engine)

    def _train(self, gradients: Gradients) -> SpanGradients:
        async def load(block: int) -> Mapping[str, Floats]:
            return await load_block(self._manifest, block, self._source, self._store)

        return SpanGradients(gradients, self._manifest.config, load, self._config.max_run_tokens)

    def _on_device_lost(self, error: DeviceLost) -> None:
        self._note(error)
        if self._leaving is not None:
            self._drain.limit(0.0)  # there is nothing left to serve with
            return
        log.warning("the device is lost (%s); rebuilding the engine", error)
        self._spawn(self._rebuild())

    async def _rebuild(self) -> None:
        """JOINING, load again (the weights are in the store), ONLINE; give up after so many tries."""
        for attempt in range(1, self._config.max_rebuilds + 1):
            await self._announce_or_log(ServerState.JOINING)
            try:
                await self._engine.close()
                await self._load()
            except KwaaiNetError as error:
                self._note(error)
                log.warning("rebuilding the engine failed, attempt %d: %s", attempt, error)
                await asyncio.sleep(self._config.retry_delay)
            else:
                self._status = replace(self._status, rebuilds=self._status.rebuilds + 1)
                await self._announce_or_log(ServerState.ONLINE)
                return
        self._span.suspend("the server lost its device and could not rebuild its engine")
        await self._announce_or_log(ServerState.OFFLINE)

    # --- housekeeping -----------------------------------------------------------------------------

    def _note(self, error: BaseException) -> None:
        self._status = replace(self._status, error=str(error) or type(error).__name__)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
