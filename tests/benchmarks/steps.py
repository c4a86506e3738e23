"""Where the milliseconds of one decode step through a tab go, by echoes that turn back at each hop.

An echo of libp2p's ping turns back in the relay, then in the tab's network worker; a step without
tokens turns back in Python; a step of one token comes back from the engine. Each differs from the one
before by one hop, there and back. They take turns, with steps of a stock petals server among them. Then
the processor time of steps without tokens is counted along their way (``hops``).
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median

import numpy as np
from browser.peers import Peer
from interop.running import petals_server, relay, tab

from kwaainet.identity.keys import PrivateKey
from kwaainet.native.host import NativeHost
from kwaainet.native.stream import RawStream
from kwaainet.node.client import Client
from kwaainet.node.dht import DhtNode
from kwaainet.node.directory import dht_reader
from kwaainet.types import BlockRange, PeerId

from . import hops
from .generation import STOCK_PREFIX, free_port
from .model import BLOCKS, GGUF, HIDDEN_SIZE, PREFIX, exported
from .report import Result, Row

PING = "/ipfs/ping/1.0.0"
PING_SIZE = 32
PING_LIFE = 5.0  # seconds
OPEN_TIMEOUT = 30.0
STEPS_A_ROUND = 25
WARM_UP = 10
COUNTED = 200  # steps of which the processor time is taken, in a row; 256 without tokens are allowed

Probe = Callable[[], Awaitable[object]]


def measure(folder: Path, rounds: int) -> Result:
    """Needs the default model, the real peers and the headless Chromium."""
    with (
        relay(folder, "--model", GGUF, "--prefix", PREFIX) as ready,
        petals_server(folder, exported(), STOCK_PREFIX, f"0:{BLOCKS}", ready["tcp"], free_port()),
        tab(folder, ready["http"] + "?threads=1", "--backend", "wasm") as (running, online),
    ):
        processes = ready["running"].process.pid, running.process.pid
        probing = _probe(ready["tcp"], online["peer_id"], STEPS_A_ROUND * rounds, processes)
        figures, used = asyncio.run(probing)
    return Result(_rows(figures) + hops.rows(used), {**figures, "processor time": used})


async def _probe(
    relay_address: str, tab_peer: str, count: int, processes: tuple[int, int]
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Milliseconds of every probe, each ``count`` times, in turns; and of the processor, by hop."""
    async with AsyncExitStack() as stack:
        host = await NativeHost.create(PrivateKey(secrets.token_bytes(32)))
        stack.push_async_callback(host.close)
        relay_peer = await host.connect(relay_address)
        dht = DhtNode(host, now=time.time, random_bytes=secrets.token_bytes, client_mode=True)
        stack.push_async_callback(dht.close)
        await dht.join([relay_peer])
        length = count + WARM_UP + 1
        probes: dict[str, Probe] = {"relay": Echo(host, relay_peer)}
        for name, prefix in (("tab", PREFIX), ("stock", STOCK_PREFIX)):
            client = Client(
                host, dht_reader(dht), prefix, BLOCKS, now=time.time, random_bytes=secrets.token_bytes
            )
            session = await stack.enter_async_context(client.session(length))
            [hop] = session.hops
            if name == "tab":
                assert str(hop.peer) == tab_peer
                probes["network worker"] = Echo(host, hop.peer)
            # our client refuses such a step; servers do not
            bare = await Peer(host, dht).session(str(hop.peer), length, BlockRange(0, BLOCKS), prefix)
            probes[f"{name}, no tokens"] = _step(bare.step, 0)
            probes[f"{name}, one token"] = _step(session.step, 1)
        figures = await _in_turns(probes, count)
        counted = await Peer(host, dht).session(tab_peer, length, BlockRange(0, BLOCKS), PREFIX)
        step, echo = _step(counted.step, 0), Echo(host, PeerId.parse(tab_peer))
        await step()
        await echo.renew()
        return figures, await hops.processor_times(*processes, echo, step, COUNTED)


class Echo:
    """libp2p's ping on a stream that is renewed in time: js-libp2p ends each after 10 s."""

    def __init__(self, host: NativeHost, peer: PeerId) -> None:
        self._host, self._peer = host, peer
        self._stream: RawStream | None = None
        self._opened = 0.0

    async def renew(self) -> None:
        """Open the stream, anew if it is old. Not part of what is timed."""
        if time.perf_counter() - self._opened > PING_LIFE:
            if self._stream is not None:
                self._stream.close()
            self._stream = await self._host.open_raw(self._peer, PING, timeout=OPEN_TIMEOUT)
            self._opened = time.perf_counter()

    async def __call__(self) -> None:
        assert self._stream is not None
        self._stream.write(secrets.token_bytes(PING_SIZE))
        received = 0
        while received < PING_SIZE:
            received += len(await self._stream.read())


def _step(step: Callable[..., Awaitable[object]], tokens: int) -> Probe:
    hidden = np.random.default_rng(0).standard_normal((1, tokens, HIDDEN_SIZE), np.float32)
    return lambda: step(hidden)


async def _in_turns(probes: dict[str, Probe], count: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in probes}
    for turn in range(WARM_UP + count):
        for name, probe in probes.items():
            if isinstance(probe, Echo):
                await probe.renew()
            started = time.perf_counter()
            await probe()
            if turn >= WARM_UP:
                times[name].append(1000 * (time.perf_counter() - started))
    return times


def _rows(figures: dict[str, list[float]]) -> list[Row]:
    middle = {name: median(times) for name, times in figures.items()}
    total = middle["tab, one token"]
    hops = [
        ("client to relay and back", middle["relay"]),
        ("relay to network worker and back", middle["network worker"] - middle["relay"]),
        ("to the node worker's Python and back", middle["tab, no tokens"] - middle["network worker"]),
        ("engine: 30 blocks, one token", total - middle["tab, no tokens"]),
    ]
    stock = middle["stock, one token"]
    return [
        Row(
            "one decode step of our client, tab",
            f"{total:.1f} ms",
            f"{stock:.1f} ms (stock server)",
            stock / total,
        ),
        *(Row(f"· {name}", f"{value:.1f} ms", f"{value / total:.0%} of the step") for name, value in hops),
        Row(
            "· all but the engine: the same step without tokens",
            f"{middle['tab, no tokens']:.1f} ms",
            f"{middle['stock, no tokens']:.1f} ms (stock server)",
            middle["stock, no tokens"] / middle["tab, no tokens"],
            "≤ 3 ms",
        ),
    ]
