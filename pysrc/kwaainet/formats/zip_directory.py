"""Zip archives as places: where each stored member's bytes lie, by byte range.

Follows PKWARE's APPNOTE 4.3 and 4.5 (zip64), as far as ``torch.save`` uses them. Rule of the file:
nothing is inflated, so no archive is larger than its file; compressed members are refused by name.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import ModelFileError, UnsupportedModel
from .reading import Reading

MAX_MEMBERS = 1 << 17
MAX_DIRECTORY_BYTES = 32 << 20
MAX_COMMENT_BYTES = 0xFFFF

_END, _END64, _LOCATOR64, _MEMBER, _LOCAL = b"PK\5\6", b"PK\6\6", b"PK\6\7", b"PK\1\2", b"PK\3\4"
_END_FORM = struct.Struct("<4s4H2LH")
_LOCATOR64_FORM = struct.Struct("<4sLQL")
_END64_FORM = struct.Struct("<4sQ2H2L4Q")
_MEMBER_FORM = struct.Struct("<4s6H3L5H2L")
_LOCAL_FORM = struct.Struct("<4s5H3L2H")
_FULL = 0xFFFFFFFF  # a field that did not fit: zip64 has it
_ENCRYPTED = 1


@dataclass(frozen=True, slots=True)
class Member:
    """``length`` bytes, stored somewhere after the local header at ``header``."""

    name: str
    header: int
    length: int
    method: int = 0
    encrypted: bool = False


def read_directory(size: int) -> Reading[dict[str, Member]]:
    """The members by name, in the archive's order; ``ModelFileError`` if this is no sound archive."""
    length = min(size, _END_FORM.size + _LOCATOR64_FORM.size + MAX_COMMENT_BYTES)
    tail = yield size - length, length
    at = tail.rfind(_END)
    if at < 0 or at + _END_FORM.size > len(tail):
        raise ModelFileError("truncated: the zip archive has no end-of-directory record")
    _, disk, _, _, count, directory_length, start, _ = _END_FORM.unpack_from(tail, at)
    locator = at - _LOCATOR64_FORM.size
    if locator >= 0 and tail[locator : locator + 4] == _LOCATOR64:
        _, _, place, _ = _LOCATOR64_FORM.unpack_from(tail, locator)
        _check_range(place, _END64_FORM.size, size, "zip64 record")
        record = _END64_FORM.unpack((yield place, _END64_FORM.size))
        if record[0] != _END64:
            raise ModelFileError(f"the zip archive has no zip64 record at {place}")
        count, directory_length, start = record[7], record[8], record[9]
    elif disk:
        raise UnsupportedModel("a zip archive of several volumes is not supported")
    if count > MAX_MEMBERS or directory_length > MAX_DIRECTORY_BYTES:
        raise ModelFileError(
            f"zip directory of {count} members in {directory_length} bytes; {MAX_MEMBERS} in "
            f"{MAX_DIRECTORY_BYTES} are allowed"
        )
    _check_range(start, directory_length, size, "zip directory")
    return _members((yield start, directory_length), count, size)


def find_data(member: Member, size: int) -> Reading[int]:
    """Where the bytes of a stored member begin. Its local header says; the directory does not know."""
    if member.encrypted or member.method:
        raise UnsupportedModel(f"{member.name:.80} in the zip archive is compressed or encrypted")
    _check_range(member.header, _LOCAL_FORM.size, size, f"header of {member.name:.80}")
    header = _LOCAL_FORM.unpack((yield member.header, _LOCAL_FORM.size))
    if header[0] != _LOCAL:
        raise ModelFileError(f"the zip archive has no member {member.name:.80} at {member.header}")
    start: int = member.header + _LOCAL_FORM.size + header[-2] + header[-1]
    _check_range(start, member.length, size, f"{member.name:.80}")
    return start


def _members(directory: bytes, count: int, size: int) -> dict[str, Member]:
    members: dict[str, Member] = {}
    position = 0
    for _ in range(count):
        if directory[position : position + 4] != _MEMBER or len(directory) < position + _MEMBER_FORM.size:
            raise ModelFileError(f"the zip directory breaks off after {len(members)} of {count} members")
        fields = _MEMBER_FORM.unpack_from(directory, position)
        flags, method, packed, length = fields[3], fields[4], fields[8], fields[9]
        name_length, extra_length, comment_length, header = *fields[10:13], fields[16]
        at = position + _MEMBER_FORM.size
        raw = directory[at : at + name_length]
        extra = directory[at + name_length : at + name_length + extra_length]
        position = at + name_length + extra_length + comment_length
        wide = _zip64(extra, [value == _FULL for value in (length, packed, header)])
        length, packed, header = wide.get(0, length), wide.get(1, packed), wide.get(2, header)
        name = raw.decode("utf-8", "replace")
        if name in members:
            raise ModelFileError(f"the zip archive has the member {name:.80} twice")
        if method == 0 and length != packed:
            raise ModelFileError(f"{name:.80} in the zip archive has {packed} bytes for {length}")
        _check_range(header, 0, size, f"{name:.80}")
        members[name] = Member(name, header, length, method, bool(flags & _ENCRYPTED))
    return members


def _zip64(extra: bytes, missing: list[bool]) -> Mapping[int, int]:
    """The 64-bit values of those of (length, packed length, header) that are ``missing``."""
    position = 0
    while any(missing) and position + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, position)
        body = extra[position + 4 : position + 4 + length]
        position += 4 + length
        if kind == 1:
            wanted = [index for index, lacks in enumerate(missing) if lacks]
            if len(body) < 8 * len(wanted):
                break
            return dict(zip(wanted, struct.unpack_from(f"<{len(wanted)}Q", body), strict=True))
    return {}


def _check_range(start: int, length: int, size: int, what: str) -> None:
    if start + length > size:
        raise ModelFileError(f"truncated: {what} ends at byte {start + length}, the file at {size}")
