"""What MemoryHost adds to the port: a network that misbehaves, the same way for the same seed."""

import asyncio

import pytest

from kwaainet.errors import (
    HandshakeError,
    RpcError,
    StreamReset,
    Unreachable,
    UsageError,
)
from kwaainet.ports import Stream
from kwaainet.testing.clock import now, run
from kwaainet.testing.host import MAX_UNARY_SIZE, MemoryHost, MemoryNetwork
from kwaainet.types import PeerId


async def echo(peer: PeerId, request: bytes) -> bytes:
    return request


async def hang(peer: PeerId, request: bytes) -> bytes:
    await asyncio.sleep(100)
    return b""


async def stream_hang(stream: Stream) -> None:
    await stream.receive()


async def two_hosts(network: MemoryNetwork) -> tuple[MemoryHost, MemoryHost]:
    caller, callee = network.host(), network.host()
    await callee.listen()
    callee.handle_unary("echo", echo)
    callee.handle_unary("hang", hang)
    callee.handle_stream("hang", stream_hang)
    return caller, callee


def test_latency_is_paid_both_ways() -> None:
    async def main() -> float:
        caller, callee = await two_hosts(MemoryNetwork(latency=1.0))
        start = now()
        await caller.call(callee.peer_id, "echo", b"", timeout=10)
        return now() - start

    assert 1.0 <= run(main()) <= 3.0


def _outcomes(seed: int) -> list[tuple[str, float]]:
    async def main() -> list[tuple[str, float]]:
        network = MemoryNetwork(seed, loss=0.2)
        caller, callee = await two_hosts(network)
        outcomes = []
        for _ in range(100):
            try:
                outcome = await caller.call(callee.peer_id, "echo", b"", timeout=1)
                outcomes.append((repr(outcome), now()))
            except TimeoutError:
                outcomes.append(("timeout", now()))
        return outcomes

    return run(main())


def test_loss_times_out_and_follows_the_seed() -> None:
    lost = sum(outcome == "timeout" for outcome, _ in _outcomes(7))
    assert 20 <= lost <= 55  # two chances of 0.2 in each of 100 calls: 36 are expected
    assert _outcomes(7) == _outcomes(7)
    assert _outcomes(7) != _outcomes(8)


def test_peer_ids_follow_the_seed() -> None:
    assert MemoryNetwork(1).host().peer_id == MemoryNetwork(1).host().peer_id
    assert str(MemoryNetwork(1).host().peer_id).startswith("12D3Koo")


def test_a_peer_id_is_taken_once() -> None:
    network = MemoryNetwork()
    with pytest.raises(UsageError, match="already"):
        network.host(network.host().peer_id)


def test_a_partition_swallows_calls_until_it_heals() -> None:
    async def main() -> None:
        network = MemoryNetwork()
        caller, callee = await two_hosts(network)
        bystander = network.host()
        network.partition([caller.peer_id], [callee.peer_id])
        with pytest.raises(TimeoutError):
            await caller.call(callee.peer_id, "echo", b"", timeout=1)
        assert await bystander.call(callee.peer_id, "echo", b"x", timeout=1) == b"x"
        network.heal()
        assert await caller.call(callee.peer_id, "echo", b"y", timeout=1) == b"y"

    run(main())


@pytest.mark.parametrize("how", ["vanish", "partition"])
def test_a_lost_connection_ends_calls_and_streams(how: str) -> None:
    async def main() -> None:
        network = MemoryNetwork()
        caller, callee = await two_hosts(network)
        lost: list[PeerId] = []
        caller.on_peer_lost(lost.append)
        stream = await caller.open_stream(callee.peer_id, "hang", timeout=1)
        call = asyncio.create_task(caller.call(callee.peer_id, "hang", b"", timeout=10))
        await asyncio.sleep(1)
        assert list(caller.connected_peers) == [callee.peer_id]
        if how == "vanish":
            network.vanish(callee.peer_id)
        else:
            network.partition([caller.peer_id], [callee.peer_id])
        for awaited in (call, stream.receive(), stream.send(b"x")):
            with pytest.raises(StreamReset):
                await awaited
        assert lost == [callee.peer_id]
        assert list(caller.connected_peers) == []

    run(main())


def test_a_vanished_peer_is_unreachable() -> None:
    async def main() -> None:
        network = MemoryNetwork()
        caller, callee = await two_hosts(network)
        network.vanish(callee.peer_id)
        with pytest.raises(Unreachable):
            await caller.call(callee.peer_id, "echo", b"", timeout=1)
        with pytest.raises(Unreachable, match="closed"):
            await callee.call(caller.peer_id, "echo", b"", timeout=1)

    run(main())


