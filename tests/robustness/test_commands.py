"""Commands that are given something unusable: one clear line, the right exit code, no traceback.

Real processes, all of a test at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from interop.running import KWAAINET, Running, started
from robustness.caller import Caller
from robustness.small_model import PREFIX
from robustness.swarm import Swarm

from kwaainet.node.dht import DhtNode

NOBODY = "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWFw697Ur2KZ2SSjvP8Md1udsjrXzbsKEaFVAY5dc6hYWn"
FREE = ["--http", "127.0.0.1:0", "--listen", "/ip4/127.0.0.1/tcp/0"]
USAGE, FAILED = 2, 1
SECONDS = 90.0  # the longest takes 15 on a quiet machine
Broken = dict[str, tuple[Path, str]]  # name -> (a model that cannot be used, what is said of it)
Case = tuple[Sequence[object], int, str]  # (arguments, exit code, words of the line)


def check(folder: Path, cases: dict[str, Case]) -> None:
    """Run all commands at once and look at how each ends."""
    with contextlib.ExitStack() as stack:
        running = {
            name: stack.enter_context(started([KWAAINET, *map(str, words)], folder, name))
            for name, (words, _, _) in cases.items()
        }
        for name, (_, code, words) in cases.items():
            one = running[name]
            assert one.process.wait(SECONDS) == code, f"{name}: {one.tail()}"
            said(one, words)


def said(running: Running, words: str) -> None:
    """The last line says it; progress may stand before it, nothing else may."""
    text = running.err.read_text()
    lines = [line for line in text.splitlines() if not line.startswith("checking the model")]
    assert running.out.read_text() == ""
    assert "Traceback" not in text
    assert "internal error" not in text, text
    assert len(lines) == 1, text
    assert lines[0].startswith("kwaainet "), text
    assert any(one in lines[0] for one in words.split("|")), text


def copy(model: Path, folder: Path, change: Callable[[Path], None]) -> Path:
    """The model, changed."""
    shutil.copytree(model, folder)
    change(folder)
    return folder


def cut(folder: Path) -> None:
    weights = folder / "model.safetensors"
    os.truncate(weights, weights.stat().st_size - 1000)


def cut_head(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 100)


def empty(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 0)


def huge_head(folder: Path) -> None:
    with (folder / "model.safetensors").open("r+b") as file:
        file.write(struct.pack("<Q", 1 << 60))


def scramble(folder: Path) -> None:
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(40)
        file.write(os.urandom(200))


def another_shape(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 80}))


def foreign(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "mamba"}))


def no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{" * 10_000)


@pytest.fixture(scope="module")
def broken(swarm: Swarm, tmp_path_factory: pytest.TempPathFactory) -> Broken:
    """Name -> (a model that cannot be used, what is said of it)."""
    base = tmp_path_factory.mktemp("broken")
    changes: list[tuple[Callable[[Path], None], str]] = [
        (cut, "truncated|ends|beyond"),
        (cut_head, "truncated"),
        (empty, "truncated|empty|0 bytes"),
        (huge_head, "1152921504606846976"),
        (scramble, "JSON|header|UTF-8"),
        (another_shape, "shape"),
        (foreign, "mamba"),
        (no_json, "config.json"),
    ]
    found = {c.__name__: (copy(swarm.model, base / c.__name__, c), words) for c, words in changes}
    (base / "cut.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 5, 5))
    (base / "bomb.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 1 << 60))
    (base / "photo.gguf").write_bytes(b"\xff\xd8\xff\xe0" + bytes(5000))
    (base / "nothing.gguf").write_bytes(b"")
    found["cut_gguf"] = (base / "cut.gguf", "truncated")
    found["bomb_gguf"] = (base / "bomb.gguf", "1152921504606846976")
    found["photo"] = (base / "photo.gguf", "GGUF")
    found["nothing"] = (base / "nothing.gguf", "truncated|GGUF|0 bytes")
    found["not_there"] = (base / "gone.gguf", "no such file or directory")
    found["no_model"] = (base, "no config.json")
    return found


@pytest.fixture(scope="module", autouse=True)
def silenced(swarm: Swarm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A client whose initial peer takes connections and says nothing: it waits while others fail."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        peer = f"/ip4/127.0.0.1/tcp/{mute.getsockname()[1]}"
        command = [KWAAINET, "generate", "hi", "--model", swarm.model, "--initial-peers", peer]
        with started(command, tmp_path_factory.mktemp("silenced"), "generate") as running:
            yield running


def test_models_that_cannot_be_used(swarm: Swarm, broken: Broken, tmp_path: Path) -> None:
    check(
        tmp_path,
        {
            name: (["model", "export", path, tmp_path / "out" / name], FAILED, words)
            for name, (path, words) in broken.items()
        },
    )


def test_every_command_that_takes_a_model_refuses_a_broken_one(
    swarm: Swarm, broken: Broken, tmp_path: Path
) -> None:
    path, words = broken["cut"]
    peers = ["--initial-peers", swarm.tcp]
    check(
        tmp_path,
        {
            "serve": (["serve", "--model", path, *peers], FAILED, words),
            "generate": (["generate", "hi", "--model", path, *peers], FAILED, words),
            "relay": (["relay", "--model", path, *FREE], FAILED, words),
            "up": (["up", "--model", path, *FREE, "--once", "--headless"], FAILED, words),
        },
    )


def test_places_that_cannot_be_had(swarm: Swarm, tmp_path: Path) -> None:
    http = swarm.http.removeprefix("http://").strip("/")
    taken = swarm.tcp.partition("/p2p/")[0]
    readable, garbage = tmp_path / "readable", tmp_path / "garbage"
    readable.write_bytes(b"x")
    readable.chmod(0o644)
    garbage.write_bytes(b"no key")
    garbage.chmod(0o600)
    cases: dict[str, Case] = {
        "http_port": (["relay", "--http", http, *FREE[2:]], USAGE, "choose another --http"),
        "http_words": (["relay", "--http", "nowhere", *FREE[2:]], USAGE, "is not HOST:PORT"),
        "listen_port": (["relay", *FREE[:2], "--listen", taken], FAILED, "cannot listen on"),
        "listen_words": (["relay", *FREE[:2], "--listen", "tcp:4001"], FAILED, "tcp:4001"),
        "listen_udp": (
            ["relay", *FREE[:2], "--listen", "/ip4/127.0.0.1/udp/1/quic-v1"],
            FAILED,
            "cannot listen on",
        ),
        "identity_nowhere": (["relay", *FREE, "--identity-path", "/proc/key"], USAGE, "cannot be kept"),
        "identity_folder": (["relay", *FREE, "--identity-path", tmp_path], USAGE, "cannot be read"),
        "identity_shared": (["relay", *FREE, "--identity-path", readable], USAGE, "chmod 600"),
        "identity_garbage": (["relay", *FREE, "--identity-path", garbage], FAILED, "garbage"),
        "prefix": (["relay", *FREE, "--prefix", "a.b"], FAILED, "delimits block uids"),
        "export_there": (
            ["model", "export", swarm.model, swarm.model],
            USAGE,
            "holds model.safetensors already",
        ),
        "export_nowhere": (["model", "export", swarm.model, "/proc/out"], USAGE, "cannot write /proc/out"),
    }
    check(tmp_path, cases)


def test_swarms_that_cannot_be_reached(swarm: Swarm, tmp_path: Path) -> None:
    someone = f"{swarm.tcp.partition('/p2p/')[0]}/p2p/{NOBODY.rpartition('/')[2]}"
    model = ["--model", swarm.model]
    hi = ["generate", "hi", "--max-new-tokens", "8", *model, "--initial-peers"]
    cases: dict[str, Case] = {
        "nobody": ([*hi, NOBODY], FAILED, "refused"),
        "serve_nobody": (["serve", *model, "--initial-peers", NOBODY], FAILED, "refused"),
        "relay_nobody": (["relay", *FREE, "--initial-peers", NOBODY], FAILED, "refused"),
        "someone_else": ([*hi, someone], FAILED, "answered"),
        "no_address": ([*hi, "localhost:4001"], FAILED, "localhost:4001"),
        "wrong_prefix": ([*hi, swarm.tcp, "--prefix", "other-hf"], FAILED, "other-hf|no server"),
        "bad_prefix": ([*hi, swarm.tcp, "--prefix", "a.b"], FAILED, "cannot name a model"),
        "too_long": ([*hi, swarm.tcp, "--prefix", PREFIX, "--max-new-tokens", "1000"], USAGE, "128"),
        "blocks": (["serve", *model, "--blocks", "2:9", "--initial-peers", swarm.tcp], USAGE, "has 0:3"),
    }
    check(tmp_path, cases)


def test_a_swarm_whose_clock_is_wrong(swarm: Swarm, tmp_path: Path) -> None:
    """An initial peer that is ten seconds ahead."""

    ahead = Caller(swarm, ["/ip4/127.0.0.1/tcp/0"])

    async def serve() -> None:
        await ahead.host.listen()
        node = DhtNode(ahead.host, now=lambda: time.time() + 10, random_bytes=os.urandom)
        cases: dict[str, Case] = {
            name: (
                [*command, "--model", swarm.model, "--initial-peers", ahead.host.addresses[0]],
                FAILED,
                "the peer's clock is +",  # less than ten by the time that its answer took
            )
            for name, command in (("late_client", ["generate", "hi"]), ("late_server", ["serve"]))
        }
        await asyncio.to_thread(check, tmp_path, cases)
        await node.close()

    ahead.run(serve())
    ahead.close()


def test_a_swarm_that_says_nothing(silenced: Running) -> None:
    assert silenced.process.wait(SECONDS) == FAILED
    said(silenced, "no answer within 15 s|did not finish its handshake")
