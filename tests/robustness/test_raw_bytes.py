"""Strangers and authenticated peers that send bytes no protocol allows, straight at the relay's sockets."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
from collections.abc import Iterator

import pytest
from robustness.attacker import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    PING,
    PING_FRAME,
    RST,
    SYN,
    TEXT,
    WINDOW_UPDATE,
    YAMUX,
    Attacker,
    Insider,
    websocket_frame,
)
from robustness.swarm import MEGA, Swarm

from kwaainet.identity.keys import PrivateKey
from kwaainet.libp2p.delimited import delimit
from kwaainet.libp2p.multiaddr import Multiaddr
from kwaainet.native.host import NativeHost
from kwaainet.native.network import MAX_HANDSHAKES

HEADER = delimit(b"/multistream/1.0.0\n")
NOISE = HEADER + delimit(b"/noise\n")
ECHO = HEADER + delimit(b"/ipfs/ping/1.0.0\n")
WINDOW = 1 << 20

STRANGERS = {
    "garbage": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + bytes(range(256)) * 64, "does not end in a newline"),
    "no newline": (delimit(b"/multistream/1.0.0"), "does not end in a newline"),
    "not text": (delimit(b"\xff\xfe\n"), "is not UTF-8"),
    "another protocol": (delimit(b"/plaintext/2.0.0\n"), "opened with '/plaintext/2.0.0'"),
    "oversize line": (b"\xff\xff\x7f" + bytes(100), "over the 1024 allowed"),
    "endless varint": (b"\x80" * 64, "varint"),
    "asks for ever": (HEADER + delimit(b"/tls/1.0.0\n") * 65, "more than 64 unknown protocols"),
    "oversize noise": (NOISE + b"\xff\xff" + bytes(1000), "handshake message of 65535 bytes is over"),
    "short noise": (NOISE + b"\0\x05abcde", "cut short"),
    "low-order key": (NOISE + b"\0\x20" + bytes(32), "is not usable"),
    "forged noise": (NOISE + b"\0\x20" + b"\x09" * 32 + b"\0\x80" + bytes(128), "forged or damaged"),
}


@pytest.fixture(params=["tcp", "ws"])
def address(request: pytest.FixtureRequest, swarm: Swarm) -> str:
    """The relay's address, over each transport."""
    return str(getattr(swarm, request.param))


@pytest.mark.parametrize("name", STRANGERS)
def test_a_stranger_that_breaks_the_handshake_is_disconnected(swarm: Swarm, address: str, name: str) -> None:
    data, words = STRANGERS[name]
    with Attacker(address) as attacker:
        with contextlib.suppress(ConnectionError):  # closed before all was sent
            attacker.send(data)
        attacker.closed()
    assert "closing the connection to /ip4/127.0.0.1" in swarm.relay.logs(words)


INSIDERS: dict[str, tuple[list[tuple[int, ...]], str]] = {
    "version": ([(DATA, SYN, 1, 0, 9)], "yamux version 9 is not 0"),
    "type": ([(7, 0, 1, 0)], "yamux frame type 7 is unknown"),
    "our parity": ([(DATA, SYN, 2, 0)], "opened stream 2, which it may not"),
    "stream zero": ([(DATA, SYN, 0, 0)], "opened stream 0, which it may not"),
    "opened twice": ([(DATA, SYN, 1, 0), (DATA, SYN, 1, 0)], "opened stream 1, which it may not"),
    "oversize frame": ([(DATA, SYN, 1, WINDOW + 1)], "more than its window"),
    "oversize frame nowhere": ([(DATA, 0, 77, 0xFFFF_FFFF)], "more than its window"),
    "data after the end": ([(DATA, SYN | FIN, 1, 0), (DATA, 0, 1, 5)], "after ending it"),
    "window beyond all": (
        [(DATA, SYN, 1, 0)] + [(WINDOW_UPDATE, 0, 1, 0xFFFF_FFFF)] * 2,
        "granted a window of",
    ),
}