def test_a_host_that_does_not_listen_is_reached_only_over_its_own_connection() -> None:
    async def main() -> None:
        caller, callee = await two_hosts(MemoryNetwork())
        caller.handle_unary("echo", echo)
        with pytest.raises(Unreachable, match="does not listen"):
            await callee.call(caller.peer_id, "echo", b"", timeout=1)
        assert await caller.connect(callee.addresses[0]) == callee.peer_id
        assert await callee.call(caller.peer_id, "echo", b"back", timeout=1) == b"back"
        assert list(caller.addresses) == []

    run(main())


def test_nobody_dials_itself() -> None:
    async def main() -> None:
        _, callee = await two_hosts(MemoryNetwork())
        with pytest.raises(Unreachable):
            await callee.call(callee.peer_id, "echo", b"", timeout=1)

    run(main())


def test_closing_tells_served_streams_and_then_the_connection_ends() -> None:
    async def main() -> None:
        caller, callee = await two_hosts(MemoryNetwork())
        lost: list[PeerId] = []
        caller.on_peer_lost(lost.append)
        stream = await caller.open_stream(callee.peer_id, "hang", timeout=1)
        call = asyncio.create_task(caller.call(callee.peer_id, "hang", b"", timeout=10))
        await asyncio.sleep(1)
        await callee.close()
        with pytest.raises(RpcError, match="leaving"):
            await stream.receive()
        with pytest.raises(StreamReset):
            await call
        assert lost == [callee.peer_id]

    run(main())


def test_oversize_and_foreign_requests_are_refused() -> None:
    async def main() -> None:
        caller, callee = await two_hosts(MemoryNetwork())
        with pytest.raises(UsageError, match="4194305 bytes"):
            await caller.call(callee.peer_id, "echo", bytes(MAX_UNARY_SIZE + 1), timeout=1)
        with pytest.raises(HandshakeError, match="does not speak nonsense"):
            await caller.call(callee.peer_id, "nonsense", b"", timeout=1)

    run(main())


def test_a_handler_that_crashes_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def crash(peer: PeerId, request: bytes) -> bytes:
        raise ZeroDivisionError("detail for the log")

    async def main() -> None:
        caller, callee = await two_hosts(MemoryNetwork())
        callee.handle_unary("crash", crash)
        with pytest.raises(RpcError):
            await caller.call(callee.peer_id, "crash", b"", timeout=1)

    run(main())
    assert "detail for the log" in caplog.text


def test_the_handler_of_an_abandoned_call_is_cancelled() -> None:
    ended: list[str] = []

    async def wait(peer: PeerId, request: bytes) -> bytes:
        try:
            await asyncio.sleep(1000)
        finally:
            ended.append("cancelled")
        return b""

    async def main() -> None:
        caller, callee = await two_hosts(MemoryNetwork())
        callee.handle_unary("wait", wait)
        with pytest.raises(TimeoutError):
            await caller.call(callee.peer_id, "wait", b"", timeout=1)
        await asyncio.sleep(1)
        assert ended == ["cancelled"]

    run(main())


def test_finished_streams_are_forgotten() -> None:
    async def greet(stream: Stream) -> None:
        await stream.send(b"hello")

    async def main() -> int:
        network = MemoryNetwork()
        caller, callee = await two_hosts(network)
        callee.handle_stream("greet", greet)
        for _ in range(50):
            stream = await caller.open_stream(callee.peer_id, "greet", timeout=1)
            assert await stream.receive() == b"hello"
            await stream.end()
            assert await stream.receive() is None
            await stream.close()
        return sum(map(len, network._links.values())) + len(caller._opened) + len(callee._served)

    assert run(main()) <= 5


def test_a_frozen_peer_is_silent_and_goes_on_when_it_thaws() -> None:
    async def main() -> None:
        network = MemoryNetwork(latency=0.01)
        caller, callee = await two_hosts(network)
        heard: list[bytes | None] = []

        async def listen(stream: Stream) -> None:
            heard.append(await stream.receive())

        callee.handle_stream("listen", listen)
        stream = await caller.open_stream(callee.peer_id, "listen", timeout=5)
        network.freeze(callee.peer_id)
        await stream.send(b"hello")
        with pytest.raises(TimeoutError):
            await caller.call(callee.peer_id, "echo", b"", timeout=5)
        assert not heard
        assert callee.peer_id in caller.connected_peers
        network.thaw(callee.peer_id)
        assert await caller.call(callee.peer_id, "echo", b"again", timeout=5) == b"again"
        assert heard == [b"hello"]
        await stream.close()

    run(main())


def test_a_frozen_peer_that_is_killed_breaks_its_connections() -> None:
    async def main() -> None:
        network = MemoryNetwork()
        caller, callee = await two_hosts(network)
        stream = await caller.open_stream(callee.peer_id, "hang", timeout=5)
        network.freeze(callee.peer_id)
        network.vanish(callee.peer_id)
        with pytest.raises(StreamReset):
            await stream.receive()
        with pytest.raises(Unreachable):
            await caller.call(callee.peer_id, "echo", b"", timeout=5)

    run(main())
