import numpy as np
import pytest

from kwaainet.compression.codec import CompressionType, deserialize, serialize
from kwaainet.errors import KwaaiNetError, ProtocolError, UsageError
from kwaainet.inference.chain import HopSession
from kwaainet.wire import msgpack
from kwaainet.wire.messages import ExpertRequest, ExpertResponse

HIDDEN = np.arange(10, dtype=np.float32).reshape(1, 2, 5)


def reply(*arrays: np.ndarray) -> bytes:
    return ExpertResponse(tensors=tuple(serialize(array) for array in arrays)).encode()


def opened() -> HopSession:
    machine = HopSession("m.0 m.1", "s", 64)
    machine.step(HIDDEN, "t0")
    return machine


def test_the_first_step_opens_the_session_and_later_ones_do_not() -> None:
    machine = HopSession("m.0 m.1", "s", 64)
    first = ExpertRequest.decode(machine.step(HIDDEN, "t0"))
    machine.answer(reply(HIDDEN))
    second = ExpertRequest.decode(machine.step(HIDDEN[:, :1], "t1"))
    opening, going_on = msgpack.loads(first.metadata), msgpack.loads(second.metadata)
    assert isinstance(opening, dict)
    assert isinstance(going_on, dict)
    assert first.uid == second.uid == "m.0 m.1"
    assert opening["max_length"] == 64
    assert opening["args_structure"] == ((b"__T0", b"__T1", b"__T2"), {})
    assert (opening["session_id"], opening["step_id"]) == ("s", "t0")
    assert going_on.keys() == {"session_id", "step_id", "args_structure"}
    np.testing.assert_array_equal(deserialize(first.tensors[0]), HIDDEN)
    assert [tuple(tensor.size) for tensor in first.tensors] == [(1, 2, 5), (0,), (0,)]
    assert first.tensors[2].dtype == "int64"


def test_the_answer_is_given_back() -> None:
    np.testing.assert_array_equal(opened().answer(reply(HIDDEN * 2)), HIDDEN * 2)


def test_a_compressed_answer_is_read() -> None:
    message = ExpertResponse(tensors=(serialize(HIDDEN, CompressionType.FLOAT16),)).encode()
    np.testing.assert_array_equal(opened().answer(message), HIDDEN)


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (reply(), "0 tensors"),
        (reply(HIDDEN, HIDDEN), "2 tensors"),
        (reply(HIDDEN[:, :1]), "is due"),
        (reply(HIDDEN.astype(np.int64)), "int64"),
        (reply(HIDDEN * np.float32("nan")), "not finite"),
    ],
)
def test_an_answer_that_was_not_asked_for_is_refused(message: bytes, complaint: str) -> None:
    with pytest.raises(ProtocolError, match=complaint):
        opened().answer(message)


def test_a_truncated_answer_is_refused() -> None:
    message = reply(HIDDEN)
    for length in range(len(message)):
        with pytest.raises(KwaaiNetError):
            opened().answer(message[:length])


def test_steps_and_answers_alternate() -> None:
    with pytest.raises(UsageError):
        opened().step(HIDDEN, "t1")
    with pytest.raises(ProtocolError, match="not sent"):
        HopSession("m.0", "s", 8).answer(reply(HIDDEN))


def test_a_session_ends_with_an_empty_request() -> None:
    assert HopSession.end() == b""
