"""Many sessions at once against one alone: tokens per second, and whether any of them is left behind.

The same load goes in turns to a tab, to ``kwaainet serve`` and to a stock petals server: sessions of our
client that each send the next position when they have the last. Hidden states are random: what is
measured are the servers, with one thread each, and not the client's language head.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from interop.running import KWAAINET, petals_server, relay, started, tab

from kwaainet.identity.keys import PrivateKey
from kwaainet.native.host import NativeHost
from kwaainet.node.client import ChainSession, Client
from kwaainet.node.dht import DhtNode
from kwaainet.node.directory import dht_reader

from .generation import STOCK_PREFIX, free_port
from .model import BLOCKS, GGUF, HIDDEN_SIZE, PREFIX, exported
from .report import Result, Row

NATIVE_PREFIX = "native-hf"
MANY = 16
PEERS = 4  # clients that the sessions belong to
SECONDS = 5.0  # of each load, after its sessions have warmed up
PROMPT = 8  # positions before the first step
WARM_UP = 3  # steps of each session
LENGTH = 256  # positions of a session; a full one goes back to its prompt
GOAL_RATE, GOAL_SPREAD = 5.0, 1.5
STOCK_CACHE = 2 * MANY * LENGTH


def measure(folder: Path, rounds: int) -> Result:
    """Needs the default model, the real peers and the headless Chromium."""
    serve = [KWAAINET, "serve", "--model", GGUF, "--prefix", NATIVE_PREFIX, "--threads", "1"]
    with (
        relay(folder, "--model", GGUF, "--prefix", PREFIX) as ready,
        petals_server(
            folder,
            exported(),
            STOCK_PREFIX,
            f"0:{BLOCKS}",
            ready["tcp"],
            free_port(),
            "--attn_cache_tokens",
            str(STOCK_CACHE),
        ),
        started([*serve, "--initial-peers", ready["tcp"]], folder, "serve") as native,
        tab(folder, ready["http"] + "?threads=1", "--backend", "wasm"),
    ):
        native.event("online")
        figures = asyncio.run(_in_turns(ready["tcp"], rounds))
    return Result(_rows(figures), figures)


async def _in_turns(relay_address: str, rounds: int) -> dict[str, list[dict[str, Any]]]:
    """For each server and round, the tokens of every session, alone and together."""
    servers = {"tab": PREFIX, "native": NATIVE_PREFIX, "petals": STOCK_PREFIX}
    figures: dict[str, list[dict[str, Any]]] = {name: [] for name in servers}
    async with AsyncExitStack() as stack:
        swarms = [await stack.enter_async_context(_joined(relay_address)) for _ in range(PEERS)]
        for _ in range(rounds):
            for name, prefix in servers.items():
                clients = [_client(host, dht, prefix) for host, dht in swarms]
                one, many = await _tokens(clients, 1), await _tokens(clients, MANY)
                figures[name].append({"alone": one, "together": many})
    return figures


@asynccontextmanager
async def _joined(relay_address: str) -> AsyncIterator[tuple[NativeHost, DhtNode]]:
    host = await NativeHost.create(PrivateKey(secrets.token_bytes(32)))
    dht = DhtNode(host, now=time.time, random_bytes=secrets.token_bytes, client_mode=True)
    try:
        await dht.join([await host.connect(relay_address)])
        yield host, dht
    finally:
        await dht.close()
        await host.close()


def _client(host: NativeHost, dht: DhtNode, prefix: str) -> Client:
    reader = dht_reader(dht)
    return Client(host, reader, prefix, BLOCKS, now=time.time, random_bytes=secrets.token_bytes)


async def _tokens(clients: Sequence[Client], count: int) -> dict[str, Any]:
    """``count`` sessions for ``SECONDS``: the tokens each got, and the time that really passed."""
    async with AsyncExitStack() as stack:
        opening = [clients[index % len(clients)].session(LENGTH) for index in range(count)]
        sessions = [await stack.enter_async_context(session) for session in opening]
        await asyncio.gather(*(_warm_up(session) for session in sessions))
        started = time.perf_counter()
        tokens = await asyncio.gather(*(_loop(session, started + SECONDS) for session in sessions))
        return {"tokens": tokens, "seconds": time.perf_counter() - started}


async def _warm_up(session: ChainSession) -> None:
    await session.step(_states(PROMPT))
    for _ in range(WARM_UP):
        await session.step(_states(1))


async def _loop(session: ChainSession, until: float) -> int:
    hidden = _states(1)
    tokens = 0
    while time.perf_counter() < until:
        if session.position == LENGTH:
            await session.rollback(PROMPT)
        await session.step(hidden)
        tokens += 1
    return tokens


def _states(tokens: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(0).standard_normal((1, tokens, HIDDEN_SIZE), np.float32)


def _rows(figures: dict[str, list[dict[str, Any]]]) -> list[Row]:
    def rate(name: str, load: str) -> float:
        return median(sum(turn[load]["tokens"]) / turn[load]["seconds"] for turn in figures[name])

    def spread(name: str) -> float:
        return median(
            max(turn["together"]["tokens"]) / min(turn["together"]["tokens"]) for turn in figures[name]
        )

    stock = rate("petals", "together")
    rows = [
        Row(
            f"{MANY} sessions at once, {where}: tokens per second",
            f"{rate(name, 'together'):.1f}",
            f"{stock:.1f} (stock petals server)",
            rate(name, "together") / stock,
        )
        for name, where in (("tab", "tab, wasm"), ("native", "kwaainet serve"))
    ]
    for name, where in (("tab", "tab, wasm"), ("native", "kwaainet serve"), ("petals", "stock server")):
        alone, together = rate(name, "alone"), rate(name, "together")
        goal = "" if name == "petals" else f"≥ {GOAL_RATE:g}"
        rows.append(
            Row(f"· {where}: {MANY} against one", f"{together:.1f}", f"{alone:.1f}", together / alone, goal)
        )
        goal = "" if name == "petals" else f"≤ {GOAL_SPREAD:g}"
        rows.append(Row("  most tokens of a session to fewest", f"{spread(name):.2f}", goal=goal))
    return rows
