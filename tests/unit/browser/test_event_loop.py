"""A loop that JavaScript wakes: asyncio's order and timers, one wake-up for all that is ready."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, cast

import numpy as np
import pytest

from kwaainet.browser.event_loop import MANY_CANCELLED, ROUNDS, Queues
from kwaainet.browser.host import BrowserHost
from kwaainet.node.turns import Turns
from kwaainet.ports import Floats, Stream
from kwaainet.types import PeerId


class World(asyncio.SelectorEventLoop):
    """A loop as Pyodide's: what wakes it is outside, and so is its clock."""

    def __init__(self) -> None:
        super().__init__()
        self.clock, self.wakes, self.alarms = 100.0, 0, []
        self.pending, self.alarm, self.early = False, None, 0.0
        self.queues = Queues(self, self)

    def time(self) -> float:
        return self.clock

    def wake(self) -> None:
        self.wakes, self.pending = self.wakes + 1, True

    def wake_in(self, seconds: float) -> None:
        self.alarms.append(seconds)
        self.alarm = self.clock + seconds

    def settle(self, until: float = 0.0) -> None:
        """Do as JavaScript does, until it would wait beyond ``until`` seconds from now."""
        end = self.clock + until
        while self.pending or (self.alarm is not None and self.alarm <= end):
            if self.pending:
                self.pending = False
                self.queues.turn()
            else:
                assert self.alarm is not None
                self.clock, self.alarm = max(self.clock, self.alarm - self.early), None
                self.early = 0.0
                self.queues.ring()
        self.clock = end

    def do(self, work: Coroutine[Any, Any, Any], within: float = 0.0) -> Any:
        task = asyncio.Task(work, loop=self)
        self.settle(within)
        return task.result()


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    asyncio._set_running_loop(made)  # Pyodide's is always the running one
    yield made
    asyncio._set_running_loop(None)
    made.close()


def test_all_that_is_ready_runs_in_order_at_one_wake_up(world: World) -> None:
    done: list[int] = []
    for number in range(5):
        world.call_soon(done.append, number)
    cancelled = world.call_soon(done.append, 9)
    cancelled.cancel()
    world.settle()
    assert done == [0, 1, 2, 3, 4]
    assert world.wakes == 1


def test_what_becomes_ready_runs_in_the_same_turn_but_not_for_ever(world: World) -> None:
    async def spin(times: int) -> int:
        for _ in range(times):
            await asyncio.sleep(0)
        return times

    assert world.do(spin(ROUNDS - 2)) == ROUNDS - 2
    assert world.wakes == 1
    assert world.do(spin(10 * ROUNDS)) == 10 * ROUNDS
    assert 10 <= world.wakes - 1 <= 12, "JavaScript had its turns meanwhile"


def test_timers_ring_in_their_order_and_only_the_first_is_waited_for(world: World) -> None:
    done: list[str] = []
    world.call_later(3.0, done.append, "third")
    world.call_later(1.0, done.append, "first")
    world.call_at(102.0, done.append, "second")
    world.call_later(2.5, done.append, "never").cancel()
    assert world.alarms == [3.0, 1.0]
    world.settle(2.0)
    assert done == ["first", "second"]
    world.settle(1.0)
    assert done == ["first", "second", "third"]


def test_a_timer_that_javascript_rings_too_early_is_waited_for_again(world: World) -> None:
    done: list[str] = []
    world.call_later(1.0, done.append, "rung")
    world.early = 0.001
    world.settle(2.0)
    assert done == ["rung"]
    assert world.alarms == [1.0, pytest.approx(0.001)]


@pytest.mark.parametrize("seconds", [-1.0, 0.0, 0.001])
def test_a_timeout_that_has_passed_already_is_a_timeout(world: World, seconds: float) -> None:
    async def late() -> None:
        async with asyncio.timeout_at(world.time() + seconds):
            await asyncio.sleep(60)

    with pytest.raises(TimeoutError):
        world.do(late(), 1.0)


def test_timers_that_were_cancelled_are_not_kept(world: World) -> None:
    async def step() -> weakref.ref[Any]:
        async with asyncio.timeout(300.0) as timeout:
            await asyncio.sleep(0)
        return weakref.ref(timeout)

    kept = [world.do(step()) for _ in range(4 * MANY_CANCELLED)]
    gc.collect()
    assert sum(one() is not None for one in kept) <= MANY_CANCELLED + 1


def test_a_wake_up_from_within_a_task_waits_until_it_is_over(world: World) -> None:
    order: list[str] = []

    async def outer() -> None:
        world.call_soon(order.append, "later")
        world.queues.turn()  # as a message does that JavaScript delivers while Python speaks to it
        order.append("outer")

    world.do(outer())
    assert order == ["outer", "later"]


def test_a_callback_that_fails_is_told_and_stops_nobody(world: World) -> None:
    told: list[Any] = []
    done: list[int] = []
    world.set_exception_handler(lambda loop, context: told.append(context["exception"]))

    def fail() -> None:
        raise ValueError("mine")

    world.call_soon(fail)
    world.call_soon(done.append, 1)
    world.settle()
    assert [type(error) for error in told] == [ValueError]
    assert done == [1]


def test_even_an_exit_leaves_the_rest_to_run(world: World) -> None:
    done: list[int] = []

    def leave() -> None:
        raise KeyboardInterrupt

    world.call_soon(leave)
    world.call_soon(done.append, 1)
    with pytest.raises(KeyboardInterrupt):
        world.settle()
    world.settle()
    assert done == [1]


class Network:
    """A network worker, and an engine that adds one; both note what they were asked."""

    def __init__(self) -> None:
        self.posted: list[Any] = []
        self.rounds: list[int] = []
        self.deliver: Callable[[Any], None] = lambda message: None

    def post(self, message: Any) -> None:
        self.posted.append(message)

    def listen(self, receive: Callable[[Any], None]) -> None:
        self.deliver = receive

    async def run_many(self, steps: list[tuple[int, Floats]]) -> list[Floats]:
        self.rounds.append(len(steps))
        return [hidden + 1 for _, hidden in steps]


@pytest.mark.parametrize("count", [1, 3, 16])
def test_steps_that_come_at_once_wake_python_once_and_are_computed_and_answered_once(
    world: World, count: int
) -> None:
    network = Network()
    turns = Turns(cast(Any, network), 8, lambda tokens: None, lambda error: None)

    async def serve(stream: Stream) -> None:
        while (message := await stream.receive()) is not None:
            hidden = np.frombuffer(message, np.float32).reshape(1, 1, -1)
            answer = await turns.run(stream, stream.remote_peer, 0, hidden, lambda: True)
            await stream.send(answer.tobytes())

    host = BrowserHost(network)
    host.handle_stream("steps", serve)
    streams = range(2, 2 * count + 2, 2)
    peer = str(PeerId(bytes.fromhex("002408011220") + bytes(32)))
    for number in streams:
        network.deliver({"type": "open", "id": number, "peer": peer, "protocol": "steps"})
    world.settle(1.0)
    for turn in range(1, 4):
        network.posted.clear()
        network.rounds.clear()
        world.wakes = 0
        for number in streams:
            body = np.full(4, number + turn, np.float32).tobytes()
            network.deliver({"type": "data", "id": number, "body": body})
        world.settle()
        assert (world.wakes, network.rounds) == (1, [count])
        assert [message["id"] for message in network.posted] == list(streams)
        answers = [np.frombuffer(message["body"], np.float32)[0] for message in network.posted]
        assert answers == [number + turn + 1 for number in streams]
    for number in streams:
        network.deliver({"type": "end", "id": number})
    world.settle(1.0)
