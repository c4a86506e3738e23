import numpy as np
import pytest

from kwaainet.compression.codec import CompressionType, deserialize, serialize
from kwaainet.errors import KwaaiNetError, ProtocolError
from kwaainet.inference.chain import HopSession, Step
from kwaainet.wire import msgpack
from kwaainet.wire.messages import ExpertRequest, ExpertResponse, Tensor

HIDDEN = np.arange(10, dtype=np.float32).reshape(1, 2, 5)


def reply(*arrays: np.ndarray) -> bytes:
    return ExpertResponse(tensors=tuple(serialize(array) for array in arrays)).encode()


def test_the_first_step_opens_the_session_and_later_ones_do_not() -> None:
    machine = HopSession("m.0 m.1", "s", 64)
    assert not machine.opened
    first = ExpertRequest.decode(machine.request(HIDDEN, Step("t0", 0)))
    assert machine.opened
    second = ExpertRequest.decode(machine.request(HIDDEN[:, :1], Step("t1", 2)))
    opening, going_on = msgpack.loads(first.metadata), msgpack.loads(second.metadata)
    assert isinstance(opening, dict)
    assert isinstance(going_on, dict)
    assert first.uid == second.uid == "m.0 m.1"
    assert opening["max_length"] == 64
    assert opening["args_structure"] == ((b"__T0", b"__T1", b"__T2"), {})
    assert (opening["session_id"], opening["step_id"], opening["start_from_position"]) == ("s", "t0", 0)
    assert going_on.keys() == {"session_id", "step_id", "start_from_position", "args_structure"}
    assert going_on["start_from_position"] == 2
    np.testing.assert_array_equal(deserialize(first.tensors[0]), HIDDEN)
    assert [tuple(tensor.size) for tensor in first.tensors] == [(1, 2, 5), (0,), (0,)]
    assert first.tensors[2].dtype == "int64"


def test_rows_and_the_servers_behind_are_told() -> None:
    machine = HopSession("m.0", "s", 64)
    request = ExpertRequest.decode(machine.request(HIDDEN, Step("t", 0, (0,)), [("Qm", "s2", 1, 3)]))
    assert deserialize(request.tensors[2]).tolist() == [0]
    metadata = msgpack.loads(request.metadata)
    assert isinstance(metadata, dict)
    assert metadata["next_servers"] == [("Qm", "s2", 1, 3)]


def test_the_answer_is_given_back() -> None:
    np.testing.assert_array_equal(HopSession.answer(reply(HIDDEN * 2), HIDDEN.shape), HIDDEN * 2)


def test_a_compressed_answer_is_read() -> None:
    message = ExpertResponse(tensors=(serialize(HIDDEN, CompressionType.FLOAT16),)).encode()
    np.testing.assert_array_equal(HopSession.answer(message, HIDDEN.shape), HIDDEN)


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (reply(), "0 tensors"),
        (reply(HIDDEN, HIDDEN), "2 tensors"),
        (reply(HIDDEN[:, :1]), "is due"),
        (reply(HIDDEN.astype(np.int64)), "int64"),
        (reply(HIDDEN * np.float32("nan")), "not finite"),
        (ExpertResponse(tensors=(Tensor(b"x", (1,), False, "text"),)).encode(), "of no use"),
    ],
)
def test_an_answer_that_was_not_asked_for_is_refused(message: bytes, complaint: str) -> None:
    with pytest.raises(ProtocolError, match=complaint):
        HopSession.answer(message, HIDDEN.shape)


def test_a_truncated_answer_is_refused() -> None:
    message = reply(HIDDEN)
    for length in range(len(message)):
        with pytest.raises(KwaaiNetError):
            HopSession.answer(message[:length], HIDDEN.shape)


def test_a_session_ends_with_an_empty_request() -> None:
    assert HopSession.end() == b""
