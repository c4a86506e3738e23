"""identify, identify push and ping over a ``Network``.

Follows the libp2p identify spec. Rule of the file: every peer is asked once per connection, and told
again whenever our protocols or addresses change.
"""

from __future__ import annotations

import asyncio
import logging

from ..errors import KwaaiNetError
from ..libp2p import identify
from .link import Link
from .network import Network
from .stream import RawStream

logger = logging.getLogger(__name__)

_TIMEOUT = 15.0  # seconds for one exchange
PING_IDLE = 120.0  # seconds between two pings on one stream, and for an echo to be taken


class Identification:
    """Serves the three protocols and keeps the peerstore's descriptions."""

    def __init__(self, network: Network, agent: str) -> None:
        self._network = network
        self._agent = agent
        self._push_due = False
        self._same_for_all: bytes | None = None  # of what we say, until it changes
        self._asking: dict[Link, asyncio.Task[None]] = {}
        network.handle(identify.PROTOCOL, self._answer)
        network.handle(identify.PUSH_PROTOCOL, self._receive_push)
        network.handle(identify.PING_PROTOCOL, self._echo)
        network.on_opened(self._link_opened)
        network.on_changed(self._changed)

    def message(self, observed: bytes) -> bytes:
        """What we say of ourselves to a peer seen at ``observed`` (an encoded multiaddr)."""
        if self._same_for_all is None:
            network = self._network
            self._same_for_all = identify.Identify(
                public_key=network.public_key.encode(),
                listen_addresses=tuple(address.encode() for address in network.addresses),
                protocols=tuple(network.protocols),
                protocol_version=identify.PROTOCOL_VERSION,
                agent_version=self._agent,
            ).encode()
        return self._same_for_all + identify.Identify(observed_address=observed).encode()

    async def known(self, link: Link) -> None:
        """Wait until the peer has said who it is, or will not. Before, kad does not count on it."""
        asking = self._asking.get(link)
        if asking is not None:
            await asyncio.wait([asking])

    def _link_opened(self, link: Link) -> None:
        asking = self._asking[link] = self._network.spawn(self._ask(link))
        asking.add_done_callback(lambda done: self._asking.pop(link))

    async def _answer(self, stream: RawStream) -> None:
        stream.write_message(self.message(stream.address.encode()))
        stream.close()

    async def _receive_push(self, stream: RawStream) -> None:
        async with asyncio.timeout(_TIMEOUT):
            await self._learn(stream)
        stream.close()

    async def _echo(self, stream: RawStream) -> None:
        while data := await self._ping(stream):
            stream.write(data)
            async with asyncio.timeout(PING_IDLE):
                await stream.drain()
        stream.close()

    async def _ping(self, stream: RawStream) -> bytes | memoryview:
        async with asyncio.timeout(PING_IDLE):
            return await stream.read()

    async def _ask(self, link: Link) -> None:
        stream = None
        try:
            stream = link.open_stream(identify.PROTOCOL)
            async with asyncio.timeout(_TIMEOUT):
                await self._learn(stream)
            stream.close()
        except (KwaaiNetError, TimeoutError) as error:
            if stream is not None:  # or it stays with the connection, for nobody
                stream.reset()
            logger.info("%s did not identify itself: %s", link.remote_peer, error or "timeout")

    async def _learn(self, stream: RawStream) -> None:
        message = await stream.read_message(identify.MAX_MESSAGE)
        if message is not None:
            self._network.peerstore.describe(stream.remote_peer, identify.read(message))

    def _changed(self) -> None:
        self._same_for_all = None
        if not self._push_due and self._network.peers:
            self._push_due = True
            asyncio.get_running_loop().call_soon(self._push)

    def _push(self) -> None:
        self._push_due = False
        store = self._network.peerstore
        for link in self._network.links():
            if identify.PUSH_PROTOCOL in store.description(link.remote_peer).protocols:
                try:
                    stream = link.open_stream(identify.PUSH_PROTOCOL)
                    stream.write_message(self.message(link.address.encode()))
                    stream.close()
                except KwaaiNetError as error:
                    logger.debug("no push to %s: %s", link.remote_peer, error)
