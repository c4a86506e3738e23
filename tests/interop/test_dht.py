"""Our DHT node among unmodified hivemind nodes: each stores, each reads, each keeps the other."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kwaainet.dht.key import DHTID
from kwaainet.dht.record import Dictionary, Record, Value
from kwaainet.errors import ClockSkew
from kwaainet.identity.keys import PrivateKey
from kwaainet.native.host import NativeHost
from kwaainet.node.dht import DhtNode
from kwaainet.types import ServerState
from kwaainet.wire import msgpack

from .cases import Case
from .running import PEERS, PEERS_PYTHON, Running, ask, native_tab, relay, started

PATIENCE = 180.0  # seconds; a real node takes 1 to 3 to start on a quiet machine
SKEW = 10.0  # seconds, beyond the 3 that are allowed
SERVER_INFO = (2, 12.5, {"start_block": 0, "end_block": 6, "adapters": (), "throughput": 1.0})


@contextlib.contextmanager
def hivemind_node(folder: Path, name: str, **spec: Any) -> Iterator[Running]:
    (folder / f"{name}.spec").write_text(json.dumps(spec))
    command = [PEERS_PYTHON, PEERS / "hivemind_dht.py", folder / f"{name}.spec"]
    with started(command, folder, name) as running:
        yield running


async def ready(node: Running) -> dict[str, Any]:
    return await asyncio.to_thread(node.event, "ready", PATIENCE)


async def state(node: Running, is_awaited: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The first state of a real node that is as awaited."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and node.process.poll() is None:
        for line in node.lines():
            if line["event"] == "state" and is_awaited(line):
                return line
        await asyncio.sleep(0.1)
    raise AssertionError(f"the real node never got there\n{node.tail()}")


@contextlib.asynccontextmanager
async def our_node(
    *peers: str, skew: float = 0.0, client: bool = False
) -> AsyncIterator[tuple[DhtNode, str]]:
    """Our node, joined through the real ones at ``peers``, and its address."""
    listen = [] if client else ["/ip4/127.0.0.1/tcp/0"]
    host = await NativeHost.create(PrivateKey(os.urandom(32)), listen)
    node = DhtNode(host, now=lambda: time.time() + skew, random_bytes=os.urandom, client_mode=client)
    try:
        await host.listen()
        await node.join([await host.connect(peer) for peer in peers])
        yield node, "" if client else host.addresses[0]
    finally:
        await node.close()
        await host.close()


def unpacked(record: Record | None) -> Any:
    assert isinstance(record, Value)
    return msgpack.loads(record.data)


def test_each_stores_and_each_reads(tmp_path: Path) -> None:
    """We join a real swarm of one as a full node and as a client."""

    async def main(real: Running, client: bool) -> None:
        maddr = (await ready(real))["maddrs"][0]
        until = time.time() + 300
        async with our_node(maddr, client=client) as (node, address):
            assert unpacked(await node.get("theirs.plain")) == "a value"
            record = await node.get("theirs.dictionary")
            assert isinstance(record, Dictionary)
            values = {subkey: msgpack.loads(value.data) for subkey, value in record.entries.items()}
            assert values == {"one": (1, 2.5), "two": 2}
            assert await node.get("nobody's") is None

            assert await node.store("ours.plain", None, msgpack.dumps("our value"), until)
            assert await node.store("ours.dictionary", "server", msgpack.dumps(SERVER_INFO), until)
            assert not await node.store("ours.plain", None, msgpack.dumps("older"), until - 100)
            assert await node.store("theirs.dictionary", "three", msgpack.dumps(3), until)
            # It reads key by key: ours may have come after its look and before that for the last one.
            seen = await state(
                real,
                lambda line: (
                    all(line["records"].values()) and "three" in line["records"]["theirs.dictionary"]["value"]
                ),
            )
            assert seen["records"]["ours.plain"] == {"value": "our value", "expiration": until}
            info = ["tuple", 2, 12.5, {**SERVER_INFO[2], "adapters": ["tuple"]}]
            entries = {"server": {"value": info, "expiration": until}}
            assert seen["records"]["ours.dictionary"] == {"value": entries, "expiration": until}
            peer = address.rpartition("/")[2]
            assert (peer in seen["table"]) != client

    for client in (False, True):
        folder = tmp_path / f"client-{client}"
        folder.mkdir()
        theirs = [["theirs.plain", None, "a value", 300]]
        theirs += [["theirs.dictionary", "one", [1, 2.5], 300], ["theirs.dictionary", "two", 2, 300]]
        read = ["ours.plain", "ours.dictionary", "theirs.dictionary"]
        with hivemind_node(folder, "real", store=theirs, read=read) as real:
            asyncio.run(main(real, client))


def test_real_nodes_join_through_us_and_find_each_other(tmp_path: Path) -> None:
    """We start the swarm; three real nodes, one of them a client, know only our address."""

    async def main(stack: contextlib.ExitStack) -> None:
        async with our_node() as (node, address):
            until = time.time() + 300
            assert await node.store("ours", "x", msgpack.dumps(1), until)

            def start(name: str, **spec: Any) -> Running:
                spec = {"initial_peers": [address], "read": ["ours", "first", "second"], **spec}
                return stack.enter_context(hivemind_node(tmp_path, name, **spec))

            first = start("first", store=[["first", None, "from the first", 300]])
            assert (await ready(first))["stored"] == [True]
            second = start("second", store=[["second", "a", "from the second", 300]])
            assert (await ready(second))["stored"] == [True]
            client = start("client", client_mode=True)
            for real in (first, second, client):
                seen = await state(real, lambda line: all(line["records"].values()))
                assert seen["records"]["ours"]["value"]["x"] == {"value": 1, "expiration": until}
                assert seen["records"]["first"]["value"] == "from the first"
                assert seen["records"]["second"]["value"]["a"]["value"] == "from the second"
                assert address.rpartition("/")[2] in seen["table"]
                assert len(seen["table"]) >= 2, "the real nodes should have found each other through us"
            assert len(node.table) == 2, "a client belongs in nobody's table"
            assert unpacked(await node.get("first")) == "from the first"
            assert node.storage.get(DHTID.of("first"), time.time()) is not None

    with contextlib.ExitStack() as stack:
        asyncio.run(main(stack))


def test_they_keep_us_and_we_keep_them(tmp_path: Path) -> None:
    """Still in each other's tables after more requests than a dead node would survive."""

    async def main(real: Running) -> None:
        maddr = (await ready(real))["maddrs"][0]
        async with our_node(maddr) as (node, address):
            peer = address.rpartition("/")[2]
            await state(real, lambda line: peer in line["table"])
            for n in range(20):
                assert await node.store("counter", None, msgpack.dumps(n), time.time() + 100 + n)
            seen = await state(real, lambda line: (line["records"]["counter"] or {}).get("value") == 19)
            assert peer in seen["table"]
            assert [str(neighbour.peer_id) for neighbour in node.table] == [maddr.rpartition("/")[2]]

    with hivemind_node(tmp_path, "real", read=["counter"]) as real:
        asyncio.run(main(real))


