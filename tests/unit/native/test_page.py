"""A tab of a real Chromium, driven over DevTools, on a page with a worker."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from kwaainet.errors import LocalError
from kwaainet.native.chromium import Browser

from .conftest import DATA_SIZE

PNG = b"\x89PNG\r\n\x1a\n"


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


def test_scripts_return_values_await_promises_and_throw() -> None:
    async def main() -> None:
        async with await Browser.launch() as browser:
            page = await browser.open_page("data:text/html,<p id=a>hello</p>")
            assert await page.evaluate("document.querySelector('#a').textContent") == "hello"
            assert await page.evaluate("Promise.resolve([1, {a: 2.5}, null])") == [1, {"a": 2.5}, None]
            with pytest.raises(LocalError, match="TypeError: no"):
                await page.evaluate("(() => { throw new TypeError('no') })()")
            with pytest.raises(LocalError, match="late"):
                await page.evaluate("Promise.reject(new Error('late'))")
            assert (await page.screenshot()).startswith(PNG)

    asyncio.run(main())


def test_the_load_of_what_was_open_before_is_not_taken_for_the_pages_own() -> None:
    late: list[asyncio.Event] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The document at once, its script when it may."""
        asked = await reader.readuntil(b"\r\n\r\n")
        script = b"/late.js" in asked
        if script:
            late.append(asyncio.Event())
            await late[0].wait()
        kind, body = (
            (b"text/javascript", b"window.ready = 1")
            if script
            else (b"text/html", b"<script type=module src=/late.js></script>")
        )
        writer.write(
            b"HTTP/1.0 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b" % (kind, len(body), body)
        )
        writer.close()

    async def main() -> None:
        async with (
            await asyncio.start_server(answer, "127.0.0.1", 0) as server,
            await Browser.launch() as browser,
        ):
            page = await browser.new_page()
            port = server.sockets[0].getsockname()[1]
            going = asyncio.create_task(page.goto(f"http://127.0.0.1:{port}/"))
            async with asyncio.timeout(60):
                while not late:
                    await asyncio.sleep(0.01)
            before = {"name": "load", "frameId": page._target, "loaderId": "of about:blank"}
            page._handle_page("Page.lifecycleEvent", before)
            page._handle_page("Page.loadEventFired", {})
            await page.evaluate("1")  # by which a wrong end would have come
            assert not going.done()
            late[0].set()
            await going
            assert await page.evaluate("window.ready") == 1

    asyncio.run(main())


def test_a_page_that_cannot_be_had_is_named() -> None:
    async def main() -> None:
        async with await Browser.launch() as browser:
            with pytest.raises(LocalError, match=r"http://127\.0\.0\.1:1/: net::ERR_"):
                await browser.open_page("http://127.0.0.1:1/")

    asyncio.run(main())


def test_events_console_and_bytes_of_a_page_and_its_worker(
    site: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        heard: asyncio.Queue[Any] = asyncio.Queue()
        async with await Browser.launch() as browser:
            page = await browser.open_page(site, {"worked": heard.put_nowait}, watch_network=True)
            assert await asyncio.wait_for(heard.get(), 60) == {"size": DATA_SIZE}
            await until(lambda: page.bytes_received > DATA_SIZE)  # which comes by another way than the event
            assert page.bytes_received < DATA_SIZE + 5000
            assert [url.removeprefix(site) for url in page.requests[:1]] == [""]
            assert {"worker.js", "data.bin"} <= {url.removeprefix(site) for url in page.requests}
            assert list(page.workers.values()) == [f"{site}worker.js"]
            page.run_first_in_workers("console.warn('first of all')")
            await page.reload()
            assert await asyncio.wait_for(heard.get(), 60) == {"size": DATA_SIZE}
            await until(lambda: len(page.workers) == 1)  # the old document's worker is gone
            unwatched = await browser.open_page(site, {"worked": heard.put_nowait})
            assert await asyncio.wait_for(heard.get(), 60) == {"size": DATA_SIZE}
            assert (unwatched.bytes_received, unwatched.requests) == (0, []), "nobody asked for them"
            await until(lambda: said <= {(record.levelname, record.message) for record in caplog.records})

    said = {("WARNING", "page: a warning 5"), ("ERROR", "page: from the worker")}
    said |= {("WARNING", "page: first of all")}
    with caplog.at_level(logging.WARNING):
        asyncio.run(main())


def test_frames_of_other_sites_and_their_workers_are_watched(site: str) -> None:
    async def main() -> None:
        async with await Browser.launch(flags=["--site-per-process"]) as browser:
            page = await browser.open_page(site, watch_network=True)
            other = site.replace("127.0.0.1", "localhost")
            frame = "document.createElement('iframe')"
            await page.evaluate(f"void document.body.append(Object.assign({frame}, {{ src: '{other}' }}))")
            async with asyncio.timeout(60):
                while f"{other}data.bin" not in page.requests or len(page.workers) < 2:
                    await asyncio.sleep(0.01)
            (session,) = page.frames
            assert await page.evaluate_in(session, "location.href") == other
            assert f"{other}worker.js" in page.workers.values()
            await page.evaluate(
                "new WebSocket('ws://127.0.0.1:1/'); document.querySelector('iframe').remove()"
            )
            async with asyncio.timeout(60):
                while page.frames or "ws://127.0.0.1:1/" not in page.requests:
                    await asyncio.sleep(0.01)

    asyncio.run(main())


def test_an_event_can_be_heard_in_the_document_that_is_open() -> None:
    async def main() -> None:
        heard: list[Any] = []
        async with await Browser.launch() as browser:
            page = await browser.open_page("data:text/html,x")
            await page.on_event("later", heard.append)
            await page.evaluate("dispatchEvent(new CustomEvent('later', { detail: 'now' }))")
            await page.evaluate("dispatchEvent(new Event('later'))")
        assert heard == ["now", None]

    asyncio.run(main())


@pytest.mark.parametrize("leave", ["close", "reload"])
def test_leaving_fires_pagehide(site: str, posted: list[str], leave: str) -> None:
    async def main() -> None:
        async with await Browser.launch() as browser:
            page = await browser.open_page(site)
            await getattr(page, leave)()
            async with asyncio.timeout(60):
                while not posted:
                    await asyncio.sleep(0.01)
            if leave == "close":
                await asyncio.wait_for(page.ended, 60)
            assert page.ended.done() == (leave == "close")

    asyncio.run(main())
    assert posted[0] == "/left"


def test_a_closed_page_refuses() -> None:
    async def main() -> None:
        async with await Browser.launch() as browser:
            page = await browser.open_page("data:text/html,x")
            await page.close()
            with pytest.raises(LocalError):
                await page.evaluate("1")
            await page.close()

    asyncio.run(main())
