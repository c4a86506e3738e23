"""MessagePack in Hivemind's dialect (``MSGPackSerializer``): records, metadata and schemas.

Extension 0x40 is a tuple, 0x50 a dictionary of DHT records, 0x51 the description of a batched
tensor. Types are strict: floats are float64, an int never stands for a float, tuples never for lists.
Rule of the file: ``loads`` may be given a stranger's bytes, so it counts while it reads.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgpack

from ..errors import KwaaiNetError, LimitExceeded, ProtocolError, UsageError
from .varint import BytesLike

MAX_SIZE = 4 << 20  # bytes: nothing longer fits a unary message
MAX_LENGTH = 4096  # entries of one container: more servers per block than any swarm has
MAX_ELEMENTS = 65536  # entries of all containers together
MAX_DEPTH = 16  # containers inside containers; Petals' schemas have five levels

_TUPLE, _DICTIONARY, _DESCRIPTOR = 0x40, 0x50, 0x51


@dataclass(frozen=True, slots=True)
class DictionaryValue:
    """Hivemind's ``DictionaryDHTValue``: subkey -> (msgpack value, expiration in unix seconds)."""

    items: Mapping[Hashable, tuple[bytes, float]]
    latest_expiration: float = -math.inf
    max_size: float = math.inf  # always infinite in practice; kept so that bytes survive a round trip


@dataclass(frozen=True, slots=True)
class BatchTensorDescriptor:
    """A tensor whose first dimension (``None``) varies; dtype and layout in torch's words."""

    size: tuple[int | None, ...]
    dtype: str | None = "torch.float32"
    layout: str | None = "torch.strided"
    requires_grad: bool = False
    pin_memory: bool = False
    compression: int = 0
    device_type: str | None = None
    device_index: int | None = None


_DESCRIPTOR_FIELDS = BatchTensorDescriptor.__slots__
_TEXT, _NUMBER = (str, type(None)), (int, type(None))
_DESCRIPTOR_TYPES: dict[str, tuple[type, ...]] = {
    "dtype": _TEXT,
    "layout": _TEXT,
    "requires_grad": (bool,),
    "pin_memory": (bool,),
    "compression": (int,),
    "device_type": _TEXT,
    "device_index": _NUMBER,
}


# --- writing ----------------------------------------------------------------------------------


def dumps(value: object) -> bytes:
    """Pack ``value``; ``UsageError`` names the first type that the dialect has no form for."""
    try:
        packed: bytes = msgpack.packb(value, use_bin_type=True, strict_types=True, default=_pack_extension)
    except KwaaiNetError:
        raise
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise UsageError(f"{type(value).__name__} value cannot be packed as msgpack: {error}") from error
    return packed


def _pack_extension(value: object) -> msgpack.ExtType:
    if isinstance(value, tuple):
        return msgpack.ExtType(_TUPLE, dumps(list(value)))
    if isinstance(value, DictionaryValue):
        entries = [[subkey, data, expiration] for subkey, (data, expiration) in value.items.items()]
        return msgpack.ExtType(_DICTIONARY, dumps([value.max_size, value.latest_expiration, entries]))
    if isinstance(value, BatchTensorDescriptor):
        return msgpack.ExtType(
            _DESCRIPTOR, dumps({name: getattr(value, name) for name in _DESCRIPTOR_FIELDS})
        )
    name = f"{type(value).__module__}.{type(value).__name__}"
    raise UsageError(f"{name} {value!r:.40} has no msgpack form; convert it first")


# --- reading ----------------------------------------------------------------------------------


def loads(data: BytesLike) -> Any:
    """Unpack one value. Raises ``ProtocolError``; ``LimitExceeded`` past the caps above.

    Map keys are str or bytes. Extensions of unknown type become their bytes, as in Hivemind.
    """
    if len(data) > MAX_SIZE:
        raise LimitExceeded(f"msgpack value of {len(data)} bytes exceeds {MAX_SIZE}")
    value = _Reader().unpack(data)
    _check_depth(value, MAX_DEPTH)
    return value


