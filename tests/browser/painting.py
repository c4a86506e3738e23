"""When a page is first painted, what that waited for, and a phone on 4G to try it on.

The profile is Lighthouse's for mobile: 150 ms round trips, 1.6 Mbit/s of its slow 4G or the 4 Mbit/s that 4G
has, and a processor slowed four times. Rule of the file: what is told is the browser's own record.
"""

from __future__ import annotations

from typing import Any

from kwaainet.native.page import Page

ROUND_TRIP = 150  # ms
MBITS = {"4G": 4.0, "slow 4G": 1.6}
SLOWER = 4
PAINTED = """
new Promise(resolve => new PerformanceObserver((list, observer) => {
  const [paint] = list.getEntriesByName('first-contentful-paint')
  if (paint === undefined) return
  observer.disconnect()
  const all = performance.getEntriesByType('resource')
  const needed = all.filter(one => one.renderBlockingStatus === 'blocking')
  const parts = [performance.getEntriesByType('navigation')[0], ...needed]
  resolve({
    time: paint.startTime,
    needed: needed.map(({ name }) => new URL(name).pathname),
    bytes: parts.reduce((sum, { transferSize }) => sum + transferSize, 0)
  })
}).observe({ type: 'paint', buffered: true }))
"""


async def first_paint(page: Page) -> dict[str, Any]:
    """Of a page that has loaded: ms from the start, what blocked it, and their bytes."""
    found: dict[str, Any] = await page.evaluate(PAINTED)
    return found


async def throttle(page: Page, profile: str) -> None:
    """Make a page that watches its network slow, as one of ``MBITS``."""
    rate = MBITS[profile] * 1e6 / 8
    conditions = {
        "offline": False,
        "latency": ROUND_TRIP,
        "downloadThroughput": rate,
        "uploadThroughput": rate,
    }
    await page.command("Network.emulateNetworkConditions", conditions)
    await page.command("Emulation.setCPUThrottlingRate", {"rate": SLOWER})
