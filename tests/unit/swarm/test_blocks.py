from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaainet.errors import InputError, RequestError
from kwaainet.swarm import blocks
from kwaainet.types import BlockRange

SERVED = BlockRange(2, 6)


@pytest.mark.parametrize("prefix", ["m", "SmolLM2-135M-Instruct-hf", "_private", "ж"])
def test_a_usable_prefix_is_returned(prefix):
    assert blocks.check_prefix(prefix) == prefix


@pytest.mark.parametrize(
    ("prefix", "reason"),
    [("", "0 characters"), ("a.b", r"'\.'"), ("a b", "' '"), ("x" * 129, "129"), ("a\n", "control")],
)
def test_an_unusable_prefix_is_refused_by_reason(prefix, reason):
    with pytest.raises(InputError, match=reason):
        blocks.check_prefix(prefix)


def test_a_uid_is_petals_key():
    assert blocks.uid("tiny-llama-hf", 0) == "tiny-llama-hf.0"
    assert blocks.split("tiny-llama-hf.31") == ("tiny-llama-hf", 31)


@pytest.mark.parametrize(
    "text", ["", "m", "m.", "m.x", "m.-1", "m.01", "m.1024", "m.٣", ".", "m.99999999999"]
)
def test_what_is_no_uid_is_refused(text):
    with pytest.raises(RequestError, match="not a block uid"):
        blocks.split(text)


def test_a_chain_joins_and_parses():
    assert blocks.join("m", SERVED) == "m.2 m.3 m.4 m.5"
    assert blocks.parse_chain("m.2 m.3 m.4 m.5", "m", SERVED) == SERVED


def test_a_part_of_the_span_parses():
    assert blocks.parse_chain("m.4", "m", SERVED) == BlockRange(4, 5)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "names no block"),
        ("m.1", "'m.1' is not served here; this server has m.2 to m.5"),
        ("m.2 m.6", "'m.6' is not served"),
        ("other.2", "'other.2' is not served"),
        ("m.3 m.2", "m.2 does not follow m.3"),
        ("m.2 m.4", "m.4 does not follow m.2"),
        ("m.2 m.2", "m.2 does not follow m.2"),
        ("m.2  m.3", "not a block uid"),
        ("m.2 " * 60000, "240000 characters"),
    ],
)
def test_a_chain_that_cannot_be_served_names_the_block(text, reason):
    with pytest.raises(RequestError, match=reason):
        blocks.parse_chain(text, "m", SERVED)


@given(st.text(max_size=200))
def test_any_text_is_a_chain_or_a_request_error(text):
    try:
        asked = blocks.parse_chain(text, "m", SERVED)
    except RequestError:
        return
    assert blocks.join("m", asked) == text


@given(st.integers(0, 900), st.integers(1, 100))
def test_every_span_survives_the_round_trip(start, length):
    span = BlockRange(start, start + length)
    assert blocks.parse_chain(blocks.join("m-1", span), "m-1", span) == span
