from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaainet.compression.codec import serialize
from kwaainet.errors import KwaaiNetError, LimitExceeded, RequestError
from kwaainet.inference.push import Onward, onward
from kwaainet.inference.session import MAX_IDLE, InferenceSession, Run
from kwaainet.inference.tensors import Limits
from kwaainet.types import BlockRange, PeerId
from kwaainet.wire import msgpack
from kwaainet.wire.messages import ExpertRequest, Tensor

PEER = PeerId(bytes.fromhex("002408011220") + bytes(32))
HIDDEN, PROMPTS, HYPO_IDS = (
    serialize(np.zeros(shape, dtype))
    for shape, dtype in (((1, 2, 4), np.float32), (0, np.float32), (0, np.int64))
)
ENTRY = (str(PEER), "their session", 3, 5)


def ask(servers: object, tensors: tuple[Tensor, ...] = (HIDDEN, PROMPTS, HYPO_IDS), **more: object):
    options = {"step_id": "1", "session_id": "ours", "next_servers": servers} | more
    return onward(ExpertRequest("m.1 m.2", tensors), options, HIDDEN, "m", 3)


def test_the_next_server_is_sent_the_output_in_place_of_the_input() -> None:
    plan = ask((ENTRY, (str(PEER), "third", 5, 6)), start_from_position=7, args_structure=((b"__T0",), {}))
    assert isinstance(plan, Onward)
    output = serialize(np.ones((1, 2, 4), np.float32))
    request = ExpertRequest.decode(plan.request(output).encode())
    assert (plan.peer, request.uid) == (PEER, "m.3 m.4")
    assert [tensor.size for tensor in request.tensors] == [(1, 2, 4), (0,), (0,)]
    assert bytes(request.tensors[0].buffer) == bytes(output.buffer)
    assert msgpack.loads(request.metadata) == {
        "step_id": "1",
        "session_id": "their session",
        "next_servers": ((str(PEER), "third", 5, 6),),
        "pushed": True,
        "start_from_position": 7,
        "args_structure": ((b"__T0",), {}),
    }


def test_the_output_takes_its_inputs_place_wherever_that_is() -> None:
    plan = ask((ENTRY,), (PROMPTS, HYPO_IDS, HIDDEN))
    assert plan is not None
    request = plan.request(HIDDEN)
    assert [tensor.dtype for tensor in request.tensors] == ["float32", "int64", "float32"]
    assert request.tensors[2].size == (1, 2, 4)


@pytest.mark.parametrize("servers", [None, (), []])
def test_nothing_asked_is_nothing_done(servers: object) -> None:
    assert ask(servers) is None


def test_a_step_that_could_not_be_told_from_its_copy_is_not_pushed() -> None:
    assert ask((ENTRY,), step_id=None) is None


@pytest.mark.parametrize(
    ("servers", "reason"),
    [
        ("x", "must list"),
        ({"a": 1}, "must list"),
        ((ENTRY,) * 65, "at most 64"),
        ((ENTRY[:3],), "must be"),
        ((b"x",), "must be"),
        ((("not base58!", "s", 3, 4),), "base58"),
        ((("1" * 200, "s", 3, 4),), "too long"),
        (((str(PEER), "s" * 129, 3, 4),), "at most 128"),
        (((str(PEER), "", 3, 4),), "must be"),
        (((str(PEER), "s", 3, 3),), "not a range"),
        (((str(PEER), "s", 3, 5000),), "at most 1024"),
        (((str(PEER), "s", 3.0, 4),), "must be"),
        (((str(PEER), "s", True, 4),), "must be"),
        (((str(PEER), "s", 4, 5),), "goes on at block 4; our blocks end at 3"),
    ],
)
def test_servers_that_cannot_be_meant_are_refused(servers: object, reason: str) -> None:
    with pytest.raises(RequestError, match=reason):
        ask(servers)


_PART = st.one_of(st.none(), st.booleans(), st.integers(-2, 2000), st.text(max_size=8), st.just(str(PEER)))


