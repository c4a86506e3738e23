from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaainet.compression.codec import CompressionType, deserialize, serialize
from kwaainet.errors import KwaaiNetError, LimitExceeded, ProtocolError, RequestError
from kwaainet.inference.session import (
    MAX_IDLE,
    End,
    InferenceSession,
    OpenCache,
    Reorder,
    Reply,
    Run,
    Truncate,
)
from kwaainet.inference.tensors import Limits
from kwaainet.types import BlockRange
from kwaainet.wire import msgpack
from kwaainet.wire.messages import ExpertRequest, Tensor

VECTORS = json.loads((Path(__file__).parents[2] / "vectors/hivemind.json").read_text())
HIDDEN = 4
UID = "m.0 m.1 m.2"
NO_PROMPTS, NO_HYPO_IDS = np.zeros(0, np.float32), np.zeros(0, np.int64)
STRUCTURE = ((b"__T0", b"__T1", b"__T2"), {})


def session(max_length: int = 100, hidden: int = HIDDEN) -> InferenceSession:
    return InferenceSession("m", BlockRange(0, 3), Limits(hidden, max_length, max_batch=8))


def states(batch: int = 1, tokens: int = 1) -> np.ndarray:
    return np.arange(batch * tokens * HIDDEN, dtype=np.float32).reshape(batch, tokens, HIDDEN)


def request(hidden=None, *, prompts=NO_PROMPTS, hypo_ids=NO_HYPO_IDS, uid=UID, **metadata) -> ExpertRequest:
    arrays = (states() if hidden is None else hidden, prompts, hypo_ids)
    tensors = tuple(array if isinstance(array, Tensor) else serialize(array) for array in arrays)
    metadata.setdefault("args_structure", STRUCTURE)
    return ExpertRequest(uid, tensors, msgpack.dumps(metadata))


def opened(batch: int = 1, tokens: int = 3, max_length: int = 10) -> InferenceSession:
    one = session()
    one.receive(request(states(batch, tokens), max_length=max_length))
    return one


def test_a_stock_clients_first_message_opens_and_runs():
    golden = ExpertRequest.decode(bytes.fromhex(VECTORS["inference_request_first"]))
    one = InferenceSession("m", BlockRange(0, 2), Limits(3, 100))
    opening, run = one.receive(golden)
    assert opening == OpenCache(BlockRange(0, 2), 1, 64, 0.0)
    np.testing.assert_array_equal(run.hidden, np.arange(6, dtype=np.float32).reshape(1, 2, 3))
    assert one.position == 2


def test_steps_append():
    one = session()
    commands = one.receive(request(states(2, 5), max_length=6, session_id="s", alloc_timeout=2.5))
    assert [type(command) for command in commands] == [OpenCache, Run]
    assert commands[0] == OpenCache(BlockRange(0, 3), 2, 6, 2.5)
    (run,) = one.receive(request(states(2, 1)))
    assert isinstance(run, Run)
    assert one.position == 6


def test_an_empty_request_ends_the_session():
    one = opened()
    assert one.receive(ExpertRequest()) == [End()]
    assert one.ended
    with pytest.raises(RequestError, match="has ended"):
        one.receive(request())


def test_a_session_may_end_before_it_began():
    assert session().receive(ExpertRequest()) == [End()]


def test_zero_tokens_allocate_and_get_an_empty_answer():
    one = session()
    opening, reply = one.receive(request(states(2, 0), max_length=7))
    assert opening == OpenCache(BlockRange(0, 3), 2, 7, 0.0)
    assert isinstance(reply, Reply)
    assert deserialize(reply.tensor).shape == (2, 0, HIDDEN)
    assert one.position == 0


def test_a_session_of_no_tokens_still_gets_a_cache():
    opening, _ = session().receive(request(states(1, 0), max_length=0))
    assert opening.max_length == 1


def test_no_step_passes_the_maximum_length():
    one = opened(tokens=3, max_length=4)
    with pytest.raises(RequestError, match="prefix 3 \\+ current 2 exceeds pre-allocated maximum 4"):
        one.receive(request(states(1, 2)))


