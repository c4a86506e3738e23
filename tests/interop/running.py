"""Starts the real processes an interop test needs and takes them down again: relay, tab, petals, hivemind.

Output goes to files in the test's folder, never through pipes: p2pd inherits its parent's streams and
would hold a reader for ever.
"""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interop.cases import Case
from interop.forked import Forked, Zygote, forked

ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / "tests" / "interop" / "peers"
PEERS_PYTHON = ROOT / ".cache" / "peers" / "bin" / "python"
KWAAINET = Path(sys.executable).parent / "kwaainet"
THEIR_MODULES = (  # the shim first: it mends the others; the last is else imported by whom first uses it
    "petals_shim",
    "petals.server.server",
    "transformers.models.llama.modeling_llama",
)
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
OURS = Zygote(Path(sys.executable), ROOT / "tests", ("kwaainet.native.cli",))
THEIRS = Zygote(PEERS_PYTHON, PEERS, THEIR_MODULES)
ZYGOTES = {str(KWAAINET): OURS, sys.executable: OURS, str(PEERS_PYTHON): THEIRS}  # by a command's first word
START_TIMEOUT = 300.0  # seconds; a tab needs 5 on a quiet machine
POLL = 0.05
FIXED = range(20_000, 32_000)  # below those that Linux hands out
WORKERS = 8  # pytest's, each of which has a part of them
given: set[int] = set()


class Failed(Exception):
    """A process did not do what was awaited; carries the end of its output."""


@dataclass
class Running:
    """A started process, its standard output and error in files."""

    process: subprocess.Popen[bytes] | Forked
    out: Path
    err: Path

    def lines(self) -> list[dict[str, Any]]:
        """The JSON lines printed so far."""
        text = self.out.read_text()
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def event(self, name: str, timeout: float = START_TIMEOUT) -> dict[str, Any]:
        """The first JSON line whose event is ``name``, awaited."""
        deadline = time.monotonic() + timeout
        while True:
            for line in self.lines():
                if line.get("event") == name:
                    return line
            if self.process.poll() is not None:
                raise Failed(f"ended with {self.process.returncode} before {name!r}\n{self.tail()}")
            if time.monotonic() > deadline:
                raise Failed(f"no {name!r} within {timeout:g} s\n{self.tail()}")
            time.sleep(POLL)

    def printed(self, text: str, timeout: float = START_TIMEOUT) -> None:
        """Await ``text`` in the output."""
        deadline = time.monotonic() + timeout
        while text not in self.out.read_text() + self.err.read_text():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"{text!r} was not printed\n{self.tail()}")
            time.sleep(POLL)

    def tail(self) -> str:
        """The last lines of both outputs."""
        return "\n".join(path.read_text(errors="replace")[-3000:] for path in (self.out, self.err))

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout: float = 60.0) -> int:
        """End the process in good order, its whole group if it lingers; returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.wait()


@contextlib.contextmanager
def started(
    command: Sequence[str | Path],
    folder: Path,
    name: str,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
) -> Iterator[Running]:
    """Run ``command`` in a process group of its own; stopped at the end.

    In a test what is Python is forked from a process that has imported it; benchmarks start theirs afresh.
    """
    out, err = folder / f"{name}.out", folder / f"{name}.err"
    words, environment = [str(word) for word in command], {**os.environ, **(env or {})}
    process: subprocess.Popen[bytes] | Forked
    with out.open("wb") as stdout, err.open("wb") as stderr:
        script = words[words[0] in (sys.executable, str(PEERS_PYTHON)) :]
        zygote = ZYGOTES.get(words[0])
        if zygote is not None and "PYTEST_CURRENT_TEST" in os.environ and not pass_fds:
            process = forked(script, zygote, cwd=folder, env=environment, out=out, err=err)
        else:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                cwd=folder,
                env=environment,
                start_new_session=True,
                pass_fds=pass_fds,
            )
    running = Running(process, out, err)
    try:
        yield running
    finally:
        running.stop()


@contextlib.contextmanager
def relay(folder: Path, *flags: str | Path, name: str = "relay") -> Iterator[dict[str, Any]]:
    """A relay on free ports; yields its ready event with ``tcp``, its first TCP address."""
    command = [KWAAINET, "relay", "-v", "--http", "127.0.0.1:0"]
    command += ["--listen", "/ip4/127.0.0.1/tcp/0", "--listen", "/ip4/127.0.0.1/tcp/0/ws", *flags]
    with started(command, folder, name) as running:
        ready = running.event("ready")
        ready["tcp"] = next((one for one in ready["maddrs"] if "/ws" not in one), None)
        ready["running"] = running
        yield ready


@contextlib.contextmanager
def tab(folder: Path, url: str, *flags: str, name: str = "tab") -> Iterator[tuple[Running, dict[str, Any]]]:
    """A contributing tab in headless Chromium; yields it with its online event."""
    command = [KWAAINET, "tab", url, "--headless", "-v", "--drain", "0", *flags]
    with started(command, folder, name) as running:
        yield running, running.event("online")


@contextlib.contextmanager
def native_tab(
    folder: Path, origin: Mapping[str, Any], case: Case, blocks: str, name: str, *others: Mapping[str, Any]
) -> Iterator[tuple[Running, dict[str, Any]]]:
    """A tab's stand-in without a browser behind one or more relays, see ``native_tab.py``; as ``tab``."""
    found = (next(address for address in one["maddrs"] if "/ws/" in address) for one in (origin, *others))
    address = ",".join(found)
    script = ROOT / "tests" / "interop" / "native_tab.py"
    command = [sys.executable, script, address, case.folder, case.prefix, blocks]
    with started(command, folder, name) as running:
        yield running, running.event("online")


