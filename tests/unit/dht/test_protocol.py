"""The RPCs' bytes: round trips, Hivemind's forms, and what a stranger's bytes may not do."""

import contextlib
import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaainet.dht.key import DHTID
from kwaainet.dht.protocol import (
    MAX_KEYS_PER_FIND,
    MAX_KEYS_PER_STORE,
    MAX_NEIGHBOURS,
    MAX_RECORDS_SIZE,
    Entry,
    Find,
    Found,
    Ping,
    Pong,
    Result,
    Store,
    Stored,
    batches,
)
from kwaainet.dht.record import Dictionary, Value
from kwaainet.dht.routing_table import Neighbour
from kwaainet.errors import ClockSkew, KwaaiNetError, LimitExceeded, ProtocolError, RequestError
from kwaainet.types import PeerId
from kwaainet.wire import messages, msgpack

ME = DHTID(77)
ids = st.integers(0, 2**160 - 1).map(DHTID)
maybe_ids = st.none() | ids
values = st.builds(Value, st.binary(max_size=8), st.floats(0, 1e10))
dictionaries = st.builds(Dictionary, st.dictionaries(st.text(max_size=3), values, min_size=1, max_size=3))
neighbours = st.builds(Neighbour, ids, st.binary(max_size=40).map(lambda d: PeerId(bytes([0, len(d)]) + d)))
entries = st.one_of(
    st.builds(Entry, ids, values, st.none() | st.text(max_size=3) | st.binary(max_size=3)),
    st.builds(Entry, ids, dictionaries),
)


def neighbour(node_id: int) -> Neighbour:
    return Neighbour(DHTID(node_id), PeerId(b"\x00\x02ab"))


# --- round trips --------------------------------------------------------------------------------


@given(maybe_ids, st.booleans(), st.floats(0, 1e10))
def test_pings_round_trip(node_id: DHTID | None, flag: bool, time: float) -> None:
    ping, pong = Ping(node_id, flag), Pong(node_id, time, flag)
    assert Ping.decode(ping.encode()) == ping
    assert Pong.decode(pong.encode()) == pong


@given(maybe_ids, st.lists(entries, max_size=4))
def test_stores_round_trip(node_id: DHTID | None, items: list[Entry]) -> None:
    store = Store(node_id, tuple(items))
    assert Store.decode(store.encode()) == store


@given(maybe_ids, st.lists(st.booleans(), max_size=4))
def test_stored_round_trips(node_id: DHTID | None, accepted: list[bool]) -> None:
    stored = Stored(node_id, tuple(accepted))
    assert Stored.decode(stored.encode(), len(accepted)) == stored


@given(maybe_ids, st.lists(ids, max_size=4))
def test_finds_round_trip(node_id: DHTID | None, keys: list[DHTID]) -> None:
    find = Find(node_id, tuple(keys))
    assert Find.decode(find.encode()) == find


@given(
    maybe_ids,
    st.lists(
        st.builds(Result, st.none() | values | dictionaries, st.lists(neighbours, max_size=3).map(tuple)),
        max_size=3,
    ),
)
def test_found_round_trips(node_id: DHTID | None, results: list[Result]) -> None:
    found = Found(node_id, tuple(results))
    assert Found.decode(found.encode(), len(results)) == found


# --- Hivemind's forms ---------------------------------------------------------------------------


def test_a_client_sends_an_empty_node_info() -> None:
    request = messages.PingRequest.decode(Ping(None, True).encode())
    assert request.peer == messages.NodeInfo(b"")
    assert Ping.decode(messages.PingRequest().encode()) == Ping(None, False)


