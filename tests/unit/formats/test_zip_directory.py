"""Members lie where the standard writer put them; archives that lie about places are refused."""

from __future__ import annotations

import io
import struct
import zipfile

import pytest

from kwaainet.errors import KwaaiNetError, ModelFileError, UnsupportedModel
from kwaainet.formats.zip_directory import MAX_MEMBERS, Member, find_data, read_directory

from .torch_files import drive

CONTENT = {"a/data.pkl": b"first", "a/data/0": bytes(range(200)), "empty": b""}


def archive(method: int = zipfile.ZIP_STORED, comment: bytes = b"") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as writer:
        for name, content in CONTENT.items():
            writer.writestr(name, content)
        writer.comment = comment
    return file.getvalue()


def members(data: bytes) -> dict[str, Member]:
    found: dict[str, Member] = drive(read_directory(len(data)), data)
    return found


def content(data: bytes, name: str) -> bytes:
    member = members(data)[name]
    start: int = drive(find_data(member, len(data)), data)
    return data[start : start + member.length]


def wide(data: bytes, count: int = 3) -> bytes:
    """The same archive as one too large for 32-bit fields says it."""
    place = struct.unpack_from("<L", data, len(data) - 6)[0]
    directory, entries = data[place:-22], b""
    while directory:
        fields = list(struct.unpack_from("<4s6H3L5H2L", directory))
        name = directory[46 : 46 + fields[10]]
        extra = struct.pack("<HHQQQ", 1, 24, fields[9], fields[8], fields[16])
        fields[8] = fields[9] = fields[16] = 0xFFFFFFFF
        fields[11], rest = len(extra), directory[46 + len(name) :]
        entries, directory = entries + struct.pack("<4s6H3L5H2L", *fields) + name + extra, rest
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, len(entries), place)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, place + len(entries), 1)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return data[:place] + entries + record + locator + end


@pytest.mark.parametrize("data", [archive(), archive(comment=b"words" * 1000), wide(archive())])
def test_members_are_found(data: bytes) -> None:
    assert {name: content(data, name) for name in members(data)} == CONTENT


def test_the_standard_reader_agrees_that_the_wide_archive_is_one() -> None:
    with zipfile.ZipFile(io.BytesIO(wide(archive()))) as reader:
        assert {name: reader.read(name) for name in reader.namelist()} == CONTENT


def test_compressed_members_are_refused_by_name() -> None:
    data = archive(zipfile.ZIP_DEFLATED)
    with pytest.raises(UnsupportedModel, match="a/data/0 in the zip archive is compressed"):
        content(data, "a/data/0")


def patched(data: bytes, offset: int, form: str, value: int) -> bytes:
    """With another number at ``offset`` of the end record (negative) or the first directory entry."""
    start = struct.unpack_from("<L", data, len(data) - 6)[0] if offset >= 0 else len(data)
    broken = bytearray(data)
    struct.pack_into(form, broken, start + offset, value)
    return bytes(broken)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (archive()[:-8], "no end-of-directory"),
        (b"", "no end-of-directory"),
        (patched(archive(), -6, "<L", 1 << 30), "truncated: zip directory ends"),
        (patched(archive(), -12, "<H", 9), "breaks off after 3 of 9"),
        (wide(archive(), MAX_MEMBERS + 1), f"directory of {MAX_MEMBERS + 1} members"),
        (patched(archive(), 42, "<L", 1 << 30), "truncated: a/data.pkl"),
        (patched(archive(), 42, "<L", 7), "no member a/data.pkl at 7"),
        (patched(archive(), 24, "<L", 1 << 30), "has 5 bytes for 1073741824"),
        (patched(patched(archive(), 24, "<L", 1 << 30), 20, "<L", 1 << 30), "truncated: a/data.pkl ends"),
    ],
)
def test_archives_that_lie(data: bytes, message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        content(data, "a/data.pkl")
    with pytest.raises(KwaaiNetError):
        content(data, "a/data.pkl")
