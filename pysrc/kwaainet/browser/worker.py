"""The node worker's main: builds the same ``ServerNode`` as every runtime, over the tab's ports.

Rule of the file: composition, and what the page is told; what the node does is decided in ``node``.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any, cast

from ..errors import ConfigError
from ..formats.manifest import ModelManifest
from ..node.announce import RelayAnnouncer
from ..node.bandwidth import Bandwidth
from ..node.config import NodeConfig, parse_blocks
from ..node.directory import directory_reader
from ..node.limits import Allowance, Facts, Limits, allow
from ..node.receipts import Receipt
from ..node.server import ServerNode
from ..ports import Clock
from ..swarm.announcement import PROTOCOL
from ..types import PeerId, Progress
from . import messages, node_messages
from .bridge import JsFiles, JsPort, on_limits, on_stop, reporter, take_over
from .console import log_to_console
from .engine import BrowserEngine
from .gradients import BrowserGradients
from .host import BrowserHost
from .store import BrowserSource, BrowserStore

log = logging.getLogger(__name__)

STATES: dict[str, messages.State] = {
    "listen": "reserving",
    "joining": "joining",
    "online": "online",
    "draining": "draining",
}
WATCH_PERIOD = 1.0  # seconds between looks at the clock, and at what the page should know of a serving node


async def main(bridge: Any, config: Any, manifest: str) -> None:
    """Serve until the page says stop. ``config`` is a ``node_messages.NodeConfig`` as a JavaScript object."""
    log_to_console()
    take_over(bridge, asyncio.get_running_loop())
    asked = cast(node_messages.NodeConfig, config.to_py())
    host = await BrowserHost.create(JsPort(bridge))
    tab = Tab.create(bridge, asked, manifest, host)
    on_stop(bridge, tab.leave)
    on_limits(bridge, tab.limit)
    await tab.serve()


class Tab:
    """One node and what the page hears of it."""

    def __init__(
        self,
        node: ServerNode,
        host: BrowserHost,
        relay: PeerId,
        tell: Callable[[node_messages.NodeToPage], None],
        now: Clock = time.time,
    ) -> None:
        self._node, self._host, self._relay, self._tell, self._now = node, host, relay, tell, now
        self._limits, self._facts, self._allowed = Limits(), Facts(), Allowance()
        self._online = self._leaving = False
        self._stop = asyncio.Event()
        self._drain = math.inf  # seconds, the shortest asked for
        self._told: tuple[messages.State, tuple[node_messages.PauseReason, ...]] = ("starting", ())
        self._told_serving: node_messages.Serving | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        host.on_return = self._announce_again

    @classmethod
    def create(
        cls, bridge: Any, asked: node_messages.NodeConfig, manifest_text: str, host: BrowserHost
    ) -> Tab:
        """Raises ``ConfigError``, ``ModelFileError`` and ``EngineError``."""
        manifest = ModelManifest.from_json(manifest_text)
        blocks, movable = parse_blocks(asked["blocks"], manifest.config.num_hidden_layers)
        model = asked["model"]
        config = NodeConfig(
            model["prefix"],
            blocks,
            movable=movable,
            public_name=asked["public_name"] or None,
            repository=model.get("repository") or None,
            weights=asked["weights"],
            weight_bytes=asked["memory"],
        )
        config.check_model(manifest.config)
        relay = relay_of(asked["relays"])
        files = JsFiles(bridge)
        tell = reporter(bridge)
        node = ServerNode(
            config,
            host=host,
            engine=BrowserEngine(bridge.engine),
            store=BrowserStore(files),
            source=BrowserSource(files, model["files"]),
            manifest=manifest,
            announcer=RelayAnnouncer(host, speaker(host, relay), timeout=config.announce_timeout),
            now=swarm_clock(asked["ahead"]),
            gradients=BrowserGradients(bridge.createGradients),
            read_servers=directory_reader(host, speaker(host, relay)),
            chance=random.random,
            bandwidth=Bandwidth(host, [relay], time.perf_counter),
            on_receipt=lambda receipt: tell(told(receipt)),
        )
        return cls(node, host, relay, tell)

    def leave(self, drain: float) -> None:
        """The page says stop, and for how many seconds the node may go on serving; the least counts."""
        self._drain = min(self._drain, drain)
        self._stop.set()
        if self._leaving:
            self._spawn(self._node.stop(drain))

    def limit(self, message: node_messages.SetLimits) -> None:
        """The page says what is allowed, and how things are. Raises ``ConfigError``."""
        self._limits, self._facts = read_limits(message)
        self._keep_to_limits()

    def _keep_to_limits(self) -> None:
        allowed = allow(self._limits, self._facts, self._now())
        if allowed != self._allowed:
            self._allowed = allowed
            self._node.allow(allowed)

    async def _follow_the_clock(self) -> None:
        while True:
            await asyncio.sleep(WATCH_PERIOD)
            self._keep_to_limits()

    async def serve(self) -> None:
        """Start, go on until told to ``leave``, and leave. Raises what starting raises."""
        following = asyncio.ensure_future(self._follow_the_clock())
        try:
            await self._serve()
        finally:
            following.cancel()

    async def _serve(self) -> None:
        starting = asyncio.ensure_future(self._node.start(self._report))
        stopping = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            self._online = True
            watching = asyncio.ensure_future(self._watch())
            await stopping
            self._leaving = True
            await self._node.stop(self._drain)
            watching.cancel()
        else:
            self._leaving = True
            starting.cancel()
            await asyncio.wait({starting})

    def _report(self, progress: Progress) -> None:
        status = self._node.status
        if progress.stage in STATES:
            self._tell_state(STATES[progress.stage], "")
            self._host.set_farewell(self._host.relay or self._relay, PROTOCOL, self._node.farewell())
        elif progress.stage == "paused":
            self._tell_state("paused", "")
        elif progress.stage == "offline":
            if self._online and not self._leaving:  # a failed start and a stop are told when they are over
                self._tell_state("error", status.error or "the node left the swarm by itself")
        else:
            self._tell(loading(progress))

    def _tell_state(self, state: messages.State, message: str) -> None:
        """Only what is new: the node announces itself again and again."""
        status = self._node.status
        if (state, status.paused) == self._told:
            return
        self._told = state, status.paused
        blocks = [status.blocks.start, status.blocks.end]
        self._tell(
            {
                "type": "state",
                "state": state,
                "blocks": blocks,
                "backend": status.backend,
                "weights": status.weights,
                "message": message,
                "reasons": list(status.paused),
            }
        )

    async def _watch(self) -> None:
        """Tell the page what is being served, whenever that has changed."""
        while True:
            status = self._node.status
            serving: node_messages.Serving = {
                "type": "serving",
                "sessions": status.sessions,
                "tokens_done": status.tokens_done,
                "requests_done": status.requests_done,
                "busy": round(status.busy, 2),
                "cache_left": status.cache_tokens_left,
                "leaving_in": math.ceil(status.leaving_in or 0.0),
            }
            if serving != self._told_serving:
                self._told_serving = serving
                self._tell(serving)
            await asyncio.sleep(WATCH_PERIOD)

    def _announce_again(self) -> None:
        """The relay took our announcement down when it lost us."""
        if not self._leaving:
            self._spawn(self._node.announce_again())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def swarm_clock(ahead: float) -> Clock:
    """The relay's time, on a machine whose clock is ``ahead`` of it by so many seconds, 0 where it is right.

    Where it is wrong it may be set at any moment, so the time that passes is measured and not read off it.
    """
    if ahead == 0:
        return time.time
    start = time.time() - ahead - time.perf_counter()
    return lambda: start + time.perf_counter()


def loading(progress: Progress) -> messages.LoadProgress:
    """What Python knows of it; JavaScript adds its own part (web/worker/loading.ts)."""
    return {
        "type": "progress",
        "stage": progress.stage,
        "done": progress.done,
        "total": progress.total,
        "cached": progress.cached,
        "rate": 0.0,
    }


def told(receipt: Receipt) -> node_messages.Receipt:
    """A receipt as the page takes it."""
    return {
        "type": "receipt",
        "kind": receipt.kind,
        "peer": str(receipt.peer),
        "model": receipt.model,
        "blocks": [receipt.blocks.start, receipt.blocks.end],
        "tokens": receipt.tokens,
        "bytes_in": receipt.bytes_in,
        "bytes_out": receipt.bytes_out,
        "started": receipt.started,
        "ended": receipt.ended,
        "error": receipt.error,
        "code": receipt.code,
    }


def read_limits(message: node_messages.SetLimits) -> tuple[Limits, Facts]:
    """What the page says, as the node's rules take it. Raises ``ConfigError``."""
    limits = Limits(
        message["duty"],
        int(message["memory"]),
        tuple((int(first), int(last)) for first, last in message["hours"]),
        message["pause_on_battery"],
        message["pause_on_metered"],
        message["pause_when_hidden"],
    )
    facts = Facts(
        message["paused"],
        message["on_battery"],
        message["metered"],
        message["hidden"],
        int(message["utc_offset"]),
    )
    return limits, facts


def speaker(host: BrowserHost, first: PeerId) -> Callable[[], PeerId]:
    """The relay that speaks for us now; ``first`` where none holds us."""
    return lambda: host.relay or first


def relay_of(relays: list[str]) -> PeerId:
    """The peer id at the end of the first relay's address; ``ConfigError`` if there is none."""
    for address in relays:
        head, found, peer = address.rpartition("/p2p/")
        if head and found:
            return PeerId.parse(peer)
    raise ConfigError(f"none of the relays {relays} ends in /p2p/ID")
