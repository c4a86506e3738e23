"""The identity file: made once, kept private, never overwritten."""

import errno
import os
import stat
from pathlib import Path

import pytest

from kwaainet.errors import ConfigError, InputError
from kwaainet.identity.grinding import RELAY_BITS, RELAYS_PLACE
from kwaainet.identity.keys import PrivateKey, peer_id
from kwaainet.libp2p.kad import position, shared_bits
from kwaainet.native.crypto import NativeCrypto
from kwaainet.native.identity_file import MAX_FILE_SIZE, load_or_create_identity

CRYPTO = NativeCrypto()


def private(path, data):
    path.write_bytes(data)
    path.chmod(0o600)
    return path


def test_an_absent_file_is_made_and_gives_the_same_key_again(tmp_path):
    path = tmp_path / "identity"
    key = load_or_create_identity(path, CRYPTO)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_or_create_identity(path, CRYPTO) == key
    assert path.read_bytes() == key.encode(CRYPTO)
    assert load_or_create_identity(tmp_path / "other", CRYPTO) != key


def test_the_umask_does_not_matter(tmp_path):
    before = os.umask(0)
    try:
        load_or_create_identity(tmp_path / "identity", CRYPTO)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "identity").stat().st_mode) == 0o600


def test_an_existing_key_is_read(tmp_path):
    key = PrivateKey(b"k" * 32)
    assert load_or_create_identity(private(tmp_path / "identity", key.encode(CRYPTO)), CRYPTO) == key


@pytest.mark.parametrize("data", [b"", b"not a key", b"\x08\x00\x12\x00", bytes(MAX_FILE_SIZE + 1)])
def test_a_file_that_holds_no_key_is_named_and_left_alone(tmp_path, data):
    path = private(tmp_path / "identity", data)
    with pytest.raises(InputError, match=str(path)):
        load_or_create_identity(path, CRYPTO)
    assert path.read_bytes() == data


def test_a_key_that_others_can_read_is_refused(tmp_path):
    path = private(tmp_path / "identity", PrivateKey(b"k" * 32).encode(CRYPTO))
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_or_create_identity(path, CRYPTO)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(ConfigError, match="missing"):
        load_or_create_identity(tmp_path / "missing" / "identity", CRYPTO)
    with pytest.raises(ConfigError, match=str(tmp_path)):
        load_or_create_identity(tmp_path, CRYPTO)


def test_a_disk_that_is_full_leaves_no_half_a_key(tmp_path, monkeypatch):
    path = tmp_path / "identity"

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ConfigError, match="No space left"):
            load_or_create_identity(path, CRYPTO)
    assert list(tmp_path.iterdir()) == []
    load_or_create_identity(path, CRYPTO)
    assert list(tmp_path.iterdir()) == [path]


def test_one_that_was_made_meanwhile_is_taken(tmp_path, monkeypatch):
    path = tmp_path / "identity"
    theirs = load_or_create_identity(path, CRYPTO)
    monkeypatch.setattr(Path, "exists", lambda self: False)
    assert load_or_create_identity(path, CRYPTO) == theirs
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_system_without_links_will_do(tmp_path, monkeypatch):
    def refused(source, target):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    key = load_or_create_identity(tmp_path / "identity", CRYPTO)
    assert load_or_create_identity(tmp_path / "identity", CRYPTO) == key
    assert list(tmp_path.iterdir()) == [tmp_path / "identity"]


def test_a_relays_key_stands_where_relays_do(tmp_path) -> None:
    crypto = CRYPTO
    key = load_or_create_identity(tmp_path / "key", crypto, of_relay=True)
    found = position(peer_id(key.public(crypto)).data)
    assert shared_bits(found, int.from_bytes(RELAYS_PLACE, "big")) >= RELAY_BITS
    assert load_or_create_identity(tmp_path / "key", crypto) == key
