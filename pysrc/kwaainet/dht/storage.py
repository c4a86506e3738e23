"""The records a node keeps for others.

Follows ``hivemind/dht/storage.py``: a record is accepted if it expires later than the one it would
replace, a subkey likewise, and a plain value gives way to a dictionary entry that expires later.
Rule of the file: anybody may store anything here, so everything is bounded, the time that one store
takes too; what does not fit is refused, nothing alive is thrown out for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from .key import DHTID
from .record import Dictionary, Record, Subkey, Value, alive

MAX_KEYS = 65_536  # a swarm of 100 models with 100 blocks needs 10,000, spread over its nodes
MAX_VALUE_SIZE = 64 * 1024  # bytes; Petals' announcements have about 500
MAX_SUBKEYS = 4096  # servers of one block; as many as fit one msgpack container
MAX_SUBKEY_SIZE = 1024  # characters or bytes; a peer id has about 50
MAX_DICTIONARY_SIZE = 1024 * 1024  # bytes; a reply of 4 MiB must hold it
MAX_TOTAL_SIZE = 64 * 1024 * 1024  # bytes of values and bookkeeping
MAX_LIFETIME = 3 * 86_400.0  # seconds from now to an expiration; Petals uses minutes
_OVERHEAD = 128  # bytes counted for an entry beside its value: about what Python objects take


@dataclass(slots=True)
class _Entries:
    """A dictionary with its books: ``size`` in bytes, and nothing in it expires before ``soonest``."""

    values: dict[Subkey, Value] = field(default_factory=dict)
    size: int = 0
    soonest: float = math.inf

    def put(self, subkey: Subkey, value: Value) -> None:
        self.size += _cost(value, subkey) - self.cost_of(subkey)
        self.values[subkey] = value
        self.soonest = min(self.soonest, value.expiration)

    def cost_of(self, subkey: Subkey) -> int:
        value = self.values.get(subkey)
        return 0 if value is None else _cost(value, subkey)

    def expire(self, now: float) -> None:
        if self.soonest < now:
            self.values = {sub: value for sub, value in self.values.items() if value.expiration >= now}
            self.size = sum(_cost(value, sub) for sub, value in self.values.items())
            self.soonest = min((value.expiration for value in self.values.values()), default=math.inf)


class Storage:
    """Key -> record. ``now`` is unix seconds."""

    def __init__(self, *, max_keys: int = MAX_KEYS, max_total_size: int = MAX_TOTAL_SIZE) -> None:
        self._max_keys = max_keys
        self._max_total_size = max_total_size
        self._values: dict[DHTID, Value] = {}
        self._dictionaries: dict[DHTID, _Entries] = {}
        self._soonest = math.inf  # nothing expires before this
        self.size = 0  # bytes in use

    def __len__(self) -> int:
        return len(self._values) + len(self._dictionaries)

    def get(self, key: DHTID, now: float) -> Record | None:
        """What is kept under ``key`` and has not expired."""
        if key in self._values:
            return alive(self._values[key], now)
        entries = self._dictionaries.get(key)
        return alive(Dictionary(dict(entries.values)), now) if entries else None

    def keys(self) -> list[DHTID]:
        """All keys; what is under some of them may have expired."""
        return [*self._values, *self._dictionaries]

    def items(self, now: float) -> Iterator[tuple[DHTID, Record]]:
        """All records that have not expired."""
        for key in self.keys():
            record = self.get(key, now)
            if record is not None:
                yield key, record

    def values_of(self, subkey: Subkey, now: float) -> Iterator[Value]:
        """What stands under this subkey in any dictionary and has not expired."""
        for entries in self._dictionaries.values():
            value = entries.values.get(subkey)
            if value is not None and value.expiration >= now:
                yield value

    def store(self, key: DHTID, value: Value, now: float) -> bool:
        """Keep a plain value; whether it was accepted."""
        self._expire_key(key, now)
        current = self.get(key, now)
        if current is not None and current.expiration >= value.expiration:
            return False
        if not self._admits(key, value, _cost(value) - self._size_of(key), now):
            return False
        self._drop(key)
        self._values[key] = value
        self._count(_cost(value), value)
        return True

    def store_subkey(
        self, key: DHTID, subkey: Subkey, value: Value, now: float, *, whatever_date: bool = False
    ) -> bool:
        """Keep one entry of a dictionary; whether it was accepted. ``whatever_date``: even if what stands
        there expires later."""
        self._expire_key(key, now)
        plain, entries = self._values.get(key), self._dictionaries.get(key) or _Entries()
        current = plain or entries.values.get(subkey)
        if current is not None and current.expiration >= value.expiration and not whatever_date:
            return False
        growth = _cost(value, subkey) - (self._size_of(key) if plain else entries.cost_of(subkey))
        has_room = len(entries.values) < MAX_SUBKEYS or subkey in entries.values
        if not has_room or self._size_of(key) + growth > MAX_DICTIONARY_SIZE or not _is_subkey(subkey):
            return False
        if not self._admits(key, value, growth, now):
            return False
        if plain is not None:
            self._drop(key)
            growth = _cost(value, subkey)
        entries.put(subkey, value)
        self._dictionaries[key] = entries
        self._count(growth, value)
        return True

    def expire(self, now: float) -> None:
        """Let go of what has expired; worth calling every minute."""
        if self._soonest < now:
            for key in self.keys():
                self._expire_key(key, now)
            soonest = [value.expiration for value in self._values.values()]
            soonest += [entries.soonest for entries in self._dictionaries.values()]
            self._soonest = min(soonest, default=math.inf)

    def _count(self, growth: int, value: Value) -> None:
        self.size += growth
        self._soonest = min(self._soonest, value.expiration)

    def _admits(self, key: DHTID, value: Value, growth: int, now: float) -> bool:
        in_time = math.isfinite(value.expiration) and now <= value.expiration <= now + MAX_LIFETIME
        if not in_time or len(value.data) > MAX_VALUE_SIZE:
            return False
        if self._is_full(key, growth):
            self.expire(now)
        return not self._is_full(key, growth)

    def _is_full(self, key: DHTID, growth: int) -> bool:
        is_new = key not in self._values and key not in self._dictionaries
        return self.size + growth > self._max_total_size or (is_new and len(self) >= self._max_keys)

    def _expire_key(self, key: DHTID, now: float) -> None:
        if key in self._values and self._values[key].expiration < now:
            self._drop(key)
        entries = self._dictionaries.get(key)
        if entries is not None:
            before = entries.size
            entries.expire(now)
            self.size += entries.size - before
            if not entries.values:
                del self._dictionaries[key]

    def _size_of(self, key: DHTID) -> int:
        if key in self._values:
            return _cost(self._values[key])
        entries = self._dictionaries.get(key)
        return entries.size if entries is not None else 0

    def _drop(self, key: DHTID) -> None:
        self.size -= self._size_of(key)
        self._values.pop(key, None)
        self._dictionaries.pop(key, None)


def _is_subkey(subkey: Subkey) -> bool:
    """Text, bytes or a number of bounded size: what the bookkeeping can count."""
    if isinstance(subkey, str | bytes):
        return len(subkey) <= MAX_SUBKEY_SIZE
    return isinstance(subkey, int | float)


def _cost(value: Value, subkey: Subkey = None) -> int:
    name = len(subkey) if isinstance(subkey, str | bytes) else 0
    return len(value.data) + name + _OVERHEAD
