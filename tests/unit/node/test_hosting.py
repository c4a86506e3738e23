"""How a model is doing, before anything is known of it."""

from __future__ import annotations

from kwaainet.node.hosting import SpanStatus
from kwaainet.types import BlockRange, ServerState


def test_a_status_says_nothing_that_is_not_known() -> None:
    status = SpanStatus("tiny", ServerState.OFFLINE, BlockRange(0, 2), "wasm")
    assert (status.paused, status.rates, status.loaded, status.error) == ((), None, None, None)
    assert (status.tokens_done, status.requests_done, status.busy) == (0, 0, 0.0)
