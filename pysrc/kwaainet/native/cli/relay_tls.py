"""A relay's certificate and the proxies in front of it: flags, checks, and what runs beside it.

Rule of the file: SIGHUP means the same with and without a certificate, read anew what can be.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from ...errors import ConfigError
from ...libp2p.multiaddr import Multiaddr
from ..doors import Doors, parse_subnet, shared_ports
from ..http import parse_http_address, serve
from ..redirect import Redirect
from ..tls import SOON, Certificate, Tls

if TYPE_CHECKING:
    from ..acme import Acme

log = logging.getLogger(__name__)

CHALLENGES = ("http-01", "tls-alpn-01")
WEBRTC = "webrtc.pem"  # in --state-dir
STATE = "acme"  # folder in --state-dir
_NAME = re.compile(r"(?=.{4,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]{0,61}[a-z0-9]")


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """What a relay is told of its certificate and of proxies."""

    cert: Path | None = None
    key: Path | None = None
    trusted_proxies: Sequence[str] = ()
    redirect: str = ""
    acme_names: Sequence[str] = ()
    acme_email: str = ""
    acme_directory: str = ""
    acme_challenge: str = ""
    state_dir: Path | None = None

    @property
    def challenge(self) -> str:
        """The one that was asked for, else HTTP-01 where port 80 is ours."""
        return self.acme_challenge or (CHALLENGES[0] if self.redirect else CHALLENGES[1])


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
        "--redirect",
        default="",
        metavar="HOST:PORT",
        help="plain HTTP here sends browsers to the page's https address and answers HTTP-01",
    )
    group.add_argument(
        "--acme",
        action="append",
        metavar="NAME",
        help="get the certificate for this name, and renew it, by ACME, agreeing to the authority's terms; "
        "kept in --state-dir; repeatable",
    )
    group.add_argument(
        "--acme-email", default="", metavar="ADDRESS", help="where the authority may write to (nowhere)"
    )
    group.add_argument(
        "--acme-directory", default="", metavar="URL", help="the authority's address (Let's Encrypt)"
    )
    group.add_argument(
        "--acme-challenge",
        choices=CHALLENGES,
        help="how it finds us: http-01 at port 80 (--redirect), tls-alpn-01 at port 443 (http-01 with "
        "--redirect, else tls-alpn-01)",
    )
    group.add_argument(
        "--trusted-proxy",
        action="append",
        metavar="SUBNET",
        help="whose X-Forwarded-For names the client, such as 127.0.0.1; repeatable (nobody's)",
    )


def tls_options(options: argparse.Namespace) -> TlsOptions:
    """From the parsed flags."""
    return TlsOptions(
        options.tls_cert,
        options.tls_key,
        options.trusted_proxy or (),
        options.redirect,
        options.acme or (),
        options.acme_email,
        options.acme_directory,
        options.acme_challenge or "",
        getattr(options, "state_dir", None),
    )


def check_tls(options: TlsOptions, announce: Sequence[str], listen: Sequence[str], now: float) -> list[str]:
    """Raises ``ConfigError`` for what cannot work; returns what an operator should know."""
    for subnet in options.trusted_proxies:
        parse_subnet(subnet)
    if any("/webrtc-direct" in text for text in listen) and find_spec("aiortc") is None:
        raise ConfigError('listening on /webrtc-direct needs aiortc: pip install "kwaainet[webrtc]"')
    if (options.cert is None) != (options.key is None):
        raise ConfigError("--tls-cert and --tls-key go together; give both, or neither")
    addresses = [Multiaddr.parse(text) for text in announce]
    if options.redirect:
        parse_http_address(options.redirect, "--redirect")
    if options.acme_names:
        _check_acme(options, addresses)
        return []
    if options.acme_email or options.acme_directory or options.acme_challenge:
        raise ConfigError(
            "--acme-email, --acme-directory and --acme-challenge do nothing without --acme NAME"
        )
    if options.redirect and options.cert is None:
        raise ConfigError("--redirect sends browsers to https, which needs --tls-cert or --acme")
    if options.cert is None or options.key is None:
        if any(Multiaddr.parse(text).transport == "wss" for text in listen):
            raise ConfigError(
                "listening on /tls/ws needs a certificate; give --tls-cert and --tls-key, or --acme"
            )
        return []
    Tls(options.cert, options.key)
    certificate = Certificate.read(options.cert, options.key)
    certificate.check(addresses, now)
    left = (certificate.not_after - now) / 86400
    return [f"the certificate ends in {left:.1f} days"] if left * 86400 < SOON else []


def _check_acme(options: TlsOptions, announce: Sequence[Multiaddr]) -> None:
    if options.cert is not None:
        raise ConfigError("--acme and --tls-cert are two ways to one certificate; give one of them")
    if options.state_dir is None:
        raise ConfigError("--acme needs --state-dir DIR, or each start would ask for another certificate")
    if options.challenge == CHALLENGES[0] and not options.redirect:
        raise ConfigError("--acme-challenge http-01 is answered at port 80; give --redirect 0.0.0.0:80")
    for name in options.acme_names:
        if not _NAME.fullmatch(name):
            raise ConfigError(f"--acme {name!r:.100} is no name that an authority certifies; give a DNS name")
    for address in announce:
        if address.transport == "wss" and address.host_port[0] not in options.acme_names:
            raise ConfigError(f"{address} is announced, but --acme asks for {', '.join(options.acme_names)}")
    _acme(options)


def _acme(options: TlsOptions) -> Acme:
    try:
        from ..acme import LETS_ENCRYPT, Acme
    except ImportError as error:
        raise ConfigError(f'--acme needs {error.name}: pip install "kwaainet[acme]"') from None
    assert options.state_dir is not None
    directory = options.acme_directory or LETS_ENCRYPT
    folder = options.state_dir / STATE
    return Acme(tuple(options.acme_names), folder, directory, options.acme_email, options.challenge)


@asynccontextmanager
async def opened_doors(options: TlsOptions, http: str, listen: Sequence[str]) -> AsyncIterator[Doors]:
    """The ways in of a relay; its certificate is watched, and renewed, as long as it runs."""
    doors = Doors(
        shared=shared_ports(parse_http_address(http)[1], map(_transport_and_port, listen)),
        trusted=[parse_subnet(text) for text in options.trusted_proxies],
        webrtc_key=options.state_dir / WEBRTC if options.state_dir is not None else None,
    )
    async with AsyncExitStack() as stack:
        redirect = Redirect(lambda: doors.url)
        if options.acme_names:
            acme = _acme(options)
            acme.prepare()
            redirect.answers = acme.answers
            doors.tls = Tls(acme.file, acme.file)
            _run(stack, acme.keep(doors.tls))
        elif options.cert is not None and options.key is not None:
            doors.tls = Tls(options.cert, options.key)
            doors.tls.certificate.check((), time.time())
        if doors.tls is not None:
            _run(stack, doors.tls.watch())
        if options.redirect:
            runner, _ = await serve(redirect, *parse_http_address(options.redirect, "--redirect"))
            stack.push_async_callback(runner.cleanup)
        if sys.platform != "win32":
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGHUP, _read_anew, doors)
            stack.callback(loop.remove_signal_handler, signal.SIGHUP)
        yield doors


def _run(stack: AsyncExitStack, work: Coroutine[object, object, NoReturn]) -> None:
    """Until the stack unwinds; what ends it before is logged."""
    task = asyncio.ensure_future(work)

    def ended(done: asyncio.Task[NoReturn]) -> None:
        if not done.cancelled() and (error := done.exception()) is not None:
            log.error("the certificate is no longer looked after", exc_info=error)

    task.add_done_callback(ended)
    stack.callback(task.cancel)


def describe(doors: Doors) -> dict[str, object] | None:
    """For status.json: what is served, until when (unix seconds), and why a newer one is not."""
    if doors.tls is None:
        return None
    found = doors.tls.certificate
    return {"names": list(found.names), "until": found.not_after, "refused": doors.tls.failed}


def _read_anew(doors: Doors) -> None:
    if doors.tls is None:
        log.info("SIGHUP: there is no certificate to be read anew")
    else:
        doors.tls.reload()


def _transport_and_port(text: str) -> tuple[str | None, int]:
    address = Multiaddr.parse(text)
    return (address.transport, address.host_port[1]) if address.transport else (None, 0)
