"""JSON from strangers, RFC 8259: bytes in, one object out.

Rule of the file: nesting is bounded before the parser sees the text. The interpreter's own guard
against deep recursion does not hold in WebAssembly: there a hundred thousand brackets overflow the
browser's stack and end the whole tab.
"""

from __future__ import annotations

import json
import re
from typing import Any

from ..errors import ModelFileError

MAX_DEPTH = 32  # model files nest some six levels deep

_ALL_BUT_BRACKETS = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[^][{}"]++', re.DOTALL)


def parse_object(text: str | bytes, what: str, *, unique: bool = False) -> dict[str, Any]:
    """The JSON object that ``text`` (UTF-8) is; ``ModelFileError`` names ``what`` it was to be.

    With ``unique`` no object may have a key twice; without it the last one counts. Time and memory
    are linear in the text, whose size is the caller's to bound.
    """
    try:
        characters = text if isinstance(text, str) else text.decode()
        _check_depth(characters)
        value = json.loads(characters, object_pairs_hook=_unique if unique else None)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{what} is not JSON: {error!s:.80}") from None
    if not isinstance(value, dict):
        raise ModelFileError(f"{what} is not a JSON object but {type(value).__name__}")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for key, item in pairs:
        if key in value:
            raise ModelFileError(f"an object has the key {key:.80} twice")
        value[key] = item
    return value


def _check_depth(text: str) -> None:
    """Take matching brackets away from the inside out; what is left after enough rounds lies too deep."""
    brackets = _ALL_BUT_BRACKETS.sub("", text)
    for _ in range(MAX_DEPTH):
        if not brackets:
            return
        brackets = brackets.replace("[]", "").replace("{}", "")
    if brackets:
        raise ValueError(f"its brackets do not match or nest deeper than {MAX_DEPTH} levels")
