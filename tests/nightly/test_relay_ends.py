"""A relay that is killed, whose disk is full, whose clock jumps: what it serves and keeps survives it."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
import time
import urllib.request
from contextlib import AsyncExitStack
from pathlib import Path

from browser.fixed_relay import FixedRelay
from browser.peers import ALL, PREFIX, Peer, hidden_states, joined
from browser.tabs import eventually, open_tab
from interop.running import KWAAINET, Running, free_port, started
from nightly.rooms import HERE, room
from nightly.sizes import size, whole
from nightly.soak import GUESTS
from nightly.test_networks import RELAY_WITH, seen, wait

from kwaainet.native.chromium import Browser
from kwaainet.types import ServerState

TABS_BACK, DHT_CONSISTENT = 5.0, 30.0  # seconds from when the relay is up again
HOUR = 3600
KEPT = {"identity.key", "peers.json", "admin.sock"}  # the last stays where a relay was killed
DISK = """
fill () {{ head -c 1000000 /dev/zero > {disk}/fill 2> {disk}/../ignored; }}
say () {{ printf '{{"event": "%s", "found": "%s"}}\\n' "$1" "$2"; }}
mkdir {state}; chmod 700 {state}; fill
{relay}; say refused $?
say left "$(ls {state})"
rm {disk}/fill
{relay} &
until [ -e {go} ]; do sleep 0.1; done
fill; say full
until [ -e {go}.2 ]; do sleep 0.1; done
kill $!; wait $!; say over $?
say kept "$(ls {state} | tr '\\n' ' ')"
"""


def check_state(folder: Path) -> bytes:
    """Nothing half written, and no rubbish; returns the identity."""
    names = {path.name for path in folder.iterdir()}
    assert names <= KEPT, names
    if "peers.json" in names:
        assert isinstance(json.loads((folder / "peers.json").read_text()), list)
    return (folder / "identity.key").read_bytes()


def test_killed_and_started_again(small_model: Path, tmp_path: Path) -> None:
    relay = FixedRelay(tmp_path, small_model)

    async def is_online(peer: Peer, servers: list[str]) -> bool:
        found = [await peer.states(PREFIX, len(ALL), server) for server in servers]
        return all(states == [ServerState.ONLINE] * len(ALL) for states in found)

    async def main() -> None:
        async with AsyncExitStack() as stack:
            browsers = [await stack.enter_async_context(await Browser.launch()) for _ in range(size(1, 2))]
            running = relay.started()
            process = running.__enter__()
            process.event("ready")
            tabs = [await open_tab(browser, relay.url, backend="wasm") for browser in browsers]
            servers = [(await tab.contribute())["peer_id"] for tab in tabs]
            identity = check_state(relay.state)
            for turn in range(size(1, 10)):
                before = [len(tab.events) for tab in tabs]
                process.process.kill()
                process.process.wait()
                running.__exit__(None, None, None)
                assert check_state(relay.state) == identity
                running = relay.started()
                process = running.__enter__()
                address = next(one for one in process.event("ready")["maddrs"] if "/ws" not in one)
                up = time.monotonic()
                for tab, since in zip(tabs, before, strict=True):
                    await tab.until("connection", since=since, connection="reserved")
                back = time.monotonic() - up
                async with joined(address) as peer:
                    await eventually(lambda peer=peer: is_online(peer, servers))
                    consistent = time.monotonic() - up
                    await (await peer.session(servers[turn % len(servers)])).step(hidden_states(1, 3))
                print(f"tabs back after {back:.1f} s, DHT consistent after {consistent:.1f} s")
                if whole():
                    assert back < TABS_BACK
                    assert consistent < DHT_CONSISTENT
            running.__exit__(None, None, None)

    asyncio.run(main())


def test_killed_at_any_moment_of_its_start(tmp_path: Path) -> None:
    """The first start too, in which the identity is made."""
    chance, state = random.Random(1), tmp_path / "state"
    flags = ["--http", "127.0.0.1:0", "--listen", "/ip4/127.0.0.1/tcp/0", "--state-dir", state]
    made = None
    for turn in range(size(3, 40)):
        with started([KWAAINET, "relay", *flags], tmp_path, f"killed-{turn}") as running:
            time.sleep(chance.uniform(0.0, 0.5))  # what it imports is there already
            running.process.send_signal(signal.SIGKILL)
        if (state / "identity.key").exists():
            made = made or (state / "identity.key").read_bytes()
            assert (state / "identity.key").read_bytes() == made
    with started([KWAAINET, "relay", *flags], tmp_path, "last") as running:
        running.event("ready")
        assert made in (None, (state / "identity.key").read_bytes())
        assert running.stop() == 0
    check_names = {path.name for path in state.iterdir()}
    assert {"identity.key", "peers.json"} <= check_names


def test_a_full_disk(tmp_path: Path) -> None:
    """No start without an identity, and why; with one, a full disk costs only what would be kept."""
    state, go = tmp_path / "disk" / "state", tmp_path / "go"
    (tmp_path / "disk").mkdir()
    flags = ["--http", f"127.0.0.1:{free_port()}", "--listen", f"/ip4/127.0.0.1/tcp/{free_port()}/ws"]
    relay = " ".join(map(str, [KWAAINET, "relay", *flags, "--state-dir", state]))
    script = tmp_path / "disk.sh"
    script.write_text(DISK.format(disk=tmp_path / "disk", state=state, relay=relay, go=go))
    with room(["sh", script], tmp_path, "disk", HERE, disk=(tmp_path / "disk", 65536)) as running:
        assert running.event("refused")["found"] != "0"
        assert "No space left" in running.err.read_text()
        assert running.event("left")["found"] == "", "half a key would let no later run start"
        address = running.event("ready")["maddrs"][0]
        words = [sys.executable, GUESTS, address, "4", "1", "1000", "0.3"]
        inside = ["nsenter", f"--net=/proc/{running.process.pid}/ns/net"]
        with started([*inside, *words], tmp_path, "guests") as guests:
            wait(lambda: seen(guests).get("answered", 0) >= 4, guests.tail)
            go.touch()
            running.event("full")
            before = seen(guests)["answered"]
            wait(lambda: seen(guests)["answered"] >= before + 12, guests.tail)
            assert not [word for word in seen(guests) if word.startswith(("wrong", "failed", "lost"))]
        (tmp_path / "go.2").touch()
        assert running.event("over")["found"] == "0"
        assert set(running.event("kept")["found"].split()) <= KEPT


def announced(relay: Running) -> int:
    """Peers that the relay says stand in the DHT through it."""
    with urllib.request.urlopen(relay.event("ready")["http"] + "status.json", timeout=30) as answer:
        return len(json.load(answer)["announced"])


def test_a_clock_that_jumps(tmp_path: Path) -> None:
    """An hour ahead, an hour back, a day ahead: those connected stay, those who come are served."""
    clock = tmp_path / "clock"
    clock.write_text("0")
    flags = [
        "--http",
        "127.0.0.1:0",
        "--listen",
        "/ip4/127.0.0.1/tcp/0/ws",
        "--state-dir",
        tmp_path / "state",
    ]
    with started([sys.executable, RELAY_WITH, clock, "30", *flags], tmp_path, "relay") as relay:
        address = relay.event("ready")["maddrs"][0]
        words = [sys.executable, GUESTS, address, "8", "1", str(size(2.0, 30.0)), "0.3"]
        with started(words, tmp_path, "guests") as guests:
            wait(lambda: seen(guests).get("answered", 0) >= 16, guests.tail)
            for jump in (HOUR, 0, -HOUR, 24 * HOUR, 0):
                (tmp_path / "next").write_text(str(jump))
                (tmp_path / "next").replace(clock)
                before = seen(guests)
                more = size(16, 1000)
                wait(
                    lambda before=before, more=more: (
                        seen(guests)["answered"] >= before["answered"] + more
                        and seen(guests)["came"] >= before["came"] + 8
                    ),
                    guests.tail,
                )
                wait(lambda: announced(relay) >= 4, lambda: (announced(relay), seen(guests)))
                last = seen(guests)
                print(jump, last)
                assert not [word for word in last if word.startswith(("wrong", "failed", "lost"))], (
                    jump,
                    last,
                )
