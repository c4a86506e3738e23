"""Protocol Buffers' wire format for frozen dataclasses, both proto2 and proto3.

Follows https://protobuf.dev/programming-guides/encoding; the bytes equal those of Google's runtime.
A message is a ``@dataclass(frozen=True, slots=True)`` deriving from ``Message`` whose fields are made
with one of four words, each taking the field number and a kind:

    one       proto3 scalar: has a zero value, not sent while it has it
    optional  sent unless ``None``: messages, proto2 and ``optional`` proto3 scalars
    required  proto2: always sent, even if empty; ``ProtocolError`` if missing
    many      repeated, a tuple; numbers are packed when sent and accepted either way

Rule of the file: it knows wire types, not messages. Unknown fields are skipped, unknown enum numbers
stay numbers, of a singular field sent twice the last counts. Groups are refused, and no message may
contain itself, so declarations bound the depth.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable
from typing import Any, Self, TypeVar

from ..errors import LimitExceeded, ProtocolError
from . import varint
from .varint import BytesLike

MAX_ITEMS = 65536  # fields and elements in one message and all inside it: bounds objects per byte

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}


@dataclasses.dataclass(frozen=True, slots=True)
class Kind:
    """A scalar type: its wire type, zero value, and both directions (varint kinds: to and from int)."""

    wire: int
    zero: Any
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]


def _to_signed(number: int) -> int:
    return number - (1 << 64) if number >> 63 else number


def _flat(value: BytesLike) -> BytesLike:
    return value if isinstance(value, bytes) else memoryview(value).cast("B")


def _decode_text(view: memoryview) -> str:
    try:
        return str(view, "utf-8")
    except UnicodeDecodeError as error:
        raise ProtocolError(f"string field {bytes(view[:40])!r} is not UTF-8") from error


_DOUBLE, _FLOAT = struct.Struct("<d"), struct.Struct("<f")

UINT = Kind(_VARINT, 0, int, int)  # uint32, uint64 and enums
INT = Kind(_VARINT, 0, lambda number: number % (1 << 64), _to_signed)  # int32, int64: two's complement
BOOL = Kind(_VARINT, False, int, bool)
DOUBLE = Kind(_FIXED64, 0.0, _DOUBLE.pack, lambda view: _DOUBLE.unpack(view)[0])
FLOAT = Kind(_FIXED32, 0.0, _FLOAT.pack, lambda view: _FLOAT.unpack(view)[0])
BYTES = Kind(_LENGTH, b"", _flat, bytes)
VIEW = Kind(_LENGTH, b"", _flat, lambda view: view)  # bytes, decoded as a memoryview without a copy
STRING = Kind(_LENGTH, "", lambda text: text.encode("utf-8"), _decode_text)


def one(number: int, kind: Kind) -> Any:
    """A proto3 scalar field."""
    return _declare(number, kind, "one", kind.zero)


def optional(number: int, kind: Kind | type[Message]) -> Any:
    """A field that may be absent (``None``)."""
    return _declare(number, kind, "optional", None)


def required(number: int, kind: Kind | type[Message]) -> Any:
    """A proto2 required field; it has no default, so it comes before fields that have one."""
    return _declare(number, kind, "required", dataclasses.MISSING)


def many(number: int, kind: Kind | type[Message]) -> Any:
    """A repeated field: a tuple."""
    return _declare(number, kind, "many", ())


def _declare(number: int, kind: Kind | type[Message], rule: str, default: Any) -> Any:
    return dataclasses.field(default=default, metadata={"protobuf": (number, kind, rule)})


class _Field:
    """One declared field, with what both directions need worked out once."""

    __slots__ = ("always", "decode", "encode", "message", "name", "number", "packed", "rule", "tag", "wire")

    def __init__(self, name: str, number: int, kind: Kind | type[Message], rule: str) -> None:
        self.name, self.number, self.rule = name, number, rule
        self.message = None if isinstance(kind, Kind) else kind
        self.wire = kind.wire if isinstance(kind, Kind) else _LENGTH
        self.packed = rule == "many" and self.wire != _LENGTH
        self.always = rule in ("optional", "required")  # sent even if empty
        self.tag = varint.encode(number << 3 | (_LENGTH if self.packed else self.wire))
        if isinstance(kind, Kind):
            self.encode, self.decode = kind.encode, kind.decode


@dataclasses.dataclass(frozen=True, slots=True)
class _Plan:
    """The fields of one message class; ``by_tag`` has each under the tag it is expected with."""

    fields: tuple[_Field, ...]
    by_number: dict[int, _Field]
    by_tag: dict[int, _Field]
    required: frozenset[str]
    many: tuple[str, ...]


_PLANS: dict[type, _Plan] = {}


def _plan(cls: type[Message]) -> _Plan:
    """The plan of ``cls``, made when first asked for: its fields exist only after the decorator ran."""
    plan = _PLANS.get(cls)
    if plan is None:
        plan = _PLANS[cls] = _make_plan(cls)
    return plan


def _make_plan(cls: Any) -> _Plan:
    fields = [_Field(field.name, *field.metadata["protobuf"]) for field in dataclasses.fields(cls)]
    fields.sort(key=lambda field: field.number)
    return _Plan(
        tuple(fields),
        {field.number: field for field in fields},
        {field.number << 3 | field.wire: field for field in fields if not field.packed},
        frozenset(field.name for field in fields if field.rule == "required"),
        tuple(field.name for field in fields if field.rule == "many"),
    )


_MessageT = TypeVar("_MessageT", bound="Message")


class Message:
    """Base of every message; subclasses are frozen, slotted dataclasses."""

    __slots__ = ()

    def encode(self) -> bytes:
        """The message's bytes, fields in the order of their numbers."""
        parts: list[BytesLike] = []
        _write(self, parts)
        return b"".join(parts)

    @classmethod
    def decode(cls, data: BytesLike) -> Self:
        """Parse all of ``data``. Raises ``ProtocolError``; ``LimitExceeded`` past ``MAX_ITEMS``.

        ``VIEW`` fields refer to ``data``, so it must not change afterwards.
        """
        return _read(cls, memoryview(data), [MAX_ITEMS])


