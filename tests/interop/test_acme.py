"""A relay gets its certificate from a real ACME server, by either challenge, and renews it in time."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509

from .pebble import Pebble, pebble
from .running import Running, free_port, relay

NAME = "relay.example"
PATIENCE = 180.0


def shown(port: int) -> x509.Certificate:
    """The certificate that a connection made now gets."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", port), 60) as sock,
        context.wrap_socket(sock, server_hostname=NAME) as secure,
    ):
        return x509.load_der_x509_certificate(secure.getpeercert(True) or b"")


def eventually(running: Running, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, running.tail()
        time.sleep(0.05)


@pytest.fixture
def ports() -> tuple[int, int]:
    """For plain HTTP and for TLS."""
    return free_port(), free_port()


@pytest.fixture
def authority(tmp_path: Path, ports: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> Iterator[Pebble]:
    with pebble(tmp_path / "pebble", *ports, lifetime=8) as found:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(found.root))
        yield found


def flags(tmp_path: Path, authority: Pebble, ports: tuple[int, int], challenge: str) -> list[str]:
    told = ["--acme", NAME, "--acme-directory", authority.directory, "--acme-challenge", challenge]
    told += ["--state-dir", str(tmp_path / "state"), "--listen", f"/ip4/127.0.0.1/tcp/{ports[1]}/tls/ws"]
    return told + (["--redirect", f"127.0.0.1:{ports[0]}"] if challenge == "http-01" else [])


@pytest.mark.parametrize("challenge", ["http-01", "tls-alpn-01"])
def test_a_certificate_is_got_and_renewed(
    tmp_path: Path, authority: Pebble, ports: tuple[int, int], challenge: str
) -> None:
    told = flags(tmp_path, authority, ports, challenge)
    with relay(tmp_path, *told) as ready:
        running = ready["running"]
        assert f"/dns4/{NAME}/tcp/{ports[1]}/tls/ws/p2p/" in " ".join(ready["maddrs"])
        first = shown(ports[1])
        assert "not issued yet" in first.issuer.rfc4514_string() or "Pebble" in first.issuer.rfc4514_string()
        eventually(running, lambda: "Pebble" in shown(ports[1]).issuer.rfc4514_string())
        issued = shown(ports[1])
        names = issued.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == [NAME]
        if challenge == "tls-alpn-01":  # at the port that serves on meanwhile
            eventually(running, lambda: shown(ports[1]).serial_number != issued.serial_number)
        assert "no longer looked after" not in running.err.read_text()
    kept = tmp_path / "state" / "acme"
    assert sorted(path.name for path in kept.iterdir()) == ["account.json", "certificate.pem", "retry.json"]
    assert {path.stat().st_mode & 0o777 for path in kept.iterdir()} == {0o600}


def test_an_authority_that_does_not_find_us_says_so_and_is_asked_later(
    tmp_path: Path, authority: Pebble, ports: tuple[int, int]
) -> None:
    told = flags(tmp_path, authority, (ports[0], free_port()), "tls-alpn-01")  # not where it looks
    with relay(tmp_path, *told) as ready:
        ready["running"].printed("no certificate for relay.example, try 1, again in", PATIENCE)
        said = ready["running"].err.read_text()
        assert "the authority did not find us: relay.example:" in said
