"""What stands under a key: one value, or a dictionary whose entries expire one by one.

Follows ``hivemind/dht/storage.py``. Rule of the file: of two claims the later expiration wins, and
nothing here decodes a value: values are msgpack bytes.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from ..errors import ProtocolError
from ..wire import msgpack

_FOREVER = 1e15  # seconds; what is later (or infinite) was never meant as a time
Subkey: TypeAlias = Hashable  # what msgpack gives: a str in a Petals swarm


@dataclass(frozen=True, slots=True)
class Value:
    """msgpack ``data``, valid until ``expiration`` (unix seconds)."""

    data: bytes
    expiration: float


@dataclass(frozen=True, slots=True)
class Dictionary:
    """Subkey -> value; never empty."""

    entries: Mapping[Subkey, Value]

    @property
    def expiration(self) -> float:
        """The latest of its entries'."""
        return max(value.expiration for value in self.entries.values())

    def encode(self) -> bytes:
        """As msgpack extension 0x50, which is how dictionaries travel."""
        items = {subkey: (value.data, value.expiration) for subkey, value in self.entries.items()}
        return msgpack.dumps(msgpack.DictionaryValue(items, float(self.expiration)))

    @classmethod
    def decode(cls, data: bytes) -> Dictionary | None:
        """``None`` for an empty one; entries without a finite expiration are left out.

        Raises ``ProtocolError``.
        """
        packed = msgpack.loads(data)
        if not isinstance(packed, msgpack.DictionaryValue):
            raise ProtocolError(f"a dictionary was expected, not {type(packed).__name__}")
        entries = {
            subkey: Value(data, float(until))
            for subkey, (data, until) in packed.items.items()
            if abs(until) < _FOREVER
        }
        return cls(entries) if entries else None


Record: TypeAlias = Value | Dictionary


@dataclass(frozen=True, slots=True)
class StoreItem:
    """One thing to store: ``value`` is msgpack bytes, ``subkey`` ``None`` for a plain value."""

    key: str
    subkey: str | None
    value: bytes
    expiration: float


def merge(one: Record | None, other: Record | None) -> Record | None:
    """What two nodes know of a key, together: dictionaries are united, else the newer one wins."""
    if one is None or other is None:
        return one or other
    if isinstance(one, Dictionary) and isinstance(other, Dictionary):
        entries = dict(one.entries)
        for subkey, value in other.entries.items():
            if subkey not in entries or entries[subkey].expiration < value.expiration:
                entries[subkey] = value
        return Dictionary(entries)
    return other if other.expiration > one.expiration else one


def alive(record: Record | None, now: float) -> Record | None:
    """The part of a record that has not expired."""
    if isinstance(record, Dictionary):
        entries = {subkey: value for subkey, value in record.entries.items() if value.expiration >= now}
        if len(entries) == len(record.entries):
            return record
        return Dictionary(entries) if entries else None
    return record if record is not None and record.expiration >= now else None
