"""A real tab on two relays, and a stock petals client while one of them is restarted.

The client reads the DHT every two seconds instead of every sixty: everything else is stock. What goes through
a relay that is killed is lost to a stock client: petals 2.2.0.post1 cannot go on with a session whose
connection broke ("Broken input cache"), and tries for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from browser.peers import expected, joined
from interop.cases import Case
from interop.running import (
    KWAAINET,
    OFFLINE,
    PEERS,
    PEERS_PYTHON,
    POLL,
    Running,
    free_port,
    started,
    status,
    tab,
)

from kwaainet.types import BlockRange, PeerId

ROUNDS_AFTER = 2  # generations that must work when the relay is back
TOKENS = 24  # of one generation
PATIENCE = 180.0  # seconds


class Station:
    """A relay that keeps its ports and its identity over a restart."""

    def __init__(self, folder: Path, name: str, case: Case, *initial_peers: str) -> None:
        self.folder, self.name, self.runs = folder, name, contextlib.ExitStack()
        tcp, ws, http = free_port(), free_port(), free_port()
        self.command = [KWAAINET, "relay", "-v", "--http", f"127.0.0.1:{http}"]
        self.command += ["--listen", f"/ip4/127.0.0.1/tcp/{tcp}", "--listen", f"/ip4/127.0.0.1/tcp/{ws}/ws"]
        self.command += ["--state-dir", folder / f"{name}.state"]
        self.command += ["--model", case.folder, "--prefix", case.prefix]
        self.command += ["--initial-peers", *initial_peers] if initial_peers else []
        self.origin: dict[str, Any] = {}
        self.address = ""
        self.running: Running

    def start(self) -> str:
        """Its TCP address."""
        name = f"{self.name}-{len(list(self.folder.glob(self.name + '-*.out')))}"
        self.running = self.runs.enter_context(started(self.command, self.folder, name))
        self.origin = self.running.event("ready")
        self.address = next(one for one in self.origin["maddrs"] if "/ws/" not in one)
        return self.address

    def status(self) -> dict[str, Any]:
        return status(self.origin)

    def named(self) -> list[str]:
        """The relays that it tells pages of."""
        with urllib.request.urlopen(self.origin["http"] + "kwaainet.json") as answer:
            return [address.rpartition("/")[2] for address in json.load(answer)["relay"]]


def wait_for(what: Callable[[], bool], running: Running) -> None:
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline, running.tail()
        time.sleep(POLL)


async def goes_on(tab_id: str, odd: Case, stations: tuple[Station, Station]) -> None:
    """Our own client's session goes through a relay that is killed, and on through the other."""
    size = json.loads((odd.folder / "config.json").read_text())["hidden_size"]
    hidden = np.random.default_rng(1).standard_normal((1, 5, size), np.float32)
    one, other = stations
    async with joined(one.address) as peer:
        await peer.host.connect(other.address)
        async with peer.client(odd.prefix, odd.blocks).session(16) as session:
            found = [await session.step(hidden[:, :3])]
            assert [str(hop.peer) for hop in session.hops] == [tab_id]
            link = peer.host.network.link(PeerId.parse(tab_id))
            assert link is not None
            [used] = [each for each in stations if each.origin["peer_id"] in str(link.address)]
            used.running.process.kill()
            found += [await session.step(hidden[:, n : n + 1]) for n in (3, 4)]
            assert session.failovers == 1
    right = await expected(odd.folder, hidden, BlockRange(0, odd.blocks))
    assert np.abs(np.concatenate(found, axis=1) - right).max() < 1e-3


def test_a_relays_restart_fails_no_generation_of_a_stock_client(odd: Case, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        first = Station(tmp_path, "first", odd)
        stack.enter_context(first.runs)
        address = first.start()
        second = Station(tmp_path, "second", odd, address)
        stack.enter_context(second.runs)
        addresses = [second.start(), address]
        wait_for(lambda: len(set(first.named())) == 2, first.running)
        running, online = stack.enter_context(tab(tmp_path, first.origin["http"], "--backend", "wasm"))
        wait_for(lambda: all(one.status()["reservations"] == 1 for one in (first, second)), running)

        spec, result, gone = (tmp_path / name for name in ("looper.spec", "looper.result", "gone"))
        asked = {"model": str(odd.folder), "initial_peers": addresses, "dht_prefix": odd.prefix}
        asked |= {"update_period": 2.0, "until": str(gone), "rounds_after": ROUNDS_AFTER}
        spec.write_text(json.dumps({**asked, "tokens": TOKENS, "stock_retries": True}))
        command = [PEERS_PYTHON, PEERS / "petals_looper.py", spec, result]
        looper = stack.enter_context(started(command, tmp_path, "looper", OFFLINE))
        looper.event("generating")

        used, left = sorted((first, second), key=lambda one: -one.status()["circuits"])
        used.running.process.terminate()  # as for an upgrade, while sessions run through it
        assert used.running.process.wait(PATIENCE) == 0, used.running.tail()
        before = left.status()["relayed_bytes"]
        wait_for(lambda: left.status()["relayed_bytes"] > before, running)  # the client went over
        wait_for(lambda: left.status()["announced"], running)  # the other speaks for the tab now
        used.start()
        wait_for(lambda: used.status()["reservations"] == 1, running)
        gone.touch()
        assert looper.process.wait(PATIENCE) == 0, looper.tail()
        asyncio.run(goes_on(online["peer_id"], odd, (first, second)))
    rounds = json.loads(result.read_text())["rounds"]
    assert [each["error"] for each in rounds if each["error"]] == []
    assert all(each["equal"] for each in rounds)
