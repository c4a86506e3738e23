"""``kwaainet serve``: the node of a tab, natively: blocks of a model served with onnxruntime."""

from __future__ import annotations

import argparse
import asyncio
import time
from contextlib import AsyncExitStack
from typing import Any

from ...errors import ConfigError
from ...node.announce import DhtAnnouncer
from ...node.config import NodeConfig
from ...node.dht import DhtNode
from ...node.server import NodeStatus, ServerNode
from ...types import BlockRange
from ..engine import NativeEngine
from ..gradients import NativeGradients
from ..host import NativeHost
from ..model import Model, open_model
from ..store import NoStore
from .flags import (
    add_blocks,
    add_command,
    add_drain,
    add_initial_peers,
    add_listening,
    add_model,
    add_repository,
)
from .joining import join_dht, open_host
from .signals import leave_in_order, until_signalled
from .terminal import ProgressLine, emit, say

DEFAULT_LISTEN = ("/ip4/127.0.0.1/tcp/0",)


def add(commands: Any) -> None:
    """Declare ``kwaainet serve``."""
    parser = add_command(commands, "serve", "serve blocks of a model natively", __doc__)
    add_repository(parser)
    add_model(parser, required=True)
    add_blocks(parser)
    add_initial_peers(parser, required=True)
    add_listening(parser, DEFAULT_LISTEN)
    parser.add_argument(
        "--threads", type=int, default=0, metavar="N", help="threads of the engine (0: all cores)"
    )
    add_drain(parser)
    parser.add_argument("--public-name", metavar="NAME", help="what health monitors show")
    parser.set_defaults(run=run)


async def run(options: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM, and then until nobody needs us; a second signal ends it at once."""
    progress = ProgressLine()
    if options.threads < 0:
        raise ConfigError(f"--threads is {options.threads}; give 0 for all cores or a number")
    model = await asyncio.to_thread(open_model, options.model, report=progress, name=options.prefix)
    config = NodeConfig(
        model.name,
        options.blocks or BlockRange(0, model.config.num_hidden_layers),
        public_name=options.public_name,
        repository=options.repository or None,
        using_relay=False,
        answer_ping=False,
    )
    config.check_model(model.config)
    async with AsyncExitStack() as stack:
        listen = options.listen or DEFAULT_LISTEN
        host = await open_host(
            stack, listen=listen, announce=options.announce, identity_path=options.identity_path
        )
        await host.listen()
        dht = await join_dht(stack, host, options.initial_peers)
        node = _node(config, model, host, dht, options.threads)
        await node.start(progress)
        progress.finish()
        stack.push_async_callback(node.stop)
        emit(_online(node.status))
        say(f"serving blocks {config.blocks} of {model.name}")
        await until_signalled()
        emit({"event": "draining", "seconds": options.drain})
        say(f"finishing what is being served, at most {options.drain:g} s")
        await leave_in_order(node.stop(options.drain), node.stop)
    emit({"event": "offline"})
    return 0


def _node(config: NodeConfig, model: Model, host: NativeHost, dht: DhtNode, threads: int) -> ServerNode:
    return ServerNode(
        config,
        host=host,
        engine=NativeEngine(threads),
        store=NoStore(),
        source=model.source,
        manifest=model.manifest,
        announcer=DhtAnnouncer(dht, host.peer_id, time.time),
        now=time.time,
        gradients=NativeGradients(threads),
    )


def _online(status: NodeStatus) -> dict[str, Any]:
    return {
        "event": "online",
        "peer_id": str(status.peer_id),
        "blocks": [status.blocks.start, status.blocks.end],
        "backend": status.backend,
        "maddrs": list(status.addresses),
    }
