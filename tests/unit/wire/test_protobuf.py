"""The protobuf codec on a message with every kind and rule; bytes from the format's specification."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaainet.errors import KwaaiNetError, LimitExceeded, ProtocolError, UsageError
from kwaainet.wire.protobuf import (
    BOOL,
    BYTES,
    DOUBLE,
    FLOAT,
    INT,
    MAX_ITEMS,
    STRING,
    UINT,
    VIEW,
    Message,
    many,
    one,
    optional,
    required,
)


@dataclass(frozen=True, slots=True)
class Leaf(Message):
    number: int = one(1, INT)


@dataclass(frozen=True, slots=True)
class Tree(Message):
    key: bytes = required(1, BYTES)
    unsigned: int = one(2, UINT)
    signed: int = one(3, INT)
    flag: bool = one(4, BOOL)
    double: float = one(5, DOUBLE)
    float_: float = one(6, FLOAT)
    text: str = one(7, STRING)
    view: bytes | memoryview = one(8, VIEW)
    leaf: Leaf | None = optional(9, Leaf)
    maybe: int | None = optional(10, UINT)
    leaves: tuple[Leaf, ...] = many(11, Leaf)
    numbers: tuple[int, ...] = many(12, UINT)
    doubles: tuple[float, ...] = many(13, DOUBLE)
    texts: tuple[str, ...] = many(2000, STRING)


@dataclass(frozen=True, slots=True)
class Backwards(Message):
    second: int = one(2, UINT)
    first: int = one(1, UINT)


uint64, int64 = st.integers(0, 2**64 - 1), st.integers(-(2**63), 2**63 - 1)
finite = st.floats(allow_nan=False)
leaves = st.builds(Leaf, int64)
trees = st.builds(
    Tree,
    key=st.binary(max_size=9),
    unsigned=uint64,
    signed=int64,
    flag=st.booleans(),
    double=finite,
    float_=st.floats(allow_nan=False, width=32),
    text=st.text(max_size=9),
    view=st.binary(max_size=200),
    leaf=st.none() | leaves,
    maybe=st.none() | uint64,
    leaves=st.lists(leaves, max_size=3).map(tuple),
    numbers=st.lists(uint64, max_size=5).map(tuple),
    doubles=st.lists(finite, max_size=3).map(tuple),
    texts=st.lists(st.text(max_size=5), max_size=3).map(tuple),
)


@given(trees)
def test_round_trip(tree: Tree) -> None:
    encoded = tree.encode()
    assert Tree.decode(encoded) == tree
    assert Tree.decode(bytearray(encoded)) == tree
    assert Tree.decode(memoryview(encoded)) == tree


@pytest.mark.parametrize(
    ("tree", "data"),
    [
        (Tree(b""), "0a00"),  # required: sent though empty; all else hidden
        (Tree(b"k", unsigned=150), "0a016b 109601"),
        (Tree(b"", signed=-1), "0a00 18ffffffffffffffffff01"),
        (Tree(b"", flag=True), "0a00 2001"),
        (Tree(b"", double=1.0), "0a00 29000000000000f03f"),
        (Tree(b"", float_=1.0), "0a00 350000803f"),
        (Tree(b"", text="testing"), "0a00 3a0774657374696e67"),
        (Tree(b"", leaf=Leaf()), "0a00 4a00"),  # present and empty
        (Tree(b"", leaf=Leaf(150)), "0a00 4a03089601"),
        (Tree(b"", maybe=0), "0a00 5000"),  # present and zero
        (Tree(b"", leaves=(Leaf(1), Leaf())), "0a00 5a020801 5a00"),
        (Tree(b"", numbers=(3, 270, 86942)), "0a00 6206038e029ea705"),  # the specification's own example
        (Tree(b"", texts=("", "a")), "0a00 827d00 827d0161"),
    ],
)
def test_bytes_are_the_specifications(tree: Tree, data: str) -> None:
    assert tree.encode() == bytes.fromhex(data)
    assert Tree.decode(bytes.fromhex(data)) == tree


def test_fields_go_out_by_number_however_declared() -> None:
    assert Backwards(second=2, first=1).encode() == bytes.fromhex("08011002")


def test_numbers_are_accepted_unpacked_and_mixed() -> None:
    assert Tree.decode(bytes.fromhex("0a00 6003 62020304 6005")).numbers == (
        3,
        3,
        4,
        5,
    )


def test_views_do_not_copy_and_bytes_do() -> None:
    data = bytearray(Tree(b"key", view=b"view").encode())
    tree = Tree.decode(data)
    data[:] = bytes(len(data))
    assert tree.key == b"key"
    assert bytes(tree.view) == bytes(4)


def test_views_of_arrays_go_out_as_their_bytes() -> None:
    words = memoryview(bytes(range(8))).cast("I")
    assert Tree(b"", view=words).encode() == b"\x0a\x00\x42\x08" + bytes(range(8))


def test_unknown_fields_of_every_wire_type_are_skipped() -> None:
    unknown = "f80101 f901" + "00" * 8 + "fa0103616263 fd01" + "00" * 4
    assert Tree.decode(bytes.fromhex(unknown + "0a016b" + unknown)) == Tree(b"k")


def test_the_last_of_a_singular_field_counts() -> None:
    assert Tree.decode(bytes.fromhex("0a0161 0a0162")) == Tree(b"b")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "required key"),
        ("0a", "cut short"),
        ("0a05", "claims 5 bytes, 0 are left"),
        ("0a00 10", "cut short"),
        ("0a00 2900", "claims 8 bytes"),
        ("0a00 3500", "claims 4 bytes"),
        ("0a00 3a01ff", "not UTF-8"),
        ("0a00 02", "field number 0"),
        ("0a00 0b", "groups"),
        ("0a00 0c", "groups"),
        ("0a00 0e", "wire type 6"),
        ("0800", "Tree.key came with wire type 0"),
        ("0a00 6100" + "00" * 7, "Tree.numbers came with wire type 1"),
        ("0a00 62018e", "cut short"),
        ("0a00 6a0400000000", "claims 8 bytes"),
        ("0a00 4a0108", "cut short"),
    ],
)
def test_malformed_messages_are_named(data: str, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        Tree.decode(bytes.fromhex(data))


@given(trees)
def test_no_truncation_is_taken_for_something_else(tree: Tree) -> None:
    encoded = tree.encode()
    for end in range(len(encoded)):
        try:
            cut = Tree.decode(encoded[:end])
        except ProtocolError:
            continue
        assert cut != tree


@given(st.binary(max_size=80))
def test_arbitrary_bytes_raise_only_our_errors(data: bytes) -> None:
    try:
        tree = Tree.decode(b"\x0a\x00" + data)
    except KwaaiNetError:
        return
    again = Tree.decode(tree.encode())
    assert repr(again.double) == repr(tree.double)
    assert again.texts == tree.texts


def test_item_bombs_stop_at_the_cap() -> None:
    fits = b"\x0a\x00" + b"\x5a\x00" * (MAX_ITEMS - 1)
    assert len(Tree.decode(fits).leaves) == MAX_ITEMS - 1
    with pytest.raises(LimitExceeded, match=str(MAX_ITEMS)):
        Tree.decode(fits + b"\x5a\x00")


def test_the_cap_counts_packed_nested_and_unknown_items_together() -> None:
    half = MAX_ITEMS // 2
    packed = b"\x62" + bytes.fromhex("80 80 02") + bytes(half)
    unknown = b"\xf8\x01\x01" * half
    Tree.decode(b"\x0a\x00" + packed)
    Tree.decode(b"\x0a\x00" + unknown)
    with pytest.raises(LimitExceeded):
        Tree.decode(b"\x0a\x00" + packed + unknown)
    nested = b"\x4a" + bytes.fromhex("80 80 04") + b"\x08\x01" * half
    with pytest.raises(LimitExceeded):
        Tree.decode(b"\x0a\x00" + nested + packed)


def test_length_bombs_allocate_nothing() -> None:
    with pytest.raises(ProtocolError, match="claims"):
        Tree.decode(b"\x42" + b"\xff" * 9 + b"\x01")


def test_numbers_outside_their_kind_are_ours_to_avoid() -> None:
    with pytest.raises(UsageError, match="-1"):
        Tree(b"", unsigned=-1).encode()


def test_large_payloads_cost_little_beside_a_copy() -> None:
    payload = bytes(32 << 20)

    def spent(work: Callable[[], object]) -> float:
        started = process_time()
        work()
        return process_time() - started

    def there_and_back() -> None:
        assert len(Tree.decode(Tree(b"", view=payload).encode()).view) == len(payload)

    copy = min(spent(lambda: bytearray(payload)) for _ in range(5))
    assert min(spent(there_and_back) for _ in range(5)) < 20 * copy
