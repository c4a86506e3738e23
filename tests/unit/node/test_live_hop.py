import asyncio
from collections.abc import Awaitable, Callable

import numpy as np
import pytest

from kwaainet.compression.codec import deserialize, serialize
from kwaainet.errors import (
    UNAVAILABLE,
    HandshakeError,
    KwaaiNetError,
    LimitExceeded,
    ProtocolError,
    RequestError,
    RpcError,
    StreamReset,
    Unreachable,
)
from kwaainet.inference.chain import HopSession, Step
from kwaainet.node.live_hop import CLOSE_SECONDS, LiveHop, loss_reason
from kwaainet.ports import Stream
from kwaainet.swarm.health import Reason
from kwaainet.swarm.routing import Hop
from kwaainet.testing.clock import now, run
from kwaainet.testing.host import MemoryNetwork
from kwaainet.types import BlockRange
from kwaainet.wire.messages import ExpertRequest, ExpertResponse

HIDDEN = np.arange(4, dtype=np.float32).reshape(1, 2, 2)
STEP = Step("t", 0)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RpcError("division by zero"), None),
        (RpcError(f"{UNAVAILABLE}it is leaving"), Reason.UNAVAILABLE),
        (RpcError(f"Unavailable('{UNAVAILABLE}it is loading')"), Reason.UNAVAILABLE),
        (RpcError("a text that quotes another's " + "x" * 64 + UNAVAILABLE), None),
        (StreamReset("x"), Reason.GONE),
        (Unreachable("x"), Reason.GONE),
        (HandshakeError("x"), Reason.UNAVAILABLE),
        (ProtocolError("x"), Reason.FAULTY),
        (LimitExceeded("x"), Reason.FAULTY),
        (RequestError("x"), None),
    ],
)
def test_only_a_loss_is_a_reason_to_replace(error: KwaaiNetError, reason: Reason | None) -> None:
    assert loss_reason(error) is reason


async def step_through(live: LiveHop, step: Step = STEP) -> np.ndarray:
    answer = live.expect(HIDDEN.shape, step)
    await live.send(HIDDEN, step)
    return await answer


async def doubled(stream: Stream) -> None:
    while message := await stream.receive():
        hidden = deserialize(ExpertRequest.decode(message).tensors[0])
        await stream.send(ExpertResponse(tensors=(serialize(hidden * 2),)).encode())


def hopping(
    serve: Callable[[Stream], Awaitable[None]], test: Callable[[LiveHop, MemoryNetwork], Awaitable[None]]
) -> None:
    async def main() -> None:
        network = MemoryNetwork(latency=0.001)
        host, client = network.host(), network.host()
        host.handle_stream("x", serve)
        await host.listen()
        stream = await client.open_stream(host.peer_id, "x", timeout=1)
        live = LiveHop(Hop(host.peer_id, BlockRange(0, 2)), stream, HopSession("m.0 m.1", "s", 8))
        try:
            await test(live, network)
        finally:
            await live.close()

    run(main())


def test_steps_are_answered_and_positions_counted() -> None:
    async def test(live: LiveHop, network: MemoryNetwork) -> None:
        np.testing.assert_array_equal(await step_through(live), HIDDEN * 2)
        np.testing.assert_array_equal(await step_through(live, Step("u", 2)), HIDDEN * 2)
        assert live.position == 4
        assert live.next_server == (str(live.hop.peer), "s", 0, 2)

    hopping(doubled, test)


def test_a_server_that_vanishes_is_noticed_while_nothing_is_asked_of_it() -> None:
    async def test(live: LiveHop, network: MemoryNetwork) -> None:
        network.vanish(live.hop.peer)
        await asyncio.sleep(0.01)
        assert isinstance(live.failure, StreamReset)
        assert live.reason is Reason.GONE
        with pytest.raises(StreamReset):
            await step_through(live)

    hopping(doubled, test)


