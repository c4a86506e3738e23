"""Mends the event loop of Pyodide where it is stricter than asyncio's.

Follows ``asyncio.loop.call_at``, for which a moment that has passed means at once; Pyodide's WebLoop
raises ``ValueError`` instead, and whoever awaited ``asyncio.timeout`` with a moment to spare dies of it.
Rule of the file: only what a runtime does otherwise than asyncio documents.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable
from contextvars import Context
from typing import Any

SOON = 0.001  # seconds; what is due now must still lie ahead when the loop looks at its own clock


def allow_the_past(loop: AbstractEventLoop) -> None:
    """Make ``loop.call_at`` take a moment that has passed for now."""
    strict = loop.call_at

    def call_at(
        when: float, callback: Callable[..., object], *arguments: Any, context: Context | None = None
    ) -> TimerHandle:
        return strict(max(when, loop.time() + SOON), callback, *arguments, context=context)

    loop.call_at = call_at  # type: ignore[assignment, method-assign]
