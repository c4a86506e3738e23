"""Awaiting JavaScript: what it throws is ours by its name, as ``web/bridge`` names its engines' errors.

Rule of the file: only errors an engine may raise cross by name; whatever else is thrown is an engine's fault.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from pyodide.ffi import JsException

from ..errors import CapacityError, DeviceLost, EngineError

_BY_NAME = {error.__name__: error for error in (EngineError, CapacityError, DeviceLost)}


async def crossing(promise: Awaitable[Any]) -> Any:
    """What ``promise`` gives. Raises ``EngineError``, ``CapacityError`` or ``DeviceLost``."""
    try:
        return await promise
    except JsException as error:
        raise _ours(error) from error


def crossed(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a call gives at once. Raises as ``crossing``."""
    try:
        return function(*arguments)
    except JsException as error:
        raise _ours(error) from error


def _ours(error: BaseException) -> Exception:
    name, message = str(getattr(error, "name", "")), str(getattr(error, "message", error))
    return _BY_NAME.get(name, EngineError)(message)
