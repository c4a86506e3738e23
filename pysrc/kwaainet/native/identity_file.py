"""The file a native node keeps its identity in.

It holds libp2p's ``PrivateKey`` protobuf, the form go-libp2p and Hivemind write too. Rule of the
file: nobody but its owner may read the key, and an existing file is never overwritten.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from ..errors import ConfigError, InputError
from ..identity.grinding import RELAY_BITS, RELAYS_PLACE, near
from ..identity.keys import PrivateKey
from ..ports import Crypto

MAX_FILE_SIZE = 4096  # bytes; an Ed25519 key takes 68
_MODE = 0o600


def load_or_create_identity(path: Path, crypto: Crypto, *, of_relay: bool = False) -> PrivateKey:
    """The key in the file, made (mode 0600) if there is none; ``of_relay``: one that stands where relays do.

    Raises ``ConfigError`` for a file that cannot be read or written, or that others can read, and
    ``InputError`` for one that holds no Ed25519 key.
    """
    if path.exists():
        return _load(path, crypto)
    key = near(RELAYS_PLACE, RELAY_BITS if of_relay else 0, crypto, secrets.token_bytes)
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        _write(part, key.encode(crypto))
        _put(part, path)  # whole or not there: half a key would let no later run start
    except FileExistsError:
        return _load(path, crypto)
    except OSError as error:
        raise ConfigError(f"the identity cannot be kept in {path}: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)
    return key


def _put(part: Path, path: Path) -> None:
    try:
        os.link(part, path)  # says if there is one by now
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        os.rename(part, path)


def _write(path: Path, data: bytes) -> None:
    """A new file that is on the disk when this returns."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _MODE), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _load(path: Path, crypto: Crypto) -> PrivateKey:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
            data = file.read(MAX_FILE_SIZE + 1)
    except OSError as error:
        raise ConfigError(f"the identity in {path} cannot be read: {error.strerror}") from error
    if os.name == "posix" and mode & 0o077:
        raise ConfigError(f"the identity in {path} can be read by others (mode {mode:o}); chmod 600 it")
    if len(data) > MAX_FILE_SIZE:
        raise InputError(f"{path} is no identity: it is larger than {MAX_FILE_SIZE} bytes")
    try:
        return PrivateKey.decode(data, crypto)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
