from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np
import pytest

from kwaainet.compression.codec import serialize
from kwaainet.errors import RequestError
from kwaainet.inference.push import Onward
from kwaainet.node.inbox import MAX_PUSHED, Inbox
from kwaainet.node.push import (
    EARLY_SECONDS,
    MAX_EARLY,
    MAX_EARLY_BYTES,
    MAX_FAILURES,
    MAX_QUEUED,
    PUSH,
    PUSH_TIMEOUT,
    PushCounts,
    PushedSteps,
    Pusher,
)
from kwaainet.testing.clock import now, run
from kwaainet.testing.host import MemoryHost, MemoryNetwork
from kwaainet.types import BlockRange, PeerId
from kwaainet.wire.messages import ExpertRequest, ExpertResponse

KEY = ("session", BlockRange(0, 2))
OTHER_KEY = ("session", BlockRange(2, 4))
OUTPUT = serialize(np.zeros((1, 1, 4), np.float32))


class Waiting(Inbox):
    """An inbox without a stream, which says what was pushed to it."""

    def __init__(self, room: int = 100) -> None:
        self.room = room
        self.requests: list[ExpertRequest] = []

    def push(self, request: ExpertRequest, size: int) -> bool:
        if len(self.requests) >= self.room:
            return False
        self.requests.append(request)
        return True


def request(number: int) -> ExpertRequest:
    return ExpertRequest(f"m.{number}")


# --- what comes -----------------------------------------------------------------------------------


def test_a_step_goes_to_the_session_of_that_id_and_those_blocks() -> None:
    async def main() -> None:
        steps, one, other = PushedSteps(), Waiting(), Waiting()
        with steps.session(KEY, one), steps.session(OTHER_KEY, other):
            steps.deliver(KEY, request(1), 10)
            steps.deliver(OTHER_KEY, request(2), 10)
        assert (one.requests, other.requests) == ([request(1)], [request(2)])
        assert steps.counts == PushCounts(taken=2)

    run(main())


def test_a_step_that_is_early_waits_for_its_session() -> None:
    async def main() -> None:
        steps, inbox = PushedSteps(), Waiting()
        steps.deliver(KEY, request(1), 10)
        steps.deliver(OTHER_KEY, request(9), 10)
        steps.deliver(KEY, request(2), 10)
        await asyncio.sleep(EARLY_SECONDS / 2)
        with steps.session(KEY, inbox):
            assert inbox.requests == [request(1), request(2)]
        assert steps.counts == PushCounts(taken=2, early=3)

    run(main())


def test_a_step_nobody_comes_for_is_forgotten() -> None:
    async def main() -> None:
        steps, inbox = PushedSteps(), Waiting()
        steps.deliver(KEY, request(1), 10)
        await asyncio.sleep(EARLY_SECONDS + 1)
        with steps.session(KEY, inbox):
            assert inbox.requests == []

    run(main())


