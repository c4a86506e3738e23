"""How soon the callers of a tab that goes away hear of it: by reload, by navigation and by closing it.

Streams are busy: each sends its next step as soon as the last is answered. What a caller waits is
counted from the page's pagehide event to the error frame, as a client in this process sees it over the
relay's circuit. Rule of the file: a caller that hears nothing within ``PATIENCE`` counts as told then.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from browser.peers import PREFIX, Peer, Session, hidden_states, joined, write_small_model
from browser.tabs import Tab
from interop.running import Failed, relay

from kwaainet.errors import KwaaiNetError, RpcError
from kwaainet.native.chromium import Browser

from .journal import Journal
from .report import Result, Row, spread

STREAMS = 4  # busy at once on the tab that leaves
LEAVES_A_ROUND = 6
TOKENS = 64  # a step's
PATIENCE = 10.0  # seconds
GOAL = 0.2  # seconds ...
GOAL_SHARE = 0.99  # ... for so many
WORDS = "the tab that served this was closed"

# A page that goes can still tell another of its origin; what it tells DevTools then is lost. Listeners of
# pagehide are called in the order of their registration.
NOTE_LEAVING = """
addEventListener('pagehide', () => {
  new BroadcastChannel('leaving').postMessage(performance.timeOrigin + performance.now())
})
"""
NOTE_LEFT = """
new BroadcastChannel('leaving').onmessage = ({ data }) => {
  dispatchEvent(new CustomEvent('left', { detail: data }))
}
"""


async def _close(tab: Tab) -> None:
    await tab.page.close()


async def _reload(tab: Tab) -> None:
    await tab.page.reload()


async def _navigate(tab: Tab) -> None:
    await tab.page.goto("about:blank")


Leave = Callable[[Tab], Awaitable[None]]

WAYS: dict[str, Leave] = {
    "reload": _reload,
    "navigate": _navigate,
    "close": _close,
}


def measure(folder: Path, rounds: int) -> Result:
    """Needs the headless Chromium; ``LEAVES_A_ROUND`` leaves a round, each of ``STREAMS`` callers."""
    journal, count = Journal("leaving"), rounds * LEAVES_A_ROUND
    if len(journal.of("leave")) < count:
        model = write_small_model(folder / "small")
        with relay(folder, "--model", model, "--prefix", PREFIX) as ready:
            asyncio.run(_leaves(ready["http"], ready["tcp"], journal, count))
    leaves = journal.measured("leave")
    return Result(_rows(leaves), {"leaves": leaves})


async def _leaves(url: str, initial_peer: str, journal: Journal, count: int) -> None:
    """Until there are so many, each way in its turn; ``PATIENCE`` stands for a caller that was not told."""
    async with await Browser.launch() as browser, joined(initial_peer) as peer:
        moments: asyncio.Queue[float] = asyncio.Queue()
        witness = await browser.open_page(f"{url}status.json", {"left": moments.put_nowait})
        await witness.evaluate(NOTE_LEFT)
        while (number := len(journal.of("leave"))) < count:
            way = list(WAYS)[number % len(WAYS)]
            tab = Tab(await browser.new_page())
            await tab.page.on_event("kwaainet", tab.hear)
            await tab.page.run_first(NOTE_LEAVING)
            await tab.page.goto(f"{url}?backend=wasm")
            waits, words = await _leave(tab, peer, WAYS[way], moments)
            journal.note("leave", way=way, waits=waits, words=sorted(words))


async def _leave(
    tab: Tab, peer: Peer, leave: Leave, moments: asyncio.Queue[float]
) -> tuple[list[float], set[str]]:
    """Seconds that each caller waited, and what those heard who were not told."""
    server = (await tab.contribute())["peer_id"]
    callers = [Caller(await peer.session(server)) for _ in range(STREAMS)]
    await asyncio.gather(*(caller.busy() for caller in callers))
    asked = time.time()
    await leave(tab)
    async with asyncio.timeout(PATIENCE):
        while (moment := await moments.get() / 1000) < asked:
            pass  # a page that was reloaded before went for good
    told = await asyncio.gather(*(caller.told() for caller in callers))
    await tab.page.close()
    words = {caller.words for caller in callers if caller.words}
    return [min(when - moment, PATIENCE) for when in told], words


class Caller:
    """A session that steps without a pause until it is told."""

    def __init__(self, session: Session) -> None:
        self.words = ""  # heard instead of the error frame
        self._session = session
        self._steps = asyncio.Event()
        self._told = asyncio.create_task(self._step_on())

    async def busy(self) -> None:
        """Wait until a step has been answered; ``Failed`` if none is."""
        stepped = asyncio.ensure_future(self._steps.wait())
        await asyncio.wait({stepped, self._told}, return_when=asyncio.FIRST_COMPLETED, timeout=PATIENCE)
        stepped.cancel()
        if not self._steps.is_set():
            raise Failed("the tab answered no step of a caller")

    async def told(self) -> float:
        """When the error frame came, unix seconds; infinite if none did."""
        try:
            return await asyncio.wait_for(self._told, PATIENCE)
        except TimeoutError:
            self.words = "nothing"
            return float("inf")

    async def _step_on(self) -> float:
        hidden = hidden_states(1, TOKENS)
        try:
            while True:
                await self._session.step(hidden, start_from_position=0)
                self._steps.set()
        except KwaaiNetError as error:
            if isinstance(error, RpcError) and WORDS in str(error):
                return time.time()
            self.words = f"{type(error).__name__}: {error}"
            return float("inf")


def _rows(leaves: list[dict[str, Any]]) -> list[Row]:
    def told(count: int, of: int) -> str:
        return f"{count / of:.1%} of {of}"

    callers = [wait for leave in leaves for wait in leave["waits"]]
    longest = [max(leave["waits"]) for leave in leaves]
    goal = f"≥ {GOAL_SHARE:.0%}"
    return [
        Row(
            f"callers told within {GOAL:g} s that a tab leaves",
            told(sum(wait <= GOAL for wait in callers), len(callers)),
            goal=goal,
        ),
        Row(
            f"leaves of a tab of which all {STREAMS} busy callers hear within {GOAL:g} s",
            f"{told(sum(wait <= GOAL for wait in longest), len(longest))}, longest {max(longest):.2f} s",
            goal=goal,
        ),
        *(
            Row(
                f"· by {way}",
                _spread([wait for leave in leaves if leave["way"] == way for wait in leave["waits"]]),
            )
            for way in sorted({leave["way"] for leave in leaves})
        ),
    ]


def _spread(waits: list[float]) -> str:
    middle, late, most = (1000 * seconds for seconds in spread(waits))
    return f"{middle:.0f} ms (95 %: {late:.0f}, most {most:.0f})"
