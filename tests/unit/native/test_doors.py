"""Connections told apart on one port, under TLS or not; whose they are behind a proxy; what they cost."""

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import picows
import pytest
import uvloop
from aiohttp import web
from authority import Authority
from interop.running import free_port

from kwaainet.errors import ConfigError, InputError, KwaaiNetError
from kwaainet.identity.keys import PrivateKey
from kwaainet.libp2p.admission import Admission, Limits, Origin
from kwaainet.libp2p.multiaddr import Multiaddr
from kwaainet.native import doors as doors_module
from kwaainet.native import transport
from kwaainet.native.crypto import NativeCrypto
from kwaainet.native.doors import Doors, parse_subnet, shared_ports
from kwaainet.native.http import serve
from kwaainet.native.network import Network
from kwaainet.native.tls import Tls

Loop = Callable[[], asyncio.AbstractEventLoop] | None


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


class Hello:
    """A site that says who asked."""

    def application(self) -> web.Application:
        app = web.Application(client_max_size=1 << 20)

        async def hello(request: web.Request) -> web.Response:
            return web.Response(text=f"hello {request.remote} {len(await request.read())}")

        app.router.add_route("*", "/{path:.*}", hello)
        return app


def run(test: Awaitable[None], loop: Callable[[], asyncio.AbstractEventLoop] | None = None) -> None:
    async def main() -> None:
        await asyncio.wait_for(test, 60)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())


def network() -> Network:
    return Network(PrivateKey(os.urandom(32)), NativeCrypto())


async def dialled(one: Network, address: Multiaddr) -> object:
    link = await transport.dial(address, lambda wire, _: one.connect(wire, address, initiator=True))
    return await link.ready


@pytest.mark.parametrize("loop", [None, uvloop.new_event_loop])
@pytest.mark.parametrize(("host", "secure"), [("127.0.0.1", False), ("127.0.0.1", True), ("::1", True)])
def test_relay_and_site_share_a_port(
    authority: Authority, host: str, secure: bool, loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.root))

    async def main() -> None:
        port = free_port()
        context = ssl.create_default_context(cafile=str(authority.root))
        doors = Doors(shared=frozenset([port]))
        if secure:
            issued = authority.issue("localhost", "127.0.0.1", "::1")
            doors.tls = Tls(issued.cert, issued.key)
        tail = "/tls/ws" if secure else "/ws"
        other = network()
        family = "ip6" if ":" in host else "ip4"
        bound = Multiaddr.parse(f"/{family}/{host}/tcp/{port}{tail}")
        listener = await transport.listen(bound, other.accept, doors)
        scheme = "https" if secure else "http"
        shown_host = f"[{host}]" if ":" in host else host
        url = f"{scheme}://{shown_host}:{port}/"
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
            async with session.get(url) as early:
                assert (early.status, early.headers["Retry-After"]) == (503, "1")
            runner, shown = await serve(Hello(), host, port, doors)
            assert shown == url
            for size in (0, 3, 200_000):
                async with session.post(url, data=b"x" * size) as answer:
                    assert await answer.text() == f"hello {host} {size}"
            assert await dialled(network(), bound) == other.peer_id
            async with session.get(url, headers={"X-Long": "x" * 7000, "X-More": "y" * 7000}) as long:
                assert long.status == 200
        listener.close()
        await runner.cleanup()
        other.close()

    run(main(), loop)


def test_a_certificate_is_replaced_under_connections_that_go_on(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.root))

    async def names(port: int) -> list[str]:
        context = ssl.create_default_context()
        _, writer = await asyncio.open_connection("localhost", port, ssl=context)
        found = writer.get_extra_info("peercert")["subjectAltName"]
        writer.close()
        return [value for _, value in found]

    async def main() -> None:
        issued = authority.issue("localhost", file="replaced")
        doors = Doors(tls=Tls(issued.cert, issued.key))
        one, other = network(), network()

        async def echo(stream: object) -> None:
            while data := await stream.read():  # type: ignore[attr-defined]
                stream.write(data)  # type: ignore[attr-defined]

        other.handle("echo", echo)  # type: ignore[arg-type]
        bound = Multiaddr.parse("/ip4/127.0.0.1/tcp/0/tls/ws")
        listener = await transport.listen(bound, other.accept, doors)
        port = listener.address.host_port[1]
        address = Multiaddr.parse(f"/dns4/localhost/tcp/{port}/tls/ws")
        link = await transport.dial(address, lambda wire, _: one.connect(wire, address, initiator=True))
        await link.ready
        stream = link.open_stream("echo")
        stream.write(b"before")
        assert await stream.read() == b"before"
        assert await names(port) == ["localhost"]
        authority.issue("localhost", "new.example", file="replaced")
        assert doors.tls is not None
        assert doors.tls.reload()
        assert await names(port) == ["localhost", "new.example"]
        stream.write(b"after")
        assert await stream.read() == b"after"
        listener.close()
        one.close()
        other.close()

    run(main())


