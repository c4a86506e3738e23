from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace

import numpy as np
import pytest
from unit.node.conftest import (
    CONFIG,
    FILES,
    HIDDEN,
    JOINING,
    OFFLINE,
    ONLINE,
    SPAN,
    UID,
    Swarm,
    open_session,
    served,
)

from kwaainet.compression.codec import serialize
from kwaainet.errors import (
    ConfigError,
    DeviceLost,
    EngineError,
    IntegrityError,
    RpcError,
    Unreachable,
    UsageError,
)
from kwaainet.node.bandwidth import RETRY, TransferHandler
from kwaainet.node.server import NodeStatus
from kwaainet.swarm.announcement import Announcement
from kwaainet.testing.clock import now, run
from kwaainet.testing.model import FILE, TINY
from kwaainet.types import BlockRange, Progress
from kwaainet.wire import msgpack
from kwaainet.wire.messages import ExpertRequest


def test_a_node_joins_loads_and_goes_online_in_this_order() -> None:
    async def test(swarm: Swarm) -> None:
        assert swarm.board.states == [JOINING, ONLINE]
        assert swarm.board.listening == [True, True]
        stages = list(dict.fromkeys(line.stage for line in swarm.progress))
        assert stages == ["listen", "joining", "weights", "build", "online"]
        assert (await swarm.forward()).shape == HIDDEN.shape

    served(test)


def test_requests_that_come_while_loading_are_told_so() -> None:
    async def main() -> None:
        swarm = Swarm()
        starting = asyncio.ensure_future(swarm.node.start())
        while not swarm.host.listening:
            await asyncio.sleep(0.01)
        with pytest.raises(RpcError, match="still loading"):
            await swarm.forward()
        await starting
        await swarm.forward()
        await swarm.node.stop()

    run(main())


def test_the_announcement_says_what_petals_clients_look_for() -> None:
    async def test(swarm: Swarm) -> None:
        _, announcement = swarm.board.said[-1]
        server = announcement.server
        assert (announcement.prefix, announcement.span, announcement.ttl) == ("tiny", SPAN, 150.0)
        assert announcement.model is not None
        assert announcement.model.num_blocks == TINY.num_hidden_layers
        assert (server.public_name, server.using_relay, server.torch_dtype) == ("me", True, "float32")
        assert server.cache_tokens_left == 200 * 2 * len(SPAN)
        for rate in (server.throughput, server.network_rps, server.forward_rps, server.inference_rps):
            assert type(rate) is float
            assert rate > 0
        assert Announcement.decode(announcement.encode()) == announcement

    served(test)


def test_what_the_network_carries_is_measured_and_told_at_once() -> None:
    async def test(swarm: Swarm) -> None:
        guess = swarm.board.said[-1][1].server.network_rps
        assert guess == CONFIG.network_bits_per_second / (16 * TINY.hidden_size)
        TransferHandler(swarm.client, now)
        await swarm.client.listen()
        await asyncio.sleep(RETRY + 5)
        said = [announcement.server.network_rps for _, announcement in swarm.board.said]
        assert said[:2] == [guess, guess], "JOINING and ONLINE, before there is a figure"
        assert isinstance(said[2], float)
        assert said[2] != guess

    served(test)


def test_the_announcement_is_refreshed_before_it_expires() -> None:
    async def test(swarm: Swarm) -> None:
        await asyncio.sleep(200)
        times = [time for time, _ in swarm.board.said[1:]]
        assert len(times) == 4
        assert all(later - earlier < 75 for earlier, later in itertools.pairwise(times))
        assert swarm.board.states == [JOINING, ONLINE, ONLINE, ONLINE, ONLINE]

    served(test)


def test_a_refresh_tells_how_much_cache_is_left() -> None:
    async def test(swarm: Swarm) -> None:
        stream = await swarm.client.open_stream(
            swarm.host.peer_id, "TransformerConnectionHandler.rpc_inference", timeout=5.0
        )
        metadata = msgpack.dumps({"max_length": 50})
        await stream.send(ExpertRequest(UID, (serialize(HIDDEN),), metadata).encode())
        assert await stream.receive() is not None
        status = swarm.node.status
        assert (status.sessions, status.cache_tokens_left, status.tokens_done) == (1, 150, 3)
        await asyncio.sleep(61)
        assert swarm.board.said[-1][1].server.cache_tokens_left == 150 * 2 * len(SPAN)

    served(test)


