"""Tensors from other nodes: whoever serves a block lends its bytes to those that cannot fetch them.

Both ends of ``BlobProtocol.rpc_read`` (see ``swarm.blobs``). Rule of the file: a lender gives only
tensors of the models it serves and no faster than stated; a borrower believes nothing but the hash.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256

from ..errors import (
    CapacityError,
    KwaaiNetError,
    ProtocolError,
    RequestError,
    RpcError,
    Unreachable,
)
from ..formats.manifest import ModelManifest, TensorEntry
from ..ports import BlobStore, Clock, Host, RangeSource
from ..swarm.blobs import MAX_LENGTH, PROTOCOL, BlobPart
from ..swarm.server_info import ServerInfo
from ..types import PeerId, ServerState
from .directory import ReadServers
from .rate_limit import SLOW_DOWN, RateLimit

log = logging.getLogger(__name__)

MAX_PER_MINUTE = 600  # parts lent to one peer: 10 MB/s
MAX_PEERS = 256  # whose reads are counted
MAX_AT_ONCE = 4  # parts being read for all peers
MAX_WAITING = 64  # parts that wait for that
MAX_HELD = 64 << 20  # bytes of tensors kept in memory between parts; one tensor may be larger
HELD_FOR = 10.0  # seconds after the last part
PART_TIMEOUT = 20.0  # seconds a borrower waits for one part
PARALLEL = 4  # parts under way at once
MAX_LENDERS = 8  # asked for one tensor
FRESH = 20.0  # seconds for which who serves is not asked again
PATIENCE = 14  # attempts at a part after such a refusal, PAUSE seconds apart: a minute's share comes back
PAUSE = 5.0


class Lender:
    """The serving end; ``offer`` what may be lent before it is asked for."""

    def __init__(self, store: BlobStore, now: Clock) -> None:
        self._store, self._now = store, now
        self._offered: dict[str, tuple[TensorEntry, RangeSource | None]] = {}
        self._held: OrderedDict[str, bytes] = OrderedDict()
        self._reading = asyncio.Lock()
        self._forgetting: asyncio.TimerHandle | None = None
        self._turns, self._waiting = asyncio.Semaphore(MAX_AT_ONCE), 0
        self._rate = RateLimit("parts", MAX_PER_MINUTE, MAX_PEERS)
        self.refusing = False  # while the machine's owner has paused this server

    def offer(self, manifest: ModelManifest, files: RangeSource | None) -> None:
        """Lend this model's tensors: from ``files`` on this machine, or as far as the store has them."""
        self._offered |= {entry.sha256: (entry, files) for entry in manifest.tensors.values()}

    def register(self, host: Host) -> None:
        """Answer requests on ``host``."""
        host.handle_unary(PROTOCOL, self.rpc_read)

    def forget(self) -> None:
        """Release the memory between parts."""
        self._held.clear()
        if self._forgetting is not None:
            self._forgetting.cancel()
            self._forgetting = None

    async def rpc_read(self, peer: PeerId, request: bytes) -> bytes:
        """A part of a tensor. ``RequestError`` for what is not here, ``LimitExceeded`` for a hurry."""
        part = BlobPart.decode(request)
        digest = part.sha256.hex()
        if self.refusing:
            raise RequestError("the machine's owner has paused this server; ask another")
        if digest not in self._offered:
            raise RequestError(f"{digest} is no tensor of a model served here")
        entry, files = self._offered[digest]
        if part.offset + part.length > entry.length:
            raise RequestError(f"the tensor has {entry.length} bytes, not {part.offset + part.length}")
        self._rate.count(peer, self._now())
        if self._waiting >= MAX_WAITING:
            raise CapacityError(f"{MAX_WAITING} parts wait to be read here; ask another, or {SLOW_DOWN}")
        self._waiting += 1
        try:
            async with self._turns:
                if files is not None:
                    return await files.read(entry.file, entry.offset + part.offset, part.length)
                return (await self._blob(digest))[part.offset : part.offset + part.length]
        finally:
            self._waiting -= 1

    async def _blob(self, digest: str) -> bytes:
        """A whole tensor from the store, which checks its hash; read once for all of its parts."""
        async with self._reading:
            data = self._held.get(digest)
            if data is None:
                data = await self._store.get(digest)
            if data is None:
                raise RequestError(f"{digest} is not kept here")
            self._held[digest] = data
            self._held.move_to_end(digest)
            while len(self._held) > 1 and sum(map(len, self._held.values())) > MAX_HELD:
                self._held.popitem(last=False)
            if self._forgetting is not None:
                self._forgetting.cancel()
            self._forgetting = asyncio.get_running_loop().call_later(HELD_FOR, self.forget)
            return data