# --- writing ----------------------------------------------------------------------------------


def _write(message: Message, parts: list[BytesLike]) -> int:
    """Append the message's bytes to ``parts``; returns how many. Payloads are not copied."""
    size = 0
    for field in (_PLANS.get(type(message)) or _plan(type(message))).fields:
        value = getattr(message, field.name)
        if field.always:
            if value is not None:
                size += _write_value(field, value, parts)
        elif not value:
            continue
        elif field.rule == "one":
            size += _write_value(field, value, parts)
        elif field.packed:
            size += _write_packed(field, value, parts)
        else:
            for element in value:
                size += _write_value(field, element, parts)
    return size


def _write_value(field: _Field, value: Any, parts: list[BytesLike]) -> int:
    parts.append(field.tag)
    if field.message is not None:
        place = len(parts)
        parts.append(b"")
        size = _write(value, parts)
        parts[place] = prefix = varint.encode(size)
        return len(field.tag) + len(prefix) + size
    payload = _payload(field, value)
    if field.wire == _LENGTH:
        prefix = varint.encode(len(payload))
        parts += (prefix, payload)
        return len(field.tag) + len(prefix) + len(payload)
    parts.append(payload)
    return len(field.tag) + len(payload)


def _write_packed(field: _Field, values: Any, parts: list[BytesLike]) -> int:
    payload = b"".join([_payload(field, value) for value in values])
    prefix = varint.encode(len(payload))
    parts += (field.tag, prefix, payload)
    return len(field.tag) + len(prefix) + len(payload)


def _payload(field: _Field, value: Any) -> BytesLike:
    encoded = field.encode(value)
    return varint.encode(encoded) if field.wire == _VARINT else encoded


