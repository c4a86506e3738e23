"""A session over the wire: two hosts in memory, a numpy engine, the client's own machine."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from kwaainet.errors import DeviceLost, EngineError, RpcError, StreamReset
from kwaainet.testing.clock import now
from kwaainet.testing.model import TINY

from .served_sessions import CONFIG, Swarm, finish, message, served, states, step


def test_steps_compute_what_a_prefill_does() -> None:
    async def test(swarm: Swarm) -> None:
        hidden = states(1, 12)
        stream = await swarm.open()
        outputs = [await step(stream, message(hidden[:, :9], max_length=20, session_id="s"))]
        for at in range(9, 12):
            outputs.append(await step(stream, message(hidden[:, at : at + 1], step_id=str(at))))
        await finish(stream)
        np.testing.assert_allclose(np.concatenate(outputs, 1), await swarm.expected(hidden), atol=1e-5)

    served(test)


def test_sessions_over_parts_of_the_span_join() -> None:
    async def test(swarm: Swarm) -> None:
        hidden = states(1, 6)
        parts = [hidden[:, :4], hidden[:, 4:]]
        for block in (0, 1):
            stream = await swarm.open()
            parts = [await step(stream, message(part, uid=f"tiny.{block}", max_length=20)) for part in parts]
            await finish(stream)
        np.testing.assert_allclose(np.concatenate(parts, 1), await swarm.expected(hidden), atol=1e-5)

    served(test)


def test_rolling_back_and_reordering_over_the_wire() -> None:
    async def test(swarm: Swarm) -> None:
        hidden, other = states(2, 6), states(2, 2, seed=9)
        stream = await swarm.open()
        await step(stream, message(hidden, max_length=20))
        back = await step(stream, message(other, np.array([1, 1], np.int64), start_from_position=3))
        whole = await swarm.expected(np.concatenate([hidden[[1, 1], :3], other], 1))
        np.testing.assert_allclose(back, whole[:, 3:], atol=1e-5)
        await finish(stream)

    served(test)


def test_a_repeated_step_gets_no_second_answer() -> None:
    async def test(swarm: Swarm) -> None:
        stream = await swarm.open()
        await step(stream, message(states(), max_length=20, step_id="a"))
        await stream.send(message(states(), step_id="a"))
        answer = await step(stream, message(states(1, 2), step_id="b"))
        assert answer.shape == (1, 2, TINY.hidden_size)
        assert swarm.engine.runs == [(1, 1), (1, 2)]
        await finish(stream)

    served(test)


def test_zero_tokens_take_the_room_and_nothing_else() -> None:
    async def test(swarm: Swarm) -> None:
        stream = await swarm.open()
        answer = await step(stream, message(states(1, 0), max_length=90))
        assert answer.shape == (1, 0, TINY.hidden_size)
        assert (swarm.span.admission.tokens_left, swarm.engine.runs) == (6, [])
        await finish(stream)

    served(test)


def test_sessions_side_by_side_do_not_mix() -> None:
    async def test(swarm: Swarm) -> None:
        async def one(seed: int) -> None:
            hidden = states(1, 6, seed)
            stream = await swarm.open()
            first = await step(stream, message(hidden[:, :2], max_length=10))
            rest = [await step(stream, message(hidden[:, at : at + 1])) for at in range(2, 6)]
            await finish(stream)
            outputs = np.concatenate([first, *rest], 1)
            np.testing.assert_allclose(outputs, await swarm.expected(hidden), atol=1e-5)

        await asyncio.gather(*map(one, range(5)))

    served(test)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"\xff\xff\xff", "."),
        (message(states(1, 30)), "Maximum length exceeded: prefix 2"),
        (message(states(2, 1)), "batch of 2"),
        (message(states()[..., :3]), r"shape \[1, 1, 3\]"),
        (message(states(), np.array([4], np.int64)), "hypo_ids"),
        (message(states(), start_from_position=9), "start_from_position"),
        (message(states())[:-9], "."),
    ],
)
def test_a_session_that_fails_is_told_why_and_its_neighbour_goes_on(bad: bytes, reason: str) -> None:
    async def test(swarm: Swarm) -> None:
        hidden = states(1, 4)
        neighbour, stream = await swarm.open(), await swarm.open()
        first = await step(neighbour, message(hidden[:, :2], max_length=20))
        await step(stream, message(states(1, 2), max_length=20))
        await stream.send(bad)
        with pytest.raises(RpcError, match=reason):
            await stream.receive()
        last = await step(neighbour, message(hidden[:, 2:]))
        outputs = np.concatenate([first, last], 1)
        np.testing.assert_allclose(outputs, await swarm.expected(hidden), atol=1e-5)
        assert len(swarm.engine.open_caches) == 1
        await finish(neighbour)

    served(test)


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (message(states()), "max_length"),
        (message(states(), max_length=97), "Cannot allocate KV cache for 97 tokens, max = 96"),
        (message(states(2, 1), max_length=50), "100 tokens .* has 96 in all"),
        (message(states(), max_length=4).replace(b"tiny.1", b"tiny.4"), "'tiny.4' is not served"),
        (message(states(), max_length=4).replace(b"tiny", b"tony"), "'tony.0' is not served"),
        (message(states(), uid="tiny.1 tiny.2", max_length=4), "'tiny.2' is not served"),
    ],
)
def test_a_session_that_cannot_be_opened_is_told_why(first: bytes, reason: str) -> None:
    async def test(swarm: Swarm) -> None:
        stream = await swarm.open()
        await stream.send(first)
        with pytest.raises(RpcError, match=reason):
            await stream.receive()

    served(test)


def test_a_full_cache_is_waited_for_and_then_refused() -> None:
    async def test(swarm: Swarm) -> None:
        holder, hasty, patient = [await swarm.open() for _ in range(3)]
        await step(holder, message(states(), max_length=90))
        await hasty.send(message(states(), max_length=10))
        with pytest.raises(RpcError, match="attention cache is full: 10 tokens"):
            await hasty.receive()
        waiting = asyncio.ensure_future(step(patient, message(states(), max_length=10, alloc_timeout=30.0)))
        await asyncio.sleep(20)
        assert not waiting.done()
        await finish(holder)
        await waiting
        await finish(patient)

    served(test)


def test_nobody_waits_longer_for_cache_than_the_server_allows() -> None:
    async def test(swarm: Swarm) -> None:
        holder, patient = await swarm.open(), await swarm.open()
        await step(holder, message(states(), max_length=90))
        started = now()
        await patient.send(message(states(), max_length=10, alloc_timeout=None))
        with pytest.raises(RpcError, match="in 60 s"):
            await patient.receive()
        assert 60 <= now() - started < 61
        await finish(holder)

    served(test)


def test_one_who_leaves_while_waiting_for_cache_leaves_the_queue() -> None:
    async def test(swarm: Swarm) -> None:
        holder, leaver = await swarm.open(), await swarm.open()
        await step(holder, message(states(), max_length=90))
        await leaver.send(message(states(), max_length=50, alloc_timeout=50.0))
        await asyncio.sleep(1)
        await leaver.close()
        await asyncio.sleep(1)
        assert swarm.handler.sessions == 1
        await finish(holder)

    served(test)


def test_a_cancelled_stream_frees_its_cache_at_once() -> None:
    async def test(swarm: Swarm) -> None:
        stream = await swarm.open()
        await step(stream, message(states(), max_length=90))
        await stream.close()

    served(test)


def test_a_client_that_vanishes_frees_its_cache_at_once() -> None:
    async def test(swarm: Swarm) -> None:
        stream = await swarm.open()
        await step(stream, message(states(), max_length=90))
        swarm.network.vanish(swarm.client.peer_id)

    served(test)


def test_a_client_that_leaves_stops_its_long_prompt() -> None:
    async def test(swarm: Swarm) -> None:
        swarm.engine.seconds_per_run = 1.0
        stream = await swarm.open()
        await stream.send(message(states(1, 90), max_length=90))
        await asyncio.sleep(1.5)
        await stream.close()
        await asyncio.sleep(1.5)
        assert len(swarm.engine.runs) == 2
        assert swarm.engine.open_caches == set()

    served(test)


def test_an_engine_error_is_told_and_the_neighbour_goes_on() -> None:
    async def test(swarm: Swarm) -> None:
        neighbour, stream = await swarm.open(), await swarm.open()
        await step(neighbour, message(states(), max_length=20))
        await step(stream, message(states(), max_length=20))
        swarm.engine.failures.append(EngineError("out of memory"))
        await stream.send(message(states()))
        with pytest.raises(RpcError, match="out of memory"):
            await stream.receive()
        await step(neighbour, message(states()))
        await finish(neighbour)

    served(test)


def test_a_lost_device_ends_even_the_sessions_that_are_idle() -> None:
    async def test(swarm: Swarm) -> None:
        idle, stream = await swarm.open(), await swarm.open()
        await step(idle, message(states(), max_length=20))
        await step(stream, message(states(), max_length=20))
        swarm.engine.failures.append(DeviceLost("gone"))
        await stream.send(message(states()))
        for one in (stream, idle):
            with pytest.raises(RpcError, match="device this session was computed on was lost"):
                await one.receive()
        assert len(swarm.losses) == 1

    served(test)


def test_a_silent_session_is_closed_after_the_step_timeout() -> None:
    async def test(swarm: Swarm) -> None:
        stream = await swarm.open()
        await step(stream, message(states(), max_length=20))
        started = now()
        with pytest.raises(RpcError, match="no request came for 300 s"):
            await stream.receive()
        assert 299 < now() - started < 301

    served(test)


def test_a_session_that_never_opens_is_closed_too() -> None:
    async def test(swarm: Swarm) -> None:
        with pytest.raises(RpcError, match="no request came"):
            await (await swarm.open()).receive()

    served(test)


def test_a_session_lasts_no_longer_than_allowed() -> None:
    async def test(swarm: Swarm) -> None:
        stream = await swarm.open()
        await step(stream, message(states(), max_length=20))
        for _ in range(3):
            await asyncio.sleep(20)
            await step(stream, message(states()))
        with pytest.raises(RpcError, match="lasted 70 s"):
            await stream.receive()

    served(test, replace(CONFIG, session_timeout=70.0))


def test_a_caller_that_just_ends_gets_its_answers_first() -> None:
    async def test(swarm: Swarm) -> None:
        stream = await swarm.open()
        await stream.send(message(states(), max_length=20))
        await stream.send(message(states()))
        await stream.end()
        assert await stream.receive() is not None
        assert await stream.receive() is not None
        assert await stream.receive() is None

    served(test)


def test_a_server_that_leaves_says_so() -> None:
    async def test(swarm: Swarm) -> None:
        stream = await swarm.open()
        await step(stream, message(states(), max_length=20))
        await swarm.server.close()
        with pytest.raises((RpcError, StreamReset), match="leaving"):
            await stream.receive()

    served(test)


@pytest.mark.parametrize(
    ("session_id", "request_id"), [("chatcmpl-1/uuid", "chatcmpl-1"), ("plain", "plain"), (None, "")]
)
def test_a_session_is_logged_under_the_id_of_its_request(
    caplog: pytest.LogCaptureFixture, session_id: str | None, request_id: str
) -> None:
    async def test(swarm: Swarm) -> None:
        stream = await swarm.open()
        await step(stream, message(states(1, 3), max_length=20, session_id=session_id))
        await finish(stream)

    with caplog.at_level("INFO", "kwaainet.node.inference"):
        served(test)
    begins, ends = (record for record in caplog.records if record.name == "kwaainet.node.inference")
    assert "begins" in begins.getMessage()
    assert "ends: 3 tokens" in ends.getMessage()
    assert vars(begins)["request_id"] == vars(ends)["request_id"] == request_id