def test_subkeys_say_what_kind_of_record_it_is() -> None:
    dictionary = Dictionary({"a": Value(b"\x01", 9.0)})
    store = Store(
        ME, (Entry(ME, Value(b"\x02", 1.0)), Entry(ME, Value(b"\x03", 2.0), "s"), Entry(ME, dictionary))
    )
    request = messages.StoreRequest.decode(store.encode())
    assert request.subkeys == (b"\xc0", b"\xa1s", b"")
    assert request.values == (b"\x02", b"\x03", dictionary.encode())
    assert request.expiration_time == (1.0, 2.0, 9.0)
    assert request.in_cache == (False, False, False)
    assert request.peer == messages.NodeInfo(ME.encode())


def test_found_records_have_types() -> None:
    results = (Result(None, ()), Result(Value(b"v", 1.0), ()), Result(Dictionary({"a": Value(b"", 2.0)}), ()))
    reply = messages.FindResponse.decode(Found(ME, results).encode())
    assert [result.type for result in reply.results] == [0, 1, 2]
    assert [result.expiration_time for result in reply.results] == [0.0, 1.0, 2.0]


# --- clocks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("time", [97.0, 100.0, 102.0, 105.0, 0.0])
def test_clocks_within_three_seconds_agree(time: float) -> None:
    Pong(ME, time, True).check_clock(sent=100.0, received=102.0)


@pytest.mark.parametrize("time", [96.9, 105.1, -1.0, 1e18, math.inf, math.nan])
def test_clocks_further_apart_are_refused(time: float) -> None:
    with pytest.raises(ClockSkew, match="s from ours"):
        Pong(ME, time, True).check_clock(sent=100.0, received=102.0)


# --- caps and rubbish ---------------------------------------------------------------------------


def _store(**changed: object) -> bytes:
    fields: dict[str, object] = {
        "keys": (ME.encode(),),
        "subkeys": (b"\xc0",),
        "values": (b"v",),
        "expiration_time": (1.0,),
        "in_cache": (False,),
    }
    return messages.StoreRequest(**{**fields, **changed}).encode()  # type: ignore[arg-type]


def test_the_plain_request_is_fine() -> None:
    assert Store.decode(_store()).entries == (Entry(ME, Value(b"v", 1.0)),)


@pytest.mark.parametrize("name", ["keys", "subkeys", "values", "expiration_time", "in_cache"])
def test_lists_must_be_aligned(name: str) -> None:
    with pytest.raises(RequestError, match="keys come with"):
        Store.decode(_store(**{name: ()}))


@pytest.mark.parametrize(
    ("changed", "kind"),
    [
        ({"keys": (b"short",)}, ProtocolError),
        ({"subkeys": (b"\xc1",)}, ProtocolError),
        ({"subkeys": (msgpack.dumps([1]),)}, RequestError),
        ({"subkeys": (bytes(5000),)}, LimitExceeded),
        ({"subkeys": (b"",), "values": (b"\x01",)}, ProtocolError),
        ({"peer": messages.NodeInfo(b"short")}, ProtocolError),
    ],
)
def test_bad_entries_are_refused(changed: dict[str, object], kind: type[Exception]) -> None:
    with pytest.raises(kind):
        Store.decode(_store(**changed))


@pytest.mark.parametrize("changed", [{"in_cache": (True,)}, {"expiration_time": (math.nan,)}])
def test_entries_for_caches_or_without_a_time_are_not_kept(changed: dict[str, object]) -> None:
    assert Store.decode(_store(**changed)).entries == (None,)


def test_requests_are_bounded() -> None:
    many = Find(ME, (ME,) * (MAX_KEYS_PER_FIND + 1)).encode()
    with pytest.raises(LimitExceeded, match="1025 keys"):
        Find.decode(many)
    entry = Entry(ME, Value(b"", 1.0))
    with pytest.raises(LimitExceeded, match="4097 keys"):
        Store.decode(Store(ME, (entry,) * (MAX_KEYS_PER_STORE + 1)).encode())


def test_replies_must_match_their_requests() -> None:
    with pytest.raises(ProtocolError, match="2 records"):
        Stored.decode(Stored(ME, (True,)).encode(), 2)
    with pytest.raises(ProtocolError, match="2 keys"):
        Found.decode(Found(ME, ()).encode(), 2)


