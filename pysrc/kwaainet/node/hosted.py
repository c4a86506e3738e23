"""One model's blocks on a node: the engine that computes them, and what the swarm is told of them.

Rule of the file: JOINING before the weights are loaded, ONLINE after, and whoever was served before a
loss or a move is told; what the node does as a whole (its host, its start, its end) is not its business.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any

from .. import __version__
from ..errors import DeviceLost, KwaaiNetError
from ..inference.weight_format import FLOAT16, WeightFormat, choose
from ..ports import Floats, Report
from ..swarm.announcement import Announcement
from ..swarm.placement import View
from ..swarm.server_info import ModelInfo, ServerInfo
from ..types import BlockRange, Progress, ServerState
from .admission import Admission
from .blobs import Borrower
from .draining import Drain
from .gradients import SpanGradients
from .hosting import HostedModel, SpanStatus, Surroundings
from .limits import Allowance
from .metering import MeteredEngine
from .model import Borrow, load_block, load_span
from .moving import Mover
from .neighbours import Neighbours
from .permission import Permission
from .rates import measure, network_rps, throughput
from .rpc import TransformerConnectionHandler
from .span import ServedSpan

log = logging.getLogger(__name__)


class HostedSpan:
    """Serves one model's span from ``join`` to ``halt``; ``on_device_lost`` hears of losses first."""

    def __init__(self, model: HostedModel, around: Surroundings, may_rebuild: Callable[[], bool]) -> None:
        config = model.config
        config.check_model(model.manifest.config)
        self._model, self._around, self._may_rebuild = model, around, may_rebuild
        self._report: Report = lambda progress: None
        self._status = SpanStatus(config.prefix, ServerState.OFFLINE, config.blocks, model.engine.backend)
        self._tasks: set[asyncio.Task[None]] = set()
        self._telling = asyncio.Lock()
        self._done_before = self._requests_before = 0  # tokens and requests, on spans that were left
        self._permission = Permission()
        self._said = ServerState.OFFLINE  # what the swarm may have read of us last
        self._told_cache = 0
        self._metered: MeteredEngine | None = None  # what serves, or served last
        self._target: BlockRange | None = None  # where we are about to move; others should know
        self._drain = Drain(config.drain_grace, self.is_busy)
        self._borrow = self._borrower()
        self._neighbours = Neighbours(around.hosts.host, around.read_servers, around.now, around.chance)
        self._settle(config.blocks)

    # --- state ------------------------------------------------------------------------------------

    @property
    def status(self) -> SpanStatus:
        """As of now."""
        return replace(
            self._status,
            sessions=self._handler.sessions,
            tokens_done=self._done_before + self._span.tokens_done,
            requests_done=self._requests_before + self._span.requests_done,
            busy=self._permission.pace.busy,
            paused=self._permission.reasons,
            cache_tokens_left=self._span.admission.tokens_left,
            moving_in=self._drain.seconds_left,
            rates=None if self._metered is None else self._metered.rates,
        )

    def is_busy(self) -> bool:
        """Whether anybody is being served."""
        return self._handler.sessions > 0 or self._span.admission.holders > 0

    def _settle(self, blocks: BlockRange) -> None:
        """From now on requests for these blocks are answered; they are refused until the engine is there."""
        self._config = replace(self._model.config, blocks=blocks)
        config, llama = self._config, self._model.manifest.config
        self._weights = self._choose_weights()
        self._status = replace(self._status, blocks=blocks, weights=str(self._weights))
        admission = Admission(config.total_tokens(llama), config.max_sessions)
        self._span = ServedSpan(admission, config.max_run_tokens, self._on_device_lost, self._permission.pace)
        self._training = self._train()
        receipts = self._around.receipts
        self._handler = TransformerConnectionHandler(config, llama, self._span, self._training, receipts)
        self._keep_to_permission()

    def _choose_weights(self) -> WeightFormat:
        model, config = self._model, self._config
        whole, entries = model.manifest.config, model.manifest.span(config.blocks)
        llama = replace(whole, max_position_embeddings=config.positions(whole))
        budget = config.weight_bytes or None
        return choose(llama, config.blocks, entries, model.engine, config.weights, budget)

    def _borrower(self) -> Borrow | None:
        """How to have from other servers what the source does not give."""
        model, around = self._model, self._around
        if around.read_servers is None:
            return None
        count = model.manifest.config.num_hidden_layers
        return Borrower(around.hosts.host, around.read_servers, model.config.prefix, count).borrow

    def _train(self) -> SpanGradients | None:
        model, store = self._model, self._around.store
        if model.gradients is None:
            return None

        async def load(block: int) -> Mapping[str, Floats]:
            return await load_block(model.manifest, block, model.source, store, self._borrow)

        return SpanGradients(model.gradients, model.manifest.config, load, self._config.max_run_tokens)

    # --- what its owner allows --------------------------------------------------------------------

    def allow(self, allowance: Allowance) -> None:
        """Keep to this from now on: sessions end at once when it pauses us, and the swarm is told."""
        before = self._permission.reasons
        self._permission.give(allowance)
        self._keep_to_permission()
        if bool(before) != bool(self._permission.reasons) and self._status.state != ServerState.OFFLINE:
            self._spawn(self._tell_pause())
        elif before != self._permission.reasons:
            self._report(Progress("paused"))

    async def _tell_pause(self) -> None:
        if self._training is not None and self._permission.reasons:
            await self._training.close()
        await self.announce_or_log()

    def _keep_to_permission(self) -> None:
        config, llama = self._config, self._model.manifest.config
        width = 2 if self._weights.name == FLOAT16 else 4
        token = 2 * len(config.blocks) * llama.num_key_value_heads * llama.head_dim * width
        self._permission.apply(self._span, config.total_tokens(llama), self._weights.size, token)
        if self._training is not None:
            self._training.refusing = bool(self._permission.reasons)

    # --- the way in and out -----------------------------------------------------------------------

    def register(self) -> None:
        """Answer requests, if only to say that they come too early."""
        self._handler.register(self._around.hosts.of(self._config.prefix))

    async def join(self, report: Report) -> None:
        """Choose the blocks if they may be chosen, and announce them. Raises what announcing raises."""
        self._report = report
        mover = self._mover()
        if mover is not None:
            self._settle(await mover.first(len(self._config.blocks)))
            self.register()
        await self._announce(ServerState.JOINING)
        self._spawn(self._measure_neighbours())
        self._spawn(self._refresh())

    async def go_online(self) -> None:
        """Load the weights and serve. Raises what loading and announcing raise."""
        await self._load()
        await self._announce(ServerState.ONLINE)
        mover = self._mover()
        if mover is not None:
            self._spawn(mover.run(self._move))

    async def leave(self) -> bool:
        """Announce that we are OFFLINE, if anybody was told otherwise; whether anybody was served."""
        before = self._status.state
        if before != ServerState.OFFLINE:
            await self.announce_or_log(ServerState.OFFLINE)
        return not self._permission.reasons and (before == ServerState.ONLINE or self._target is not None)

    async def close(self) -> None:
        """Refuse everything and release the engine."""
        await self._vacate("the server is leaving")
        await self._model.engine.close()

    async def _vacate(self, why: str) -> None:
        """Serve the span no more, with these words."""
        self._span.suspend(why)
        if self._training is not None:
            await self._training.close()

    async def halt(self) -> None:
        """End what runs in the background."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _mover(self) -> Mover | None:
        around, config = self._around, self._model.config
        read_servers = around.read_servers
        if not config.movable or read_servers is None:
            return None
        num_blocks = self._model.manifest.config.num_hidden_layers

        async def read() -> View:
            return View.of(await read_servers(config.prefix, num_blocks))

        return Mover(around.hosts.host.peer_id, read, around.chance, config.restlessness)

    # --- announcing -------------------------------------------------------------------------------

    async def _announce(self, state: ServerState | None = None) -> None:
        """Tell the swarm, by default once more what we are; our state changes even if that fails."""
        async with self._telling:
            state = self._status.state if state is None else state
            self._status = replace(self._status, state=state)
            self._told_cache = self._handler.cache_tokens_left
            paused = bool(self._permission.reasons) and state != ServerState.OFFLINE
            await self._say(ServerState.OFFLINE if paused else state)
            if self._target is None or state != ServerState.OFFLINE:  # who moves has not gone
                self._report(Progress("paused" if paused else state.name.lower()))

    async def _say(self, state: ServerState) -> None:
        """Announce it; that we are gone only to those who may believe otherwise."""
        if state != ServerState.OFFLINE:
            self._said = state
        elif self._said == ServerState.OFFLINE:
            return
        await self._around.announcer.announce(self._announcement(state))
        self._said = state

    async def announce_or_log(self, state: ServerState | None = None) -> bool:
        """Like announcing, but a failure is only noted; whether it worked."""
        try:
            await self._announce(state)
        except (KwaaiNetError, TimeoutError) as error:
            self.note(error)
            log.warning("announcing %s failed: %s", self._status.state.name, error)
            return False
        return True

    async def _refresh(self) -> None:
        """Announce again before the last announcement expires, or when much less or more can be had.

        A failed one is repeated sooner.
        """
        config = self._config
        told, waited = True, 0.0
        while True:
            await asyncio.sleep(config.retry_delay)
            waited += config.retry_delay
            if told and waited < config.update_period and not self._cache_changed():
                continue
            await self._measure_neighbours()
            told, waited = await self.announce_or_log(), 0.0

    async def _measure_neighbours(self) -> None:
        config, num_blocks = self._config, self._model.manifest.config.num_hidden_layers
        await self._neighbours.measure(config.prefix, config.blocks, num_blocks, config.announce_timeout)

    def _cache_changed(self) -> bool:
        """Whether what clients read of our free cache is wrong by a quarter of it all or more."""
        config, llama = self._config, self._model.manifest.config
        total = 2 * len(config.blocks) * config.total_tokens(llama)
        return abs(self._handler.cache_tokens_left - self._told_cache) >= config.cache_change * total

    def _announcement(self, state: ServerState) -> Announcement:
        config, llama = self._config, self._model.manifest.config
        rates = self._metered.rates.times(self._permission.duty) if self._metered else None
        measured = self._around.bandwidth.bits_per_second if self._around.bandwidth else None
        network = network_rps(measured or config.network_bits_per_second, llama.hidden_size)
        blocks = self._target or config.blocks
        info = ServerInfo(
            state,
            throughput=throughput(rates, len(config.blocks), network, config.using_relay),
            start_block=blocks.start,
            end_block=blocks.end,
            public_name=config.public_name,
            version=__version__,
            network_rps=network,
            forward_rps=rates.forward if rates else None,
            inference_rps=rates.inference if rates else None,
            torch_dtype=self._weights.torch_dtype,
            quant_type=self._weights.quant_type,
            using_relay=config.using_relay,
            cache_tokens_left=self._told_cache,
            next_pings=self._neighbours.pings() if state == ServerState.ONLINE else None,
        )
        return Announcement(
            config.prefix, info, config.expiration, ModelInfo(llama.num_hidden_layers, config.repository)
        )

    # --- the engine -------------------------------------------------------------------------------

    async def _load(self) -> None:
        """Fill the engine, time it, and let requests in."""
        model, blocks = self._model, self._config.blocks
        log.info("blocks %s: weights as %s", blocks, self._weights)
        loaded = await load_span(
            model.manifest,
            blocks,
            model.source,
            self._around.store,
            model.engine,
            self._report,
            parallel=self._config.fetch_parallel,
            writer=self._weights.writer,
            borrow=self._borrow,
            granted=self._permission.granted,
        )
        rates = await measure(model.engine, self._weights.writer.shape, self._around.now)
        self._status = replace(self._status, loaded=loaded, backend=model.engine.backend)
        self._metered = MeteredEngine(model.engine, len(blocks), rates, self._around.now)
        self._span.resume(self._metered)

    def _on_device_lost(self, error: DeviceLost) -> None:
        self.note(error)
        self._drain.limit(0.0)  # of a move: there is nothing left to serve with
        if not self._may_rebuild() or self._target is not None:
            return
        log.warning("the device is lost (%s); rebuilding the engine", error)
        self._spawn(self._rebuild())

    async def _rebuild(self) -> None:
        """Load again (the weights are in the store), and count it."""
        if await self._reload("the server lost its device and could not rebuild its engine"):
            self._status = replace(self._status, rebuilds=self._status.rebuilds + 1)

    async def _reload(self, failure: str) -> bool:
        """JOINING, load, ONLINE; give up after so many tries. Whether it worked."""
        for attempt in range(1, self._config.max_rebuilds + 1):
            await self.announce_or_log(ServerState.JOINING)
            try:
                await self._model.engine.close()
                await self._load()
            except KwaaiNetError as error:
                self.note(error)
                log.warning("loading blocks %s failed, attempt %d: %s", self._config.blocks, attempt, error)
                await asyncio.sleep(self._config.retry_delay)
            else:
                await self.announce_or_log(ServerState.ONLINE)
                return True
        self._span.suspend(failure)
        await self.announce_or_log(ServerState.OFFLINE)
        return False

    async def _move(self, blocks: BlockRange) -> None:
        """Leave the blocks served for others: say so, serve on until nobody needs them, load the others."""
        if self._status.state != ServerState.ONLINE or self._permission.reasons:
            return  # a device being rebuilt has other worries
        self._target = self._config.blocks
        await self.announce_or_log(ServerState.OFFLINE)
        self._target = blocks
        await self.announce_or_log(ServerState.JOINING)  # so that nobody else fills the same gap
        self._drain = Drain(self._config.drain_grace, self.is_busy)
        self._drain.limit(self._config.drain_limit)
        await self._drain.wait()
        await self._vacate("the server has moved to other blocks; open a new session elsewhere")
        self._done_before += self._span.tokens_done
        self._requests_before += self._span.requests_done
        self._settle(blocks)
        self._target = None
        self.register()
        self._status = replace(self._status, moves=self._status.moves + 1)
        await self._reload(f"the server could not load blocks {blocks}")

    # --- housekeeping -----------------------------------------------------------------------------

    def note(self, error: BaseException) -> None:
        """Keep the last thing that went wrong."""
        self._status = replace(self._status, error=str(error) or type(error).__name__)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
