"""Each thing that can be wrong on the way to a relay's WebSocket, each with a real peer that is so broken."""

import asyncio
import ssl
from collections.abc import Callable
from contextlib import AsyncExitStack
from email.utils import formatdate
from pathlib import Path
from time import time

import pytest
from authority import DAY, Authority, Issued

from kwaainet.errors import Ailment
from kwaainet.libp2p.multiaddr import Multiaddr
from kwaainet.native.acme import Acme
from kwaainet.native.doctor import Outcome
from kwaainet.native.probes import Place, Relay, Warned, compare_clocks, resolve
from kwaainet.native.tls import server_context

from .doctored import Patient, failed, patient, step


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def not_issued_yet(folder: Path) -> Issued:
    """What a relay with --acme shows until its first certificate is there."""
    acme = Acme(("localhost",), folder)
    acme.prepare()
    return Issued(acme.file, acme.file)


def run(
    before: Callable[[Patient], None], name: str, cause: str, secure: ssl.SSLContext | None = None
) -> str:
    """The remedy of the one step that fails."""

    async def main() -> str:
        async with patient(before=before, secure=secure) as one:
            report = await one.examined()
        assert failed(report) == [name], report.to_dict()
        assert cause in step(report, name).cause
        assert report.why == f"{name}: {step(report, name).cause}"
        return step(report, name).remedy

    return asyncio.run(asyncio.wait_for(main(), 60))


def test_a_name_that_does_not_exist() -> None:
    with pytest.raises(Ailment, match=r"the name nowhere\.invalid has no address"):
        asyncio.run(resolve(Place("nowhere.invalid", 443, True)))


@pytest.mark.parametrize(
    ("issue", "cause"),
    [
        (lambda a: a.issue("localhost", begins=-3 * DAY, ends=-DAY), "has expired"),
        (lambda a: a.issue("localhost", begins=DAY), "not valid yet"),
        (lambda a: a.issue("other.example"), "for another name"),
        (lambda a: a.issue("localhost", chain=False), "no chain leads"),
        (lambda a: Authority(a.folder / "stranger").issue("localhost"), "no chain leads"),
        (lambda a: not_issued_yet(a.folder / "acme"), "do not trust who signed"),
    ],
)
def test_certificates_that_browsers_refuse(
    authority: Authority, issue: Callable[[Authority], Issued], cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.root))
    issued = issue(authority)
    run(lambda one: None, "tls", cause, server_context(issued.cert, issued.key))


def test_a_port_that_speaks_no_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with patient() as one:
            one.url = one.url.replace("http:", "https:")
            report = await one.examined()
        assert failed(report) == ["tls"]
        assert "no TLS at 127.0.0.1:" in report.why

    asyncio.run(main())


def test_a_port_that_speaks_tls_only(authority: Authority) -> None:
    issued = authority.issue("localhost")

    async def main() -> None:
        async with patient(secure=server_context(issued.cert, issued.key)) as one:
            one.url = one.url.replace("https:", "http:")
            report = await one.examined()
        assert failed(report) == ["page"]
        assert step(report, "page").remedy.startswith("ask https://localhost:")

    asyncio.run(main())


def test_a_certificate_that_ends_soon_is_a_warning(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.root))
    issued = authority.issue("localhost", ends=3 * DAY)

    async def main() -> None:
        async with patient(secure=server_context(issued.cert, issued.key)) as one:
            report = await one.examined()
        assert step(report, "tls").outcome == Outcome.WARNING
        assert "ends in 3.0 days" in step(report, "tls").cause
        assert failed(report) == ["relay address"], "a page under https cannot use ws"
        assert "announces no wss address" in report.why

    asyncio.run(main())


def test_pages_that_are_no_relays() -> None:
    def says(value: object) -> Callable[[Patient], None]:
        return lambda one: setattr(one, "said", value)

    run(says(404), "page", "is no relay: /kwaainet.json answers with 404")
    run(says(502), "page", "answers with 502: a proxy does not reach the relay")
    run(says([]), "page", "is no relay")
    run(says({"relay": "x"}), "page", "is no relay")


def test_a_page_without_isolation_is_a_warning() -> None:
    async def main() -> None:
        async with patient(before=lambda one: one.headers.clear()) as one:
            report = await one.examined()
        assert step(report, "page").outcome == Outcome.WARNING
        assert "tabs have one thread" in step(report, "page").cause
        assert report.reachable

    asyncio.run(main())