def test_who_speaks_no_tls_or_nothing_is_let_go(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doors_module, "HANDSHAKE_TIMEOUT", 0.2)
    monkeypatch.setattr(doors_module, "HEAD_TIMEOUT", 0.2)

    async def main() -> None:
        issued = authority.issue("localhost", file="let-go")
        port = free_port()
        doors = Doors(tls=Tls(issued.cert, issued.key), shared=frozenset([port]))
        listener = await transport.listen(
            Multiaddr.parse(f"/ip4/127.0.0.1/tcp/{port}/tls/ws"), network().accept, doors
        )
        for said in (b"", b"GET / HTTP/1.1\r\n\r\n"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(said)
            while await reader.read(100):
                pass  # a TLS alert, or nothing
            writer.close()
        context = ssl.create_default_context(cafile=str(authority.root))
        monkeypatch.setattr(doors_module, "HANDSHAKE_TIMEOUT", 60.0)  # who does speak it takes its time
        reader, writer = await asyncio.open_connection("localhost", port, ssl=context)
        writer.write(b"GET / HTTP/1.1\r\nHost: sl")  # and never the rest
        assert await reader.read() == b""
        writer.close()
        listener.close()

    run(main())


def test_over_the_cap_the_handshake_that_takes_longest_gives_way(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doors_module, "MAX_OPENING", 2)

    async def main() -> None:
        issued = authority.issue("localhost", file="cap")
        doors = Doors(tls=Tls(issued.cert, issued.key))
        bound = Multiaddr.parse("/ip4/127.0.0.1/tcp/0/tls/ws")
        listener = await transport.listen(bound, network().accept, doors)
        port = listener.address.host_port[1]
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        context = ssl.create_default_context(cafile=str(authority.root))
        _, writer = await asyncio.open_connection("localhost", port, ssl=context)
        assert await silent[0][0].read() == b""
        assert not silent[1][0].at_eof()
        for _, each in [*silent, (None, writer)]:
            each.close()
        listener.close()

    run(main())


@pytest.mark.parametrize("way", ["ws", "shared", "wss"])
def test_one_address_has_few_sockets_that_say_nothing(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.root))
    monkeypatch.setattr(Admission, "origin", lambda self, peer, host: Origin(peer, host.encode()))

    async def main() -> None:
        port = free_port()
        admission = Admission(Limits().changed("openings", "2,2,2"))
        doors = Doors(admission=admission, shared=frozenset([port] if way == "shared" else []))
        if way == "wss":
            issued = authority.issue("localhost", "127.0.0.1", file="few")
            doors.tls = Tls(issued.cert, issued.key)
        bound = Multiaddr.parse(f"/ip4/127.0.0.1/tcp/{port}{'/tls' if way == 'wss' else ''}/ws")
        other = network()
        listener = await transport.listen(bound, other.accept, doors)
        silent = []
        for count in (1, 2):
            silent.append(await asyncio.open_connection("127.0.0.1", port))
            while admission.most()["openings"] != {"address": count}:
                await asyncio.sleep(0.001)
        with pytest.raises(KwaaiNetError):
            await dialled(network(), bound)
        assert list(admission.refused) == ["too many openings of one address"]
        for _, writer in silent:
            writer.close()
        while len(admission):
            await asyncio.sleep(0.001)
        for _ in range(3):  # who became a WebSocket leaves the place
            assert await dialled(network(), bound) == other.peer_id
        listener.close()
        other.close()

    run(main())


