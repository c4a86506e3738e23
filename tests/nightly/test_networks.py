"""A relay in a bad network: packets late and lost, a line that goes dead without a word, names nobody knows.

Two rooms with a wire between them (``rooms.py``): the relay in one, guests (``guests.py``) in the other.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from interop.running import KWAAINET, Failed, Running
from nightly.rooms import HERE, THERE, Wire, room, wired
from nightly.sizes import size
from nightly.soak import GUESTS

RELAY_WITH = Path(__file__).with_name("relay_with.py")
PATIENCE = size(240.0, 3600.0)  # seconds; a loaded machine is slow, and a night is long


def wait(condition: Callable[[], bool], what: Callable[[], object]) -> None:
    """Until ``condition`` holds; else fails with ``what``."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise Failed(str(what()))
        time.sleep(0.1)


def seen(guests: Running) -> dict[str, Any]:
    """What the guests said last."""
    return (guests.lines() or [{}])[-1]


def files_of(running: Running) -> int:
    """How many files and sockets a process holds."""
    return len(list(Path(f"/proc/{running.process.pid}/fd").iterdir()))


@contextmanager
def scene(
    folder: Path, wire: Wire, guests: int, *, life: float, ask_every: float, keepalive: float = 30.0
) -> Iterator[tuple[Running, Running, int]]:
    """(relay, guests, how many files the relay held before them); all guests have come once."""
    clock = folder / "clock"
    clock.write_text("0")
    flags = ["--http", f"{HERE}:80", "--listen", f"/ip4/{HERE}/tcp/4001/ws", "--state-dir", folder / "state"]
    command = [sys.executable, RELAY_WITH, clock, str(keepalive), *flags]
    with room(command, folder, "relay", HERE, wire) as relay:
        address = relay.event("ready")["maddrs"][0]
        bare = files_of(relay)
        words = [sys.executable, GUESTS, address, str(guests), "1", str(life), str(ask_every)]
        with room(words, folder, "guests", THERE, wire) as party:
            wait(lambda: seen(party).get("came", 0) >= guests, party.tail)
            yield relay, party, bare


def test_late_and_lost_packets(tmp_path: Path) -> None:
    """5 % lost, 200 ms there and back: slower, and right all the same."""
    with (
        wired(delay=0.1, loss=0.05, seed=1) as wire,
        scene(tmp_path, wire, 6, life=size(1000.0, 60.0), ask_every=size(0.3, 1.0)) as (relay, guests, _),
    ):
        wait(lambda: seen(guests).get("answered", 0) >= size(6, 1000), lambda: seen(guests))
        last = seen(guests)
        print(last, f"{wire.lost} of {wire.carried + wire.lost} packets lost")
        assert not [word for word in last if word.startswith(("wrong", "failed", "lost"))], last
        assert wire.lost > 0
        assert relay.process.poll() is None


def test_a_line_that_goes_dead_without_a_word(tmp_path: Path) -> None:
    """Neither side hears of it: the relay lets go of what it held, and all come back when the line does."""
    keepalive = size(1.0, 30.0)
    with (
        wired() as wire,
        scene(tmp_path, wire, 6, life=1e6, ask_every=0.3, keepalive=keepalive) as (relay, guests, bare),
    ):
        wait(lambda: seen(guests).get("answered", 0) >= 12, lambda: seen(guests))
        held = bare + 6
        wait(
            lambda: files_of(relay) >= held, lambda: (held, files_of(relay))
        )  # who stood still may be on the way
        wire.cut = True
        wait(lambda: files_of(relay) <= bare, lambda: (bare, files_of(relay), relay.tail()))
        before = seen(guests).get("answered", 0)
        wire.cut = False
        wait(lambda: seen(guests).get("answered", 0) >= before + 12, lambda: (seen(guests), guests.tail()))
        wait(lambda: files_of(relay) <= held + 2, lambda: (held, files_of(relay)))
        assert "wrong" not in seen(guests)


def test_names_that_nobody_knows(tmp_path: Path) -> None:
    """In a room without a name server: those known by number will do, and if there are none it is said."""
    flags = ["--http", "127.0.0.1:8080", "--listen", "/ip4/127.0.0.1/tcp/4001", "--no-open-hop"]
    nobody = "12D3KooWBrH6KP5wxVzF8p9UFK95Pdv7HkF54LSZopqca9ypAZ9r"
    unknown = ["--initial-peers", f"/dns4/bootstrap.example/tcp/4001/p2p/{nobody}"]
    first = [KWAAINET, "relay", *flags]
    second = ["--http", "127.0.0.1:8081", "--listen", "/ip4/127.0.0.1/tcp/4002", *unknown]
    script = tmp_path / "both.sh"
    both = " ".join(map(str, [KWAAINET, "relay", *second, "--initial-peers"]))
    alone = " ".join(map(str, [KWAAINET, "relay", *second]))
    script.write_text(
        f'{alone}\necho \'{{"event": "alone", "code": \'$?\'}}\'\n{" ".join(map(str, first))} &\n'
    )
    with script.open("a") as file:
        file.write(
            "until address=$(grep -o '/ip4/127.0.0.1/tcp/4001/p2p/[A-Za-z0-9]*' room.out | head -1) && "
            f'[ -n "$address" ]; do sleep 0.1; done\nexec {both} "$address"\n'
        )
    with room(["sh", script], tmp_path, "room", HERE) as running:
        assert running.event("alone")["code"] != 0
        assert "bootstrap.example" in running.err.read_text()
        wait(lambda: running.out.read_text().count('"ready"') == 2, running.tail)
