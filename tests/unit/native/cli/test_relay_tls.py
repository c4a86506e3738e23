"""What a relay is told of its certificate: refused in words, served, and read anew on SIGHUP."""

import argparse
import asyncio
import os
import re
import signal
import ssl
import time
from pathlib import Path

import aiohttp
import pytest
from authority import DAY, Authority

from kwaainet.errors import ConfigError
from kwaainet.native.cli.relay import RelayOptions, running_relay
from kwaainet.native.cli.relay_tls import TlsOptions, add_tls_flags, check_tls, opened_doors, tls_options


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def check(options: TlsOptions, announce: str = "", listen: str = "") -> list[str]:
    return check_tls(options, announce.split(), listen.split(), time.time())


def test_flags_become_options() -> None:
    parser = argparse.ArgumentParser()
    add_tls_flags(parser)
    told = tls_options(parser.parse_args(["--tls-cert", "c", "--tls-key", "k", "--trusted-proxy", "::1"]))
    assert told == TlsOptions(Path("c"), Path("k"), ["::1"])
    assert tls_options(parser.parse_args([])) == TlsOptions()


def test_what_cannot_work_is_refused(authority: Authority) -> None:
    issued = authority.issue("relay.example")
    pair = TlsOptions(issued.cert, issued.key)
    old = authority.issue("relay.example", file="old", begins=-2 * DAY, ends=-DAY)
    with pytest.raises(ConfigError, match="go together"):
        check(TlsOptions(cert=issued.cert))
    with pytest.raises(ConfigError, match="go together"):
        check(TlsOptions(key=issued.key))
    with pytest.raises(ConfigError, match="/tls/ws needs a certificate"):
        check(TlsOptions(), listen="/ip4/0.0.0.0/tcp/443/tls/ws")
    with pytest.raises(ConfigError, match=r"not for other\.example"):
        check(pair, announce="/dns4/relay.example/tcp/4001 /dns4/other.example/tcp/443/tls/ws")
    with pytest.raises(ConfigError, match="not now; renew it"):
        check(TlsOptions(old.cert, old.key))
    with pytest.raises(ConfigError, match="no IP address or subnet"):
        check(TlsOptions(trusted_proxies=["nonsense"]))
    assert check(pair, announce="/dns4/relay.example/tcp/443/tls/ws") == []
    assert check(TlsOptions(), listen="/ip4/0.0.0.0/tcp/1/ws") == []


def test_what_acme_needs(tmp_path: Path, authority: Authority) -> None:
    def asked(*names: str, **more: object) -> TlsOptions:
        told: dict[str, object] = {"acme_names": names or ("relay.example",), "state_dir": tmp_path, **more}
        return TlsOptions(**told)  # type: ignore[arg-type]

    issued = authority.issue("relay.example")
    for options, message in (
        (asked(state_dir=None), "needs --state-dir"),
        (asked(cert=issued.cert, key=issued.key), "two ways to one certificate"),
        (asked(acme_challenge="http-01"), "give --redirect 0.0.0.0:80"),
        (asked("127.0.0.1"), "'127.0.0.1' is no name"),
        (asked("*.relay.example"), "is no name that an authority certifies"),
        (asked("localhost"), "is no name"),
        (TlsOptions(acme_email="me@relay.example"), "do nothing without --acme"),
        (TlsOptions(redirect="127.0.0.1:80"), "needs --tls-cert or --acme"),
        (asked(redirect="nowhere"), "--redirect 'nowhere' is not HOST:PORT"),
    ):
        with pytest.raises(ConfigError, match=re.escape(message)):
            check(options)
    with pytest.raises(ConfigError, match=r"is announced, but --acme asks for relay\.example"):
        check(asked(), announce="/dns4/other.example/tcp/443/tls/ws")
    assert (
        check(asked(), announce="/dns4/relay.example/tcp/443/tls/ws", listen="/ip4/0.0.0.0/tcp/1/wss") == []
    )
    assert asked().challenge == "tls-alpn-01"
    assert asked(redirect="0.0.0.0:80").challenge == "http-01"


def test_an_end_that_is_near_is_told(authority: Authority) -> None:
    issued = authority.issue("relay.example", file="soon", ends=3 * DAY)
    [warning] = check(TlsOptions(issued.cert, issued.key))
    assert warning in ("the certificate ends in 3.0 days", "the certificate ends in 2.9 days")


def test_a_signal_reads_the_certificate_anew(authority: Authority) -> None:
    issued = authority.issue("first.example", file="signalled")

    async def main() -> None:
        options = TlsOptions(issued.cert, issued.key)
        async with opened_doors(options, "127.0.0.1:8443", ["/ip4/0.0.0.0/tcp/8443/tls/ws"]) as doors:
            assert doors.shared == {8443}
            assert doors.tls is not None
            authority.issue("second.example", file="signalled")
            os.kill(os.getpid(), signal.SIGHUP)
            while "second.example" not in doors.tls.certificate.names:
                await asyncio.sleep(0.01)
        async with opened_doors(TlsOptions(), "127.0.0.1:80", []) as doors:
            os.kill(os.getpid(), signal.SIGHUP)  # would end the process
            await asyncio.sleep(0)
            assert doors.tls is None

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_relay_with_a_certificate_serves_https_and_names_wss(page: Path, authority: Authority) -> None:
    issued = authority.issue("localhost", file="served")

    async def main() -> None:
        listen = ("/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/0/ws", "/ip4/127.0.0.1/tcp/0/tls/ws")
        options = RelayOptions(http="127.0.0.1:0", listen=listen, tls=TlsOptions(issued.cert, issued.key))
        async with running_relay(options, lambda progress: None) as relay:
            assert relay.http.startswith("https://localhost:")
            context = ssl.create_default_context(cafile=str(authority.root))
            async with (
                aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session,
                session.get(relay.http + "kwaainet.json") as answer,
            ):
                told = (await answer.json())["relay"]
                async with session.get(relay.http + "status.json") as status:
                    served = (await status.json())["certificate"]
                assert (served["names"], served["refused"]) == (["localhost"], "")
                assert served["until"] > time.time()
            assert [address.split("/")[1:3] + address.split("/")[5:-2] for address in told] == [
                ["ip4", "127.0.0.1", "ws"],
                ["dns4", "localhost", "tls", "ws"],
            ]

    asyncio.run(asyncio.wait_for(main(), 60))
