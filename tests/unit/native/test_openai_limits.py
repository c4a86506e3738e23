"""Keys are told apart, and nobody gets more than an allowance that refills evenly."""

from __future__ import annotations

from hashlib import sha256

import pytest

from kwaainet.errors import ApiError, ConfigError
from kwaainet.native import openai_limits as module
from kwaainet.native.openai_limits import ApiKeys, Limits, RateLimiter

HASHED = "sha256:" + sha256(b"second-key").hexdigest()


def test_keys_plain_or_hashed() -> None:
    keys = ApiKeys.parse(["# ours", "first-key  # of ann", "", HASHED])
    names = {keys.caller(f"Bearer {key}") for key in ("first-key", "second-key")}
    assert len(names) == 2
    assert keys.caller("bearer  first-key ") in names
    assert not any("first" in name for name in names)
    assert (bool(keys), bool(ApiKeys())) == (True, False)


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", "Basic first-key", "Bearer first-ke", f"Bearer {HASHED}", "Bearer \udcff"],
)
def test_other_keys_are_not_let_in(header: str) -> None:
    with pytest.raises(ApiError) as caught:
        ApiKeys(["first-key", HASHED]).caller(header)
    assert (caught.value.status, caught.value.code) == (401, "invalid_api_key")


@pytest.mark.parametrize("key", ["short", "with space in it", "größe-größe", "tab\tand\tmore"])
def test_keys_that_could_not_be_sent_are_refused(key: str) -> None:
    with pytest.raises(ConfigError, match="API key"):
        ApiKeys([key])


def refused(
    limiter: RateLimiter, now: float, name: str = "ann", sessions: int = 1
) -> tuple[int, float | None]:
    with pytest.raises(ApiError) as caught:
        limiter.admit(name, sessions, now)
    wait = caught.value.retry_after
    return caught.value.status, wait and round(wait, 6)


def test_requests_refill_evenly() -> None:
    limiter = RateLimiter(Limits(requests_per_minute=2))
    for _ in range(2):
        limiter.admit("ann", 1, 100.0)
    assert refused(limiter, 100.0) == (429, 30.0)
    assert refused(limiter, 120.0) == (429, 10.0)
    assert refused(limiter, 90.0) == (429, 10.0)  # a clock that goes back gives nothing
    limiter.admit("bob", 1, 100.0)
    limiter.admit("ann", 1, 130.0)
    limiter.admit("ann", 1, 10_000.0)
    limiter.admit("ann", 1, 10_000.0)
    assert refused(limiter, 10_000.0) == (429, 30.0)  # a long rest saves up a minute, no more


def test_tokens_may_be_overdrawn_once() -> None:
    limiter = RateLimiter(Limits(tokens_per_minute=60))
    limiter.admit("ann", 1, 0.0)
    limiter.spend("ann", 50, 0.0)
    limiter.admit("ann", 1, 0.0)
    limiter.spend("ann", 40, 0.0)
    assert refused(limiter, 0.0) == (429, 31.0)
    limiter.admit("ann", 1, 31.0)


def test_sessions_of_one_and_of_all() -> None:
    limiter = RateLimiter(Limits(sessions=3, total_sessions=4))
    limiter.admit("ann", 2, 0.0)
    assert refused(limiter, 0.0, sessions=2) == (429, 1.0)
    assert refused(limiter, 0.0, sessions=4) == (400, None)
    assert refused(limiter, 0.0, "bob", 3) == (503, 1.0)
    limiter.admit("bob", 2, 0.0)
    limiter.release("ann", 2)
    limiter.admit("bob", 1, 0.0)
    assert limiter.sessions == 3


def test_a_refused_request_costs_nothing() -> None:
    limiter = RateLimiter(Limits(requests_per_minute=1, sessions=1))
    limiter.admit("ann", 1, 0.0)
    assert refused(limiter, 60.0) == (429, 1.0)
    limiter.release("ann", 1)
    limiter.admit("ann", 1, 60.0)


def test_only_so_many_callers_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CALLERS", 2)
    limiter = RateLimiter(Limits(requests_per_minute=1))
    for name in ("busy", "idle", "new"):
        limiter.admit(name, 1, 0.0)
        if name != "busy":
            limiter.release(name, 1)
    assert set(limiter._callers) == {"busy", "new"}
    assert refused(limiter, 0.0, "busy")[0] == 429


@pytest.mark.parametrize("name", ["requests_per_minute", "tokens_per_minute", "sessions", "total_sessions"])
def test_limits_that_let_nobody_in_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        Limits(**{name: 0})