def test_a_flood_of_steps_for_nobody_is_bounded_and_pushes_out_the_oldest() -> None:
    async def main() -> None:
        steps, inbox = PushedSteps(), Waiting(1000)
        for number in range(3 * MAX_EARLY):
            steps.deliver(KEY, request(number), 10)
        with steps.session(KEY, inbox):
            assert inbox.requests == [request(number) for number in range(2 * MAX_EARLY, 3 * MAX_EARLY)]
        inbox.requests.clear()
        for number in range(5):
            steps.deliver(KEY, request(number), MAX_EARLY_BYTES // 2)
        with steps.session(KEY, inbox):
            assert inbox.requests == [request(3), request(4)]

    run(main())


def test_a_session_whose_queue_is_full_drops_what_is_pushed() -> None:
    async def main() -> None:
        steps, inbox = PushedSteps(), Waiting(MAX_PUSHED)
        with steps.session(KEY, inbox):
            for number in range(MAX_PUSHED + 2):
                steps.deliver(KEY, request(number), 10)
        assert steps.counts == PushCounts(taken=MAX_PUSHED, dropped=2)

    run(main())


def test_the_later_of_two_sessions_with_one_key_has_it_until_it_ends() -> None:
    async def main() -> None:
        steps, older, newer = PushedSteps(), Waiting(), Waiting()
        with steps.session(KEY, older):
            with steps.session(KEY, newer):
                steps.deliver(KEY, request(1), 10)
            steps.deliver(KEY, request(2), 10)
        assert (older.requests, newer.requests) == ([], [request(1)])

    run(main())


# --- what we send ---------------------------------------------------------------------------------


class Next:
    """The server behind us; every push takes it ``seconds``."""

    def __init__(self, host: MemoryHost, seconds: float = 0.0) -> None:
        self.host, self.seconds = host, seconds
        self.got: list[str] = []
        self.under_way = self.most = 0
        host.handle_unary(PUSH, self.rpc_push)

    async def rpc_push(self, peer: PeerId, message: bytes) -> bytes:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await asyncio.sleep(self.seconds)
            self.got.append(ExpertRequest.decode(message).uid)
        finally:
            self.under_way -= 1
        return ExpertResponse().encode()

    def step(self, number: int) -> Onward:
        return Onward(self.host.peer_id, f"m.{number}", (OUTPUT,), 0, b"")


def with_pusher(test: Callable[[Pusher, Next, PushCounts], Awaitable[None]], seconds: float = 0.0) -> None:
    async def main() -> None:
        network = MemoryNetwork(1)
        ours, theirs = network.host(), network.host()
        await theirs.listen()
        counts, behind = PushCounts(), Next(theirs, seconds)
        async with Pusher(ours, behind.rpc_push, counts) as pusher:
            await test(pusher, behind, counts)

    run(main())


def test_outputs_are_sent_one_after_the_other_in_order() -> None:
    async def test(pusher: Pusher, behind: Next, counts: PushCounts) -> None:
        for number in range(MAX_QUEUED):
            pusher.send(behind.step(number), OUTPUT)
        await asyncio.sleep(20)
        pusher.send(behind.step(9), OUTPUT)
        await asyncio.sleep(20)
        assert behind.got == ["m.0", "m.1", "m.2", "m.3", "m.9"]
        assert (behind.most, counts) == (1, PushCounts(sent=5))

    with_pusher(test, seconds=1.0)


def test_a_server_that_is_slow_is_not_sent_everything_there_ever_was() -> None:
    async def test(pusher: Pusher, behind: Next, counts: PushCounts) -> None:
        pusher.send(behind.step(0), OUTPUT)
        await asyncio.sleep(1)
        for number in range(1, 3 * MAX_QUEUED):
            pusher.send(behind.step(number), OUTPUT)
        await asyncio.sleep(100)
        assert behind.got == [f"m.{number}" for number in range(1 + MAX_QUEUED)]
        assert counts.skipped == 2 * MAX_QUEUED - 1

    with_pusher(test, seconds=5.0)


def test_a_server_that_does_not_answer_costs_a_few_timeouts_and_no_more() -> None:
    async def test(pusher: Pusher, behind: Next, counts: PushCounts) -> None:
        for number in range(MAX_FAILURES):
            pusher.send(behind.step(number), OUTPUT)
        await asyncio.sleep(MAX_FAILURES * PUSH_TIMEOUT + 1)
        pusher.send(behind.step(9), OUTPUT)
        await asyncio.sleep(PUSH_TIMEOUT)
        assert counts == PushCounts(failed=MAX_FAILURES, skipped=1)

    with_pusher(test, seconds=PUSH_TIMEOUT + 1)


def test_a_server_that_refuses_or_is_not_there_is_counted() -> None:
    async def test(pusher: Pusher, behind: Next, counts: PushCounts) -> None:
        async def refuse(peer: PeerId, message: bytes) -> bytes:
            raise RequestError("no")

        behind.host.handle_unary(PUSH, refuse)
        pusher.send(behind.step(0), OUTPUT)
        await asyncio.sleep(1)
        behind.host.handle_unary(PUSH, behind.rpc_push)
        pusher.send(behind.step(1), OUTPUT)
        await asyncio.sleep(1)
        await behind.host.close()
        pusher.send(behind.step(2), OUTPUT)
        await asyncio.sleep(1)
        assert counts == PushCounts(failed=2, sent=1)

    with_pusher(test)


def test_what_unary_cannot_carry_is_left_to_the_client() -> None:
    async def test(pusher: Pusher, behind: Next, counts: PushCounts) -> None:
        pusher.send(behind.step(0), serialize(np.zeros((1, 1, 1 << 20), np.float32)))
        await asyncio.sleep(1)
        assert (behind.got, counts) == ([], PushCounts(skipped=1))

    with_pusher(test)


def test_a_chain_that_comes_through_us_again_needs_no_network() -> None:
    async def test(pusher: Pusher, behind: Next, counts: PushCounts) -> None:
        again = Onward(pusher._host.peer_id, "m.5", (OUTPUT,), 0, b"")
        pusher.send(again, OUTPUT)
        started = now()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert (behind.got, now() - started, counts.sent) == (["m.5"], 0.0, 1)

    with_pusher(test)


@pytest.mark.parametrize("sent", [0, 1])
def test_a_session_that_ends_waits_for_no_push(sent: int) -> None:
    async def main() -> None:
        network = MemoryNetwork(1)
        ours, theirs = network.host(), network.host()
        await theirs.listen()
        behind, started = Next(theirs, 5.0), now()
        async with Pusher(ours, behind.rpc_push, PushCounts()) as pusher:
            for number in range(sent):
                pusher.send(behind.step(number), OUTPUT)
            await asyncio.sleep(1)
        assert now() - started < 1.1
        await asyncio.sleep(10)
        assert behind.got == []

    run(main())
