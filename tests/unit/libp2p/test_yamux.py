"""yamux: golden frames, flow control, every cap, and two sessions talking to each other."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kwaainet.errors import CapacityError, KwaaiNetError, LimitExceeded, ProtocolError, StreamReset
from kwaainet.libp2p import yamux
from kwaainet.libp2p.yamux import (
    HEADER,
    INITIAL_WINDOW,
    MAX_CONTROL,
    MAX_STREAMS,
    WINDOW,
    GoneAway,
    Pong,
    Session,
    StreamAborted,
    StreamData,
    StreamEnded,
    StreamSent,
    StreamStarted,
)

DATA, UPDATE, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8
MESSAGE = 65519


def frame(kind, flags, stream_id, length, body=b""):
    return HEADER.pack(0, kind, flags, stream_id, length) + body


def events(session):
    found = []
    while (event := session.next_event()) is not None:
        found.append(event)
    return found


def everything(session):
    return b"".join(iter(lambda: session.data_to_send(MESSAGE), b""))


class Pair:
    """A client and a server, and everything that happened to each."""

    def __init__(self):
        self.client, self.server = Session(client=True), Session(client=False)

    def exchange(self):
        """Move bytes until nobody has any; returns (client's events, server's events)."""
        seen = [], []
        moved = True
        while moved:
            moved = False
            for at, (one, other) in enumerate(((self.client, self.server), (self.server, self.client))):
                if data := everything(one):
                    other.receive_data(data)
                    moved = True
                seen[at].extend(events(one))
        return seen

    def open(self):
        stream = self.client.open_stream()
        self.exchange()
        return stream


def received(found, stream_id):
    return b"".join(bytes(e.data) for e in found if isinstance(e, StreamData) and e.stream_id == stream_id)


def test_opening_a_stream_sends_these_bytes():
    session = Session(client=True)
    assert session.open_stream() == 1
    assert session.open_stream() == 3
    assert session.data_to_send(12) == bytes.fromhex("000100010000000100" + "0c0000")
    assert Session(client=False).open_stream() == 2


def test_accepting_a_stream_grants_the_whole_window():
    session = Session(client=False)
    session.receive_data(frame(UPDATE, SYN, 1, 0))
    assert events(session) == [StreamStarted(1)]
    assert everything(session) == frame(UPDATE, ACK, 1, WINDOW - INITIAL_WINDOW)


def test_data_passes_both_ways():
    pair = Pair()
    stream = pair.open()
    pair.client.send(stream, b"hello ")
    pair.client.send(stream, memoryview(b"world"))
    pair.server.send(stream, b"back")
    client, server = pair.exchange()
    assert received(server, stream) == b"hello world"
    assert received(client, stream) == b"back"
    assert StreamSent(stream, 11) in client, "small pieces leave in one frame"


def test_frames_of_one_stream_that_leave_in_a_row_are_told_once():
    pair = Pair()
    one, other = pair.open(), pair.open()
    events(pair.client)
    for stream in (one, other, one):
        pair.client.send(stream, bytes(10_000))
        while pair.client.data_to_send(4096):
            pass
    assert events(pair.client) == [
        StreamSent(one, 10_000),
        StreamSent(other, 10_000),
        StreamSent(one, 10_000),
    ]


def test_data_may_ride_on_the_opening_frame():
    session = Session(client=False)
    session.receive_data(frame(DATA, SYN, 1, 2, b"hi"))
    assert events(session) == [StreamStarted(1), StreamData(1, b"hi")]


@given(st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=10), st.integers(1, 50))
@settings(max_examples=50)
def test_any_cut_of_the_bytes_gives_the_same(pieces, size):
    client, server = Session(client=True), Session(client=False)
    stream = client.open_stream()
    for piece in pieces:
        client.send(stream, piece)
    client.end(stream)
    data = everything(client)
    for start in range(0, len(data), size):
        server.receive_data(data[start : start + size])
    found = events(server)
    assert received(found, stream) == b"".join(pieces)
    assert found[0] == StreamStarted(stream)
    assert found[-1] == StreamEnded(stream)


def test_a_sender_stops_at_the_window_until_the_consumer_took_bytes():
    pair = Pair()
    stream = pair.open()
    pair.client.send(stream, bytes(3 * WINDOW))
    _, server = pair.exchange()
    assert len(received(server, stream)) == WINDOW
    assert pair.client.unsent(stream) == 2 * WINDOW
    _, server = pair.exchange()
    assert server == [], "nothing was granted, so nothing comes"
    pair.server.grant(stream, WINDOW // 2 - 1)
    assert pair.exchange() == ([], []), "grants are gathered up to half a window"
    pair.server.grant(stream, 1)
    _, server = pair.exchange()
    assert len(received(server, stream)) == WINDOW // 2


def test_a_stalled_stream_does_not_stop_another():
    pair = Pair()
    stalled, lively = pair.open(), pair.open()
    pair.client.send(stalled, bytes(2 * WINDOW))
    pair.exchange()
    pair.client.send(lively, b"hello")
    _, server = pair.exchange()
    assert received(server, lively) == b"hello"


def test_streams_take_turns():
    client = Session(client=True)
    one, other = client.open_stream(), client.open_stream()
    everything(client)
    client.send(one, bytes(100_000))
    client.send(other, b"short")
    client.data_to_send(MESSAGE)
    assert client.unsent(one) == 100_000 - (MESSAGE - 12)
    client.data_to_send(MESSAGE)
    assert client.unsent(other) == 0, "the short one does not wait for the long one to finish"


@given(st.integers(24, 500))
def test_no_more_bytes_than_asked_for(size):
    client = Session(client=True)
    for _ in range(5):
        client.send(client.open_stream(), bytes(300))
    total = b""
    while data := client.data_to_send(size):
        assert len(data) <= size
        total += data
    server = Session(client=False)
    server.receive_data(total)
    assert sum(len(e.data) for e in events(server) if isinstance(e, StreamData)) == 1500


def test_half_close_leaves_the_other_direction_open():
    pair = Pair()
    stream = pair.open()
    pair.client.send(stream, b"question")
    pair.client.end(stream)
    _, server = pair.exchange()
    assert server[-1] == StreamEnded(stream)
    with pytest.raises(StreamReset, match="ended on this side"):
        pair.client.send(stream, b"more")
    pair.server.send(stream, b"answer")
    pair.server.end(stream)
    client, _ = pair.exchange()
    assert received(client, stream) == b"answer"
    assert client[-1] == StreamEnded(stream)
    assert pair.client.stream_count == pair.server.stream_count == 0
    with pytest.raises(StreamReset, match="is closed"):
        pair.client.send(stream, b"x")


def test_the_end_waits_for_what_the_window_holds_back():
    pair = Pair()
    stream = pair.open()
    pair.client.send(stream, bytes(WINDOW + 1))
    pair.client.end(stream)
    _, server = pair.exchange()
    assert StreamEnded(stream) not in server
    pair.server.grant(stream, WINDOW)
    _, server = pair.exchange()
    assert server[-1] == StreamEnded(stream)


def test_data_and_end_in_one_frame_come_in_order():
    session = Session(client=False)
    session.receive_data(frame(UPDATE, SYN, 1, 0) + frame(DATA, FIN, 1, 4, b"last"))
    assert events(session) == [StreamStarted(1), StreamData(1, b"last"), StreamEnded(1)]


def test_reset_reaches_the_other_side_and_drops_what_was_queued():
    pair = Pair()
    stream = pair.open()
    pair.server.send(stream, b"queued")
    pair.server.reset(stream)
    client, _ = pair.exchange()
    assert client == [StreamAborted(stream, "the peer reset the stream")]
    assert pair.client.stream_count == pair.server.stream_count == 0
    pair.server.reset(stream)  # of a stream that is gone: nothing to do
    pair.server.grant(stream, 5)
    assert pair.exchange() == ([], [])


def test_bytes_for_a_stream_that_was_reset_are_skipped():
    session = Session(client=False)
    session.receive_data(frame(UPDATE, SYN, 1, 0))
    session.reset(1)
    session.receive_data(frame(DATA, 0, 1, 1000)[:12] + bytes(1000) + frame(PING, ACK, 0, 9))
    assert events(session) == [StreamStarted(1), Pong(9)]


def test_pings_are_answered_and_answers_told():
    pair = Pair()
    pair.client.ping(77)
    client, server = pair.exchange()
    assert (client, server) == ([Pong(77)], [])


def test_going_away_is_told_and_stops_new_streams():
    pair = Pair()
    pair.server.go_away(0)
    client, _ = pair.exchange()
    assert client == [GoneAway(0)]
    with pytest.raises(StreamReset, match="takes no more streams"):
        pair.client.open_stream()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (HEADER.pack(1, DATA, 0, 1, 0), "version 1"),
        (HEADER.pack(0, 9, 0, 1, 0), "type 9"),
        (frame(UPDATE, SYN, 2, 0), "stream 2"),
        (frame(UPDATE, SYN, 0, 0), "stream 0"),
        (frame(UPDATE, SYN, 1, 0) * 2, "stream 1"),
        (frame(UPDATE, SYN, 1, 0) + frame(UPDATE, 0, 1, 0xFFFFFFFF) * 2, "window of"),
        (frame(UPDATE, SYN, 1, 0) + frame(UPDATE, FIN, 1, 0) + frame(DATA, 0, 1, 1, b"x"), "after ending"),
    ],
)
def test_what_breaks_the_protocol_is_refused(data, said):
    with pytest.raises(ProtocolError, match=said):
        Session(client=False).receive_data(data)


def test_a_frame_over_its_window_is_refused_before_its_body_comes():
    session = Session(client=False)
    session.receive_data(frame(UPDATE, SYN, 1, 0))
    with pytest.raises(LimitExceeded, match="more than its window"):
        session.receive_data(frame(DATA, 0, 1, WINDOW + 1))


def test_windows_count_over_frames():
    session = Session(client=False)
    session.receive_data(frame(UPDATE, SYN, 1, 0) + frame(DATA, 0, 1, WINDOW, bytes(WINDOW)))
    with pytest.raises(LimitExceeded):
        session.receive_data(frame(DATA, 0, 1, 1, b"x"))


def test_a_frame_for_no_stream_may_not_be_endless_either():
    with pytest.raises(LimitExceeded):
        Session(client=False).receive_data(frame(DATA, 0, 7, 0xFFFFFFFF))


def test_streams_over_the_cap_are_reset_at_birth():
    session = Session(client=False)
    opening = [frame(UPDATE, SYN, 1 + 2 * number, 0) for number in range(MAX_STREAMS + 1)]
    session.receive_data(b"".join(opening))
    assert session.stream_count == MAX_STREAMS
    assert everything(session).endswith(frame(UPDATE, RST, 2 * MAX_STREAMS + 1, 0))
    with pytest.raises(CapacityError):
        session.open_stream()


def test_a_stream_that_makes_too_much_wait_is_reset_alone(monkeypatch):
    monkeypatch.setattr(yamux, "MAX_UNREAD", 1000)
    session = Session(client=False)
    for stream_id in (1, 3):
        session.receive_data(frame(UPDATE, SYN, stream_id, 0) + frame(DATA, 0, stream_id, 600, bytes(600)))
    found = events(session)
    assert isinstance(found[-1], StreamAborted)
    assert found[-1].stream_id == 3
    assert session.stream_count == 1
    session.grant(1, 600)
    session.receive_data(frame(DATA, 0, 1, 900, bytes(900)))
    assert received(events(session), 1) == bytes(900), "what was consumed or reset counts no more"


def test_a_peer_that_only_asks_and_never_reads_is_refused():
    session = Session(client=False)
    session.receive_data(frame(PING, SYN, 0, 1) * (MAX_CONTROL // 12 + 1))
    with pytest.raises(LimitExceeded, match="does not read"):
        session.receive_data(frame(PING, SYN, 0, 1))


def test_stream_ids_run_out_cleanly():
    session = Session(client=True)
    session._next_id = 0xFFFF_FFFF
    session.open_stream()
    with pytest.raises(CapacityError):
        session.open_stream()


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_nothing_foreign(data):
    session = Session(client=False)
    try:
        session.receive_data(data)
    except KwaaiNetError:
        return
    events(session)
    everything(session)


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 15), st.integers(0, 4), st.integers(0, 40)), max_size=30
    )
)
def test_arbitrary_frames_raise_nothing_foreign(frames):
    session = Session(client=True)
    session.open_stream()
    for kind, flags, stream_id, length in frames:
        try:
            session.receive_data(
                frame(kind, flags, stream_id, length, bytes(length) if kind == DATA else b"")
            )
        except KwaaiNetError:
            return
        for event in events(session):
            if isinstance(event, StreamData):
                session.grant(event.stream_id, len(event.data))
        everything(session)
