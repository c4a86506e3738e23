"""The shapes of known keys, with the bytes of Petals and of KwaaiNet."""

import pytest

from kwaainet.dht.key import DHTID
from kwaainet.swarm import shapes
from kwaainet.swarm.server_info import ModelInfo, ServerInfo
from kwaainet.swarm.shapes import INFERENCE_NODES_KEY, VPK_NODES_KEY, SwarmShapes
from kwaainet.types import ServerState
from kwaainet.wire import msgpack

PEER = "12D3KooWA9DGWLoTPRZaZhBnjaGoQoDeGjKZKuadyeR6mUwXNBTa"
PETALS = ServerInfo(ServerState.ONLINE, 12.5, 0, 6, "me", "2.2.0", 1.0, 2.0, 3.0, (), "float16").encode()
KWAAI_FIELDS = {
    "start_block": 0, "end_block": 8, "public_name": "kn", "version": "kwaai-0.5.8", "torch_dtype": "float16",
    "using_relay": True, "cache_tokens_left": 100_000, "adapters": [], "next_pings": {}, "peer_id": PEER,
    "lease_v1": True, "trust_attestations": ["{}"],
    "vpk": {"mode": "bob", "capacity_gb": 1.5, "tenant_count": 2, "vpk_version": "1", "public_name": "kn"},
}  # fmt: skip


def kwaai(state: int) -> bytes:
    """As ``DHTServerInfo::to_msgpack`` writes it."""
    return msgpack.dumps((state, 10.0, KWAAI_FIELDS))


def shape(known: SwarmShapes, key: str) -> shapes.Shape:
    found = known.of(DHTID.of(key))
    assert found is not None
    return found


def test_keys_that_nobody_named_hold_anything() -> None:
    assert SwarmShapes().of(DHTID.of("experts.0")) is None


@pytest.mark.parametrize("data", [PETALS, *map(kwaai, (-1, 0, 2)), msgpack.dumps((2, 1.0))])
def test_what_stock_servers_say_of_themselves_fits(data: bytes) -> None:
    known = SwarmShapes()
    assert shape(known, "_petals.models")("Qwen/Qwen3-8B-hf", ModelInfo(36, "https://hf.co/q").encode())
    for key in ("Qwen/Qwen3-8B-hf.0", "Qwen/Qwen3-8B-hf.35", INFERENCE_NODES_KEY):
        assert shape(known, key)(PEER, data)
    assert known.of(DHTID.of("Qwen/Qwen3-8B-hf.36")) is None


@pytest.mark.parametrize(
    ("subkey", "value"),
    [
        ("no peer", (2, 1.0, {})),
        (7, (2, 1.0, {})),
        (None, (2, 1.0, {})),
        (PEER, "text"),
        (PEER, (3, 1.0, {})),
        (PEER, (True, 1.0, {})),
        (PEER, (2, -1.0, {})),
        (PEER, (2, float("nan"), {})),
        (PEER, (2, "fast", {})),
        (PEER, (2, 1.0, [])),
        (PEER, (2,)),
    ],
)
def test_what_no_server_would_say_does_not(subkey: object, value: object) -> None:
    assert not shapes.is_server(subkey, msgpack.dumps(value))


def test_bytes_that_are_no_msgpack_fit_nothing_known() -> None:
    known = SwarmShapes()
    for key in ("_petals.models", INFERENCE_NODES_KEY, VPK_NODES_KEY):
        assert not shape(known, key)(PEER, b"\xc1")


def test_a_vpk_node_is_a_map_under_its_id() -> None:
    is_vpk = shape(SwarmShapes(), VPK_NODES_KEY)
    assert is_vpk(PEER, msgpack.dumps(KWAAI_FIELDS["vpk"]))
    assert not is_vpk(PEER, msgpack.dumps([1]))
    assert not is_vpk("x", msgpack.dumps({}))


def test_models_need_blocks_and_known_ones_are_bounded() -> None:
    known = SwarmShapes()
    is_model = shape(known, "_petals.models")
    assert not is_model(None, ModelInfo(4).encode())
    assert not is_model("m", msgpack.dumps({"num_blocks": 0}))
    assert not is_model("m" * 200, ModelInfo(4).encode())
    for n in range(20):
        assert is_model(f"m{n}", ModelInfo(1000).encode())
    assert len(known._blocks) <= shapes.MAX_KEYS
    assert known.of(DHTID.of("m0.0")) is None
    assert known.of(DHTID.of("m19.999")) is not None
