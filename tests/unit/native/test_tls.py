"""Certificates that are read, refused in words, and replaced without a word to those connected."""

import asyncio
import ssl
import time
from datetime import timedelta
from pathlib import Path

import pytest
from authority import DAY, Authority

from kwaainet.errors import ConfigError
from kwaainet.libp2p.multiaddr import Multiaddr
from kwaainet.native.tls import Certificate, Tls


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def test_what_a_certificate_covers(authority: Authority) -> None:
    issued = authority.issue("relay.example", "*.tabs.example", "127.0.0.1", "::1")
    certificate = Certificate.read(issued.cert, issued.key)
    for host in ("relay.example", "RELAY.example.", "one.tabs.example", "127.0.0.1", "::1"):
        assert certificate.covers(host), host
    for host in ("example", "other.example", "two.one.tabs.example", "tabs.example", "127.0.0.2"):
        assert not certificate.covers(host), host
    addresses = ["/dns4/relay.example/tcp/443/tls/ws", "/dns4/other.example/tcp/4001"]
    certificate.check(map(Multiaddr.parse, addresses), time.time())
    with pytest.raises(ConfigError, match=r"not for other\.example of /dns4/other\.example/tcp/443/wss"):
        certificate.check([Multiaddr.parse("/dns4/other.example/tcp/443/wss")], time.time())


@pytest.mark.parametrize(("begins", "ends"), [(-2 * DAY, -DAY), (DAY, 2 * DAY)])
def test_one_of_another_time_is_refused(authority: Authority, begins: timedelta, ends: timedelta) -> None:
    issued = authority.issue("relay.example", file="old", begins=begins, ends=ends)
    with pytest.raises(ConfigError, match=r"holds from \d{4}-\d\d-\d\d to .*, not now"):
        Certificate.read(issued.cert, issued.key).check((), time.time())


def test_files_that_are_no_pair(authority: Authority, tmp_path: Path) -> None:
    one, other = authority.issue("a.example", file="one"), authority.issue("a.example", file="other")
    locked = authority.issue("a.example", file="locked", passphrase="secret")
    text = tmp_path / "text"
    text.write_text("hello")
    backwards = tmp_path / "backwards.pem"
    first, _, rest = one.cert.read_text().partition("-----END CERTIFICATE-----\n")
    backwards.write_text(rest + first + "-----END CERTIFICATE-----\n")
    nowhere = tmp_path / "nowhere"
    for cert, key, message in (
        (one.cert, other.key, "is not the key of the first certificate"),
        (backwards, one.key, "is not the key of the first certificate"),
        (text, one.key, "holds no certificate in PEM"),
        (one.cert, text, "holds no private key in PEM"),
        (locked.cert, locked.key, "locked with a passphrase"),
        (nowhere, one.key, "--tls-cert .* cannot be read: No such file"),
        (one.cert, nowhere, "--tls-key .* cannot be read: No such file"),
    ):
        with pytest.raises(ConfigError, match=message):
            Tls(cert, key)


def test_a_chain_out_of_order(authority: Authority, tmp_path: Path) -> None:
    issued = authority.issue("a.example", file="chain")
    mixed = tmp_path / "mixed.pem"
    mixed.write_bytes(issued.cert.read_bytes() + authority.issue("b.example", file="b").cert.read_bytes())
    with pytest.raises(ConfigError, match="out of order"):
        Certificate.read(mixed, issued.key)


def test_a_changed_file_is_noticed_and_a_broken_one_left_aside(authority: Authority) -> None:
    issued = authority.issue("first.example", file="watched")
    tls = Tls(issued.cert, issued.key)

    async def until(what: str) -> None:
        while what not in (*tls.certificate.names, tls.failed):
            await asyncio.sleep(0.01)

    async def main() -> None:
        watching = asyncio.ensure_future(tls.watch(0.01))
        old = tls.context
        authority.issue("second.example", file="watched")
        await until("second.example")
        assert tls.context is not old
        kept = tls.context
        issued.cert.write_text("broken")
        while not tls.failed:
            await asyncio.sleep(0.01)
        assert tls.context is kept
        assert "no certificate in PEM" in tls.failed
        authority.issue("third.example", file="watched")
        await until("third.example")
        assert tls.failed == ""
        watching.cancel()

    asyncio.run(asyncio.wait_for(main(), 60))


def test_an_expired_one_does_not_replace_one_that_holds(authority: Authority) -> None:
    issued = authority.issue("a.example", file="expiring")
    tls = Tls(issued.cert, issued.key)
    authority.issue("a.example", file="expiring", begins=-2 * DAY, ends=-DAY)
    assert tls.reload() is False
    assert tls.certificate.not_after > time.time()
    authority.issue("a.example", file="expiring")
    assert tls.reload() is True
    assert tls.reloads == 1


def test_addresses_get_the_names_that_browsers_take(authority: Authority) -> None:
    issued = authority.issue("relay.example", "*.relay.example", "127.0.0.1", file="named")
    tls = Tls(issued.cert, issued.key)
    bound = ["/ip4/127.0.0.1/tcp/443/tls/ws", "/ip4/10.0.0.1/tcp/443/tls/ws", "/ip4/10.0.0.2/tcp/443/tls/ws"]
    bound += ["/ip6/2001:db8::1/tcp/443/tls/ws", "/ip4/10.0.0.1/tcp/4001"]
    assert [str(address) for address in tls.named(map(Multiaddr.parse, bound))] == [
        "/ip4/127.0.0.1/tcp/443/tls/ws",
        "/dns4/relay.example/tcp/443/tls/ws",
        "/dns6/relay.example/tcp/443/tls/ws",
        "/ip4/10.0.0.1/tcp/4001",
    ]


def test_old_versions_of_tls_are_refused(authority: Authority) -> None:
    issued = authority.issue("a.example", file="versions")
    assert Tls(issued.cert, issued.key).context.minimum_version == ssl.TLSVersion.TLSv1_2