def test_a_refresh_that_fails_is_repeated_soon() -> None:
    async def test(swarm: Swarm) -> None:
        swarm.board.failures = [Unreachable("the relay is gone"), TimeoutError()]
        await asyncio.sleep(75)
        assert swarm.board.states == [JOINING, ONLINE, ONLINE]
        assert swarm.node.status.error == "TimeoutError"

    served(test)


def test_announcing_again_says_what_the_node_is_now() -> None:
    async def main() -> None:
        swarm = Swarm()
        await swarm.node.announce_again()
        assert swarm.board.states == []
        await swarm.node.start()
        await swarm.node.announce_again()
        assert swarm.board.states == [JOINING, ONLINE, ONLINE]
        swarm.board.failures = [Unreachable("the relay is gone")]
        await swarm.node.announce_again()
        assert swarm.node.status.error == "the relay is gone"
        await swarm.node.stop()
        await swarm.node.announce_again()
        assert swarm.board.states == [JOINING, ONLINE, ONLINE, OFFLINE]

    run(main())


def test_stopping_announces_first_and_tells_every_session() -> None:
    async def main() -> None:
        swarm = Swarm()
        await swarm.node.start()
        stream = await swarm.client.open_stream(
            swarm.host.peer_id, "TransformerConnectionHandler.rpc_inference", timeout=5.0
        )
        await stream.send(ExpertRequest(UID, (serialize(HIDDEN),), msgpack.dumps({"max_length": 9})).encode())
        await stream.receive()
        stopping = asyncio.ensure_future(swarm.node.stop(drain=70.0))
        await asyncio.sleep(60)
        assert swarm.board.states == [JOINING, ONLINE, OFFLINE]
        await swarm.forward()  # clients that do not know yet are still served
        await stopping
        with pytest.raises(RpcError, match="leaving"):
            await stream.receive()
        with pytest.raises(Unreachable):
            await swarm.forward()
        await swarm.node.stop()
        assert swarm.board.states == [JOINING, ONLINE, OFFLINE]

    run(main())


def test_who_comes_while_it_drains_is_served_to_the_end() -> None:
    async def main() -> None:
        swarm = Swarm()
        await swarm.node.start(swarm.progress.append)
        stopping = asyncio.ensure_future(swarm.node.stop(drain=90.0))
        await asyncio.sleep(59)  # a client that read the DHT just before
        stream = await open_session(swarm)
        status = swarm.node.status
        assert (status.state, status.sessions) == (OFFLINE, 1)
        assert status.leaving_in is not None
        assert 30 < status.leaving_in < 32
        await asyncio.sleep(20)
        assert not stopping.done()
        await stream.close()
        await asyncio.wait_for(stopping, 2)
        assert swarm.node.status.leaving_in is None
        assert swarm.board.states == [JOINING, ONLINE, OFFLINE]
        assert swarm.progress[-2:] == [Progress("offline"), Progress("draining")]

    run(main())


def test_a_second_stop_hurries_the_first() -> None:
    async def main() -> None:
        swarm = Swarm()
        await swarm.node.start()
        stopping = asyncio.ensure_future(swarm.node.stop(drain=90.0))
        await asyncio.sleep(5)
        await asyncio.wait_for(swarm.node.stop(), 1)
        assert stopping.done()
        assert swarm.board.states == [JOINING, ONLINE, OFFLINE]

    run(main())


def test_a_node_that_never_served_has_nothing_to_drain() -> None:
    async def main() -> None:
        swarm = Swarm()
        starting = asyncio.ensure_future(swarm.node.start())
        while not swarm.board.said:
            await asyncio.sleep(0.01)
        starting.cancel()
        await asyncio.wait_for(swarm.node.stop(drain=90.0), 1)
        assert swarm.board.states == [JOINING, OFFLINE]

    run(main())


def test_a_device_lost_while_it_drains_ends_the_drain() -> None:
    async def main() -> None:
        swarm = Swarm()
        await swarm.node.start()
        stopping = asyncio.ensure_future(swarm.node.stop(drain=90.0))
        await asyncio.sleep(5)
        await lose_device(swarm)
        await asyncio.wait_for(stopping, 2)
        assert swarm.board.states == [JOINING, ONLINE, OFFLINE]

    run(main())


def test_stopping_works_without_the_relay() -> None:
    async def main() -> None:
        swarm = Swarm()
        await swarm.node.start()
        swarm.board.failures = [Unreachable("the relay is gone")]
        await swarm.node.stop()
        assert swarm.node.status.state == OFFLINE

    run(main())