@pytest.mark.parametrize(
    ("peer", "forwarded", "found"),
    [
        ("10.1.2.3", "203.0.113.7", "203.0.113.7"),
        (
            "10.1.2.3",
            "1.2.3.4, 203.0.113.7",
            "203.0.113.7",
        ),  # what the client itself wrote counts for nothing
        ("10.1.2.3", "203.0.113.7, 10.9.9.9", "203.0.113.7"),  # two proxies of ours
        ("10.1.2.3", "10.0.0.8, 10.9.9.9", "10.0.0.8"),
        ("10.1.2.3", "2001:db8::7", "2001:db8::7"),
        ("10.1.2.3", "", "10.1.2.3"),
        ("10.1.2.3", "unknown", "0.0.0.0"),
        ("10.1.2.3", ", ,", "0.0.0.0"),
        ("198.51.100.1", "203.0.113.7", "198.51.100.1"),  # a stranger
        ("::1", "203.0.113.7", "203.0.113.7"),
    ],
)
def test_only_a_trusted_proxy_names_the_client(peer: str, forwarded: str, found: str) -> None:
    doors = Doors(trusted=[parse_subnet("10.0.0.0/8"), parse_subnet("::1")])
    assert doors.client(peer, forwarded) == found
    assert Doors().client(peer, forwarded) == peer


def test_a_forwarded_websocket_and_request_count_as_the_clients() -> None:
    async def main() -> None:
        told = {"X-Forwarded-For": "203.0.113.7"}
        for trusted, expected in ((["127.0.0.0/8"], "203.0.113.7"), ([], "127.0.0.1")):
            doors = Doors(trusted=[parse_subnet(text) for text in trusted])
            seen: asyncio.Future[Multiaddr] = asyncio.get_running_loop().create_future()
            make: Callable[..., None] = lambda wire, address, seen=seen: seen.set_result(address)  # noqa: E731
            listener = await transport.listen(Multiaddr.parse("/ip4/127.0.0.1/tcp/0/ws"), make, doors)
            port = listener.address.host_port[1]
            await picows.ws_connect(picows.WSListener, f"ws://127.0.0.1:{port}/", extra_headers=told)
            address = await seen
            assert (address.parts[0][1], address.names) == (expected, ("ip4", "tcp", "ws"))
            listener.close()
            runner, url = await serve(Hello(), "127.0.0.1", 0, doors)
            async with (
                aiohttp.ClientSession() as session,
                session.post(url, headers=told, data=b"xy") as answer,
            ):
                assert await answer.text() == f"hello {expected} 2"
            await runner.cleanup()

    run(main())


def test_a_proxy_that_is_not_trusted_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    doors = Doors(trusted=[parse_subnet("10.0.0.0/8")])
    doors.client("10.1.2.3", "203.0.113.7")
    doors.client("172.17.0.1", "")
    assert not caplog.records
    for _ in range(2):
        assert doors.client("172.17.0.1", "203.0.113.7") == "172.17.0.1"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "172.17.0.1 speaks for others, but is not trusted" in caplog.text
    assert "--trusted-proxy" in caplog.text


def test_what_is_no_subnet() -> None:
    with pytest.raises(ConfigError, match="--trusted-proxy 'proxy' is no IP address or subnet"):
        parse_subnet("proxy")


def test_ports_are_shared_by_what_is_said_alone() -> None:
    listen = [("tcp", 443), ("wss", 443), ("ws", 80), (None, 0)]
    assert shared_ports(443, listen) == {443}
    assert shared_ports(8080, listen) == frozenset()
    assert shared_ports(0, [("ws", 0)]) == frozenset()


def test_wss_needs_a_certificate(tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(InputError, match="without a certificate; give --tls-cert"):
            await transport.listen(Multiaddr.parse("/ip4/127.0.0.1/tcp/0/tls/ws"), network().accept)

    run(main())


def test_a_system_without_files_to_give_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(doors_module, "OUT_OF_FILES", 0.01)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        errors, accept = [errno.EMFILE, errno.ENFILE], loop.sock_accept

        async def scarce(sock: socket.socket) -> tuple[socket.socket, Any]:
            if errors:
                raise OSError(errors.pop(), "Too many open files")
            return await accept(sock)

        monkeypatch.setattr(loop, "sock_accept", scarce)
        port = free_port()
        bound, other = Multiaddr.parse(f"/ip4/127.0.0.1/tcp/{port}/ws"), network()
        await transport.listen(bound, other.accept, Doors(shared=frozenset([port])))
        assert await dialled(network(), bound) == other.peer_id
        assert not errors

    run(main())
    said = "no connection can be accepted: Too many open files"
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [said] * 2
