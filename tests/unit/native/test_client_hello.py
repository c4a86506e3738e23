"""What a TLS client's first message says, of OpenSSL's own making and cut or changed anywhere."""

import os
import ssl

from hypothesis import given
from hypothesis import strategies as st

from kwaainet.native.client_hello import ClientHello, hello_of


def hello(name: str | None, protocols: list[str]) -> bytes:
    context = ssl.create_default_context()
    context.check_hostname = name is not None
    if protocols:
        context.set_alpn_protocols(protocols)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = context.wrap_bio(incoming, outgoing, server_hostname=name)
    try:
        one.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("a handshake without an answer")


def test_the_name_and_the_protocols() -> None:
    assert hello_of(hello("relay.example", ["acme-tls/1"])) == ClientHello("relay.example", ("acme-tls/1",))
    assert hello_of(hello("a.b", ["h2", "http/1.1"])) == ClientHello("a.b", ("h2", "http/1.1"))
    assert hello_of(hello(None, [])) == ClientHello("", ())


def test_a_message_cut_anywhere_says_nothing() -> None:
    whole = hello("relay.example", ["acme-tls/1"])
    assert all(hello_of(whole[:size]) is None for size in range(len(whole)))


@given(st.binary(max_size=400))
def test_noise_is_survived(data: bytes) -> None:
    hello_of(data)
    hello_of(b"\x16\x03\x01" + data)


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_changed_byte_is_survived(at: int, value: int) -> None:
    data = bytearray(CHANGED)
    data[at % len(data)] = value
    hello_of(bytes(data))


CHANGED = hello("relay.example", ["acme-tls/1", os.urandom(8).hex()])
