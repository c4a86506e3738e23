"""A certificate authority for tests: as a real one signs, an intermediate between its root and the leaves.

Rule of the file: keys are of P-256, which take a millisecond; what a test wants wrong it asks for by name.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Issued:
    """Files of a leaf: its chain and its key."""

    cert: Path
    key: Path

    @property
    def flags(self) -> tuple[str, ...]:
        """For a relay's command line."""
        return ("--tls-cert", str(self.cert), "--tls-key", str(self.key))

    @property
    def chromium(self) -> str:
        """The flag by which Chromium takes this very key, whoever signed it."""
        leaf = x509.load_pem_x509_certificates(self.cert.read_bytes())[0]
        form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        digest = hashlib.sha256(leaf.public_key().public_bytes(*form)).digest()
        return f"--ignore-certificate-errors-spki-list={base64.b64encode(digest).decode()}"


class Authority:
    """A root in ``folder/root.pem`` and what it signs."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.root = folder / "root.pem"
        self._key, self._between = _key(), _key()
        root = _build("test root", self._key, "test root", self._key, authority=True)
        self._chain = _build("test intermediate", self._between, "test root", self._key, authority=True)
        self.root.write_bytes(root.public_bytes(Encoding.PEM))

    def issue(
        self,
        *names: str,
        file: str = "leaf",
        begins: timedelta = -DAY,
        ends: timedelta = 90 * DAY,
        chain: bool = True,
        passphrase: str = "",
    ) -> Issued:
        """A leaf for DNS names and IP addresses; ``begins`` and ``ends`` count from now."""
        key = _key()
        leaf = _build("leaf", key, "test intermediate", self._between, names=names, begins=begins, ends=ends)
        issued = Issued(self.folder / f"{file}.pem", self.folder / f"{file}.key")
        between = self._chain.public_bytes(Encoding.PEM) if chain else b""
        locked = BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
        for path, data in (
            (issued.key, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked)),
            (issued.cert, leaf.public_bytes(Encoding.PEM) + between),
        ):
            part = path.with_suffix(".part")
            part.write_bytes(data)
            part.replace(path)
        return issued


def _key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _build(
    subject: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    signer: ec.EllipticCurvePrivateKey,
    *,
    authority: bool = False,
    names: tuple[str, ...] = (),
    begins: timedelta = -DAY,
    ends: timedelta = 90 * DAY,
) -> x509.Certificate:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begins)
        .not_valid_after(now + ends)
        .add_extension(x509.BasicConstraints(authority, None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    )
    if names:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([_general(name) for name in names]), critical=False
        )
        builder = builder.add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
        )
    if authority:
        usage = dict.fromkeys(
            ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"), False
        ) | dict.fromkeys(("key_agreement", "encipher_only", "decipher_only"), False)
        builder = builder.add_extension(
            x509.KeyUsage(key_cert_sign=True, crl_sign=True, **usage), critical=True
        )
    return builder.sign(signer, hashes.SHA256())


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
