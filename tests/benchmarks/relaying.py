"""Relayed bytes, connections and idle memory of our relay, py-libp2p's and p2pd's, under the same load.

The load is js-libp2p on both ends of WebSocket circuits (relay_load.mjs), a process of its own. All
relays run at the same time and take turns, so that all meet the same machine.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from interop.running import PEERS_PYTHON, ROOT, Failed, Running, free_port, relay, started

from .processes import cpu_seconds, resident_kilobytes
from .report import Result, Row

HERE = Path(__file__).parent
ENVIRONMENT = ROOT / ".cache" / "bench-py-libp2p"
PACKAGE = "libp2p==0.8.1"
NODE = Path(sys.executable).parent / "node"

WARM_UP = 8 << 20
TRANSFER = 48 << 20  # bytes each way and round: a second of our relay's processor, five of theirs
ECHOES = 200
PEERS = 60  # connections that are set up and then kept idle
P2PD_STARTS = 12  # tries until p2pd keeps to its flags: its main starts a relay with them and one without
P2PD_FLAGS = ("-forceReachabilityPublic", "-natPortMap=0", "-autonat=0", "-relayTimeLimit=24h")
P2PD_FLAGS += ("-relayDataLimit=1099511627776", "-relayMaxReservations=4096", "-relayMaxCircuits=4096")


class Load:
    """A generator connected through one relay, and that relay's process."""

    def __init__(self, generator: subprocess.Popen[str], relay_process: int) -> None:
        self._generator = generator
        self._relay = relay_process
        self._read()

    def run(self, **command: Any) -> tuple[dict[str, float], float]:
        """(the generator's answer, processor seconds of the relay meanwhile)."""
        before = cpu_seconds(self._relay)
        assert self._generator.stdin is not None
        self._generator.stdin.write(json.dumps(command) + "\n")
        self._generator.stdin.flush()
        answer = self._read()
        return answer, cpu_seconds(self._relay) - before

    def transfer_rate(self, size: int) -> float:
        """Relayed MB per second of the relay's processor; ``size`` bytes go each way."""
        _, seconds = self.run(do="transfer", bytes=size)
        return 2 * size / 1e6 / seconds

    def connections(self, peers: int) -> dict[str, float]:
        """What setting up and then holding so many connections costs the relay, each."""
        before = resident_kilobytes(self._relay)
        _, seconds = self.run(do="connect", peers=peers)
        time.sleep(1)  # identify goes on behind the reservation
        held = resident_kilobytes(self._relay) - before
        return {"milliseconds": 1000 * seconds / peers, "kilobytes": held / peers}

    def _read(self) -> dict[str, float]:
        assert self._generator.stdout is not None
        line = self._generator.stdout.readline()
        if not line:
            raise Failed(f"the load generator ended with {self._generator.wait()}; see its complaint above")
        answer: dict[str, float] = json.loads(line)
        return answer


def measure(folder: Path, rounds: int) -> Result:
    """Needs Node and the py-libp2p package, which it installs into an environment of its own."""
    install()
    with ours(folder) as one, theirs(folder) as other, stock(folder) as third:
        loads = {"kwaainet": one, "py-libp2p": other, "p2pd": third}
        figures: dict[str, Any] = {name: {"rates": []} for name in loads}
        for load in loads.values():
            load.run(do="transfer", bytes=WARM_UP)
        for _ in range(rounds):
            for name, load in loads.items():
                figures[name]["rates"].append(load.transfer_rate(TRANSFER))
        for name, load in loads.items():
            figures[name]["echo"] = load.run(do="echo", rounds=ECHOES)[0]["milliseconds"]
        for name, load in loads.items():
            figures[name] |= load.connections(PEERS)
    return Result(list(_rows(figures)), figures)