def test_addresses_that_no_browser_can_use() -> None:
    def announces(*addresses: str) -> Callable[[Patient], None]:
        return lambda one: one.said.update(relay=list(addresses))

    remedy = run(announces("/ip4/127.0.0.1/tcp/4001"), "relay address", "announces no WebSocket address")
    assert "--announce /dns4/relay.example/tcp/443/tls/ws" in remedy
    run(announces(), "relay address", "announces no WebSocket address: nothing")
    run(announces("nonsense"), "relay address", "nonsense")


def test_clocks_that_differ() -> None:
    def says(skew: float) -> Callable[[Patient], None]:
        return lambda one: one.headers.update(Date=formatdate(time() + skew, usegmt=True))

    remedy = run(says(60), "clock", "the swarm refuses more than 3 s")
    assert "timedatectl" in remedy


@pytest.mark.parametrize(
    ("said", "asked", "came", "found"),
    [
        (1000, 1000.1, 1000.2, "+0.3 s"),
        (1000, 996, 1004, "+0.0 s"),  # a slow page is no wrong clock
        (1000, 1002.3, 1009, "the clocks differ"),
        (1000, 990, 998.4, "the clocks differ"),
        (1000, 1004, 1009, "differ by -3.5 s; the swarm refuses more than 3 s"),
        (1000, 990, 997, "differ by +3.5 s; the swarm refuses more than 3 s"),
    ],
)
def test_what_the_page_says_is_held_against_the_time_it_took(
    said: float, asked: float, came: float, found: str
) -> None:
    async def main() -> str:
        async with AsyncExitStack() as stack:
            try:
                return await compare_clocks(Relay(stack, date=(said, asked, came)))
            except (Ailment, Warned) as told:
                return str(told)

    assert found in asyncio.run(main())


def test_a_websocket_that_is_answered_by_something_else() -> None:
    def at(address: str) -> Callable[[Patient], None]:
        return lambda one: one.said.update(relay=[f"{address}/p2p/{one.host.peer_id}"])

    async def main() -> None:
        async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(ANSWER)
            writer.close()

        server = await asyncio.start_server(deaf, "127.0.0.1", 0)
        address = f"/ip4/127.0.0.1/tcp/{server.sockets[0].getsockname()[1]}/ws"
        for answer, cause in (
            (b"HTTP/1.1 200 OK\r\n\r\n", "answers 200 OK to a WebSocket"),
            (b"HTTP/1.1 426 Upgrade Required\r\n\r\n", "answers 426"),
            (b"SSH-2.0\r\n", "answers no HTTP"),
            (b"", "answers nothing"),
        ):
            ANSWER = answer
            async with patient(before=at(address)) as one:
                report = await one.examined()
            assert failed(report) == ["ws upgrade"]
            assert cause in report.why
            assert "build/proxy/nginx.conf" in step(report, "ws upgrade").remedy
        server.close()

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_relay_whose_port_is_closed() -> None:
    def elsewhere(one: Patient) -> None:
        one.said.update(relay=[f"/ip4/127.0.0.1/tcp/9/ws/p2p/{one.host.peer_id}"])

    run(elsewhere, "relay tcp", "nobody answers at port 9")


def test_a_name_of_which_one_address_is_dead(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def main() -> None:
        async with patient() as one:
            port = one.url.rsplit(":", 1)[1].strip("/")
            one.url = f"http://localhost:{port}/"
            loop = asyncio.get_running_loop()
            real = loop.getaddrinfo

            async def two(host: str, *rest: object, **more: object) -> object:
                found = await real(host, *rest, **more)  # type: ignore[arg-type]
                dead = (*found[0][:4], ("127.0.0.2", *found[0][4][1:]))
                return (
                    [*[row for row in found if row[4][0] == "127.0.0.1"], dead]
                    if host == "localhost"
                    else found
                )

            monkeypatch.setattr(loop, "getaddrinfo", two)
            report = await one.examined()
        assert step(report, "tcp").outcome == Outcome.WARNING
        assert "not every address of the name answers (127.0.0.2:" in step(report, "tcp").cause

    asyncio.run(main())


def test_places() -> None:
    assert Place.of_url("https://relay.example") == Place("relay.example", 443, True)
    assert Place.of_url("http://[::1]:8080/x") == Place("::1", 8080, False)
    assert str(Place("::1", 8080, False)) == "[::1]:8080"
    assert Multiaddr.parse("/dns4/a/tcp/1/wss").transport == "wss"
