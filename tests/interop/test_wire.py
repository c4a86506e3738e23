"""Our codecs beside the real hivemind's: tensors in all six compressions, messages, msgpack values."""

from typing import Any

import numpy as np
import pytest
from interop.running import ask
from numpy.typing import NDArray

from kwaainet.compression.codec import CompressionType, deserialize, serialize
from kwaainet.swarm.server_info import ModelInfo, ServerInfo
from kwaainet.types import ServerState
from kwaainet.wire import messages, msgpack
from kwaainet.wire.msgpack import DictionaryValue

SHAPES = [(1, 7, 192), (3, 64), (4097,)]  # the last is one element more than a block of BLOCKWISE_8BIT
NO_BFLOAT16 = (CompressionType.FLOAT16, CompressionType.MEANSTD_16BIT)
SAME_BYTES = (CompressionType.NONE, CompressionType.FLOAT16, CompressionType.BLOCKWISE_8BIT)
NEAR = 2e-6  # of a tensor's largest value: torch sums in another order on every kind of machine


def tensors() -> list[tuple[NDArray[np.float32], str, CompressionType]]:
    random = np.random.default_rng(3)
    return [
        (random.standard_normal(shape, np.float32), dtype, compression)
        for shape in SHAPES
        for dtype in ("float32", "bfloat16")
        for compression in CompressionType
        if not (dtype == "bfloat16" and compression in NO_BFLOAT16)
    ]


def protobuf() -> list[messages.Message]:
    node = messages.NodeInfo(bytes(range(20)))
    found = messages.FindResult(
        messages.ResultType.FOUND_REGULAR, b"\xc0", 12.5, (b"n" * 20,), (b"\x12\x20" + b"p" * 32,)
    )
    tensor = serialize(np.arange(6, dtype=np.int64).reshape(2, 3))
    return [
        messages.PingRequest(peer=node, validate=True),
        messages.PingResponse(peer=node, dht_time=1.5, available=True),
        messages.StoreRequest(
            keys=(b"k" * 20, b"l" * 20),
            subkeys=(b"\xc0", b""),
            values=(b"v", b"w"),
            expiration_time=(1e9, 2e9),
            in_cache=(False, True),
            peer=node,
        ),
        messages.StoreResponse(store_ok=(True, False, True), peer=node),
        messages.FindRequest(keys=(b"k" * 20,), peer=node),
        messages.FindResponse(results=(found, messages.FindResult()), peer=node),
        messages.ExpertUID("m.0 m.1"),
        messages.ExpertInfo(b"\x80"),
        messages.ExpertRequest(uid="m.0", tensors=(tensor, tensor), metadata=b"\x80"),
        messages.ExpertResponse(tensors=(tensor,), metadata=b"\x80"),
    ]


def packed() -> list[bytes]:
    info = ServerInfo(
        ServerState.ONLINE, 1.0, start_block=0, end_block=5, adapters=("a",), next_pings={"peer": 0.25}
    )
    entries = {"peer": (b"\x01", 4e9), "other": (info.encode(), 4e9 + 1)}
    return [
        info.encode(),
        ModelInfo(5, "https://huggingface.co/kwaai/odd").encode(),
        msgpack.dumps(DictionaryValue(entries, 4e9 + 1)),
        msgpack.dumps({"args_structure": ((b"__T0", b"__T1"), {}), "points": 0, "max_length": 64}),
    ]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What hivemind makes of everything here, asked once."""
    spec = {
        "tensors": [
            {
                "values": values.tobytes().hex(),
                "shape": values.shape,
                "dtype": dtype,
                "compression": int(compression),
                "ours": serialize(values, compression, dtype).encode().hex(),
            }
            for values, dtype, compression in tensors()
        ],
        "messages": [{"type": type(one).__name__, "ours": one.encode().hex()} for one in protobuf()],
        "msgpack": [one.hex() for one in packed()],
    }
    return ask(tmp_path_factory.mktemp("codec"), "hivemind_codec", spec)


def test_tensors_in_every_compression(theirs: dict[str, Any]) -> None:
    cases = tensors()
    assert len(theirs["tensors"]) == len(cases) == 30
    for (values, dtype, compression), answer in zip(cases, theirs["tensors"], strict=True):
        what = f"{compression.name} {dtype} {values.shape}"
        near = NEAR * float(np.abs(values).max())
        read = np.frombuffer(bytes.fromhex(answer["read"]), np.float32).reshape(values.shape)
        ours = deserialize(messages.Tensor.decode(bytes.fromhex(answer["theirs"])))
        np.testing.assert_allclose(ours, read, rtol=0, atol=near, err_msg=f"we read theirs: {what}")
        read_ours = np.frombuffer(bytes.fromhex(answer["read_ours"]), np.float32).reshape(values.shape)
        mine = deserialize(serialize(values, compression, dtype))
        np.testing.assert_allclose(read_ours, mine, rtol=0, atol=near, err_msg=f"they read ours: {what}")
        if (
            dtype == "float32" and compression in SAME_BYTES
        ):  # hivemind widens a plain bfloat16, petals does not
            encoded = serialize(values, compression, dtype).encode().hex()
            assert encoded == answer["theirs"], f"the same bytes: {what}"


def test_messages_are_the_same_bytes(theirs: dict[str, Any]) -> None:
    for one, answer in zip(protobuf(), theirs["messages"], strict=True):
        assert one.encode().hex() == answer, type(one).__name__


def test_msgpack_values_are_the_same_bytes(theirs: dict[str, Any]) -> None:
    for one, answer in zip(packed(), theirs["msgpack"], strict=True):
        assert one.hex() == answer
