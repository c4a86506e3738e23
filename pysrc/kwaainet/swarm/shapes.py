"""What stands under the keys of a Petals swarm, for a node of the DHT that keeps it.

A key is a hash, so only those are known that can be named: ``_petals.models``; KwaaiNet's registries of nodes
(``announce.rs`` and ``crawler.rs`` of Kwaai-AI-Lab/KwaaiNet at 9190d4a: ServerInfo under
``_kwaai.inference.nodes``, a map under ``_kwaai.vpk.nodes``, subkey the peer id); and the blocks of models
that ``_petals.models`` named here. All others may hold anything: a swarm has keys that we know nothing of.
Rule of the file: no stricter than the readers among stock peers; KwaaiNet's states (-1 offline, 0, 2) and
fields of its own pass.
"""

from __future__ import annotations

import math
from collections import OrderedDict

from ..dht.guard import Shape
from ..dht.key import DHTID
from ..dht.record import Subkey
from ..errors import KwaaiNetError
from ..types import PeerId
from ..wire import msgpack
from . import blocks
from .server_info import MODELS_KEY, ModelInfo

RELAYS_KEY = "_kwaainet.relays"  # ours: a map with a relay's addresses under its peer id
MAX_RELAY_ADDRESSES, MAX_ADDRESS_LENGTH = 8, 256  # of one relay; characters
INFERENCE_NODES_KEY, VPK_NODES_KEY = "_kwaai.inference.nodes", "_kwaai.vpk.nodes"
MAX_KEYS = 8192  # blocks that are known; those of the model named longest ago give way
MAX_STATE = 2
MIN_STATE = -1


class SwarmShapes:
    """The shape of each key; give ``of`` to a ``Guard``."""

    def __init__(self) -> None:
        self._fixed: dict[DHTID, Shape] = {
            DHTID.of(MODELS_KEY): self._is_model,
            DHTID.of(INFERENCE_NODES_KEY): is_server,
            DHTID.of(VPK_NODES_KEY): is_map_of_a_peer,
            DHTID.of(RELAYS_KEY): lambda subkey, data: read_relay(subkey, data) is not None,
        }
        self._blocks: dict[DHTID, None] = {}
        self._models: OrderedDict[tuple[str, int], list[DHTID]] = OrderedDict()

    def of(self, key: DHTID) -> Shape | None:
        """What the key's records look like, if that is known."""
        return self._fixed.get(key) or (is_server if key in self._blocks else None)

    def _is_model(self, subkey: Subkey | None, data: bytes) -> bool:
        """``{num_blocks, repository}`` under a prefix; its blocks are known from now on."""
        if not isinstance(subkey, str) or not 0 < len(subkey) <= blocks.MAX_PREFIX_LENGTH:
            return False
        try:
            count = ModelInfo.decode(data).num_blocks
        except KwaaiNetError:
            return False
        self._learn(subkey, count)
        return True

    def _learn(self, prefix: str, count: int) -> None:
        known = self._models.get((prefix, count))
        if known is None:
            known = self._models[prefix, count] = [DHTID.of(blocks.uid(prefix, n)) for n in range(count)]
            self._blocks.update(dict.fromkeys(known))
        self._models.move_to_end((prefix, count))
        if len(self._blocks) > MAX_KEYS:
            self._models.popitem(last=False)
            self._blocks = dict.fromkeys(key for keys in self._models.values() for key in keys)


def is_server(subkey: Subkey | None, data: bytes) -> bool:
    """(state, throughput, map) under a peer id, as Petals and KwaaiNet write it."""
    value = _loaded(data)
    if not (_is_peer(subkey) and isinstance(value, tuple | list) and 2 <= len(value) <= 3):
        return False
    state, throughput = value[:2]
    is_rate = type(throughput) in (int, float) and math.isfinite(throughput) and throughput >= 0
    is_state = type(state) is int and MIN_STATE <= state <= MAX_STATE
    return is_state and is_rate and (len(value) == 2 or isinstance(value[2], dict))


def is_map_of_a_peer(subkey: Subkey | None, data: bytes) -> bool:
    """A map under a peer id."""
    return _is_peer(subkey) and isinstance(_loaded(data), dict)


def read_relay(subkey: Subkey | None, data: bytes) -> tuple[str, ...] | None:
    """The addresses of a relay, each ending in its id; ``None`` if this says none."""
    value = _loaded(data)
    addresses = value.get("addresses") if isinstance(value, dict) else None
    if not (_is_peer(subkey) and isinstance(addresses, list) and 0 < len(addresses) <= MAX_RELAY_ADDRESSES):
        return None
    end = f"/p2p/{subkey}"
    fits = all(
        isinstance(one, str) and len(one) <= MAX_ADDRESS_LENGTH and one.endswith(end) for one in addresses
    )
    return tuple(addresses) if fits else None


def _is_peer(subkey: Subkey | None) -> bool:
    try:
        return isinstance(subkey, str) and bool(PeerId.parse(subkey))
    except KwaaiNetError:
        return False


def _loaded(data: bytes) -> object:
    try:
        return msgpack.loads(data)
    except KwaaiNetError:
        return None
