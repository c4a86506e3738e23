"""Requests find the handler of the model they name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from kwaainet.errors import RpcError
from kwaainet.node.models import INFO, ModelHosts
from kwaainet.ports import Host, Stream
from kwaainet.testing.clock import run
from kwaainet.testing.host import MemoryHost, MemoryNetwork
from kwaainet.types import PeerId
from kwaainet.wire import msgpack
from kwaainet.wire.messages import ExpertInfo, ExpertRequest, ExpertUID

FORWARD = "TransformerConnectionHandler.rpc_forward"
INFERENCE = "TransformerConnectionHandler.rpc_inference"


class Handler:
    """Answers everything with its name."""

    def __init__(self, name: str, host: Host) -> None:
        self.name, self.host = name, host
        host.handle_unary(FORWARD, self.forward)
        host.handle_unary(INFO, self.info)
        host.handle_stream(INFERENCE, self.inference)

    async def forward(self, peer: PeerId, request: bytes) -> bytes:
        return f"{self.name} {ExpertRequest.decode(request).uid}".encode()

    async def info(self, peer: PeerId, request: bytes) -> bytes:
        return ExpertInfo(msgpack.dumps({"version": self.name, "cache_tokens_available": 5})).encode()

    async def inference(self, stream: Stream) -> None:
        while (message := await stream.receive()) is not None:
            await stream.send(self.name.encode() + message[-1:])


Test = Callable[[MemoryHost, PeerId], Awaitable[None]]


def served(test: Test, *names: str) -> None:
    async def main() -> None:
        network = MemoryNetwork(1)
        host, client = network.host(), network.host()
        models = ModelHosts(host)
        for name in names:
            Handler(name, models.of(name))
        await models.of(names[0]).listen()
        await test(client, host.peer_id)

    run(main())


async def forward(client: MemoryHost, server: PeerId, uid: str) -> str:
    return (await client.call(server, FORWARD, ExpertRequest(uid).encode(), timeout=5.0)).decode()


async def info(client: MemoryHost, server: PeerId, uid: str) -> Any:
    reply = await client.call(server, INFO, ExpertUID(uid).encode(), timeout=5.0)
    return msgpack.loads(ExpertInfo.decode(reply).serialized_info)


def test_unary_requests_go_to_the_model_they_name() -> None:
    async def test(client: MemoryHost, server: PeerId) -> None:
        assert await forward(client, server, "a.0 a.1") == "a a.0 a.1"
        assert await forward(client, server, "b.7") == "b b.7"

    served(test, "a", "b")


@pytest.mark.parametrize(("uid", "reason"), [("c.0", "this server has a, b"), ("", "is not a block uid")])
def test_a_model_that_is_not_here_is_refused(uid: str, reason: str) -> None:
    async def test(client: MemoryHost, server: PeerId) -> None:
        with pytest.raises(RpcError, match=reason):
            await forward(client, server, uid)
        assert await forward(client, server, "a.0") == "a a.0"

    served(test, "a", "b")


def test_streams_go_to_the_model_that_their_first_message_names() -> None:
    async def test(client: MemoryHost, server: PeerId) -> None:
        for name in ("a", "b"):
            stream = await client.open_stream(server, INFERENCE, timeout=5.0)
            await stream.send(ExpertRequest(f"{name}.0", metadata=b"1").encode())
            assert await stream.receive() == name.encode() + b"1"
            await stream.send(ExpertRequest(f"{name}.0", metadata=b"2").encode())
            assert await stream.receive() == name.encode() + b"2"
            await stream.end()
            assert await stream.receive() is None

    served(test, "a", "b")


def test_a_stream_that_names_nobody_or_nothing_is_told() -> None:
    async def test(client: MemoryHost, server: PeerId) -> None:
        stream = await client.open_stream(server, INFERENCE, timeout=5.0)
        await stream.send(ExpertRequest("c.0").encode())
        with pytest.raises(RpcError, match="this server has a, b"):
            await stream.receive()
        silent = await client.open_stream(server, INFERENCE, timeout=5.0)
        with pytest.raises(RpcError, match="no request came"):
            await silent.receive()
        ended = await client.open_stream(server, INFERENCE, timeout=5.0)
        await ended.end()
        assert await ended.receive() is None

    served(test, "a", "b")


def test_the_node_says_whom_it_serves() -> None:
    async def test(client: MemoryHost, server: PeerId) -> None:
        assert await info(client, server, "b.0") == {"version": "b", "cache_tokens_available": 5}
        whole = await info(client, server, "")
        assert whole == {"version": "a", "cache_tokens_available": 10, "models": ["a", "b"]}

    served(test, "a", "b")


def test_a_node_of_one_model_hands_everything_on_as_it_is() -> None:
    async def test(client: MemoryHost, server: PeerId) -> None:
        assert await forward(client, server, "z.0") == "a z.0"
        assert await info(client, server, "") == {"version": "a", "cache_tokens_available": 5}
        stream = await client.open_stream(server, INFERENCE, timeout=5.0)
        await stream.send(b"x")
        assert await stream.receive() == b"ax"
        await stream.close()

    served(test, "a")


def test_a_later_handler_takes_the_place_of_the_one_before() -> None:
    async def main() -> None:
        network = MemoryNetwork(1)
        host, client = network.host(), network.host()
        models = ModelHosts(host)
        Handler("a", models.of("a"))
        await host.listen()
        Handler("moved", models.of("a"))
        assert await forward(client, host.peer_id, "a.0") == "moved a.0"

    run(main())


def test_calls_go_out_through_the_real_host() -> None:
    async def main() -> None:
        network = MemoryNetwork(1)
        host, other = network.host(), network.host()
        Handler("a", other)
        await other.listen()
        ours = ModelHosts(host).of("m")
        assert ours.peer_id == host.peer_id
        assert list(ours.addresses) == list(host.addresses)
        reply = await ours.call(other.peer_id, FORWARD, ExpertRequest("a.0").encode(), timeout=5.0)
        assert reply == b"a a.0"
        stream = await ours.open_stream(other.peer_id, INFERENCE, timeout=5.0)
        await stream.send(b"x")
        assert await stream.receive() == b"ax"
        await ours.close()

    run(main())
