"""Counts add up and the memory of times is bounded."""

from __future__ import annotations

from kwaainet.native.openai_metrics import KEPT, Metrics


def test_counts_and_percentiles() -> None:
    metrics = Metrics()
    assert metrics.to_json()["seconds"] == {"first_token": None, "per_token": None, "completion": None}
    metrics.answered(200)
    metrics.answered(429)
    metrics.answered(200)
    for tokens in range(1, 101):
        metrics.completed(5, tokens, 0.5, 0.5 + (tokens - 1) * tokens / 100)
    metrics.completed(5, 0, None, 9.0)
    told = metrics.to_json()
    assert (told["requests"], told["by_status"]) == (3, {"200": 2, "429": 1})
    assert (told["prompt_tokens"], told["completion_tokens"]) == (505, 5050)
    assert told["seconds"]["first_token"] == {"p50": 0.5, "p95": 0.5}
    assert told["seconds"]["per_token"] == {"p50": 0.51, "p95": 0.96}


def test_only_the_latest_times_count() -> None:
    metrics = Metrics()
    for seconds in (9.0, *[1.0] * KEPT):
        metrics.completed(1, 1, seconds, seconds)
    assert metrics.to_json()["seconds"]["completion"] == {"p50": 1.0, "p95": 1.0}