def test_one_rotten_record_or_neighbour_does_not_spoil_a_reply() -> None:
    rotten = messages.FindResult(
        type=2,
        value=b"\xc1",
        nearest_node_ids=(b"short", DHTID(1).encode(), DHTID(2).encode(), DHTID(3).encode()),
        nearest_peer_ids=(b"\x00\x00", b"no peer id", b"\x00\x02ab"),
    )
    odd = messages.FindResult(type=9, value=b"?")
    eternal = messages.FindResult(type=1, value=b"v", expiration_time=math.inf)
    good = messages.FindResult(type=1, value=b"v", expiration_time=1.0)
    data = messages.FindResponse(results=(rotten, odd, eternal, good)).encode()
    results = Found.decode(data, 4).results
    assert [result.record for result in results] == [None, None, None, Value(b"v", 1.0)]
    assert results[0].nearest == (neighbour(2),)


def test_neighbours_in_a_reply_are_bounded() -> None:
    data = Found(ME, (Result(None, (neighbour(1),) * (MAX_NEIGHBOURS + 9)),)).encode()
    assert len(Found.decode(data, 1).results[0].nearest) == MAX_NEIGHBOURS


def test_a_reply_leaves_out_what_does_not_fit() -> None:
    big = Result(Value(bytes(MAX_RECORDS_SIZE // 3 - 10), 1.0), (neighbour(1),))
    small = Result(Value(b"small", 1.0), ())
    data = Found(ME, (big, big, big, big, small)).encode()
    results = Found.decode(data, 5).results
    assert [result.record is None for result in results] == [False, False, False, True, False]
    assert results[3].nearest == (neighbour(1),)
    assert len(data) < MAX_RECORDS_SIZE + 1000


def test_batches_fit_requests_and_lose_nothing() -> None:
    items = [Entry(DHTID(n), Value(bytes(50_000), 1.0)) for n in range(100)]
    groups = list(batches(items))
    assert [entry for group in groups for entry in group] == items
    assert len(groups) == 3
    assert all(len(Store(ME, group).encode()) < 1.1 * MAX_RECORDS_SIZE for group in groups)
    assert list(batches([])) == []
    assert [len(group) for group in batches([Entry(ME, Value(b"", 1.0))] * 5000)] == [4096, 904]


DECODERS: list[Callable[[bytes], object]] = [
    Ping.decode,
    Pong.decode,
    Store.decode,
    Find.decode,
    lambda data: Stored.decode(data, 1),
    lambda data: Found.decode(data, 1),
]
SAMPLES = [
    Ping(ME, True).encode(),
    Pong(ME, 1.0, True).encode(),
    Store(ME, (Entry(ME, Value(b"v", 1.0), "s"), Entry(ME, Dictionary({"a": Value(b"", 2.0)})))).encode(),
    Find(ME, (ME,)).encode(),
    Stored(ME, (True,)).encode(),
    Found(ME, (Result(Dictionary({"a": Value(b"", 2.0)}), (neighbour(3),)),)).encode(),
]


@given(st.sampled_from(DECODERS), st.binary(max_size=80))
def test_rubbish_raises_only_our_errors(decode: Callable[[bytes], object], data: bytes) -> None:
    with contextlib.suppress(KwaaiNetError):
        decode(data)


@given(st.integers(0, 5), st.data())
def test_damaged_messages_raise_only_our_errors(which: int, data: st.DataObject) -> None:
    sample = bytearray(SAMPLES[which])
    for _ in range(data.draw(st.integers(1, 3))):
        sample[data.draw(st.integers(0, len(sample) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(KwaaiNetError):
        DECODERS[which](bytes(sample))


@pytest.mark.parametrize("which", range(6))
def test_truncated_messages_raise_only_our_errors(which: int) -> None:
    for length in range(len(SAMPLES[which])):
        with contextlib.suppress(KwaaiNetError):
            DECODERS[which](SAMPLES[which][:length])
