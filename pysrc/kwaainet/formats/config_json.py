"""Typed look-ups in the object of a ``config.json``.

Rule of the file: a key that is null counts as left out; one of another type is named.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import ModelFileError


def integer(value: Mapping[str, Any], key: str, default: int | None = None) -> int:
    item = value.get(key)
    item = default if item is None else item
    if item is None:
        raise ModelFileError(f"config.json: {key} is missing")
    if type(item) is not int:
        raise ModelFileError(f"config.json: {key} is {item!r:.80}; an integer is needed")
    return item


def number(value: Mapping[str, Any], key: str, default: float) -> float:
    item = value.get(key)
    item = default if item is None else item
    if isinstance(item, bool) or not isinstance(item, int | float):
        raise ModelFileError(f"config.json: {key} is {item!r:.80}; a number is needed")
    try:
        return float(item)
    except OverflowError:
        raise ModelFileError(f"config.json: {key} is too large for a number") from None


def text(value: Mapping[str, Any], key: str, default: str) -> str:
    item = value.get(key)
    item = default if item is None else item
    if not isinstance(item, str):
        raise ModelFileError(f"config.json: {key} is {item!r:.80}; a name is needed")
    return item


def token(value: Mapping[str, Any], key: str) -> int | None:
    """The first, where several tokens may end a text; the rest is ``generation_config.json``'s business."""
    item = value.get(key)
    if isinstance(item, list) and item:
        item = item[0]
    return item if type(item) is int else None
