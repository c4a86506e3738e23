"""What the page hears of a node, and what the network worker is given to say when the page vanishes."""

import asyncio
import contextlib
import importlib
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from kwaainet.browser.host import BrowserHost
from kwaainet.errors import ConfigError, EngineError
from kwaainet.node.receipts import Receipt
from kwaainet.swarm.announcement import PROTOCOL
from kwaainet.testing.clock import now, run
from kwaainet.types import BlockRange, PeerId, Progress

RELAY = PeerId(bytes.fromhex("002408011220") + bytes(32))
SERVING = {
    "type": "serving",
    "sessions": 1,
    "tokens_done": 7,
    "requests_done": 3,
    "busy": 1.25,
    "cache_left": 80,
}
LIMITS = {
    "type": "limits",
    "paused": False,
    "duty": 1.0,
    "memory": 0,
    "hours": [],
    "pause_on_battery": True,
    "pause_on_metered": True,
    "pause_when_hidden": False,
    "on_battery": False,
    "metered": False,
    "hidden": False,
    "utc_offset": 0,
}


@pytest.fixture
def worker(javascript: SimpleNamespace) -> ModuleType:
    return importlib.import_module("kwaainet.browser.worker")


@dataclass
class FakeNode:
    """A ``ServerNode`` that goes through its states; ``failure`` ends its loading."""

    failure: Exception | None = None
    loading: float = 5.0  # seconds
    stopped: int = 0
    announced_again: int = 0
    allowed: list[Any] = field(default_factory=list)
    report: Any = None
    status: Any = field(
        default_factory=lambda: SimpleNamespace(
            blocks=BlockRange(2, 5),
            backend="wasm",
            weights="q4",
            error="device lost",
            sessions=1,
            tokens_done=7,
            requests_done=3,
            busy=1.254,
            cache_tokens_left=80,
            paused=(),
            leaving_in=None,
        )
    )
    hurried: asyncio.Event = field(default_factory=asyncio.Event)

    def farewell(self) -> bytes:
        return b"offline"

    async def start(self, report: Any) -> None:
        self.report = report
        try:
            report(Progress("listen"))
            report(Progress("joining"))
            report(Progress("weights", 10, 20, 4))
            await asyncio.sleep(self.loading)
            if self.failure is not None:
                raise self.failure
        except BaseException:
            await self.stop()
            raise
        report(Progress("online"))

    async def stop(self, drain: float = 0.0) -> None:
        if not drain:
            self.hurried.set()
        self.stopped += 1
        self.report(Progress("offline"))
        if drain:
            self.report(Progress("draining"))
            self.status.leaving_in = drain
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.hurried.wait(), drain)

    async def announce_again(self) -> None:
        self.announced_again += 1

    def allow(self, allowance: Any) -> None:
        self.allowed.append(allowance)
        self.status.paused = allowance.reasons
        self.report(Progress("paused" if allowance.paused else "online"))


async def _tab(worker: ModuleType, network: Any, node: FakeNode) -> tuple[Any, Any, list[Any]]:
    port = network.worker()
    told: list[Any] = []
    tab = worker.Tab(node, await BrowserHost.create(port), RELAY, told.append, now)
    return tab, port, told


def _states(told: list[Any]) -> list[str]:
    return [message["state"] for message in told if message["type"] == "state"]


def test_from_the_start_to_a_stop(worker: ModuleType, network: Any) -> None:
    async def main() -> None:
        node = FakeNode()
        tab, port, told = await _tab(worker, network, node)
        serving = asyncio.create_task(tab.serve())
        await asyncio.sleep(10)
        node.report(Progress("online"))  # announced again
        assert _states(told) == ["reserving", "joining", "online"]
        assert [message["blocks"] for message in told if message["type"] == "state"][-1] == [2, 5]
        assert told[-1] == SERVING | {"leaving_in": 0}
        assert {
            "type": "progress",
            "stage": "weights",
            "done": 10,
            "total": 20,
            "cached": 4,
            "rate": 0.0,
        } in told
        farewell = port.posted[-1]
        assert (farewell["type"], farewell["peer"], farewell["protocol"]) == (
            "farewell",
            str(RELAY),
            PROTOCOL,
        )
        tab.leave(0)
        await serving
        assert node.stopped == 1
        assert _states(told) == ["reserving", "joining", "online"], "the page says offline when all is over"

    run(main())


def test_a_stop_drains_until_it_is_asked_for_again(worker: ModuleType, network: Any) -> None:
    async def main() -> None:
        node = FakeNode()
        tab, _, told = await _tab(worker, network, node)
        serving = asyncio.create_task(tab.serve())
        await asyncio.sleep(10)
        tab.leave(90)
        await asyncio.sleep(30)
        assert _states(told) == ["reserving", "joining", "online", "draining"]
        assert told[-1] == SERVING | {"leaving_in": 90}
        assert not serving.done()
        tab.leave(0)
        await asyncio.wait_for(serving, 1)
        assert "error" not in _states(told)

    run(main())


