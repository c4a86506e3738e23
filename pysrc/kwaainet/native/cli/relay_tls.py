"""A relay's certificate and the proxies in front of it: flags, checks, and what runs beside it.

Rule of the file: SIGHUP means the same with and without a certificate, read anew what can be.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from ...errors import ConfigError
from ...libp2p.multiaddr import Multiaddr
from ..doors import Doors, parse_subnet, shared_ports
from ..http import parse_http_address
from ..tls import SOON, Certificate, Tls

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """What a relay is told of its certificate and of proxies."""

    cert: Path | None = None
    key: Path | None = None
    trusted_proxies: Sequence[str] = ()


NO_TLS = TlsOptions()


def add_tls_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that ``relay`` and ``up`` share."""
    group = parser.add_argument_group("TLS and proxies")
    group.add_argument(
        "--tls-cert",
        type=Path,
        metavar="FILE",
        help="certificate chain in PEM, the server's own first: the page is served by https and /tls/ws "
        "can be listened on; read anew when it changes, and on SIGHUP",
    )
    group.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key in PEM")
    group.add_argument(
        "--trusted-proxy",
        action="append",
        metavar="SUBNET",
        help="whose X-Forwarded-For names the client, such as 127.0.0.1; repeatable (nobody's)",
    )


def tls_options(options: argparse.Namespace) -> TlsOptions:
    """From the parsed flags."""
    return TlsOptions(options.tls_cert, options.tls_key, options.trusted_proxy or ())


def check_tls(options: TlsOptions, announce: Sequence[str], listen: Sequence[str], now: float) -> list[str]:
    """Raises ``ConfigError`` for what cannot work; returns what an operator should know."""
    for subnet in options.trusted_proxies:
        parse_subnet(subnet)
    if (options.cert is None) != (options.key is None):
        raise ConfigError("--tls-cert and --tls-key go together; give both, or neither")
    addresses = [Multiaddr.parse(text) for text in announce]
    if options.cert is None or options.key is None:
        if any(Multiaddr.parse(text).transport == "wss" for text in listen):
            raise ConfigError("listening on /tls/ws needs a certificate; give --tls-cert and --tls-key")
        return []
    Tls(options.cert, options.key)
    certificate = Certificate.read(options.cert, options.key)
    certificate.check(addresses, now)
    left = (certificate.not_after - now) / 86400
    return [f"the certificate ends in {left:.1f} days"] if left * 86400 < SOON else []


@asynccontextmanager
async def opened_doors(options: TlsOptions, http: str, listen: Sequence[str]) -> AsyncIterator[Doors]:
    """The ways in of a relay; its certificate is watched as long as it runs."""
    doors = Doors(
        shared=shared_ports(parse_http_address(http)[1], map(_transport_and_port, listen)),
        trusted=[parse_subnet(text) for text in options.trusted_proxies],
    )
    watching = None
    if options.cert is not None and options.key is not None:
        doors.tls = Tls(options.cert, options.key)
        doors.tls.certificate.check((), time.time())
        watching = asyncio.ensure_future(doors.tls.watch())
    hangs_up = sys.platform != "win32"
    if hangs_up:
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, _read_anew, doors)
    try:
        yield doors
    finally:
        if hangs_up:
            asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)
        if watching is not None:
            watching.cancel()


def _read_anew(doors: Doors) -> None:
    if doors.tls is None:
        log.info("SIGHUP: there is no certificate to be read anew")
    else:
        doors.tls.reload()


def _transport_and_port(text: str) -> tuple[str | None, int]:
    address = Multiaddr.parse(text)
    return (address.transport, address.host_port[1]) if address.transport else (None, 0)
