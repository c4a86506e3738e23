"""A tab takes no more memory after a thousand sessions than after the first hundred."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from browser.memory import CATCH, Memory, measure
from browser.peers import Peer, hidden_states, joined
from browser.tabs import Tab, eventually, open_tab
from nightly.sizes import size, whole
from nightly.slopes import slope

from kwaainet.native.chromium import Browser

SESSIONS = size(40, 1000)
WARM_UP = size(10, 500)  # until lists that are bounded are full
SAMPLES = 15  # after the warm-up
SLACK = 1.02  # what the last samples may have over the first, or grow by in a thousand sessions
FLOOR = 3  # samples of which the least counts: some are taken while a stream is still closing, 0.2 MB of it
AT_ONCE = 4
# A script that is used much is compiled anew, by the clock as by sessions; here once, when it runs first.
COMPILED_ONCE = (
    "--js-flags=--always-sparkplug --no-maglev --no-turbofan"
    " --no-flush-bytecode --no-lazy-feedback-allocation"
)


async def talk(peer: Peer, server: str, number: int) -> None:
    session = await peer.session(server)
    session.session_id = f"session-{number}"
    await session.step(hidden_states(1, 1 + number % 7))
    await session.step(hidden_states(1, 1))
    if number % 3 == 0:  # it goes without its answer
        await session.stream.send(session.request(hidden_states(1, 1)))
    await session.stream.close()


async def have_ended(tab: Tab, sessions: int) -> bool:
    """For the tab, too: who closes a stream need not wait for that."""
    return sum(event["event"] == "receipt" for event in tab.events) == sessions


def test_memory_is_flat(origin: dict[str, Any]) -> None:
    async def main() -> list[Memory]:
        samples: list[Memory] = []
        async with await Browser.launch(flags=[COMPILED_ONCE]) as browser, joined(origin["tcp"]) as peer:
            tab = await open_tab(browser, origin["http"], backend="wasm", webrtc="off")
            tab.page.run_first_in_workers(CATCH)
            server = (await tab.contribute())["peer_id"]
            every = (SESSIONS - WARM_UP) // SAMPLES
            for first in range(0, SESSIONS, AT_ONCE):
                await asyncio.gather(*(talk(peer, server, first + one) for one in range(AT_ONCE)))
                if first >= WARM_UP and first // every > (first - AT_ONCE) // every:
                    await eventually(partial(have_ended, tab, first + AT_ONCE))
                    samples.append(await measure(tab.page, first + AT_ONCE))
        return samples

    samples = asyncio.run(main())
    for sample in samples:
        print(sample)
    for name in ("page", "network", "node", "wasm", "python"):
        values = [float(getattr(sample, name)) for sample in samples]
        first, last = min(values[:FLOOR]), min(values[-FLOOR:])
        assert last <= first * SLACK + 100_000 * (name != "python"), (name, values)
        if whole():
            found = slope([3.6 * sample.sessions for sample in samples], values, stretches=len(samples) - 1)
            print(f"{name} in a thousand sessions: {found.rate:+.4g} ({found.low:+.4g} to {found.high:+.4g})")
            assert found.low < (SLACK - 1) * found.level, (name, str(found))
