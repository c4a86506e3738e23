"""A certificate from an ACME authority, kept fresh: HTTP-01 and TLS-ALPN-01, by certbot's client library.

Follows RFC 8555, RFC 8737 and Let's Encrypt's integration guide (renew after two thirds of a lifetime, at
a random moment; go slowly after failures). Rule of the file: what is in use stays until something better
is whole on disk; the authority's slowness holds up nobody, for all that waits runs in a thread of its own.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import random
import tempfile
import threading
import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import requests
from acme import challenges, client, errors, messages
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from josepy.errors import Error as JoseError
from josepy.jwa import ES256
from josepy.jwk import JWK, JWKEC
from josepy.util import ComparableECKey

from .. import __version__
from ..errors import ConfigError, RemoteError
from .tls import ACME_ALPN, Certificate, Tls, server_context

log = logging.getLogger(__name__)

LETS_ENCRYPT = "https://acme-v02.api.letsencrypt.org/directory"
HTTP_01, TLS_ALPN_01 = "http-01", "tls-alpn-01"
TIMEOUT = 30  # seconds for one request to the authority
ISSUE_TIMEOUT = 180.0  # seconds for a whole order
RENEW_AFTER = 2 / 3  # of its lifetime
JITTER = 1 / 30  # of its lifetime, so that relays set up on one day do not all come at once
FIRST_RETRY, LAST_RETRY = 120.0, 6 * 3600.0  # seconds; doubled at each failure: an authority allows 5 an hour
LEAST = 0.2  # of its lifetime that a certificate is used at least, whatever the clocks say
LOOK_PERIOD = 3600.0  # seconds between looks at the clock, which may jump
_IDENTIFIER = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")  # RFC 8737's extension

_T = TypeVar("_T")


@challenges.ChallengeResponse.register
class _TlsAlpnResponse(challenges.KeyAuthorizationChallengeResponse):
    typ = TLS_ALPN_01


@challenges.Challenge.register
class _TlsAlpn(challenges.KeyAuthorizationChallenge):
    """RFC 8737, which the library has no more: what the certificate must contain."""

    response_cls = _TlsAlpnResponse
    typ = TLS_ALPN_01

    def validation(self, account_key: Any, **unused: Any) -> bytes:
        return hashlib.sha256(self.key_authorization(account_key).encode()).digest()


@dataclass(slots=True)
class Acme:
    """What is asked of whom, and where it is kept: ``folder`` has the account, and the certificate with its
    key in one file. ``answers`` are what HTTP-01 is answered with, by token."""

    names: tuple[str, ...]
    folder: Path
    directory: str = LETS_ENCRYPT
    email: str = ""
    challenge: str = TLS_ALPN_01
    answers: MutableMapping[str, str] = field(default_factory=dict)

    @property
    def file(self) -> Path:
        """The certificate's, which ``Tls`` reads."""
        return self.folder / "certificate.pem"

    def prepare(self) -> None:
        """Have a certificate on disk, if need be one that nobody trusts, so that the ports can open.
        ``ConfigError`` if the folder cannot be used."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self._usable():
                _write(self.file, _self_signed(self.names))
        except OSError as error:
            raise ConfigError(f"certificates cannot be kept in {self.folder}: {error.strerror}") from None

    def due(self, now: float, chance: float) -> float:
        """Seconds until a new certificate is wanted; ``chance`` is a random number from 0 to 1."""
        leaf = x509.load_pem_x509_certificates(self.file.read_bytes())[0]
        found = Certificate.of(leaf)
        if leaf.issuer == leaf.subject or not all(map(found.covers, self.names)):
            return 0.0
        lifetime = found.not_after - found.not_before
        return max(0.0, found.not_before + lifetime * (RENEW_AFTER - JITTER * chance) - now)

    async def keep(self, tls: Tls, chance: Callable[[], float] = random.random) -> NoReturn:
        """Get a certificate whenever one is due, and have ``tls`` use it; go slowly after failures."""
        jitter = chance()
        while True:
            wait = max(self.due(time.time(), jitter), self._retry_at() - time.time())
            if wait > 0:
                await asyncio.sleep(min(wait, LOOK_PERIOD))
                continue
            try:
                pem = await _in_thread(lambda: self.obtain(tls))
                _write(self.file, pem)
                tls.reload()
                left = tls.certificate.not_after - time.time()
                self._note(0, time.time() + (LEAST * left if left > 0 else LAST_RETRY))
                jitter = chance()
            except (RemoteError, OSError) as error:
                failures = self._failures() + 1
                pause = min(FIRST_RETRY * 2 ** min(failures - 1, 16), LAST_RETRY) * (1 + 0.2 * chance())
                self._note(failures, time.time() + pause)
                log.error("no certificate for %s, try %d, again in %.0f s: %s",
                          ", ".join(self.names), failures, pause, error)  # fmt: skip

    def obtain(self, tls: Tls) -> bytes:
        """The key and chain of a new certificate, in PEM; blocks. Raises ``RemoteError``, ``OSError``."""
        try:
            return self._order(tls)
        except errors.ValidationError as error:
            raise RemoteError(_failed(error)) from error
        except (errors.Error, messages.Error, JoseError, ValueError) as error:
            raise RemoteError(f"{self.directory} refused: {error or type(error).__name__}") from error
        except requests.RequestException as error:
            raise RemoteError(f"{self.directory} cannot be reached: {error}") from error

    def _order(self, tls: Tls) -> bytes:
        one = self._client()
        key = ec.generate_private_key(ec.SECP256R1())
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        request = request.add_extension(
            x509.SubjectAlternativeName([x509.DNSName(name) for name in self.names]), critical=False
        )
        order = one.new_order(request.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
        deadline = datetime.now() + timedelta(seconds=ISSUE_TIMEOUT)
        contexts: dict[str, Any] = {}
        tls.challenges = contexts
        try:
            for authorization in order.authorizations:
                if authorization.body.status != messages.STATUS_VALID:
                    self._answer(one, authorization.body, contexts)
            order = one.poll_and_finalize(order, deadline)
        finally:
            tls.challenges = {}
            self.answers.clear()
        return _key_pem(key) + str(order.fullchain_pem).encode()

    def _answer(self, one: Any, body: Any, contexts: dict[str, Any]) -> None:
        offered = {each.chall.typ: each for each in body.challenges}
        chosen = offered.get(self.challenge)
        if chosen is None:
            raise RemoteError(f"{self.directory} offers {', '.join(offered)}, not {self.challenge}")
        response, validation = chosen.response_and_validation(one.net.key)
        if self.challenge == HTTP_01:
            self.answers[chosen.chall.encode("token")] = validation
        else:
            contexts[body.identifier.value.lower()] = _challenge_context(body.identifier.value, validation)
        one.answer_challenge(chosen, response)

    def _client(self) -> Any:
        """The authority's, with our account there, which is made at the first time."""
        path = self.folder / "account.json"
        known = json.loads(path.read_text()) if path.exists() else {}
        if known.get("directory") != self.directory:
            known = {}
        key = JWK.from_json(known["key"]) if known else JWKEC(
            key=ComparableECKey(ec.generate_private_key(ec.SECP256R1())))  # fmt: skip
        agent = f"kwaainet/{__version__}"
        net = client.ClientNetwork(key, alg=ES256, user_agent=agent, timeout=TIMEOUT)
        one = client.ClientV2(client.ClientV2.get_directory(self.directory, net), net)
        if known:
            net.account = messages.RegistrationResource(uri=known["uri"], body=messages.Registration())
            return one
        wish = messages.NewRegistration.from_data(email=self.email or None, terms_of_service_agreed=True)
        account = one.new_account(wish)
        kept = {"directory": self.directory, "uri": account.uri, "key": key.to_json()}
        _write(path, json.dumps(kept).encode())
        return one

    def _usable(self) -> bool:
        try:
            return Certificate.read(self.file, self.file).not_after > time.time()
        except ConfigError:
            return False

    def _note(self, failures: int, retry_at: float) -> None:
        """For the next run as well: one that is started again and again must not ask each time."""
        _write(self.folder / "retry.json", json.dumps([failures, retry_at]).encode())

    def _retry_at(self) -> float:
        return float(self._noted()[1])

    def _failures(self) -> int:
        return int(self._noted()[0])

    def _noted(self) -> list[Any]:
        try:
            failures, retry_at = json.loads((self.folder / "retry.json").read_text())
            return [int(failures), min(float(retry_at), time.time() + 2 * LAST_RETRY)]
        except (OSError, ValueError, TypeError):
            return [0, 0.0]


