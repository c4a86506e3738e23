import asyncio
from typing import Any

import pytest

from kwaainet.errors import ConfigError, LocalError
from kwaainet.native.cli.tab import Narrator, Tab, TabOptions
from kwaainet.native.cli.terminal import ProgressLine
from kwaainet.types import BlockRange


class ScriptedPage:
    """Stands for a page whose buttons send the events it was told to."""

    def __init__(self) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.clicked: list[str] = []

    async def evaluate(self, expression: str) -> None:
        self.clicked.append(expression.split("'")[1])


def test_the_choices_stand_in_the_query() -> None:
    options = TabOptions("http://127.0.0.1:8080/", BlockRange(0, 15), "wasm")
    assert options.page_url() == "http://127.0.0.1:8080/?blocks=0%3A15&backend=wasm"
    assert TabOptions("http://h/").page_url() == "http://h/"
    assert TabOptions("http://h/", "auto:3").page_url() == "http://h/?blocks=auto%3A3"
    assert TabOptions("http://h/", weights="q8").page_url() == "http://h/?weights=q8"
    assert TabOptions("http://h/", drain=0).page_url() == "http://h/?drain=0"
    assert TabOptions("http://h/?threads=1", drain=0).page_url() == "http://h/?threads=1&drain=0"


@pytest.mark.parametrize("url", ["", "localhost:8080", "/ip4/127.0.0.1/tcp/1", "ftp://h/", "http://"])
def test_what_is_no_page_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="http address"):
        TabOptions(url).page_url()


def follow(events: list[dict[str, Any]], *, ends: bool = False) -> dict[str, Any]:
    async def main() -> dict[str, Any]:
        page = ScriptedPage()
        seen: list[dict[str, Any]] = []
        tab = Tab(page, seen.append)  # type: ignore[arg-type]
        await tab.contribute()
        assert page.clicked == ["#contribute"]
        waiting = asyncio.ensure_future(tab.until("online"))
        for event in events:
            await asyncio.sleep(0)
            tab.on_event(event)
        if ends:
            page.ended.set_result(None)
        try:
            return await asyncio.wait_for(waiting, 60)
        finally:
            assert seen == events

    return asyncio.run(main())


def test_a_tab_is_followed_until_it_is_online() -> None:
    online = {"event": "online", "peer_id": "12D3", "blocks": [0, 5], "backend": "wasm"}
    assert follow([{"event": "loading"}, {"event": "joining"}, online]) == online


def test_what_is_told_at_the_same_moment_hides_no_state() -> None:
    async def main() -> None:
        tab = Tab(ScriptedPage(), lambda event: None)  # type: ignore[arg-type]
        waiting = asyncio.ensure_future(tab.until("online"))
        await asyncio.sleep(0)
        for name in ("online", "storage", "peers", "threads", "clock", "receipt"):
            tab.on_event({"event": name})
        assert await asyncio.wait_for(waiting, 60) == {"event": "online"}

    asyncio.run(main())


def test_an_error_of_the_page_is_raised_with_its_text() -> None:
    with pytest.raises(LocalError, match="no WebGPU adapter"):
        follow([{"event": "loading"}, {"event": "error", "message": "no WebGPU adapter"}])


def test_a_browser_that_goes_away_is_noticed() -> None:
    with pytest.raises(LocalError, match="went away while the tab was loading"):
        follow([{"event": "loading"}], ends=True)


def test_a_stop_waits_for_the_end_and_a_second_one_hurries_it() -> None:
    async def main() -> None:
        page = ScriptedPage()
        tab = Tab(page, lambda event: None)  # type: ignore[arg-type]
        tab.on_event({"event": "online"})
        stopping = asyncio.ensure_future(tab.stop())
        await asyncio.sleep(0)
        tab.on_event({"event": "draining"})
        tab.on_event({"event": "serving", "sessions": 1, "leaving_in": 90})
        again = asyncio.ensure_future(tab.stop())
        await asyncio.sleep(0)
        assert page.clicked == ["#finish", "#stop"]
        assert not stopping.done()
        tab.on_event({"event": "offline"})
        await asyncio.wait_for(asyncio.gather(stopping, again), 5)
        await tab.stop()
        assert page.clicked == ["#finish", "#stop"]

    asyncio.run(main())


def test_states_are_told_once_and_progress_apart(capsys: pytest.CaptureFixture[str]) -> None:
    told: list[dict[str, Any]] = []
    narrator = Narrator(ProgressLine(), told.append, "tab 1: ")
    narrator({"event": "loading"})
    for done in (0, 50, 100):
        narrator({"event": "progress", "stage": "weights", "done": done, "total": 100, "cached": 0})
        narrator({"event": "loading"})
    narrator({"event": "connection", "connection": "reserved"})
    for name in ("serving", "peers", "threads", "receipt", "storage"):
        narrator({"event": name})
    narrator({"event": "online", "backend": "wasm"})
    assert told == [{"event": "loading"}, {"event": "online", "backend": "wasm"}]
    assert "tab 1: weights: 50 of 100 (50 %)" in capsys.readouterr().err
