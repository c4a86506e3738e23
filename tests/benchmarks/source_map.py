"""Where a position of a bundle comes from, by the map esbuild writes beside it.

Follows the source map format, revision 3. Rule of the file: a folder of node_modules counts as one source.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path

ALPHABET = {
    letter: value
    for value, letter in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
}
PACKAGE = re.compile(r".*node_modules/((?:@[^/]+/)?[^/]+)/")


class SourceMap:
    """The map of one bundle."""

    def __init__(self, path: Path) -> None:
        fields = json.loads(path.read_text())
        self._sources = [_name(source) for source in fields["sources"]]
        self._lines: list[tuple[list[int], list[int]]] = []
        source = 0
        for line in fields["mappings"].split(";"):
            column, columns, indexes = 0, [], []
            for segment in filter(None, line.split(",")):
                values = list(_values(segment))
                column += values[0]
                if len(values) > 1:
                    source += values[1]
                    columns.append(column)
                    indexes.append(source)
            self._lines.append((columns, indexes))

    def source(self, line: int, column: int) -> str:
        """The package or file of a position, both from 0 on; empty where the map knows none."""
        if not 0 <= line < len(self._lines):
            return ""
        columns, indexes = self._lines[line]
        at = bisect_right(columns, column) - 1
        return self._sources[indexes[at]] if at >= 0 else ""


def _name(source: str) -> str:
    found = PACKAGE.match(source)
    return found[1] if found else source.rpartition("../")[2]


def _values(segment: str) -> Iterator[int]:
    """The numbers of a segment, in base 64 with the sign in the lowest bit."""
    value = shift = 0
    for letter in segment:
        digit = ALPHABET[letter]
        value += (digit & 31) << shift
        shift += 5
        if not digit & 32:
            yield -(value >> 1) if value & 1 else value >> 1
            value = shift = 0