def test_rolling_back_truncates_and_goes_on_from_there():
    one = opened(tokens=8)
    assert one.receive(request(states(1, 4), start_from_position=6))[0] == Truncate(6)
    assert one.position == 10


def test_rolling_back_to_where_we_are_does_nothing():
    commands = opened(tokens=8).receive(request(start_from_position=8))
    assert [type(command) for command in commands] == [Run]


@pytest.mark.parametrize("position", [-1, 9, 1.0, "0"])
def test_rolling_back_to_where_nothing_is_is_refused(position):
    with pytest.raises(RequestError, match="start_from_position"):
        opened(tokens=8).receive(request(start_from_position=position))


def test_hypo_ids_reorder_before_the_step():
    one = opened(batch=3)
    reorder, run = one.receive(request(states(3, 1), hypo_ids=np.array([2, 0, 0], np.int64)))
    assert reorder == Reorder([2, 0, 0])
    assert isinstance(run, Run)


def test_hypo_ids_that_keep_every_row_cost_nothing():
    commands = opened(batch=3).receive(request(states(3, 1), hypo_ids=np.array([0, 1, 2], np.int64)))
    assert [type(command) for command in commands] == [Run]


def test_hypo_ids_of_an_empty_cache_reorder_nothing():
    commands = session().receive(request(states(2, 1), hypo_ids=np.array([1, 0], np.int64), max_length=4))
    assert [type(command) for command in commands] == [OpenCache, Run]


@pytest.mark.parametrize(
    "hypo_ids",
    [*(np.array(ids, np.int64) for ids in ([0], [0, 2], [-1, 0], [[0, 1]])), np.array([0, 1], np.int32)],
)
def test_bad_hypo_ids_are_refused(hypo_ids):
    with pytest.raises(RequestError, match="hypo_ids"):
        opened(batch=2).receive(request(states(2, 1), hypo_ids=hypo_ids))


def test_a_repeated_step_is_dropped():
    one = opened()
    assert len(one.receive(request(step_id="a"))) == 1
    assert one.receive(request(step_id="a")) == []
    assert len(one.receive(request(step_id="b"))) == 1
    assert one.position == 5


def test_copies_of_steps_that_were_pushed_are_not_idle_messages():
    machine = opened(max_length=10)
    for number in range(300):
        step = request(states(), step_id=str(number), start_from_position=3)
        assert machine.receive_pushed(step)
        assert machine.receive(step) == []
    for _ in range(MAX_IDLE - 1):
        machine.receive(step)
    with pytest.raises(LimitExceeded, match="asked for no new token"):
        machine.receive(step)


def test_deep_prompts_come_with_the_first_positions():
    prompts = np.ones((3, 1, 2, 4), np.float32)
    _, run = session().receive(request(states(1, 3), prompts=prompts, max_length=9))
    np.testing.assert_array_equal(run.prompts, prompts)
    again = opened(tokens=5).receive(request(states(1, 3), prompts=prompts, start_from_position=0))
    assert again[0] == Truncate(0)
    assert again[1].prompts is not None
    assert opened().receive(request())[0].prompts is None


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ((3, 1, 2, 4), "this step starts at 3"),
        ((2, 1, 1, 4), "deep prompts are"),
        ((3, 1, 4, 4), "at most 3"),
    ],
)
def test_deep_prompts_that_cannot_be_added_are_refused(shape, reason):
    with pytest.raises(RequestError, match=reason):
        opened().receive(request(states(1, 3), prompts=np.zeros(shape, np.float32)))


def test_next_servers_are_ignored():
    commands = opened().receive(request(next_servers=[("12D3KooWx", "s", 3, 5)]))
    assert [type(command) for command in commands] == [Run]


def test_arguments_follow_their_structure():
    tensors = (serialize(NO_HYPO_IDS), serialize(states()), serialize(NO_PROMPTS))
    metadata = {"max_length": 3, "args_structure": ((b"__T1", b"__T2", b"__T0"), {})}
    commands = session().receive(ExpertRequest(UID, tensors, msgpack.dumps(metadata)))
    np.testing.assert_array_equal(commands[-1].hidden, states())


