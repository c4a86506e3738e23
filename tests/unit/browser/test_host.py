"""The tab's host passes the suite of every host, and ends whatever waits when its worker goes."""

import asyncio
from typing import Any

import pytest

from kwaainet.browser.host import BrowserHost
from kwaainet.errors import StreamReset, Unreachable
from kwaainet.ports import Stream
from kwaainet.testing import compliance
from kwaainet.testing.clock import run
from kwaainet.types import PeerId


async def _pair(network: Any) -> tuple[BrowserHost, BrowserHost]:
    caller = await BrowserHost.create(network.worker())
    callee = await BrowserHost.create(network.worker())
    await callee.listen()
    return caller, callee


@pytest.mark.parametrize("check", compliance.HOST_CHECKS, ids=lambda check: str(check.__name__))
def test_host_checks(check: compliance.HostCheck, network: Any) -> None:
    async def main() -> None:
        await check(*await _pair(network))

    run(main())


def test_listening_gives_addresses_and_losing_the_relay_takes_them(network: Any) -> None:
    async def main() -> None:
        worker = network.worker()
        host = await BrowserHost.create(worker)
        assert host.addresses == ()
        await host.listen()
        assert len(host.addresses) == 1
        returned: list[str] = []
        host.on_return = lambda: returned.append("again")
        worker.connection("lost", "the relay stopped")
        await asyncio.sleep(0)
        assert host.addresses == ()
        assert not returned
        worker.connection("connecting")
        worker.connection("reserved")
        worker.connection("reserved")
        await asyncio.sleep(0)
        assert returned == ["again"], "told once for each return"

    run(main())


def test_a_relay_that_does_not_answer_is_unreachable(network: Any) -> None:
    async def main() -> None:
        worker = network.worker()
        worker.can_listen = False
        host = await BrowserHost.create(worker)
        with pytest.raises(Unreachable, match="no relay"):
            await host.listen()

    run(main())


def test_everything_that_waits_fails_when_the_worker_goes(network: Any) -> None:
    async def main() -> None:
        caller, callee = await _pair(network)
        ended: list[str] = []

        async def sleep(peer: PeerId, request: bytes) -> bytes:
            await asyncio.sleep(1000)
            return b""

        async def wait(stream: Stream) -> None:
            try:
                await stream.receive()
            except BaseException as error:
                ended.append(type(error).__name__)
                raise

        callee.handle_unary("T.rpc_sleep", sleep)
        callee.handle_stream("T.rpc_wait", wait)
        call = asyncio.create_task(caller.call(callee.peer_id, "T.rpc_sleep", b"", timeout=500))
        stream = await caller.open_stream(callee.peer_id, "T.rpc_wait", timeout=5)
        reading = asyncio.create_task(stream.receive())
        await asyncio.sleep(1)
        for host in (caller, callee):
            network.workers[str(host.peer_id)].deliver({"type": "network-gone", "reason": "it crashed"})
        with pytest.raises(StreamReset, match="it crashed"):
            await call
        with pytest.raises(StreamReset, match="it crashed"):
            await reading
        with pytest.raises(StreamReset, match=r"closed|crashed"):
            await stream.send(b"x")
        with pytest.raises(StreamReset, match="it crashed"):
            await caller.call(callee.peer_id, "T.rpc_sleep", b"", timeout=5)
        await asyncio.sleep(0)
        assert ended in (["StreamReset"], ["CancelledError"])
        await caller.close()

    run(main())


def test_a_worker_that_never_says_who_we_are(network: Any) -> None:
    async def main() -> None:
        worker = network.worker()
        worker.listen = lambda receive: asyncio.get_running_loop().call_soon(
            receive, {"type": "network-gone", "reason": "it could not be loaded"}
        )
        with pytest.raises(StreamReset, match="could not be loaded"):
            await BrowserHost.create(worker)

    run(main())


def test_what_comes_right_behind_an_open_is_not_lost(network: Any) -> None:
    """A worker's messages can arrive in one turn, before any task of theirs has run."""

    async def main() -> None:
        worker = network.worker()
        host = await BrowserHost.create(worker)
        heard: list[bytes | None] = []

        async def listen(stream: Stream) -> None:
            while (message := await stream.receive()) is not None:
                heard.append(message)
            heard.append(None)

        host.handle_stream("T.rpc_listen", listen)
        worker._receive({"type": "open", "id": 2, "peer": str(host.peer_id), "protocol": "T.rpc_listen"})
        worker._receive({"type": "data", "id": 2, "body": b"first"})
        worker._receive({"type": "end", "id": 2})
        await asyncio.sleep(1)
        assert heard == [b"first", None]

    run(main())


def test_late_messages_about_what_is_over_are_dropped(network: Any) -> None:
    async def main() -> None:
        caller, _ = await _pair(network)
        worker = network.workers[str(caller.peer_id)]
        for kind in ("result", "data", "credit", "end", "close", "cancel", "fault"):
            worker.deliver(
                {"type": kind, "id": 999, "body": b"", "bytes": 1, "error": "RpcError", "message": ""}
            )
        await asyncio.sleep(0)
        await compliance.check_unary_roundtrip(caller, _)

    run(main())


def test_the_farewell_goes_to_the_worker(network: Any) -> None:
    async def main() -> None:
        caller, callee = await _pair(network)
        caller.set_farewell(callee.peer_id, "R.rpc_announce", b"offline")
        assert network.workers[str(caller.peer_id)].posted[-1] == {
            "type": "farewell",
            "peer": str(callee.peer_id),
            "protocol": "R.rpc_announce",
            "body": b"offline",
        }

    run(main())


def test_ids_are_odd_and_never_used_twice(network: Any) -> None:
    async def main() -> None:
        caller, callee = await _pair(network)
        for _ in range(3):
            await compliance.check_unary_roundtrip(caller, callee)
        posted = network.workers[str(caller.peer_id)].posted
        numbers = [message["id"] for message in posted if message["type"] == "call"]
        assert len(set(numbers)) == len(numbers) == 6
        assert all(number % 2 for number in numbers)

    run(main())
