"""Length-prefixed messages: any split, nothing over the cap."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaainet.errors import KwaaiNetError, LimitExceeded
from kwaainet.libp2p.delimited import DelimitedReader, delimit


@given(st.lists(st.binary(max_size=300), max_size=8), st.integers(1, 50))
def test_messages_come_out_however_they_were_cut(messages, size):
    stream = b"".join(map(delimit, messages))
    reader, found = DelimitedReader(300), []
    for start in range(0, len(stream), size):
        reader.receive_data(memoryview(stream)[start : start + size])
        while (message := reader.next_message()) is not None:
            found.append(message)
    assert found == messages
    assert reader.take_rest() == b""


def test_what_follows_is_given_back():
    reader = DelimitedReader(10)
    reader.receive_data(delimit(b"one") + b"rest")
    assert reader.next_message() == b"one"
    assert reader.take_rest() == b"rest"
    assert reader.next_message() is None


def test_a_length_over_the_cap_is_refused_before_the_message_comes():
    reader = DelimitedReader(10)
    reader.receive_data(b"\x0b")
    with pytest.raises(LimitExceeded, match="11 bytes"):
        reader.next_message()


def test_the_cap_itself_is_allowed():
    reader = DelimitedReader(10)
    reader.receive_data(delimit(bytes(10)))
    assert reader.next_message() == bytes(10)


@given(st.binary(max_size=60))
def test_arbitrary_bytes_raise_nothing_foreign(data):
    reader = DelimitedReader(20)
    reader.receive_data(data)
    try:
        while reader.next_message() is not None:
            pass
    except KwaaiNetError:
        pass
