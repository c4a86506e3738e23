"""A peer that keeps to no protocol: raw bytes over TCP or a WebSocket, and raw yamux frames inside noise.

Blocking sockets with a time limit; the handshake machines are those under test, the framing is not.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from typing import Self

from kwaainet.identity.keys import PrivateKey
from kwaainet.libp2p import noise
from kwaainet.libp2p.multiaddr import Multiaddr
from kwaainet.libp2p.multistream import Proposer
from kwaainet.native.crypto import NativeCrypto

WAIT = 40.0  # seconds; the longest deadline of the relay is 15
YAMUX = struct.Struct(">BBHII")
DATA, WINDOW_UPDATE, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8
BINARY, TEXT, PING_FRAME = 2, 1, 9


class Attacker:
    """A connection of its own; use as a context manager."""

    def __init__(self, address: str) -> None:
        multiaddr = Multiaddr.parse(address)
        self._is_websocket = multiaddr.transport == "ws"
        self.socket = socket.create_connection(multiaddr.host_port, WAIT)
        self._frames = bytearray()
        if self._is_websocket:
            self._upgrade()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close()

    def send(self, data: bytes, opcode: int = BINARY) -> None:
        """Bytes as they are, over a WebSocket as one frame."""
        self.socket.sendall(websocket_frame(data, opcode) if self._is_websocket else data)

    def receive(self) -> bytes:
        """What has come, at least a byte; empty at the end, however it came about."""
        try:
            data = self.socket.recv(65536)
        except (ConnectionResetError, BrokenPipeError):
            return b""
        if not self._is_websocket or not data:
            return data
        self._frames += data
        payloads = b"".join(self._payloads())
        return payloads if payloads or self._closing else self.receive()

    def closed(self) -> bytes:
        """All that comes until the other side closes; ``TimeoutError`` if it does not."""
        data = b""
        while more := self.receive():
            data += more
        return data

    # --- WebSocket --------------------------------------------------------------------------------

    def _upgrade(self) -> None:
        self._closing = False
        self.socket.sendall(
            b"GET / HTTP/1.1\r\nHost: relay\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        while b"\r\n\r\n" not in self._frames:
            self._frames += self.socket.recv(4096)
        assert self._frames.startswith(b"HTTP/1.1 101")
        del self._frames[: self._frames.index(b"\r\n\r\n") + 4]

    def _payloads(self) -> Iterator[bytes]:
        while len(self._frames) >= 2:
            size, start = self._frames[1] & 0x7F, 2
            if size >= 126:
                start = 4 if size == 126 else 10
                size = int.from_bytes(self._frames[2:start], "big")
            if len(self._frames) < start + size:
                return
            kind, payload = self._frames[0] & 0x0F, bytes(self._frames[start : start + size])
            del self._frames[: start + size]
            self._closing |= kind == 8
            if kind == BINARY:
                yield payload


class Insider(Attacker):
    """An attacker that has proved its identity: speaks yamux inside noise, as it likes."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        crypto = NativeCrypto()
        credentials = noise.Credentials.create(crypto, PrivateKey(os.urandom(32)), os.urandom(32))
        agreement = Proposer([noise.PROTOCOL])
        handshake = noise.Handshake(crypto, credentials, os.urandom(32), initiator=True)
        self.send(agreement.data_to_send() + handshake.data_to_send())
        while agreement.protocol is None:
            agreement.receive_data(self.receive())
        handshake.receive_data(agreement.take_rest())
        while handshake.result is None:
            handshake.receive_data(self.receive())
        self.send(handshake.data_to_send())
        self._secured = handshake.result
        muxer = Proposer(["/yamux/1.0.0"])
        self.send_secret(muxer.data_to_send())
        self._plain = self._secured.receiver.receive_data(handshake.take_rest())
        while muxer.protocol is None:
            muxer.receive_data(self.receive_secret())
        self._rest = muxer.take_rest()

    def send_secret(self, plaintext: bytes) -> None:
        """Encrypted, in as many messages as it takes."""
        size = noise.MAX_PLAINTEXT
        parts = [plaintext[start : start + size] for start in range(0, len(plaintext), size)]
        self.send(b"".join(b"".join(self._secured.sender.encrypt(part)) for part in parts))

    def receive_secret(self) -> bytes:
        """Decrypted; empty at the end."""
        while data := self.receive():
            if plaintext := b"".join(self._secured.receiver.receive_data(data)):
                return plaintext
        return b""

    def frame(
        self, kind: int, flags: int, stream: int, length: int, body: bytes = b"", version: int = 0
    ) -> None:
        """One yamux frame, right or wrong."""
        self.send_secret(YAMUX.pack(version, kind, flags, stream, length) + body)

    def went_away(self) -> int | None:
        """Wait for the end of the connection; the code of the GO_AWAY before it, if there was one."""
        code, buffer = None, self._rest
        while plaintext := self.receive_secret():
            buffer += plaintext
            while len(buffer) >= YAMUX.size:
                _, kind, _, _, length = YAMUX.unpack_from(buffer)
                body = length if kind == DATA else 0
                if len(buffer) < YAMUX.size + body:
                    break
                buffer = buffer[YAMUX.size + body :]
                code = length if kind == GO_AWAY else code
        return code


def websocket_frame(payload: bytes, opcode: int = BINARY, claimed: int | None = None) -> bytes:
    """A frame of a client (masked with zeros), whose header may claim another length."""
    size = len(payload) if claimed is None else claimed
    if size < 126:
        header = bytes([0x80 | opcode, 0x80 | size])
    elif size < 1 << 16:
        header = bytes([0x80 | opcode, 0x80 | 126]) + size.to_bytes(2, "big")
    else:
        header = bytes([0x80 | opcode, 0x80 | 127]) + size.to_bytes(8, "big")
    return header + bytes(4) + payload