def _failed(error: Any) -> str:
    """What the authority says of each name that it could not reach us by."""
    said = [
        f"{one.body.identifier.value}: {each.error.detail or each.error}"
        for one in error.failed_authzrs
        for each in one.body.challenges
        if each.error is not None
    ]
    return f"the authority did not find us: {'; '.join(said)}"


def _challenge_context(name: str, digest: bytes) -> Any:
    extension = x509.UnrecognizedExtension(_IDENTIFIER, b"\x04\x20" + digest)
    with tempfile.TemporaryDirectory(prefix="kwaainet-acme-") as folder:
        path = Path(folder) / "challenge.pem"
        _write(path, _self_signed((name,), extension))
        return server_context(path, path, [ACME_ALPN])


def _self_signed(names: tuple[str, ...], extension: x509.ExtensionType | None = None) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "not issued yet")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(days=1))
    builder = builder.not_valid_after(now + timedelta(days=7)).add_extension(
        x509.SubjectAlternativeName([x509.DNSName(one) for one in names]), critical=False
    )
    if extension is not None:
        builder = builder.add_extension(extension, critical=True)
    return _key_pem(key) + builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all, and for our eyes only."""
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    part.touch(mode=0o600)
    part.write_bytes(data)
    part.replace(path)


async def _in_thread(function: Callable[[], _T]) -> _T:
    """In a thread that holds up no end of the process, however long it still waits."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_T] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if not done.done():
            done.set_result(result) if error is None else done.set_exception(error)

    def run() -> None:
        result, failure = None, None
        try:
            result = function()
        except BaseException as error:
            failure = error
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=run, name="acme", daemon=True).start()
    return await done
