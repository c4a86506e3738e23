"""The store and the source in memory, beyond the compliance suites."""

import hashlib

import pytest

from kwaainet.errors import ModelFileError
from kwaainet.testing.clock import run
from kwaainet.testing.store import MemorySource, MemoryStore


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_full_store_drops_silently() -> None:
    store = MemoryStore(capacity=10)
    run(store.put(digest(b"12345678"), b"12345678"))
    run(store.put(digest(b"abc"), b"abc"))
    assert run(store.get(digest(b"12345678"))) == b"12345678"
    assert run(store.get(digest(b"abc"))) is None


def test_rotten_bytes_are_dropped() -> None:
    store = MemoryStore()
    run(store.put(digest(b"data"), b"data"))
    store.blobs[digest(b"data")] = b"dxta"
    assert run(store.get(digest(b"data"))) is None
    assert store.blobs == {}


def test_reads_are_counted() -> None:
    source = MemorySource({"a": b"0123"})
    assert run(source.read("a", 1, 2)) == b"12"
    assert source.reads == [("a", 1, 2)]


@pytest.mark.parametrize(("offset", "length"), [(-1, 2), (0, -1), (4, 1), (0, 5)])
def test_bad_ranges(offset: int, length: int) -> None:
    with pytest.raises(ModelFileError, match="'a' has 4 bytes"):
        run(MemorySource({"a": b"0123"}).read("a", offset, length))