@given(st.lists(st.one_of(_PART, st.lists(_PART, max_size=5)), max_size=3))
def test_any_list_is_taken_or_refused(servers: list[object]) -> None:
    with contextlib.suppress(KwaaiNetError):
        ask(servers)


# --- a session that steps are pushed to -------------------------------------------------------------


def states(batch: int = 1, tokens: int = 1) -> np.ndarray:
    return np.ones((batch, tokens, 4), np.float32)


def step(hidden: np.ndarray | None = None, hypo_ids: np.ndarray | None = None, **metadata) -> ExpertRequest:
    ids = np.zeros(0, np.int64) if hypo_ids is None else hypo_ids
    arrays = (states() if hidden is None else hidden, np.zeros(0, np.float32), ids)
    return ExpertRequest("m.0 m.1", tuple(map(serialize, arrays)), msgpack.dumps(metadata))


def session() -> InferenceSession:
    return InferenceSession("m", BlockRange(0, 2), Limits(4, 100))


def opened(tokens: int = 3, max_length: int = 10) -> InferenceSession:
    one = session()
    one.receive(step(states(1, tokens), max_length=max_length))
    return one


def test_a_step_from_further_on_names_both_positions():
    with pytest.raises(RequestError, match="start_from_position is 5, but the session is at 3"):
        opened(tokens=3).receive(step(start_from_position=5))


@pytest.mark.parametrize("pushed_first", [False, True])
def test_of_a_step_and_its_push_the_first_counts(pushed_first):
    one = opened(tokens=3)
    message = step(step_id="a", start_from_position=3)
    ways = [one.receive, one.receive_pushed]
    first, second = reversed(ways) if pushed_first else ways
    assert [type(command) for command in first(message)] == [Run]
    assert second(message) == []
    assert one.position == 4


def test_a_push_opens_no_session_and_needs_an_id():
    with pytest.raises(RequestError, match="running session"):
        session().receive_pushed(step(max_length=5, step_id="a"))
    with pytest.raises(RequestError, match="no step_id"):
        opened().receive_pushed(step())
    assert opened().receive_pushed(step(step_id="a"))


@pytest.mark.parametrize(
    "bad",
    [
        step(states(1, 9), step_id="a"),
        step(states(2, 1), step_id="a"),
        step(step_id="a", start_from_position=7),
        step(step_id="a", start_from_position=1, hypo_ids=np.array([3], np.int64)),
        step(step_id="a", start_from_position=1, next_servers=5),
        step(step_id="a", start_from_position=1, output_compression=(9,)),
    ],
)
def test_what_is_refused_changes_nothing(bad):
    one = opened(tokens=3, max_length=10)
    with pytest.raises(RequestError):
        one.receive_pushed(bad)
    assert one.position == 3
    assert one.receive(step(step_id="a", start_from_position=3))
    assert one.position == 4


def test_messages_that_ask_for_nothing_new_end_at_some_point():
    one = opened(tokens=3, max_length=90)
    one.receive(step(step_id="a"))
    for _ in range(MAX_IDLE):
        one.receive(step(step_id="a"))
        one.receive_pushed(step(step_id="a"))  # others' floods do not count
    one.receive(step(step_id="b"))
    for _ in range(MAX_IDLE):
        one.receive(step(states(1, 0)))
    with pytest.raises(LimitExceeded, match="asked for no new token"):
        one.receive(step(states(1, 0)))


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=30))
def test_however_pushes_and_copies_arrive_every_step_runs_once_and_in_order(arrivals):
    one, ran = opened(tokens=3), []
    for number, pushed in arrivals:
        message = step(step_id=str(number), start_from_position=3 + number)
        try:
            commands = (one.receive_pushed if pushed else one.receive)(message)
        except RequestError:
            assert number > len(ran)  # from further on
            continue
        ran += [number for command in commands if isinstance(command, Run)]
    assert ran == list(range(len(ran)))
    assert one.position == 3 + len(ran)