@pytest.mark.parametrize("name", INSIDERS)
def test_a_peer_that_breaks_yamux_is_told_and_disconnected(swarm: Swarm, address: str, name: str) -> None:
    frames, words = INSIDERS[name]
    with Insider(address) as insider:
        insider.send_secret(pack(frames))
        assert insider.went_away() == 1  # a protocol error
    assert "closing the connection to 12D3KooW" in swarm.relay.logs(words)


def pack(frames: list[tuple[int, ...]]) -> bytes:
    """Headers (type, flags, stream, length[, version])."""
    return b"".join(YAMUX.pack(*(frame[4:] or (0,)), *frame[:4]) for frame in frames)


def test_forged_messages_end_the_connection(swarm: Swarm, address: str) -> None:
    with Insider(address) as insider:
        insider.send(b"\0\x40" + os.urandom(64))
        insider.closed()
    swarm.relay.logs("forged or out of order")


def test_a_window_overrun_ends_the_connection(swarm: Swarm, address: str) -> None:
    """Who echoes reads no more once its echoes are not read; by then the window is known."""
    with Insider(address) as insider:
        insider.frame(DATA, SYN, 1, len(ECHO), ECHO)
        block = YAMUX.pack(0, DATA, 0, 1, 60_000) + bytes(60_000)
        with contextlib.suppress(ConnectionError):
            for _ in range(4 * WINDOW // 60_000):
                insider.send_secret(block)
        assert insider.went_away() in (1, None)  # lost, if more was under way than the relay took
    swarm.relay.logs("bytes on stream 1 are more than its window")
    assert swarm.relay.growth < 32 * MEGA


def test_frames_of_unknown_streams_are_skipped(swarm: Swarm, address: str) -> None:
    with Insider(address) as insider:
        for stream in (1, 3, 4, 0xFFFF_FFFF):
            insider.frame(DATA, 0, stream, 10, bytes(10))
            insider.frame(DATA, FIN, stream, 0)
            insider.frame(WINDOW_UPDATE, RST, stream, 0)
            insider.frame(WINDOW_UPDATE, ACK, stream, 1000)
        insider.frame(PING, SYN, 0, 7)
        assert answers_pings(insider, 7)


def answers_pings(insider: Insider, value: int) -> bool:
    """Whether the answer to a ping comes, among whatever else."""
    wanted, seen = YAMUX.pack(0, PING, ACK, 0, value), b""
    while wanted not in seen:
        data = insider.receive_secret()
        if not data:
            return False
        seen += data
    return True


def test_ten_thousand_streams_at_once_are_refused(swarm: Swarm, address: str) -> None:
    with Insider(address) as insider:
        insider.send_secret(pack([(WINDOW_UPDATE, SYN, 2 * n + 1, 0) for n in range(10_000)]))
        insider.frame(PING, SYN, 0, 1)
        assert answers_pings(insider, 1)
        assert swarm.relay.growth < 32 * MEGA


@pytest.mark.parametrize("opening", [False, True], ids=["pings", "streams"])
def test_a_peer_that_asks_and_does_not_read_is_disconnected(swarm: Swarm, opening: bool) -> None:
    numbers = itertools.count(1, 2)
    with Insider(swarm.ws if opening else swarm.tcp) as insider:
        with contextlib.suppress(ConnectionError):
            for _ in range(400):  # 26 MB of questions
                if opening:
                    frames = [(WINDOW_UPDATE, SYN, next(numbers), 0) for _ in range(5400)]
                else:
                    frames = [(PING, SYN, 0, 5)] * 5400
                insider.send_secret(pack(frames))
        assert swarm.relay.growth < 32 * MEGA
    swarm.relay.logs("asks for answers and does not read them")


def test_a_byte_a_frame_takes_no_more_room_than_its_window(swarm: Swarm) -> None:
    """Sixteen streams that are read by nobody, fed one byte at a time."""
    tiny = [b"".join(YAMUX.pack(0, DATA, 0, 2 * n + 1, 1) + b"\x80" for n in range(16)) for _ in range(3000)]
    with Insider(swarm.tcp) as insider:
        propose = HEADER + delimit(b"/libp2p/circuit/relay/0.2.0/hop\n")
        for n in range(16):
            insider.frame(DATA, SYN, 2 * n + 1, len(propose), propose)
        with contextlib.suppress(ConnectionError):
            insider.send_secret(b"".join(tiny))
        insider.frame(PING, SYN, 0, 3)
        assert answers_pings(insider, 3)
        assert swarm.relay.growth < 32 * MEGA


def test_going_away_is_not_an_error(swarm: Swarm, address: str) -> None:
    with Insider(address) as insider:
        insider.frame(GO_AWAY, 0, 0, 0)
    swarm.relay.logs("disconnected from 12D3KooW")


# --- WebSocket --------------------------------------------------------------------------------------


def test_a_websocket_that_sends_text_is_closed(swarm: Swarm) -> None:
    with Attacker(swarm.ws) as attacker:
        attacker.send(b"hello", TEXT)
        attacker.closed()


def test_a_websocket_frame_over_the_cap_is_refused(swarm: Swarm) -> None:
    with Attacker(swarm.ws) as attacker:
        attacker.socket.sendall(websocket_frame(b"", claimed=1 << 40))
        attacker.closed()
    with Attacker(swarm.ws) as attacker:
        attacker.socket.sendall(websocket_frame(b"", claimed=(1 << 20) + 1))
        attacker.closed()


def test_pings_of_a_websocket_that_does_not_read_are_not_hoarded(swarm: Swarm) -> None:
    pings = websocket_frame(bytes(125), PING_FRAME) * 8000  # 1 MB
    with Insider(swarm.ws) as insider:
        insider.socket.settimeout(5)
        with contextlib.suppress(ConnectionError, TimeoutError):
            for _ in range(64):
                insider.socket.sendall(pings)
        assert swarm.relay.growth < 16 * MEGA


@pytest.mark.parametrize(
    "request_head",
    [
        b"POST / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X-Long: " + b"y" * 100_000 + b"\r\n\r\n",
    ],
    ids=["post", "no key", "huge header"],
)
def test_what_is_no_websocket_is_refused(swarm: Swarm, request_head: bytes) -> None:
    with socket.create_connection(Multiaddr.parse(swarm.ws).host_port, 40) as stranger:
        with contextlib.suppress(ConnectionError):
            stranger.sendall(request_head)
        answer = b""
        with contextlib.suppress(ConnectionError):
            while data := stranger.recv(65536):
                answer += data
        assert b" 101 " not in answer


# --- many ---------------------------------------------------------------------------------------------


@pytest.fixture
def silent(swarm: Swarm) -> Iterator[list[socket.socket]]:
    """As many silent strangers as there may be handshakes under way, and more."""
    host_port = Multiaddr.parse(swarm.tcp).host_port
    with contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_connection(host_port, 40)) for _ in range(MAX_HANDSHAKES + 44)
        ]
        sockets[-1].sendall(NOISE[:30])  # half a handshake
        web = [socket.create_connection(Multiaddr.parse(swarm.ws).host_port, 40) for _ in range(2)]
        web[-1].sendall(b"\x16\x03\x01" + os.urandom(200))  # half a request, of TLS
        yield sockets + [stack.enter_context(one) for one in web]


def test_silent_strangers_keep_nobody_out_and_are_let_go(swarm: Swarm, silent: list[socket.socket]) -> None:
    swarm.relay.logs("others are waiting")

    async def newcomer() -> None:
        host = await NativeHost.create(PrivateKey(os.urandom(32)))
        assert str(await host.connect(swarm.tcp)) == swarm.relay_id
        await host.close()

    asyncio.run(newcomer())
    swarm.bystander.goes_on()
    for stranger in silent:  # the handshake's deadline
        with contextlib.suppress(ConnectionError):
            while stranger.recv(4096):
                pass
    swarm.relay.logs("did not finish its handshake within 15 s")