class Borrower:
    """The asking end: whole tensors of a model's blocks from those that serve the same blocks."""

    def __init__(self, host: Host, read_servers: ReadServers, prefix: str, num_blocks: int) -> None:
        self._host, self._read_servers = host, read_servers
        self._prefix, self._num_blocks = prefix, num_blocks
        self._refused: dict[PeerId, None] = {}
        self._asking = asyncio.Lock()
        self._known: tuple[float, Sequence[Mapping[PeerId, ServerInfo]]] | None = None

    async def borrow(self, block: int, entry: TensorEntry) -> bytes:
        """A tensor of ``block`` with the hash that ``entry`` states; ``Unreachable`` if nobody has it."""
        asked = []
        for peer in await self._lenders(block, entry):
            try:
                data = await self._whole(peer, entry)
            except (KwaaiNetError, TimeoutError) as error:
                log.info("%s does not lend: %s", peer, error)
                asked.append(f"{peer}: {error!s:.120}")
                continue
            if sha256(data).hexdigest() == entry.sha256:
                return data
            log.warning("%s lent bytes of another hash; it is not asked again", peer)
            self._refused[peer] = None
            asked.append(f"{peer}: bytes of another hash")
        said = "; ".join(asked) if asked else "there is no other server of it"
        raise Unreachable(f"no server of block {block} lends its weights ({said})")

    async def _lenders(self, block: int, entry: TensorEntry) -> list[PeerId]:
        """Who serves the block, each tensor beginning with another of them."""
        servers = await self._servers()
        peers = sorted(
            peer
            for peer, info in servers[block].items()
            if info.state == ServerState.ONLINE and peer != self._host.peer_id and peer not in self._refused
        )
        first = int(entry.sha256[:8], 16) % len(peers) if peers else 0
        return (peers[first:] + peers[:first])[:MAX_LENDERS]

    async def _servers(self) -> Sequence[Mapping[PeerId, ServerInfo]]:
        async with self._asking:
            now = asyncio.get_running_loop().time()
            if self._known is None or self._known[0] < now - FRESH:
                try:
                    self._known = now, await self._read_servers(self._prefix, self._num_blocks)
                except TimeoutError:
                    raise Unreachable("the swarm could not be read in time") from None
            return self._known[1]

    async def _whole(self, peer: PeerId, entry: TensorEntry) -> bytes:
        data, parts = bytearray(entry.length), iter(_parts(entry))

        async def fetch() -> None:
            for part in parts:
                data[part.offset : part.offset + part.length] = await self._part(peer, part)

        tasks = [asyncio.ensure_future(fetch()) for _ in range(PARALLEL)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return bytes(data)

    async def _part(self, peer: PeerId, part: BlobPart) -> bytes:
        for attempt in range(PATIENCE):
            if attempt:
                await asyncio.sleep(PAUSE)
            try:
                reply = await self._host.call(peer, PROTOCOL, part.encode(), timeout=PART_TIMEOUT)
            except RpcError as error:
                if SLOW_DOWN not in str(error) or attempt + 1 == PATIENCE:
                    raise
            else:
                break
        if len(reply) != part.length:
            raise ProtocolError(f"it sent {len(reply)} of {part.length} bytes")
        return reply


def _parts(entry: TensorEntry) -> Iterator[BlobPart]:
    digest = bytes.fromhex(entry.sha256)
    for offset in range(0, entry.length, MAX_LENGTH):
        yield BlobPart(digest, offset, min(MAX_LENGTH, entry.length - offset))
