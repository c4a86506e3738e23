import numpy as np
import pytest

from kwaainet.compression.codec import CompressionType, deserialize, serialize
from kwaainet.errors import LimitExceeded, ProtocolError, RequestError
from kwaainet.inference import tensors
from kwaainet.inference.tensors import Limits, ReplyFormat
from kwaainet.wire import msgpack
from kwaainet.wire.messages import ExpertRequest, Tensor

LIMITS = Limits(hidden_size=4, max_length=10, max_batch=3)
STATES = np.arange(8, dtype=np.float32).reshape(1, 2, 4)


def test_metadata_is_a_map_or_nothing() -> None:
    assert tensors.metadata(ExpertRequest()) == {}
    assert tensors.metadata(ExpertRequest(metadata=msgpack.dumps({"a": 1}))) == {"a": 1}
    with pytest.raises(RequestError, match="metadata is a int"):
        tensors.metadata(ExpertRequest(metadata=msgpack.dumps(1)))
    with pytest.raises(ProtocolError):
        tensors.metadata(ExpertRequest(metadata=b"\xc1"))
    with pytest.raises(LimitExceeded):
        tensors.metadata(ExpertRequest(metadata=b"\xc0" * (tensors.MAX_METADATA_SIZE + 1)))


def test_arguments_are_picked_by_their_marks() -> None:
    one, two = serialize(STATES), serialize(STATES + 1)
    assert tensors.arguments([one, two], ((b"__T1", None, b"__T0", b"__T1"), {})) == [two, None, one, two]
    assert tensors.arguments([one, two], None) == [one, two]
    assert tensors.arguments([], ((), {"ignored": 1})) == []


def test_a_dummy_has_no_elements() -> None:
    assert tensors.is_dummy(None)
    assert tensors.is_dummy(serialize(np.zeros(0, np.float32)))
    assert tensors.is_dummy(serialize(np.zeros((3, 0), np.float32)))
    assert not tensors.is_dummy(serialize(np.zeros((), np.float32)))


@pytest.mark.parametrize("shape", [(1, 0, 4), (3, 10, 4)])
def test_hidden_states_within_the_limits_pass(shape: tuple[int, ...]) -> None:
    assert tensors.check_hidden(serialize(np.zeros(shape, np.float32)), LIMITS) == shape[:2]


@pytest.mark.parametrize("shape", [(4, 1, 4), (1, 11, 4), (1, 1, 3), (4,), (0, 1, 4)])
def test_hidden_states_beyond_them_do_not(shape: tuple[int, ...]) -> None:
    with pytest.raises(RequestError):
        tensors.check_hidden(serialize(np.zeros(shape, np.float32)), LIMITS)


def test_hidden_states_must_be_there_and_be_floats() -> None:
    with pytest.raises(RequestError, match="no hidden states"):
        tensors.check_hidden(None, LIMITS)
    with pytest.raises(RequestError, match="float32, float16, bfloat16 are supported"):
        tensors.check_hidden(Tensor(b"", (1, 1, 4), False, "float8" * 100), LIMITS)


@pytest.mark.parametrize("dtype", tensors.FLOAT_DTYPES)
def test_hidden_states_are_unpacked_to_float32(dtype: str) -> None:
    states = tensors.unpack_hidden(serialize(STATES, dtype=dtype))
    assert states.dtype == np.float32
    np.testing.assert_array_equal(states, STATES)


def test_hypo_ids_are_rows_of_the_batch() -> None:
    assert tensors.unpack_hypo_ids(None, 2) is None
    assert tensors.unpack_hypo_ids(serialize(np.zeros(0, np.int64)), 2) is None
    assert tensors.unpack_hypo_ids(serialize(np.array([1, 1], np.int64)), 2) == [1, 1]
    with pytest.raises(RequestError, match="from 0 to 2; rows are 0 to 1"):
        tensors.unpack_hypo_ids(serialize(np.array([0, 2], np.int64)), 2)


def test_the_reply_keeps_the_requests_dtype_and_takes_the_compression_asked_for() -> None:
    plain = tensors.reply_format(serialize(STATES, dtype="bfloat16"), {})
    assert plain == ReplyFormat("bfloat16", CompressionType.NONE)
    asked = tensors.reply_format(serialize(STATES), {"output_compression": [2]})
    reply = asked.pack(STATES)
    assert (reply.dtype, reply.compression) == ("float32", CompressionType.FLOAT16)
    np.testing.assert_array_equal(deserialize(reply), STATES)


@pytest.mark.parametrize("wanted", [2, (), (0, 1), (True, 0), (6,), ("0",), (0.0,)])
def test_a_compression_that_does_not_exist_is_refused(wanted: object) -> None:
    with pytest.raises(RequestError, match="output_compression"):
        tensors.reply_format(serialize(STATES), {"output_compression": wanted})