def _rows(figures: dict[str, dict[str, Any]]) -> Iterator[Row]:
    peer = PACKAGE.replace("==", " ").replace("libp2p", "py-libp2p")
    mine = median(figures["kwaainet"]["rates"])
    for name, shown, goal in (("py-libp2p", peer, "≥ 2.5"), ("p2pd", "p2pd", "")):
        yours = median(figures[name]["rates"])
        what = "relay, ws circuits: MB per core-second"
        yield Row(what, f"{mine:.0f}", f"{yours:.0f} ({shown})", mine / yours, goal)
    yield from _less("relay: processor time to set up a connection and slot", "milliseconds", "ms", figures)
    yield from _less("relay: memory of an idle connection", "kilobytes", "kB", figures)
    yield from _less("relay: echo of a step through a ws circuit", "echo", "ms", figures)


def _less(what: str, key: str, unit: str, figures: dict[str, dict[str, Any]]) -> Iterator[Row]:
    """Less is better, and the ratio says how many times."""
    own = figures["kwaainet"][key]
    for name in ("py-libp2p", "p2pd"):
        other = figures[name][key]
        ratio = other / own if own > 0 else None
        yield Row(what, f"{own:.1f} {unit}", f"{other:.1f} {unit} ({name})", ratio)


@contextlib.contextmanager
def ours(folder: Path) -> Iterator[Load]:
    """Load through ``kwaainet relay``."""
    with relay(folder) as ready:
        address = next(address for address in ready["maddrs"] if "/ws/" in address)
        with _generator(address) as generator:
            yield Load(generator, ready["running"].process.pid)


@contextlib.contextmanager
def theirs(folder: Path) -> Iterator[Load]:
    """Load through py-libp2p's relay."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    running: Running
    command = [ENVIRONMENT / "bin" / "python", HERE / "py_libp2p_relay.py", str(port)]
    with started(command, folder, "py-libp2p") as running:
        address = running.event("ready")["maddrs"][0]
        with _generator(address) as generator:
            yield Load(generator, running.process.pid)


@contextlib.contextmanager
def stock(folder: Path) -> Iterator[Load]:
    """Load through a stock p2pd that keeps to its flags; those who do not carry 128 KiB a circuit."""
    for attempt in range(P2PD_STARTS):
        with contextlib.ExitStack() as stack:
            try:
                load = stack.enter_context(_p2pd(folder, f"p2pd-{attempt}"))
                load.run(do="transfer", bytes=1 << 20)
            except (Failed, OSError):
                continue
            yield load
            return
    raise Failed(f"p2pd kept its own limits {P2PD_STARTS} times")


@contextlib.contextmanager
def _p2pd(folder: Path, name: str) -> Iterator[Load]:
    found = PEERS_PYTHON.parents[1].glob("lib/python*/site-packages/hivemind/hivemind_cli/p2pd")
    where, control = (f"/ip4/127.0.0.1/tcp/{free_port()}" for _ in range(2))
    command = [next(found), "-listen", control, "-hostAddrs", f"{where}/ws", *P2PD_FLAGS]
    with started(command, folder, name) as running:
        running.printed("Peer Addrs:")
        peer = running.out.read_text().partition("Peer ID: ")[2].split()[0]
        with _generator(f"{where}/ws/p2p/{peer}") as generator:
            yield Load(generator, running.process.pid)


@contextlib.contextmanager
def _generator(address: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [NODE, HERE / "relay_load.mjs", address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def install() -> None:
    """py-libp2p in a virtual environment of its own; ``Failed`` with pip's words if it cannot be had."""
    done = ENVIRONMENT / PACKAGE
    if done.exists():
        return
    print(f"installing {PACKAGE} into {ENVIRONMENT} (58 packages, once)", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", ENVIRONMENT], check=True)
    command = [ENVIRONMENT / "bin" / "python", "-m", "pip", "install", "--quiet", PACKAGE]
    said = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if said.returncode != 0:
        raise Failed(
            f"{PACKAGE} cannot be installed; its dependency fastecdsa is compiled and needs a C compiler "
            f"and the headers of gmp (Debian: gcc libgmp-dev). pip says:\n{said.stdout[-3000:]}"
        )
    done.touch()
