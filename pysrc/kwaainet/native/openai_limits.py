"""Who may use the OpenAI endpoint, and how much: API keys, requests and tokens a minute, requests at once.

Token buckets as OpenAI documents its rate limits: a minute's allowance refills evenly. Tokens are
charged when they are used, so a caller may overdraw once and then waits until the debt is paid. Rule of
the file: pure; ``now`` (seconds, monotonic) is an argument, keys are held and compared as SHA-256.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from hmac import compare_digest

from ..errors import ApiError, ConfigError

MAX_CALLERS = 4096  # whose use is remembered; of more, those idle longest are forgotten
MIN_KEY_LENGTH = 8
BUSY_SECONDS = 1.0  # what a caller is told to wait when all is taken

_HASHED = re.compile(r"sha256:([0-9a-fA-F]{64})")


class ApiKeys:
    """The keys that may call. None at all: everybody may."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._digests = [_digest(key) for key in keys]

    @classmethod
    def parse(cls, lines: Iterable[str]) -> ApiKeys:
        """One key a line, itself or as ``sha256:`` and 64 hex digits; ``#`` begins a comment."""
        return cls(key for line in lines if (key := line.partition("#")[0].strip()))

    def __bool__(self) -> bool:
        return bool(self._digests)

    def caller(self, authorization: str) -> str:
        """A name for the key's holder, from the header's value. Raises ``ApiError`` 401."""
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise _unauthorized("no API key was given; send the header Authorization: Bearer KEY")
        digest = sha256(key.strip().encode(errors="replace")).digest()
        known = False
        for one in self._digests:  # all of them, so that time tells nothing
            known |= compare_digest(one, digest)
        if not known:
            raise _unauthorized("this API key is not known here")
        return f"key-{digest.hex()[:8]}"


def _digest(key: str) -> bytes:
    if hashed := _HASHED.fullmatch(key):
        return bytes.fromhex(hashed[1])
    if len(key) < MIN_KEY_LENGTH or not (key.isascii() and key.isprintable()) or " " in key:
        raise ConfigError(
            f"an API key of {len(key)} characters cannot be used; "
            f"give at least {MIN_KEY_LENGTH} printable ASCII characters without spaces"
        )
    return sha256(key.encode()).digest()


def _unauthorized(text: str) -> ApiError:
    return ApiError(text, status=401, code="invalid_api_key")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one caller may use; ``None`` is no limit. ``sessions``: completions of one caller at once,
    ``total_sessions``: of all callers together."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    sessions: int = 16
    total_sessions: int = 64

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}; give at least 1")


class _Bucket:
    """Holds a minute's allowance at most; may be overdrawn."""

    def __init__(self, per_minute: int | None, now: float) -> None:
        self._per_minute = per_minute
        self._level = float(per_minute or 0)
        self._updated = now

    def wait(self, now: float, need: float) -> float:
        """Seconds until ``need`` is there."""
        if self._per_minute is None:
            return 0.0
        rate = self._per_minute / 60
        self._level = min(self._level + max(now - self._updated, 0.0) * rate, float(self._per_minute))
        self._updated = max(now, self._updated)
        return max(need - self._level, 0.0) / rate

    def take(self, amount: float) -> None:
        self._level -= amount


class _Caller:
    def __init__(self, limits: Limits, now: float) -> None:
        self.requests = _Bucket(limits.requests_per_minute, now)
        self.tokens = _Bucket(limits.tokens_per_minute, now)
        self.sessions = 0


class RateLimiter:
    """Counts every caller's use. ``admit`` and ``release`` come in pairs."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.sessions = 0
        self._callers: dict[str, _Caller] = {}

    def admit(self, name: str, sessions: int, now: float) -> None:
        """Take one request of so many sessions. Raises ``ApiError`` 429, 400 or, when all are taken, 503."""
        caller = self._caller(name, now)
        limits = self.limits
        if sessions > limits.sessions:
            text = f"{sessions} completions were asked for at once; {limits.sessions} are allowed"
            raise ApiError(text, param="n")
        if caller.sessions + sessions > limits.sessions:
            text = f"{caller.sessions} completions are running; {limits.sessions} at once are allowed"
            raise _limited(text, BUSY_SECONDS)
        if wait := caller.requests.wait(now, 1):
            raise _limited(f"{limits.requests_per_minute} requests a minute are allowed", wait)
        if wait := caller.tokens.wait(now, 1):
            raise _limited(f"{limits.tokens_per_minute} tokens a minute are allowed", wait)
        if self.sessions + sessions > limits.total_sessions:
            text = f"all {limits.total_sessions} sessions of this server are taken; try again"
            raise ApiError(text, status=503, code="overloaded", retry_after=BUSY_SECONDS)
        caller.requests.take(1)
        caller.sessions += sessions
        self.sessions += sessions

    def spend(self, name: str, tokens: int, now: float) -> None:
        """Charge tokens of a prompt or a completion."""
        caller = self._caller(name, now)
        caller.tokens.wait(now, 0)  # brings the bucket up to now
        caller.tokens.take(tokens)

    def release(self, name: str, sessions: int) -> None:
        """The sessions of an admitted request have ended."""
        self._callers[name].sessions -= sessions
        self.sessions -= sessions

    def _caller(self, name: str, now: float) -> _Caller:
        caller = self._callers.pop(name, None) or _Caller(self.limits, now)
        self._callers[name] = caller  # the last one is the one seen last
        if len(self._callers) > MAX_CALLERS:
            idle = next((one for one, entry in self._callers.items() if not entry.sessions), None)
            if idle is not None and idle != name:
                del self._callers[idle]
        return caller


def _limited(text: str, wait: float) -> ApiError:
    return ApiError(text, status=429, code="rate_limit_exceeded", retry_after=wait)