def _check_depth(value: object, allowed: int) -> None:
    kind = type(value)
    if kind is dict:
        children = value.values()  # type: ignore[attr-defined]
    elif kind is list or kind is tuple:
        children = value
    else:
        return
    if not allowed:
        raise LimitExceeded(f"msgpack value nests containers more than {MAX_DEPTH} deep")
    for child in children:
        _check_depth(child, allowed - 1)


@dataclass(slots=True)
class _Reader:
    """Unpacks a value and the extensions inside it under one budget of elements."""

    elements: int = MAX_ELEMENTS
    depth: int = field(default=0)

    def unpack(self, data: BytesLike) -> Any:
        try:
            return msgpack.unpackb(
                data,
                raw=False,
                list_hook=self._count,
                object_hook=self._count,
                ext_hook=self._extension,
                max_array_len=MAX_LENGTH,
                max_map_len=MAX_LENGTH,
            )
        except KwaaiNetError:
            raise
        except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
            reason = "nested too deep" if isinstance(error, msgpack.StackError) else error
            raise ProtocolError(
                f"not msgpack ({len(data)} bytes, {bytes(data[:16]).hex()}…): {reason}"
            ) from error

    def _count(self, container: Any) -> Any:
        self.elements -= len(container) + 1
        if self.elements < 0:
            raise LimitExceeded(f"msgpack value has more than {MAX_ELEMENTS} elements")
        return container

    def _extension(self, code: int, data: bytes) -> object:
        if code not in _DECODERS:
            return data
        if self.depth == MAX_DEPTH:
            raise LimitExceeded(f"msgpack value nests extensions more than {MAX_DEPTH} deep")
        self.depth += 1
        inner = self.unpack(data)
        self.depth -= 1
        return _DECODERS[code](inner)


def _read_tuple(inner: object) -> object:
    if type(inner) is not list:
        raise ProtocolError(f"tuple extension holds {type(inner).__name__}, not an array")
    return tuple(inner)


def _read_dictionary(inner: object) -> object:
    if type(inner) is not list or len(inner) != 3 or type(inner[2]) is not list:
        raise ProtocolError("dictionary extension is not [maximum size, latest expiration, entries]")
    max_size, latest, entries = inner
    items: dict[Hashable, tuple[bytes, float]] = {}
    for entry in entries:
        subkey, value, expiration = _read_entry(entry)
        if subkey not in items or items[subkey][1] < expiration:
            items[subkey] = (value, expiration)
    return DictionaryValue(items, _read_number(latest), _read_number(max_size))


def _read_entry(entry: object) -> tuple[Hashable, bytes, float]:
    if type(entry) is not list or len(entry) != 3 or type(entry[1]) is not bytes:
        raise ProtocolError("dictionary entry is not [subkey, value bytes, expiration]")
    subkey, value, expiration = entry
    try:
        hash(subkey)
    except TypeError as error:
        raise ProtocolError(f"{type(subkey).__name__} cannot be a dictionary's subkey") from error
    return subkey, value, _read_number(expiration)


def _read_number(value: object) -> float:
    if type(value) not in (int, float) or value != value:
        raise ProtocolError(f"dictionary holds {str(value)[:40]!r} in place of a number")
    return value  # type: ignore[return-value]


def _read_descriptor(inner: object) -> object:
    if type(inner) is not dict or type(inner.get("size")) is not tuple:
        raise ProtocolError("tensor descriptor is not a map with a tuple as its size")
    if not all(size is None or type(size) is int for size in inner["size"]):
        raise ProtocolError(f"tensor descriptor has size {inner['size']!r:.80}; only ints and None can be")
    for name, kinds in _DESCRIPTOR_TYPES.items():
        if name in inner and type(inner[name]) not in kinds:
            raise ProtocolError(f"tensor descriptor has {name} {inner[name]!r:.80}")
    return BatchTensorDescriptor(**{name: inner[name] for name in _DESCRIPTOR_FIELDS if name in inner})


_DECODERS = {_TUPLE: _read_tuple, _DICTIONARY: _read_dictionary, _DESCRIPTOR: _read_descriptor}
