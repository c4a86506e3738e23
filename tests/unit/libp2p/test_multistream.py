"""Negotiation between our two sides, and golden lines of other implementations."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaainet.errors import HandshakeError, KwaaiNetError, LimitExceeded, ProtocolError, UsageError
from kwaainet.libp2p.multistream import MAX_PROPOSALS, Chooser, Proposer

HEADER = b"\x13/multistream/1.0.0\n"
NA = b"\x03na\n"


def negotiate(proposer, chooser):
    while data := proposer.data_to_send():
        chooser.receive_data(data)
        proposer.receive_data(chooser.data_to_send())


def test_the_first_choice_is_agreed_in_one_round_trip():
    proposer, chooser = Proposer(["/noise"]), Chooser(lambda name: name == "/noise")
    first = proposer.data_to_send()
    assert first == HEADER + b"\x07/noise\n"
    chooser.receive_data(first)
    proposer.receive_data(chooser.data_to_send())
    assert proposer.protocol == chooser.protocol == "/noise"


def test_a_later_choice_is_agreed_too():
    proposer, chooser = Proposer(["/tls/1.0.0", "/noise"]), Chooser(lambda name: name == "/noise")
    negotiate(proposer, chooser)
    assert proposer.protocol == chooser.protocol == "/noise"


def test_ids_without_a_slash_are_as_good_as_others():
    name = "DHTProtocol.rpc_ping"
    proposer, chooser = Proposer([name]), Chooser(lambda asked: asked == name)
    negotiate(proposer, chooser)
    assert chooser.protocol == name


def test_nothing_in_common_is_said_with_the_name():
    proposer, chooser = Proposer(["H.nope"]), Chooser(lambda name: False)
    with pytest.raises(HandshakeError, match=r"'H\.nope'"):
        negotiate(proposer, chooser)


def test_data_sent_behind_an_optimistic_proposal_is_kept():
    proposer, chooser = Proposer(["echo"]), Chooser(lambda name: True)
    chooser.receive_data(proposer.data_to_send() + b"hello")
    assert chooser.take_rest() == b"hello"
    proposer.receive_data(chooser.data_to_send() + b"world")
    assert proposer.take_rest() == b"world"


def test_a_refusal_is_sent_even_if_nonsense_follows_it():
    chooser = Chooser(lambda name: False)
    with pytest.raises(KwaaiNetError):
        chooser.receive_data(HEADER + b"\x02x\n" + b"\xff" * 20)
    assert chooser.data_to_send() == HEADER + NA


def test_any_cut_gives_the_same():
    stream = HEADER + b"\x02x\n" + b"\x05echo\nrest"
    chooser = Chooser(lambda name: name == "echo")
    for byte in stream:
        chooser.receive_data(bytes([byte]))
    assert chooser.protocol == "echo"
    assert chooser.take_rest() == b"rest"
    assert chooser.data_to_send() == HEADER + NA + b"\x05echo\n"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x03GET\n", "newline"),
        (b"\x04GET\n", "opened with 'GET'"),
        (b"\x02\xff\n", "UTF-8"),
        (b"\x01x", "newline"),
    ],
)
def test_what_is_no_multistream_is_refused(data, said):
    with pytest.raises(ProtocolError, match=said):
        Chooser(lambda name: True).receive_data(data)


def test_a_line_over_the_cap_is_refused():
    with pytest.raises(LimitExceeded, match="1025"):
        Chooser(lambda name: True).receive_data(b"\x81\x08")


def test_asking_for_ever_is_refused():
    chooser = Chooser(lambda name: False)
    with pytest.raises(LimitExceeded, match=str(MAX_PROPOSALS)):
        chooser.receive_data(HEADER + b"\x02x\n" * (MAX_PROPOSALS + 1))


def test_another_protocol_than_asked_for_is_refused():
    proposer = Proposer(["echo"])
    with pytest.raises(ProtocolError, match="'sink'"):
        proposer.receive_data(HEADER + b"\x05sink\n")


def test_proposing_nothing_is_our_fault():
    with pytest.raises(UsageError):
        Proposer([])
    with pytest.raises(UsageError):
        Proposer(["x" * 1024])


@given(st.binary(max_size=200), st.booleans())
def test_arbitrary_bytes_raise_nothing_foreign(data, behind_header):
    for machine in (Proposer(["a", "b"]), Chooser(lambda name: name == "a")):
        with contextlib.suppress(KwaaiNetError):
            machine.receive_data((HEADER if behind_header else b"") + data)
