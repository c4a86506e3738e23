"""A tab whose machine's clock is wrong: every document and worker of it reads the time with an error.

Rule of the file: only what tells the time of day is changed; what measures time goes on.
"""

from __future__ import annotations

from datetime import UTC, datetime

from browser.tabs import Tab, open_tab

from kwaainet.native.chromium import Browser

WRONG = """
(() => {
  const Right = Date
  globalThis.Date = class extends Right {
    constructor (...words) { if (words.length === 0) super(Right.now() + %(ahead)s); else super(...words) }
    static now () { return Right.now() + %(ahead)s }
  }
})()
"""


SETTABLE = "globalThis.ahead = 0;" + WRONG % {"ahead": "globalThis.ahead"}


def zone_of_noon() -> str:
    """A time zone in which it is between noon and one o'clock."""
    behind = datetime.now(UTC).hour - 12
    return f"Etc/GMT{behind:+d}" if behind else "Etc/GMT"


async def pass_time(tab: Tab, seconds: float) -> None:
    """On the clock of a tab that ran ``SETTABLE`` first, in every document and worker of it."""
    later = f"void (globalThis.ahead += {1000 * seconds})"
    for session in list(tab.page.workers):
        await tab.page.evaluate_in(session, later)
    await tab.page.evaluate(later)


async def open_wrong_tab(browser: Browser, url: str, ahead: float, **query: str) -> Tab:
    """A tab at ``url`` whose clock is ``ahead`` seconds ahead."""
    source = WRONG % {"ahead": 1000 * ahead}
    tab = await open_tab(browser, url, first=source, **query)
    tab.page.run_first_in_workers(source)
    return tab