@pytest.mark.parametrize("structure", [((b"__T0", b"__T1", b"__T1"), {}), ((b"__T0", None), {}), None])
def test_arguments_may_share_a_tensor_be_absent_or_come_in_order(structure):
    arrays = (states(), np.zeros(0, np.float32))
    metadata = {"max_length": 3, "args_structure": structure}
    message = ExpertRequest(UID, tuple(map(serialize, arrays)), msgpack.dumps(metadata))
    assert [type(command) for command in session().receive(message)] == [OpenCache, Run]


@pytest.mark.parametrize(
    "structure",
    [
        1,
        (1,),
        ((), {}),
        ((b"__T3",), {}),
        ((b"__T",), {}),
        ((b"__Tx",), {}),
        (("__T0",), {}),
        ((b"__T0",) * 17, {}),
        (("x" * 100,), {}),
    ],
)
def test_a_bad_structure_is_refused(structure):
    with pytest.raises(RequestError, match=r"args_structure|no hidden states"):
        session().receive(request(max_length=3, args_structure=structure))


@pytest.mark.parametrize(
    ("hidden", "reason"),
    [
        (np.zeros((1, 1, 5), np.float32), r"shape \[1, 1, 5\]"),
        (np.zeros((1, 4), np.float32), r"shape \[1, 4\]"),
        (np.zeros((1, 1, 1, 4), np.float32), r"shape \[1, 1, 1, 4\]"),
        (np.zeros((0, 1, 4), np.float32), "batch of 0"),
        (np.zeros((9, 1, 4), np.float32), "batch of 9"),
        (np.zeros((1, 101, 4), np.float32), "101 tokens"),
        (np.zeros((1, 1, 4), np.int64), "'int64'"),
        (np.zeros((1, 1, 4), np.float64), "'float64'"),
    ],
)
def test_hidden_states_of_the_wrong_kind_are_refused(hidden, reason):
    with pytest.raises(RequestError, match=reason):
        session().receive(request(hidden, max_length=100))


def test_a_payload_that_does_not_fit_its_shape_is_refused():
    with pytest.raises(ProtocolError):
        session().receive(request(Tensor(b"\0" * 8, (1, 1, 4), False, "float32"), max_length=9))


def test_a_declared_giant_is_refused_before_it_is_decoded():
    with pytest.raises(RequestError, match="tokens"):
        session().receive(request(Tensor(b"", (1, 1 << 40, 4), False, "float32"), max_length=9))


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({}, "max_length"),
        ({"max_length": 101}, "Cannot allocate KV cache for 101 tokens, max = 100"),
        ({"max_length": -1}, "max_length"),
        ({"max_length": 3.0}, "max_length"),
        ({"max_length": True}, "max_length"),
        ({"max_length": 3, "active_adapter": "lora"}, "'lora' is not served"),
        ({"max_length": 3, "points": "many"}, "points"),
        ({"max_length": 3, "session_id": 7}, "session_id"),
        ({"max_length": 3, "step_id": "x" * 129}, "step_id"),
        ({"max_length": 3, "alloc_timeout": "soon"}, "alloc_timeout"),
        ({"max_length": 3, "alloc_timeout": float("nan")}, "alloc_timeout"),
        ({"max_length": 3, "output_compression": (9,)}, "output_compression"),
        ({"max_length": 3, "output_compression": (0, 0)}, "output_compression"),
    ],
)
def test_bad_metadata_of_the_first_message_is_named(metadata, reason):
    with pytest.raises(RequestError, match=reason):
        session().receive(request(**metadata))


def test_what_stock_clients_leave_empty_is_fine():
    commands = session().receive(request(max_length=3, active_adapter=None, points=0, session_id=None))
    assert [type(command) for command in commands] == [OpenCache, Run]


def test_oversize_metadata_is_refused():
    with pytest.raises(LimitExceeded, match="metadata"):
        session().receive(request(max_length=3, junk=b"x" * 70000))


def test_metadata_must_be_a_map():
    with pytest.raises(RequestError, match="metadata is a list"):
        session().receive(ExpertRequest(UID, (serialize(states()),), msgpack.dumps([])))


