"""``kwaainet serve``: the node of a tab, natively: blocks of a model served with onnxruntime."""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from ...errors import ConfigError
from ...inference.weight_format import AUTO
from ...node.announce import DhtAnnouncer
from ...node.bandwidth import Bandwidth
from ...node.config import NodeConfig, parse_blocks
from ...node.dht import DhtNode
from ...node.directory import dht_reader
from ...node.hosting import HostedModel
from ...node.server import NodeStatus, ServerNode
from ..host import NativeHost
from ..model import open_model
from ..store import NoStore
from .flags import (
    add_blocks,
    add_command,
    add_drain,
    add_initial_peers,
    add_listening,
    add_model,
    add_repository,
    add_weights,
)
from .joining import join_dht, open_host
from .signals import leave_in_order, until_signalled
from .terminal import ProgressLine, emit, say

DEFAULT_LISTEN = ("/ip4/127.0.0.1/tcp/0",)


def add(commands: Any) -> None:
    """Declare ``kwaainet serve``."""
    parser = add_command(commands, "serve", "serve blocks of a model natively", __doc__)
    add_repository(parser)
    add_model(parser, required=True, several=True)
    add_blocks(parser, several=True)
    add_initial_peers(parser, required=True)
    add_listening(parser, DEFAULT_LISTEN)
    parser.add_argument(
        "--threads", type=int, default=0, metavar="N", help="threads of the engine (0: all cores)"
    )
    add_weights(parser)
    add_drain(parser)
    parser.add_argument("--public-name", metavar="NAME", help="what health monitors show")
    parser.set_defaults(run=run)


async def run(options: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM, and then until nobody needs us; a second signal ends it at once."""
    progress = ProgressLine()
    if options.threads < 0:
        raise ConfigError(f"--threads is {options.threads}; give 0 for all cores or a number")
    models = [
        await _hosted(options, path, prefix, blocks, progress)
        for path, prefix, blocks in _asked(options.model, options.prefix, options.blocks)
    ]
    async with AsyncExitStack() as stack:
        listen = options.listen or DEFAULT_LISTEN
        host = await open_host(
            stack, listen=listen, announce=options.announce, identity_path=options.identity_path
        )
        await host.listen()
        dht = await join_dht(stack, host, options.initial_peers)
        node = _node(models, host, dht)
        await node.start(progress)
        progress.finish()
        stack.push_async_callback(node.stop)
        emit(_online(node.status))
        for span in node.status.spans:
            say(f"serving blocks {span.blocks} of {span.prefix}, weights as {span.weights}")
        await until_signalled()
        emit({"event": "draining", "seconds": options.drain})
        say(f"finishing what is being served, at most {options.drain:g} s")
        await leave_in_order(node.stop(options.drain), node.stop)
    emit({"event": "offline"})
    return 0


def _asked(
    paths: list[Path], prefixes: list[str] | None, blocks: list[Any] | None
) -> list[tuple[Path, str | None, str]]:
    """What is asked of each model; ``ConfigError`` where it is not clear which of them is meant."""
    for flag, given in (("--prefix", prefixes), ("--blocks or --num-blocks", blocks)):
        if given and len(given) != len(paths):
            raise ConfigError(
                f"{flag} is given {len(given)} times for {len(paths)} models; give it once for each, or never"
            )
    names: Sequence[str | None] = prefixes or [None] * len(paths)
    return [
        (path, name, str(wanted))
        for path, name, wanted in zip(paths, names, blocks or [""] * len(paths), strict=True)
    ]


async def _hosted(
    options: argparse.Namespace, path: Path, prefix: str | None, blocks: str, report: ProgressLine
) -> HostedModel:
    model = await asyncio.to_thread(open_model, path, report=report, name=prefix)
    span, movable = parse_blocks(blocks, model.config.num_hidden_layers)
    config = NodeConfig(
        model.name,
        span,
        movable=movable,
        public_name=options.public_name,
        repository=options.repository or None,
        weights=options.weights or AUTO,
        weight_bytes=memory_budget() // len(options.model),
        using_relay=False,
        answer_ping=False,
    )
    config.check_model(model.config)
    try:  # not at the top: a relay that was installed without onnxruntime has this command too
        from ..engine import NativeEngine
        from ..gradients import NativeGradients
    except ModuleNotFoundError as error:
        raise ConfigError(f"serving needs {error.name}: pip install 'kwaainet[native]'") from None
    gradients = NativeGradients(options.threads)
    return HostedModel(
        config, model.manifest, model.source, NativeEngine(options.threads), gradients, model.source
    )


def memory_budget() -> int:
    """Bytes that weights may take: half of this machine's memory; 0, no limit, where it does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):
        return 0


def _node(models: list[HostedModel], host: NativeHost, dht: DhtNode) -> ServerNode:
    first, *others = models
    node = ServerNode(
        first.config,
        host=host,
        engine=first.engine,
        store=NoStore(),
        source=first.source,
        manifest=first.manifest,
        announcer=DhtAnnouncer(dht, host.peer_id, time.time),
        now=time.time,
        gradients=first.gradients,
        lends=first.lends,
        read_servers=dht_reader(dht),
        chance=random.random,
        bandwidth=Bandwidth(host, host.connected_peers, time.perf_counter),
    )
    for model in others:
        node.add(model)
    return node


def _online(status: NodeStatus) -> dict[str, Any]:
    return {
        "event": "online",
        "peer_id": str(status.peer_id),
        "blocks": [status.blocks.start, status.blocks.end],
        "models": {span.prefix: [span.blocks.start, span.blocks.end] for span in status.spans},
        "backend": status.backend,
        "weights": status.weights,
        "maddrs": list(status.addresses),
    }