# --- reading ----------------------------------------------------------------------------------


def _read(cls: type[_MessageT], data: memoryview, budget: list[int]) -> _MessageT:
    plan = _PLANS.get(cls) or _plan(cls)
    values: dict[str, Any] = {}
    position, end = 0, len(data)
    while position < end:
        budget[0] -= 1
        if budget[0] < 0:
            raise _too_many()
        tag = data[position]
        field = plan.by_tag.get(tag) if tag < 0x80 and tag & 7 == _LENGTH else None
        if field is None:
            position = _read_field(cls, plan, data, position, values, budget)
            continue
        # The way of nearly all bytes, written out: a field that is known and as it should be.
        size, start = varint.decode(data, position + 1)
        position = start + size
        if position > end:
            raise _too_short(tag, size, end - start)
        raw = data[start:position]
        value = field.decode(raw) if field.message is None else _read(field.message, raw, budget)
        if field.rule == "many":
            values.setdefault(field.name, []).append(value)
        else:
            values[field.name] = value
    return _build(cls, plan, values)


def _read_field(
    cls: type[Message],
    plan: _Plan,
    data: memoryview,
    position: int,
    values: dict[str, Any],
    budget: list[int],
) -> int:
    """Put the field of any kind at ``position`` into ``values``; the position after it."""
    tag, position = varint.decode(data, position)
    raw, position = _read_raw(data, position, tag)
    field = plan.by_number.get(tag >> 3)
    if field is None:
        return position
    if tag & 7 == field.wire:
        value = field.decode(raw) if field.message is None else _read(field.message, raw, budget)
        if field.rule == "many":
            values.setdefault(field.name, []).append(value)
        else:
            values[field.name] = value
    elif field.packed and tag & 7 == _LENGTH:
        values.setdefault(field.name, []).extend(_read_packed(field, raw, budget))
    else:
        raise ProtocolError(f"field {cls.__name__}.{field.name} came with wire type {tag & 7}")
    return position


def _build(cls: type[_MessageT], plan: _Plan, values: dict[str, Any]) -> _MessageT:
    if plan.required and (missing := plan.required - values.keys()):
        raise ProtocolError(f"{cls.__name__} came without its required {', '.join(sorted(missing))}")
    for name in plan.many:
        if name in values:
            values[name] = tuple(values[name])
    return cls(**values)


def _read_raw(data: memoryview, position: int, tag: int) -> tuple[Any, int]:
    """(the int or view that follows ``tag``, the position after it)."""
    wire = tag & 7
    if tag < 8:
        raise ProtocolError(f"protobuf tag {tag} has field number 0; numbers start at 1")
    if wire == _VARINT:
        return varint.decode(data, position)
    if wire == _LENGTH:
        size, position = varint.decode(data, position)
    elif wire in _FIXED_SIZES:
        size = _FIXED_SIZES[wire]
    else:
        raise ProtocolError(f"field {tag >> 3} has wire type {wire}; groups are not supported")
    after = position + size
    if after > len(data):
        raise _too_short(tag, size, len(data) - position)
    return data[position:after], after


def _read_packed(field: _Field, data: memoryview, budget: list[int]) -> list[Any]:
    if field.wire == _VARINT and 0 < len(data) <= budget[0] and max(data) < 0x80:
        budget[0] -= len(data)
        return [field.decode(number) for number in data]  # a byte each: flags, small sizes
    values: list[Any] = []
    position, end = 0, len(data)
    tag = 8 | field.wire
    while position < end:
        budget[0] -= 1
        if budget[0] < 0:
            raise _too_many()
        raw, position = _read_raw(data, position, tag)
        values.append(field.decode(raw))
    return values


def _too_many() -> LimitExceeded:
    return LimitExceeded(f"protobuf message has more than {MAX_ITEMS} fields and elements")


def _too_short(tag: int, size: int, left: int) -> ProtocolError:
    return ProtocolError(f"field {tag >> 3} claims {size} bytes, {left} are left")