def test_clocks_apart_are_refused_by_both(tmp_path: Path) -> None:
    async def main(real: Running) -> None:
        maddr = (await ready(real))["maddrs"][0]
        with pytest.raises(ClockSkew, match=r"-1\d\.\d+ s from ours"):
            async with our_node(maddr, skew=SKEW):
                pass
        async with our_node(skew=SKEW) as (_, address):
            with hivemind_node(tmp_path, "joining", initial_peers=[address]) as joining:
                event = await asyncio.to_thread(joining.event, "error", PATIENCE)
                assert "local time must be within 3 seconds" in event["error"] + joining.tail()

    with hivemind_node(tmp_path, "real") as real:
        asyncio.run(main(real))


async def read(address: str, keys: list[str]) -> list[Record | None]:
    async with our_node(address, client=True) as (node, _):
        return list((await node.get_many(keys)).values())


def test_a_relay_takes_what_stock_servers_store_and_not_what_others_say_in_their_names(
    tmp_path: Path, odd: Case
) -> None:
    """Petals' own announcing and its reachability check against a relay, and hostile stores beside them."""
    with (
        relay(tmp_path) as origin,
        native_tab(tmp_path, origin, odd, f"0:{odd.blocks}", "tab") as (_, online),
    ):
        spec = {"initial_peers": [origin["tcp"]], "prefix": odd.prefix, "blocks": odd.blocks}
        told = ask(tmp_path, "store_and_check", {**spec, "tab": online["peer_id"]})
        assert told["named"]
        assert told["declared"]
        assert not any(told["hostile"].values()), told["hostile"]
        both = {told["peer"], online["peer_id"]}
        for record in asyncio.run(read(origin["tcp"], [f"{odd.prefix}.{n}" for n in range(odd.blocks)])):
            assert isinstance(record, Dictionary)
            assert {str(subkey) for subkey in record.entries} == both
        assert told["reachable"] is True
        with urllib.request.urlopen(origin["http"] + "metrics") as answer:
            text = answer.read().decode()
    counts = dict(re.findall(r'kwaainet_dht_refusals_total{reason="([^"]+)"} (\d+)', text))
    assert {name: int(count) for name, count in counts.items()}.keys() == {"expiry", "not its own", "shape"}
    assert int(counts["shape"]) >= 3


def test_a_real_node_reads_that_a_tab_is_lost(tmp_path: Path, odd: Case) -> None:
    """Measured from the kill to what it prints, which it looks for three times a second."""
    with (
        relay(tmp_path) as origin,
        native_tab(tmp_path, origin, odd, f"0:{odd.blocks}", "tab") as (tab, online),
        hivemind_node(
            tmp_path, "real", initial_peers=[origin["tcp"]], client_mode=True, read=[f"{odd.prefix}.0"]
        ) as real,
    ):

        def told(value: int) -> Callable[[dict[str, Any]], bool]:
            def is_told(line: dict[str, Any]) -> bool:
                record = (line["records"][f"{odd.prefix}.0"] or {}).get("value", {})
                return online["peer_id"] in record and record[online["peer_id"]]["value"][1] == value

            return is_told

        asyncio.run(state(real, told(ServerState.ONLINE)))
        tab.process.kill()
        killed = time.time()
        asyncio.run(state(real, told(ServerState.OFFLINE)))
        print(f"a real node read the withdrawal {time.time() - killed:.2f} s after the kill")
