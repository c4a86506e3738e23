"""A gateway: stands in the DHT as one ordinary Petals server for the blocks that others hold.

A stock client cannot move a session to another server; through a gateway it need not, because our
client behind it does. Rule of the file: what is announced is what is held now, and nothing of a
session is kept beyond the stated budget.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace

from .. import __version__
from ..errors import ConfigError, KwaaiNetError
from ..formats.config import ModelConfig
from ..inference.history import Budget
from ..ports import Clock, Host
from ..swarm.announcement import Announcement
from ..swarm.coverage import as_one_server, covered, holders
from ..swarm.server_info import ModelInfo, ServerInfo
from ..types import BlockRange, PeerId, ServerState
from .admission import Admission
from .announce import Announcer
from .client import Client, ClientOptions
from .config import NodeConfig
from .directory import ReadServers
from .forwarded_gradients import ForwardedGradients
from .forwarding import ForwardedSpan, Session
from .rpc import TransformerConnectionHandler, answer_pings

log = logging.getLogger(__name__)

KEPT_INPUTS = 4  # hidden states kept of one position: of four hops, or of two with room to grow

Records = Sequence[Mapping[PeerId, ServerInfo]]


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """A gateway for the model known as ``prefix``; times are seconds.

    ``history_bytes`` bounds the inputs kept of all sessions together: room for ``KEPT_INPUTS`` hidden
    states of every position is set aside when a session opens.
    """

    prefix: str
    repository: str | None = None
    public_name: str | None = None
    answer_ping: bool = False
    history_bytes: int = 1 << 30
    max_sessions: int = 256
    look_period: float = 2.0  # between looks at who holds what
    patience: float = 60.0  # that a step waits for lost blocks to be held again
    spare: bool = False  # keep a second server of each hop ready

    def __post_init__(self) -> None:
        for name in ("history_bytes", "max_sessions", "look_period"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be positive")


@dataclass(frozen=True, slots=True)
class GatewayStatus:
    """For the operator: the blocks announced, and what the sessions behind it cost."""

    blocks: BlockRange | None
    in_use: Mapping[PeerId, int]  # the servers behind it, and how many sessions each carries
    sessions: int
    failovers: int
    tokens_done: int
    history_bytes: int
    history_limit: int


class Gateway:
    """Serves ``config.prefix`` on ``host`` through the servers that ``read_servers`` names."""

    def __init__(
        self,
        config: GatewayConfig,
        model: ModelConfig,
        *,
        host: Host,
        read_servers: ReadServers,
        announcer: Announcer,
        now: Clock,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._config, self._model, self._host = config, model, host
        self._read_servers, self._announcer, self._now = read_servers, announcer, now
        whole = BlockRange(0, model.num_hidden_layers)
        tokens = max(1, config.history_bytes // (4 * model.hidden_size * KEPT_INPUTS))
        self._node = NodeConfig(
            config.prefix,
            whole,
            cache_tokens=tokens,
            max_sessions=config.max_sessions,
            answer_ping=config.answer_ping,
            using_relay=False,
        )
        self._history = Budget(config.history_bytes)
        self._client = Client(
            host,
            self._read_holders,
            config.prefix,
            len(whole),
            now=now,
            random_bytes=random_bytes,
            options=ClientOptions(
                patience=config.patience, spare=config.spare, history_bytes=config.history_bytes
            ),
        )
        self._span = ForwardedSpan(self._open_session, whole, Admission(tokens, config.max_sessions))
        training = ForwardedGradients(
            host, self._client.view, config.prefix, self._history, self._node.request_timeout
        )
        self._handler = TransformerConnectionHandler(self._node, model, self._span, training)
        self._announced: Announcement | None = None
        self._told_at = -math.inf
        self._holders: set[PeerId] = set()
        self._keeper: asyncio.Task[None] | None = None

    @property
    def status(self) -> GatewayStatus:
        """As of now."""
        return GatewayStatus(
            None if self._announced is None else self._announced.span,
            self._span.in_use,
            self._handler.sessions,
            self._span.failovers,
            self._span.tokens_done,
            self._history.used,
            self._history.limit,
        )

    async def start(self) -> None:
        """Serve, and announce what is covered from now on."""
        self._handler.register(self._host)
        if self._config.answer_ping:
            answer_pings(self._host, self._now)
        self._keeper = asyncio.ensure_future(self._keep_announced())

    async def stop(self) -> None:
        """Announce that we leave. Sessions go on until the host closes. Never raises."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        await self._tell(None)

    # --- sessions ---------------------------------------------------------------------------------

    def _open_session(
        self, blocks: BlockRange, max_length: int, batch: int, request_id: str
    ) -> AbstractAsyncContextManager[Session]:
        return self._client.session(
            max_length, batch, blocks=blocks, history=self._history, request_id=request_id
        )

    async def _read_holders(self, prefix: str, num_blocks: int) -> Records:
        return holders(await self._read_servers(prefix, num_blocks))

    # --- announcing -------------------------------------------------------------------------------

    async def _keep_announced(self) -> None:
        while True:
            try:
                held = await self._read_holders(self._config.prefix, self._model.num_hidden_layers)
            except (KwaaiNetError, TimeoutError) as error:
                log.warning("who holds what could not be read: %s", error)
            else:
                self._look_at(held)
                await self._tell(self._announcement(held))
            await asyncio.sleep(self._config.look_period)

    def _look_at(self, held: Records) -> None:
        """Have our client know who came and went before a session needs it."""
        peers = {peer for servers in held for peer in servers}
        if peers != self._holders:
            self._holders = peers
            self._client.view.renew_soon()

    def _announcement(self, held: Records) -> Announcement | None:
        blocks = covered(held)
        if blocks is None:
            return None
        info = replace(
            as_one_server(held, blocks, __version__),
            public_name=self._config.public_name,
            cache_tokens_left=2 * len(blocks) * self._span.admission.tokens_left,
        )
        model = ModelInfo(self._model.num_hidden_layers, self._config.repository)
        return Announcement(self._config.prefix, info, self._node.expiration, model)

    async def _tell(self, announcement: Announcement | None) -> None:
        """Announce other blocks at once, the same ones when it is time; what was left is taken down first."""
        before = self._announced
        moved = _span(before) != _span(announcement)
        if not moved and (announcement is None or self._now() < self._told_at + self._node.update_period):
            return
        try:
            if before is not None and moved:
                await self._announcer.announce(before.with_state(ServerState.OFFLINE))
                self._announced = None
            if announcement is not None:
                # ours from now on: it is taken down again even if we are stopped while it is stored
                self._announced, self._told_at = announcement, -math.inf
                await self._announcer.announce(announcement)
        except (KwaaiNetError, TimeoutError) as error:
            log.warning("announcing blocks %s failed: %s", _span(announcement), error)
            return
        self._announced, self._told_at = announcement, self._now()
        log.info("the gateway serves blocks %s of %s", _span(announcement), self._config.prefix)


def _span(announcement: Announcement | None) -> BlockRange | None:
    return None if announcement is None else announcement.span
