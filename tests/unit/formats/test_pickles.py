"""A pickle is read as data: what it costs is bounded, and nothing in it runs."""

from __future__ import annotations

import os
import pickle
from contextlib import suppress
from copy import deepcopy
from random import Random
from typing import Any

import pytest

from kwaainet.errors import KwaaiNetError, ModelFileError, Truncated, UnsupportedModel
from kwaainet.formats import pickles
from kwaainet.formats.pickles import Call, unpickle

PLAIN = {
    "none": None,
    "flags": [True, False],
    "numbers": (0, -1, 255, 65536, -(1 << 40), 1 << 100, 0.1),
    "text": ["", "ü", "x" * 300],
    "nested": {"a": {1: (), 2: [()], 3.5: {}}},
}


def load(data: bytes) -> Any:
    return unpickle(data, 0, {}, lambda pid: pid, deepcopy)[0]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_are_those_that_were_pickled(protocol: int) -> None:
    data = pickle.dumps(PLAIN, protocol)
    assert unpickle(b"??" + data + b"more", 2, {}, lambda pid: pid, deepcopy) == (PLAIN, 2 + len(data))


def test_sharing_and_loops_are_kept() -> None:
    loop: list[Any] = []
    loop.append((loop, loop))
    found = load(pickle.dumps(loop, 4))
    assert found[0][0] is found


def test_python_2s_strings() -> None:
    assert load(b"\x80\x02U\x03abcq\x00T\x02\0\0\0de\x86.") == ("abc", "de")


class Bomb:
    def __reduce__(self) -> Any:
        return os.system, ("touch /tmp/a-pickle-was-run",)


@pytest.mark.parametrize("protocol", [2, 4])
def test_nothing_is_called_that_is_not_in_the_table(protocol: int) -> None:
    with pytest.raises(UnsupportedModel, match=r"asks for \w+\.system, which no weights need; nothing of it"):
        load(pickle.dumps({"weights": Bomb()}, protocol))
    with pytest.raises(ModelFileError, match="calls a str"):
        load(b"\x80\x02X\x01\0\0\0f)R.")
    with pytest.raises(UnsupportedModel, match="opcode 0x81"):
        load(b"\x80\x02X\x01\0\0\0f)\x81.")


def doubling(levels: int, double: bytes) -> bytes:
    """A container of itself twice, ``levels`` times: 2 ** levels elements for who walks it."""
    return b"\x80\x02)" + b"".join(b"q%c" % level + double % (level, level) for level in range(levels)) + b"."


def test_memo_bombs_cost_no_more_than_their_bytes() -> None:
    data = doubling(200, b"](h%ch%ce")
    assert unpickle(data, 0, {}, lambda pid: pid, lambda value: value[0] is value[1])[0]
    with pytest.raises(UnsupportedModel, match="nests tuples deeper than 16"):
        load(doubling(200, b"h%ch%c\x86"))
    with pytest.raises(UnsupportedModel, match="a tuple for a key"):  # whose hash would take long
        load(doubling(10, b"h%ch%c\x86")[:-1] + b"q\xff0}h\xffNs.")


def flat(value: Any) -> str:
    return type(value).__name__


@pytest.mark.parametrize(
    "deep",
    [b"]" * 50_000 + b"a" * 49_999, b"}" + b"N}" * 50_000 + b"s" * 50_000, b"](" * 25_000 + b"e" * 25_000],
)
def test_depth_costs_no_stack(deep: bytes) -> None:
    """As deep as a pickle can go and dropped again, after an error too."""
    assert unpickle(b"\x80\x02" + deep + b".", 0, {}, lambda pid: pid, flat)[0] in ("list", "dict")
    with pytest.raises(UnsupportedModel, match="opcode 0xff"):
        load(b"\x80\x02" + deep + b"\xff")
    with pytest.raises(UnsupportedModel, match="for a key"):
        load(b"\x80\x02}" + deep + b"Ns.")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"X\xff\xff\xff\x7f", "string of 2147483647 bytes"),
        (b"T\xff\xff\xff\xff", "string of -1 bytes"),
        (b"\x8d" + b"\xff" * 8, "string of 18446744073709551615 bytes"),
        (b"\x8b\xff\xff\xff\x7f", "integer of 2147483647 bytes"),
        (b"\x8a\xff" + bytes(255), "integer of 255 bytes"),
        (b"c" + b"m" * 1000, "name of more than 512 bytes"),
        (b"X\x01\0\0\0\xff.", "is not UTF-8"),
        (b".", "empty stack"),
        (b"\x85.", "empty stack"),
        (b"t.", "no mark"),
        (b"h\x07.", "recalls 7"),
        (b"q\x07.", "remembers nothing"),
        (b"NNa.", "needs a list"),
        (b"]NNs.", "needs a dict"),
        (b"}(Nu.", "a key without a value"),
        (b"NN\x93.", "name is no text"),
    ],
)
def test_broken_pickles(data: bytes, message: str) -> None:
    with pytest.raises(ModelFileError, match=message) as caught:
        load(b"\x80\x02" + data)
    assert not isinstance(caught.value, Truncated)


def test_steps_and_bytes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "MAX_OPCODES", 1000)
    with pytest.raises(ModelFileError, match="more than 1000 steps"):
        load(b"N" * 1001)
    monkeypatch.setattr(pickles, "MAX_BYTES", 1000)
    with pytest.raises(ModelFileError, match="more than the 1000 bytes"):
        load(b"X\xfa\0\0\0" + bytes(250) + b"X\xf0\x02\0\0" + bytes(752) + b".")


def test_a_prefix_asks_for_more() -> None:
    data = pickle.dumps(PLAIN, 4)
    for length in range(len(data)):
        with pytest.raises(Truncated) as more:
            load(data[:length])
        assert length < more.value.needed <= len(data)


def test_damaged_pickles_raise_only_our_errors() -> None:
    data, random = pickle.dumps(PLAIN, 4), Random(4)
    called: list[Any] = []
    for _ in range(1000):
        broken = bytearray(data)
        for _ in range(random.randrange(1, 6)):
            broken[random.randrange(len(broken))] = random.choice(b"(}]tuseabcRQ.0h\x85\x86\x93\x94\xff\0")
        with suppress(KwaaiNetError):
            unpickle(bytes(broken), 0, {"a.b": Call(called.append)}, lambda pid: pid, lambda value: None)