def test_what_is_given_up_fails_all_who_wait() -> None:
    async def silent(stream: Stream) -> None:
        await asyncio.sleep(100)

    async def test(live: LiveHop, network: MemoryNetwork) -> None:
        told: list[str] = []
        live.on_failure = lambda: told.append("failed")
        waiting = asyncio.ensure_future(step_through(live))
        await asyncio.sleep(1)
        live.fail(Unreachable("too late"), Reason.SILENT)
        live.fail(Unreachable("later"))
        with pytest.raises(Unreachable, match="too late"):
            await waiting
        assert (live.reason, told, live.blameless) == (Reason.SILENT, ["failed"], False)
        with pytest.raises(Unreachable, match="too late"):
            await live.expect(HIDDEN.shape, STEP)

    hopping(silent, test)


def test_a_retired_hop_is_not_to_blame() -> None:
    async def test(live: LiveHop, network: MemoryNetwork) -> None:
        live.retire("out of step")
        assert live.blameless
        assert live.reason is Reason.GONE

    hopping(doubled, test)


def test_an_answer_may_come_before_the_step_is_sent() -> None:
    async def pushed(stream: Stream) -> None:
        await stream.send(ExpertResponse(tensors=(serialize(HIDDEN * 3),)).encode())
        await stream.receive()

    async def test(live: LiveHop, network: MemoryNetwork) -> None:
        answer = live.expect(HIDDEN.shape, STEP)
        assert live.awaits(STEP) is answer
        assert live.awaits(Step("u", 0)) is None
        np.testing.assert_array_equal(await answer, HIDDEN * 3)

    hopping(pushed, test)


def test_the_reason_that_a_server_gives_is_kept_even_if_sending_fails_first() -> None:
    async def leaving(stream: Stream) -> None:
        raise RequestError(f"{UNAVAILABLE}it is leaving")

    async def test(live: LiveHop, network: MemoryNetwork) -> None:
        with pytest.raises(RpcError, match="it is leaving"):
            await step_through(live)
        assert live.reason is Reason.UNAVAILABLE

    hopping(leaving, test)


def test_an_answer_nobody_asked_for_is_a_fault() -> None:
    async def eager(stream: Stream) -> None:
        await stream.send(b"")
        await stream.receive()

    async def test(live: LiveHop, network: MemoryNetwork) -> None:
        await asyncio.sleep(0.1)
        assert live.reason is Reason.FAULTY
        assert isinstance(live.failure, ProtocolError)

    hopping(eager, test)


def test_an_end_without_an_answer_is_a_loss() -> None:
    async def ending(stream: Stream) -> None:
        await stream.receive()

    async def test(live: LiveHop, network: MemoryNetwork) -> None:
        with pytest.raises(StreamReset, match="ended the session"):
            await step_through(live)

    hopping(ending, test)


def test_closing_ends_the_session_at_the_server() -> None:
    heard: list[bytes | None] = []

    async def listening(stream: Stream) -> None:
        heard.append(await stream.receive())
        heard.append(await stream.receive())

    async def test(live: LiveHop, network: MemoryNetwork) -> None:
        await live.close()
        await asyncio.sleep(0.1)
        assert heard == [b"", None]

    hopping(listening, test)


@pytest.mark.parametrize(("unanswered", "patient"), [(0, True), (1, False)])
def test_a_server_that_owes_nothing_is_awaited_to_the_end(unanswered: int, patient: bool) -> None:
    """One that still computes is given up at once, so that it stops."""

    async def late(stream: Stream) -> None:
        message = await stream.receive() or b""
        await stream.send(ExpertResponse(tensors=ExpertRequest.decode(message).tensors[:1]).encode())
        await asyncio.sleep(0.05)  # as one behind a worker takes to hear what was said

    async def test(live: LiveHop, network: MemoryNetwork) -> None:
        await step_through(live)
        for n in range(unanswered):
            live.expect(HIDDEN.shape, Step(str(n), 2))
        began = now()
        await live.close()
        assert (now() - began > 0.04) is patient

    hopping(late, test)


def test_a_server_that_ends_nothing_is_not_awaited_for_ever() -> None:
    async def silent(stream: Stream) -> None:
        message = await stream.receive() or b""
        await stream.send(ExpertResponse(tensors=ExpertRequest.decode(message).tensors[:1]).encode())
        await asyncio.sleep(1000)

    async def test(live: LiveHop, network: MemoryNetwork) -> None:
        await step_through(live)
        await asyncio.wait_for(live.close(), CLOSE_SECONDS + 0.1)

    hopping(silent, test)
