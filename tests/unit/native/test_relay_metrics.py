"""What a relay tells those who watch it, in the words that Prometheus' own parser reads."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from kwaainet.errors import InputError, KwaaiNetError, RpcError
from kwaainet.identity.keys import PrivateKey
from kwaainet.native import relay_metrics
from kwaainet.native.host import NativeHost
from kwaainet.native.http import Origin, serve
from kwaainet.native.open_hop import OpenHop
from kwaainet.native.relay import Relay
from kwaainet.native.relay_metrics import RelayMetrics
from kwaainet.node.dht import DhtNode
from kwaainet.ports import Stream
from kwaainet.swarm.announcement import Announcement
from kwaainet.swarm.server_info import ModelInfo, ServerInfo
from kwaainet.types import PeerId, ServerState

Figures = dict[tuple[str, ...], float]


class Watched:
    """A relay of one host with its routes, and a peer that calls it."""

    def __init__(
        self, session: aiohttp.ClientSession, address: str, relay: Relay, client: NativeHost
    ) -> None:
        self.session, self.address, self.relay, self.client = session, address, relay, client
        self.host_id = relay._host.peer_id

    async def text(self, path: str) -> tuple[int, str]:
        async with self.session.get(self.address + path) as answer:
            return answer.status, await answer.text()

    async def figures(self) -> Figures:
        """By name and the labels' values, in the order of the labels' names."""
        status, text = await self.text("metrics")
        assert status == 200
        families = text_string_to_metric_families(text)
        samples = [one for family in families for one in family.samples]
        return {(one.name, *(value for _, value in sorted(one.labels.items()))): one.value for one in samples}


def watch(
    page: Path, test: Callable[[Watched], Awaitable[None]], announced: Sequence[Announcement] = ()
) -> None:
    async def main() -> None:
        host = await NativeHost.create(PrivateKey(os.urandom(32)), ["/ip4/127.0.0.1/tcp/0"])
        client = await NativeHost.create(PrivateKey(os.urandom(32)))
        relay = Relay(host)
        await host.listen()
        dht = DhtNode(host, now=time.time, random_bytes=os.urandom)
        await dht.join([])
        metrics = RelayMetrics(host, relay, dht, lambda: [announced])
        origin = Origin(page, list, "0", more=metrics.routes())
        runner, address = await serve(origin, "127.0.0.1", 0)
        await client.connect(host.addresses[0])
        try:
            async with aiohttp.ClientSession() as session:
                await test(Watched(session, address, relay, client))
        finally:
            await runner.cleanup()
            await dht.close()
            await client.close()
            await host.close()

    asyncio.run(main())


@pytest.fixture
def built(tmp_path: Path) -> Path:
    (tmp_path / "index.html").write_text("page")
    return tmp_path


def test_alive_and_ready_until_it_drains(built: Path) -> None:
    async def test(watched: Watched) -> None:
        assert await watched.text("healthz") == (200, "alive\n")
        assert await watched.text("readyz") == (200, "ready\n")
        await watched.relay.drain(1)
        assert (await watched.text("readyz"))[0] == 503
        assert (await watched.text("healthz"))[0] == 200
        assert (await watched.figures())["kwaainet_draining",] == 1

    watch(built, test)


def test_calls_are_counted_by_protocol_and_outcome_as_they_happen(built: Path) -> None:
    async def echo(peer: PeerId, request: bytes) -> bytes:
        if not request:
            raise InputError("nothing")
        return request

    async def test(watched: Watched) -> None:
        watched.relay._host.handle_unary("Echo.rpc", echo)
        before = await watched.figures()
        assert before["kwaainet_peers",] == 1
        assert ("kwaainet_rpc_seconds_count", "answered", "Echo.rpc") not in before
        began = time.monotonic()
        await watched.client.call(watched.host_id, "Echo.rpc", b"a", timeout=60)
        await watched.client.call(watched.host_id, "Echo.rpc", b"b", timeout=60)
        with pytest.raises(RpcError):
            await watched.client.call(watched.host_id, "Echo.rpc", b"", timeout=60)
        after = await watched.figures()
        assert after["kwaainet_rpc_seconds_count", "answered", "Echo.rpc"] == 2
        assert after["kwaainet_rpc_seconds_count", "failed", "Echo.rpc"] == 1
        assert 0 < after["kwaainet_rpc_seconds_sum", "answered", "Echo.rpc"] <= 2 * (time.monotonic() - began)

    watch(built, test)


def test_the_steps_of_a_session_are_counted_while_it_lasts(built: Path) -> None:
    """Those we answer, and those we ask of others."""

    async def echo(stream: Stream) -> None:
        while (message := await stream.receive()) is not None:
            if message == b"wrong":
                raise InputError("it is wrong")
            if message != b"farewell":
                await stream.send(message)

    def steps(figures: Figures, name: str) -> list[float]:
        found = (
            (f"kwaainet_{name}_seconds_count", outcome, "Echo.rpc") for outcome in ("answered", "failed")
        )
        return [figures.get(key, 0) for key in found]

    async def test(watched: Watched) -> None:
        relay = watched.relay._host
        for host in (relay, watched.client):
            host.handle_stream("Echo.rpc", echo)
        came = await watched.client.open_stream(watched.host_id, "Echo.rpc", timeout=60)
        went = await relay.open_stream(watched.client.peer_id, "Echo.rpc", timeout=60)
        for count in (1, 2, 3):
            for stream in (came, went):
                await stream.send(b"a")
                await stream.receive()
            figures = await watched.figures()
            assert steps(figures, "rpc") == steps(figures, "asked") == [count, 0]
        for stream in (came, went):
            await stream.send(b"farewell")
            await stream.end()
            await stream.close()
        for host, peer in ((watched.client, watched.host_id), (relay, watched.client.peer_id)):
            stream = await host.open_stream(peer, "Echo.rpc", timeout=60)
            await stream.send(b"wrong")
            with pytest.raises(RpcError):
                await stream.receive()
            await stream.close()
        figures = await watched.figures()
        assert steps(figures, "rpc") == steps(figures, "asked") == [3, 1]

    watch(built, test)


def test_a_circuit_is_counted_while_it_lasts(built: Path) -> None:
    async def upper(peer: PeerId, request: bytes) -> bytes:
        return request.upper()

    async def test(watched: Watched) -> None:
        relay, client = watched.relay._host, watched.client
        address = relay.addresses[0]
        tab = await NativeHost.create(PrivateKey(os.urandom(32)), [f"{address}/p2p-circuit"])
        tab.handle_unary("Upper.rpc", upper)
        await tab.listen()
        await client.connect(f"{address}/p2p-circuit/p2p/{tab.peer_id}")
        carried = []
        for _ in range(3):
            await client.call(tab.peer_id, "Upper.rpc", b"a" * 100, timeout=60)
            figures = await watched.figures()
            assert figures["kwaainet_circuits",] == figures["kwaainet_reservations",] == 1
            carried.append(figures["kwaainet_relayed_bytes_total",])
        assert carried[0] + 200 <= carried[1] <= carried[2] - 200
        await tab.close()

    watch(built, test)


def test_circuits_refusals_and_lookups(built: Path) -> None:
    async def test(watched: Watched) -> None:
        watched.relay.refused["no_reservation"] += 3
        watched.relay.opened += 2
        figures = await watched.figures()
        assert figures["kwaainet_refusals_total", "no_reservation"] == 3
        assert figures["kwaainet_circuits_opened_total",] == 2
        assert figures["kwaainet_bans",] == figures["kwaainet_handshakes",] == 0
        assert figures["kwaainet_relayed_bytes_total",] == 0
        assert figures["kwaainet_dht_lookups_total",] >= 1

    watch(built, test)


def test_what_limits_and_bans_keep_out_is_counted_at_once(built: Path) -> None:
    async def test(watched: Watched) -> None:
        network = watched.relay._host.network
        network.admission.change(network.admission.limits.changed("streams", "1,1,1"))
        network.admission.rules.ban("192.0.2.1", "rude", None, time.time())
        network.admission.refusal(None, "192.0.2.1", time.time())
        figures = await watched.figures()
        assert figures["kwaainet_admission_refusals_total", "banned"] == 1
        assert figures["kwaainet_bans",] == 1

    watch(built, test)


def test_servers_by_block_within_the_bound(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def one(prefix: str, start: int, end: int) -> Announcement:
        info = ServerInfo(ServerState.ONLINE, 1.0, start_block=start, end_block=end)
        return Announcement(prefix, info, 100.0, ModelInfo(end))

    monkeypatch.setattr(relay_metrics, "MAX_SERIES", 6)

    async def test(watched: Watched) -> None:
        servers = {key[1:]: value for key, value in (await watched.figures()).items() if "servers" in key[0]}
        expected = {(str(block), "m", "online"): 1 for block in (0, 1, 3)}
        assert servers == {**expected, ("2", "m", "online"): 2}

    watch(built, test, [one("m", 0, 3), one("m", 2, 4), one("large", 0, 9)])


def test_the_dashboard_asks_for_figures_that_there_are(built: Path) -> None:
    dashboard = json.loads((Path(__file__).parents[3] / "build" / "grafana" / "relay.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    named = {name for expression in asked for name in re.findall(r"kwaainet_\w+", expression)}
    assert len(named) > 10

    async def echo(peer: PeerId, request: bytes) -> bytes:
        return request

    async def test(watched: Watched) -> None:
        watched.relay.refused["no_reservation"] += 1
        watched.relay._host.network.admission.refused["banned"] += 1
        watched.relay.open_hop = cast(OpenHop, SimpleNamespace(status={"refused": {"private": 1}}))
        watched.relay._host.handle_unary("Echo.rpc", echo)
        await watched.client.call(watched.host_id, "Echo.rpc", b"", timeout=60)
        with pytest.raises(KwaaiNetError):
            await watched.relay._host.call(watched.client.peer_id, "None.rpc", b"", timeout=60)
        assert named <= {name for name, *_ in await watched.figures()}

    info = ServerInfo(ServerState.ONLINE, 1.0, start_block=0, end_block=1)
    watch(built, test, [Announcement("m", info, 100.0, ModelInfo(1))])
