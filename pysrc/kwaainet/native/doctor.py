"""Can browsers reach a relay, and if not, why: step by step, each with its time, a cause and what to do.

Rule of the file: what is said was tried just now, from here, over the network, as a browser's tab and a
Petals client would; a step that another one rests on is not tried once that failed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from ..errors import Ailment, KwaaiNetError
from . import direct_probe, probes, relay_probes
from .probes import Place, Relay

STEP_TIMEOUT = 20.0  # seconds
BROWSER_TIMEOUT = 90.0  # seconds: a cold browser on a loaded machine


class Outcome(StrEnum):
    """What became of a step."""

    OK = "ok"
    WARNING = "warning"  # works, and somebody should look at it
    FAILED = "failed"
    UNTRIED = "not tried"


@dataclass(slots=True)
class Step:
    """One step: what was found, or the cause and what to do."""

    name: str
    outcome: Outcome
    seconds: float = 0.0
    found: str = ""
    cause: str = ""
    remedy: str = ""


@dataclass(slots=True)
class Report:
    """All steps of one examination. ``told`` hears of each as it ends."""

    url: str
    told: Callable[[Step], None] = lambda step: None
    steps: list[Step] = field(default_factory=list)

    @property
    def reachable(self) -> bool:
        """Whether a browser can use the relay: nothing failed, and nothing was left untried."""
        return bool(self.steps) and all(step.outcome in (Outcome.OK, Outcome.WARNING) for step in self.steps)

    @property
    def why(self) -> str:
        """The first thing that is wrong, empty if nothing is."""
        failed = [step for step in self.steps if step.outcome == Outcome.FAILED]
        return f"{failed[0].name}: {failed[0].cause}" if failed else ""

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "url": self.url,
            "reachable": self.reachable,
            "why": self.why,
            "steps": [asdict(step) for step in self.steps],
        }

    async def take(
        self, name: str, work: Callable[[], Awaitable[str]], needs: str = "", limit: float = STEP_TIMEOUT
    ) -> bool:
        """Try a step, unless one of those before it that it ``needs`` (names, by comma) did not work."""
        wanted = set(filter(None, needs.split(",")))
        missing = [one.name for one in self.steps if one.name in wanted and one.outcome not in WORKS]
        if missing:
            self._end(Step(name, Outcome.UNTRIED, cause=f"{missing[0]} did not work"))
            return False
        began = time.monotonic()
        step = Step(name, Outcome.OK)
        try:
            async with asyncio.timeout(limit):
                step.found = await work()
        except probes.Warned as warned:
            step.outcome, step.found, step.cause = Outcome.WARNING, warned.found, str(warned)
            step.remedy = warned.remedy
        except Ailment as ailment:
            step.outcome, step.cause, step.remedy = Outcome.FAILED, str(ailment), ailment.remedy
        except TimeoutError:
            step.outcome, step.cause = Outcome.FAILED, f"no answer within {limit:g} s"
            step.remedy = (
                "see whether a firewall drops packets, and whether the relay's machine is overloaded"
            )
        except KwaaiNetError as error:
            step.outcome, step.cause = Outcome.FAILED, str(error)
            step.remedy = "read the relay's log at this moment (-v)"
        step.seconds = time.monotonic() - began
        self._end(step)
        return step.outcome in WORKS

    def _end(self, step: Step) -> None:
        self.steps.append(step)
        self.told(step)


WORKS = (Outcome.OK, Outcome.WARNING)


async def examine(
    url: str, told: Callable[[Step], None] = lambda step: None, browser: bool = False
) -> Report:
    """Examine the relay whose page is at ``url``. Raises ``ConfigError`` if that is no such address."""
    page = Place.of_url(url)
    report = Report(url, told)
    async with AsyncExitStack() as stack:
        relay = Relay(stack)
        await _reach_page(report, page, relay)
        if relay.direct:
            await report.take("webrtc udp", lambda: direct_probe.knock(relay.direct, looked_into=browser))
        else:
            await _reach_relay(report, page, relay)
            await _use_relay(report, relay)
        if browser:
            from .browser_probe import probe

            await report.take(
                "browser",
                lambda: probe(url, relay.address or relay.direct),
                "page,relay address",
                BROWSER_TIMEOUT,
            )
    return report


async def _reach_page(report: Report, page: Place, relay: Relay) -> None:
    await report.take("dns", lambda: probes.resolve(page))
    await report.take("tcp", lambda: probes.connect(page), "dns")
    needs = "tcp"
    if page.secure:
        await report.take("tls", lambda: probes.handshake(page), "tcp")
        needs = "tls"
    await report.take("page", lambda: probes.read_page(page, relay), needs)
    await report.take("clock", lambda: probes.compare_clocks(relay), "page")
    await report.take("relay address", lambda: probes.choose_address(page, relay), "page")


async def _reach_relay(report: Report, page: Place, relay: Relay) -> None:
    place = relay.place
    if place is not None and (place.host, place.port) != (page.host, page.port):
        await report.take("relay dns", lambda: probes.resolve(place))
        await report.take("relay tcp", lambda: probes.connect(place), "relay dns")
        if place.secure:
            await report.take("relay tls", lambda: probes.handshake(place), "relay tcp")
    needs = "relay address,relay dns,relay tcp,relay tls"
    await report.take("ws upgrade", lambda: probes.upgrade(relay), needs)
    await report.take("noise", lambda: relay_probes.greet(relay), "ws upgrade")


async def _use_relay(report: Report, relay: Relay) -> None:
    await report.take("reservation", lambda: relay_probes.reserve(relay), "noise")
    await report.take("circuit", lambda: relay_probes.call_through(relay), "reservation")
    await report.take("kad lookup", lambda: relay_probes.look_up(relay), "reservation")
    await report.take("dht", lambda: relay_probes.store_and_read(relay), "noise")