def test_the_farewell_is_the_announcers() -> None:
    async def test(swarm: Swarm) -> None:
        assert Announcement.decode(swarm.node.farewell()).server.state == OFFLINE

    served(test)


@pytest.mark.parametrize("failure", ["announce", "listen", "weights", "engine"])
def test_a_start_that_fails_says_why_and_leaves(failure: str) -> None:
    async def main() -> None:
        swarm = Swarm()
        if failure == "announce":
            swarm.board.failures = [Unreachable("the relay is gone")]
        elif failure == "listen":
            await swarm.host.close()
        elif failure == "weights":
            swarm.source._files[FILE] = bytes(len(FILES[FILE]))
        else:
            swarm.engine.build_failures.append(EngineError("no memory"))
        with pytest.raises((Unreachable, IntegrityError, EngineError)):
            await swarm.node.start()
        status = swarm.node.status
        assert status.state == OFFLINE
        assert status.error
        assert swarm.board.states in ([], [JOINING, OFFLINE], [OFFLINE])

    run(main())


def test_a_start_that_is_cancelled_leaves() -> None:
    async def main() -> None:
        swarm = Swarm()
        starting = asyncio.ensure_future(swarm.node.start())
        while not swarm.board.said:
            await asyncio.sleep(0.01)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert swarm.board.states == [JOINING, OFFLINE]

    run(main())


def test_a_node_starts_once() -> None:
    async def test(swarm: Swarm) -> None:
        with pytest.raises(UsageError, match="make a new one"):
            await swarm.node.start()

    served(test)


def test_blocks_that_the_model_has_not_are_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="3:6"):
        Swarm(replace(CONFIG, blocks=BlockRange(3, 6)))


def test_a_second_start_fetches_nothing() -> None:
    async def main() -> None:
        swarm = Swarm()
        await swarm.node.start()
        await swarm.node.stop()
        again = Swarm()
        again.store.blobs.update(swarm.store.blobs)
        await again.node.start()
        loaded = again.node.status.loaded
        assert loaded is not None
        assert (loaded.fetched, loaded.cached, again.source.reads) == (0, loaded.total, [])
        await again.node.stop()

    run(main())


async def lose_device(swarm: Swarm) -> None:
    swarm.engine.failures.append(DeviceLost("gone"))
    with pytest.raises(RpcError, match="DeviceLost"):
        await swarm.forward()


def test_a_lost_device_is_rebuilt() -> None:
    async def test(swarm: Swarm) -> None:
        before = await swarm.forward()
        reads = len(swarm.source.reads)
        await lose_device(swarm)
        with pytest.raises(RpcError, match="rebuilding"):
            await swarm.forward()
        await asyncio.sleep(5)
        np.testing.assert_array_equal(await swarm.forward(), before)
        assert swarm.board.states == [JOINING, ONLINE, JOINING, ONLINE]
        status = swarm.node.status
        assert (status.rebuilds, status.error, len(swarm.source.reads)) == (1, "gone", reads)

    served(test)


def test_a_rebuild_that_fails_is_tried_again() -> None:
    async def test(swarm: Swarm) -> None:
        swarm.engine.build_failures.extend([EngineError("busy"), DeviceLost("again")])
        await lose_device(swarm)
        await asyncio.sleep(30)
        await swarm.forward()
        assert swarm.board.states[-1] == ONLINE
        assert swarm.node.status.rebuilds == 1

    served(test)


def test_a_device_may_be_lost_again_and_again() -> None:
    async def test(swarm: Swarm) -> None:
        for _ in range(3):
            await lose_device(swarm)
            await asyncio.sleep(15)
        assert swarm.node.status.rebuilds == 3
        assert swarm.board.states.count(ONLINE) == 4

    served(test)


def test_a_device_that_stays_lost_takes_the_node_offline() -> None:
    async def main() -> None:
        swarm = Swarm()
        await swarm.node.start()
        swarm.engine.build_failures.extend([EngineError("no adapter")] * 99)
        await lose_device(swarm)
        await asyncio.sleep(100)
        assert swarm.board.states[-1] == OFFLINE
        status: NodeStatus = swarm.node.status
        assert (status.state, status.error) == (OFFLINE, "no adapter")
        with pytest.raises(RpcError, match="could not rebuild"):
            await swarm.forward()
        await swarm.node.stop()

    run(main())