def test_too_many_tensors_are_refused():
    message = ExpertRequest(UID, (serialize(states()),) * 17, msgpack.dumps({"max_length": 3}))
    with pytest.raises(RequestError, match="17 tensors"):
        session().receive(message)


@pytest.mark.parametrize(
    ("uid", "reason"),
    [
        ("x.0 x.1 x.2", "'x.0' is not served"),
        ("m.1 m.2 m.3", "'m.3' is not served"),
        ("m.0 m.2", "does not follow"),
        ("", "names no block"),
    ],
)
def test_blocks_that_cannot_be_run_are_refused(uid, reason):
    with pytest.raises(RequestError, match=reason):
        session().receive(request(uid=uid, max_length=3))


@pytest.mark.parametrize(("uid", "relative"), [("m.4", (0, 1)), ("m.5 m.6", (1, 3)), ("m.4 m.5 m.6", (0, 3))])
def test_a_part_of_the_span_is_counted_from_its_start(uid, relative):
    one = InferenceSession("m", BlockRange(4, 7), Limits(HIDDEN, 100))
    opening, _ = one.receive(request(uid=uid, max_length=3))
    assert opening.blocks == BlockRange(*relative)
    with pytest.raises(RequestError, match="opened for"):
        one.receive(request(uid="m.6"))


def test_a_session_keeps_its_blocks_and_its_batch():
    with pytest.raises(RequestError, match="opened for"):
        opened().receive(request(uid="m.0"))
    with pytest.raises(RequestError, match="batch of 2"):
        opened().receive(request(states(2, 1)))
    assert opened().receive(request(uid=""))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("compression", list(CompressionType))
def test_every_dtype_and_compression_is_computed_in_float32(dtype, compression):
    if dtype == "bfloat16" and compression in (CompressionType.FLOAT16, CompressionType.MEANSTD_16BIT):
        return  # Hivemind has no such tensors
    hidden = serialize(states(2, 3) / 64, compression, dtype)
    commands = session().receive(request(hidden, max_length=3, output_compression=(int(compression),)))
    run = commands[-1]
    assert run.hidden.dtype == np.float32
    np.testing.assert_allclose(run.hidden, states(2, 3) / 64, atol=0.02)
    answer = run.reply.pack(run.hidden)
    assert (answer.dtype, answer.compression) == (dtype, compression)


def test_bfloat16_cannot_be_answered_in_a_compression_without_it():
    hidden = serialize(states(), CompressionType.NONE, "bfloat16")
    with pytest.raises(RequestError, match="FLOAT16 cannot carry bfloat16"):
        session().receive(request(hidden, max_length=3, output_compression=(2,)))


def test_the_answer_is_uncompressed_by_default():
    hidden = serialize(states(), CompressionType.UNIFORM_8BIT)
    run = session().receive(request(hidden, max_length=3))[-1]
    assert run.reply.compression == CompressionType.NONE


@given(
    uid=st.sampled_from([UID, "", "m.9", "m.0 m.1 m.2 "]),
    metadata=st.one_of(
        st.binary(max_size=60),
        st.dictionaries(
            st.sampled_from(
                ["max_length", "step_id", "args_structure", "start_from_position", "alloc_timeout", "points"]
            ),
            st.one_of(
                st.none(), st.integers(-5, 200), st.text(max_size=5), st.lists(st.integers(0, 9), max_size=3)
            ),
        ).map(msgpack.dumps),
    ),
    sizes=st.lists(st.lists(st.integers(0, 9), max_size=4).map(tuple), max_size=4),
    payload=st.binary(max_size=64),
    dtype=st.sampled_from(["float32", "int64", "bfloat16", "", "junk"]),
    compression=st.integers(0, 7),
)
def test_any_message_is_served_or_refused(uid, metadata, sizes, payload, dtype, compression):
    tensors = tuple(Tensor(payload, size, False, dtype, compression) for size in sizes)
    try:
        commands = session().receive(ExpertRequest(uid, tensors, metadata))
    except KwaaiNetError:
        return
    assert isinstance(commands[0], OpenCache | End)
