"""What the operator of a relay that runs may ask of it and tell it, live.

Rule of the file: a request is a small object whose fields are checked one by one; what it changes holds at
once, for what is connected already, too.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import ConfigError, RequestError
from ..libp2p.bans import parse_subject
from .host import NativeHost
from .relay import Relay

log = logging.getLogger(__name__)

MAX_DRAIN = 3600.0  # seconds


class Admin:
    """Answers for one relay; ``keep`` is given the bans in force whenever they change."""

    def __init__(self, host: NativeHost, relay: Relay, keep: Callable[[str], None]) -> None:
        self._host, self._relay, self._keep = host, relay, keep
        self._draining: asyncio.Task[None] | None = None
        self._asks: dict[str, Callable[[Mapping[str, Any]], Any]] = {
            "peers": self._peers,
            "ban": self._ban,
            "unban": self._unban,
            "bans": self._bans,
            "limits": self._limits,
            "drain": self._drain,
            "resume": self._resume,
        }

    def answer(self, request: Mapping[str, Any]) -> Any:
        """For ``AdminSocket``. ``RequestError`` and ``ConfigError`` say what cannot be."""
        ask = self._asks.get(str(request.get("ask")))
        if ask is None:
            raise RequestError(
                f"{request.get('ask')!r:.40} cannot be asked; there are {', '.join(self._asks)}"
            )
        return ask(request)

    def _peers(self, request: Mapping[str, Any]) -> list[dict[str, Any]]:
        now, circuits = asyncio.get_running_loop().time(), self._relay.circuits_by_peer()
        return [
            {
                "peer": str(link.remote_peer),
                "address": str(link.address),
                "seconds": round(now - link.since, 1),
                "streams": link.streams,
                "slot": self._relay.has_reservation(link.remote_peer),
                "circuits": circuits.get(link.remote_peer, (0, 0))[0],
                "bytes": circuits.get(link.remote_peer, (0, 0))[1],
            }
            for link in self._host.network.links()
        ]

    def _ban(self, request: Mapping[str, Any]) -> dict[str, Any]:
        seconds = request.get("seconds")
        if seconds is not None and type(seconds) not in (int, float):
            raise RequestError(f"a ban for {seconds!r:.40} cannot be; give seconds, or nothing for good")
        subject = _text(request, "subject")
        if parse_subject(subject) == self._host.peer_id:
            raise ConfigError("this is the relay itself")
        rules = self._host.network.admission.rules
        ban = rules.ban(subject, _text(request, "reason", ""), seconds, time.time())
        closed = self._host.network.enforce()
        self._changed()
        log.warning("banned %s (%s); %d connections closed", ban.subject, ban.reason, closed)
        return {**ban.describe(), "closed": closed}

    def _unban(self, request: Mapping[str, Any]) -> dict[str, Any]:
        subject = _text(request, "subject")
        if not self._host.network.admission.rules.unban(subject):
            raise RequestError(f"{subject:.80} is not banned; kwaainet relay bans names who is")
        self._changed()
        log.warning("unbanned %s", subject)
        return {"subject": subject}

    def _bans(self, request: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [ban.describe() for ban in self._host.network.admission.rules.bans(time.time())]

    def _changed(self) -> None:
        self._keep(self._host.network.admission.rules.encode(time.time()))

    def _limits(self, request: Mapping[str, Any]) -> dict[str, Any]:
        admission = self._host.network.admission
        wanted, limits = request.get("set") or {}, admission.limits
        if not isinstance(wanted, dict):
            raise RequestError("limits are set as an object of names and texts")
        for name, text in wanted.items():
            limits = limits.changed(str(name), str(text))
        if wanted:
            admission.change(limits)
            log.warning("limits changed: %s", ", ".join(f"{name}={text}" for name, text in wanted.items()))
        most = admission.most()
        return {"limits": limits.describe(), "most": most, "refused": dict(admission.refused)}

    def _drain(self, request: Mapping[str, Any]) -> dict[str, Any]:
        seconds = request.get("seconds", 0)
        if type(seconds) not in (int, float) or not 0 <= seconds <= MAX_DRAIN:
            raise RequestError(f"draining for {seconds!r:.40} s cannot be; give 0 to {MAX_DRAIN:g}")
        if self._draining is None and seconds:
            self._draining = asyncio.ensure_future(self._relay.drain(float(seconds)))
        task = self._draining  # once it is begun the relay drains, which it says itself a turn later
        return {
            "draining": task is not None or self._relay.draining,
            "quiet": task is not None and task.done(),
            "circuits": self._relay.circuits,
        }

    def _resume(self, request: Mapping[str, Any]) -> dict[str, Any]:
        if self._draining is not None:
            self._draining.cancel()
            self._draining = None
        self._relay.resume()
        return {"draining": False}


def _text(request: Mapping[str, Any], name: str, default: str | None = None) -> str:
    value = request.get(name, default)
    if not isinstance(value, str):
        raise RequestError(f"{name} is {value!r:.40}; a text is needed")
    return value