def test_a_stop_while_loading(worker: ModuleType, network: Any) -> None:
    async def main() -> None:
        node = FakeNode(loading=1000)
        tab, _, told = await _tab(worker, network, node)
        serving = asyncio.create_task(tab.serve())
        await asyncio.sleep(1)
        tab.leave(90)
        await asyncio.wait_for(serving, 5)
        assert node.stopped == 1
        assert _states(told) == ["reserving", "joining"]

    run(main())


def test_a_start_that_fails_is_raised_once(worker: ModuleType, network: Any) -> None:
    async def main() -> None:
        tab, _, told = await _tab(worker, network, FakeNode(EngineError("no memory")))
        with pytest.raises(EngineError, match="no memory"):
            await tab.serve()
        assert "error" not in _states(told)

    run(main())


def test_a_node_that_gives_up_by_itself_is_an_error(worker: ModuleType, network: Any) -> None:
    async def main() -> None:
        node = FakeNode()
        tab, _, told = await _tab(worker, network, node)
        serving = asyncio.create_task(tab.serve())
        await asyncio.sleep(10)
        node.report(Progress("offline"))
        assert (told[-1]["state"], told[-1]["message"]) == ("error", "device lost")
        serving.cancel()

    run(main())


def test_a_relay_that_returned_is_told_again(worker: ModuleType, network: Any) -> None:
    async def main() -> None:
        node = FakeNode()
        tab, port, _ = await _tab(worker, network, node)
        serving = asyncio.create_task(tab.serve())
        await asyncio.sleep(10)
        port.connection("lost", "it stopped")
        port.connection("reserved")
        await asyncio.sleep(1)
        assert node.announced_again == 1
        serving.cancel()

    run(main())


def test_a_receipt_reaches_the_page_in_plain_words(worker: ModuleType) -> None:
    receipt = Receipt("session", RELAY, "tiny", BlockRange(2, 5), 7, 100, 200, 1.5, 3.0)
    assert worker.told(receipt) == {
        "type": "receipt",
        "kind": "session",
        "peer": str(RELAY),
        "model": "tiny",
        "blocks": [2, 5],
        "tokens": 7,
        "bytes_in": 100,
        "bytes_out": 200,
        "started": 1.5,
        "ended": 3.0,
        "error": "",
        "code": "",
    }


def test_the_relay_is_read_off_its_address(worker: ModuleType) -> None:
    assert worker.relay_of(["/ip4/1.2.3.4/tcp/1/ws", f"/ip4/1.2.3.4/tcp/1/ws/p2p/{RELAY}"]) == RELAY
    with pytest.raises(ConfigError, match="ends in /p2p/ID"):
        worker.relay_of(["/ip4/1.2.3.4/tcp/1/ws"])


@pytest.mark.parametrize("ahead", [3600.0, -3600.0])
def test_where_the_clock_is_wrong_the_relays_time_counts(
    worker: ModuleType, monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    wall, passed = 1e9 + ahead, 5.0
    fake = SimpleNamespace(time=lambda: wall, perf_counter=lambda: passed)
    monkeypatch.setattr(worker, "time", fake)
    assert worker.swarm_clock(0.0)() == wall, "a clock that is right is read"
    clock = worker.swarm_clock(ahead)
    wall, passed = 7.0, 65.0  # it is set, a minute later
    assert clock() == 1e9 + 60


def test_what_the_page_allows_reaches_the_node_and_comes_back_as_words(
    worker: ModuleType, network: Any
) -> None:
    async def main() -> None:
        node = FakeNode()
        tab, _, told = await _tab(worker, network, node)
        serving = asyncio.create_task(tab.serve())
        await asyncio.sleep(10)
        tab.limit(LIMITS)
        assert node.allowed == [], "nothing new"
        tab.limit(LIMITS | {"on_battery": True})
        tab.limit(LIMITS | {"on_battery": True, "paused": True})
        tab.limit(LIMITS | {"duty": 0.5, "memory": 1e6})
        assert [one.reasons for one in node.allowed] == [("battery",), ("asked", "battery"), ()]
        assert (node.allowed[-1].duty, node.allowed[-1].memory_bytes) == (0.5, 1_000_000)
        said = [(one["state"], one["reasons"]) for one in told if one["type"] == "state"][-3:]
        assert said == [("paused", ["battery"]), ("paused", ["asked", "battery"]), ("online", [])]
        with pytest.raises(ConfigError, match="duty"):
            tab.limit(LIMITS | {"duty": 2.0})
        tab.leave(0)
        await serving

    run(main())


def test_hours_come_and_go_without_a_word_of_the_page(worker: ModuleType, network: Any) -> None:
    async def main() -> None:
        node = FakeNode()
        tab, _, _ = await _tab(worker, network, node)
        serving = asyncio.create_task(tab.serve())
        await asyncio.sleep(10)
        minute = int(now() // 60) % 1440
        tab.limit(LIMITS | {"hours": [[(minute + 2) % 1440, (minute + 4) % 1440]]})
        await asyncio.sleep(301)
        assert [one.reasons for one in node.allowed] == [("hours",), (), ("hours",)]
        tab.leave(0)
        await serving

    run(main())