def run_sdk_build(folder: Path) -> Path:
    """The npm package and the examples, made in ``folder``; returns it."""
    node = Path(sys.executable).parent / "node"
    done = subprocess.run(
        [node, ROOT / "build" / "sdk.mjs", folder], capture_output=True, text=True, timeout=120
    )
    if done.returncode != 0:
        raise Failed(done.stdout + done.stderr)
    return folder


def status(origin: Mapping[str, Any]) -> dict[str, Any]:
    """What a relay says of itself."""
    with urllib.request.urlopen(origin["http"] + "status.json", timeout=START_TIMEOUT) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


@contextlib.contextmanager
def petals_server(
    folder: Path, model: Path, prefix: str, blocks: str, initial_peer: str | None, port: int, *flags: str
) -> Iterator[Running]:
    """An unmodified petals server, ready to serve. Without an initial peer it starts a swarm."""
    joining = ["--initial_peers", initial_peer] if initial_peer else ["--new_swarm"]
    command = [PEERS_PYTHON, PEERS / "petals_shim.py", "petals.cli.run_server", model, *joining]
    command += ["--dht_prefix", prefix]
    command += ["--block_indices", blocks, "--host_maddrs", f"/ip4/127.0.0.1/tcp/{port}"]
    command += [
        "--identity_path",
        folder / f"server-{port}.id",
        "--torch_dtype",
        "float32",
        "--device",
        "cpu",
    ]
    command += ["--throughput", "1.0", "--num_handlers", "2", "--attn_cache_tokens", "2048"]
    command += ["--update_period", "15", "--no_auto_relay", *flags]
    with started(command, folder, f"petals-{port}", OFFLINE) as running:
        running.printed("Started")
        yield running


def ask(folder: Path, script: str, spec: Mapping[str, Any], timeout: float = 300.0) -> dict[str, Any]:
    """Run one script of ``peers/`` with a spec; its result, or ``Failed`` with what it printed."""
    name = f"{script}-{len(list(folder.glob(script + '-*.spec')))}"
    (folder / f"{name}.spec").write_text(json.dumps(spec))
    result = folder / f"{name}.result"
    command = [PEERS_PYTHON, PEERS / f"{script}.py", folder / f"{name}.spec", result]
    with started(command, folder, name, OFFLINE) as running:
        try:
            running.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise Failed(f"{script} took more than {timeout:g} s\n{running.tail()}") from None
        answer: dict[str, Any] = json.loads(result.read_text()) if result.exists() else {"error": "no result"}
        if "error" in answer:
            raise Failed(f"{script} failed: {answer['error']}\n{running.tail()}")
        return answer


def free_port() -> int:
    """A TCP port that nobody has now, and that no other test of ours is given, nor who asks for any."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    while True:
        port = random.choice(FIXED[worker % WORKERS :: WORKERS])
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            if port not in given:
                given.add(port)
                return port
