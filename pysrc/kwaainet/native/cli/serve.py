"""``kwaainet serve``: the node of a tab, natively: blocks of a model served with onnxruntime."""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from contextlib import AsyncExitStack
from typing import Any

from ...errors import ConfigError
from ...node.announce import DhtAnnouncer
from ...node.config import NodeConfig
from ...node.dht import DhtNode
from ...node.server import ServerNode
from ...types import BlockRange
from ..crypto import NativeCrypto
from ..engine import NativeEngine
from ..host import NativeHost
from ..model import open_model
from ..store import NoStore
from .flags import add_blocks, add_command, add_initial_peers, add_listening, add_model, add_repository
from .relay import identity_of, until_signalled
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
    parser.add_argument("--public-name", metavar="NAME", help="what health monitors show")
    parser.set_defaults(run=run)


async def run(options: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM."""
    progress = ProgressLine()
    if options.threads < 0:
        raise ConfigError(f"--threads is {options.threads}; give 0 for all cores or a number")
    model = await asyncio.to_thread(open_model, options.model, report=progress, name=options.prefix)
    blocks = options.blocks or BlockRange(0, model.config.num_hidden_layers)
    config = NodeConfig(
        model.name,
        blocks,
        public_name=options.public_name,
        repository=options.repository or None,
        using_relay=False,
        answer_ping=False,
    )
    config.check_model(model.config)
    async with AsyncExitStack() as stack:
        crypto = NativeCrypto()
        host = await NativeHost.create(
            identity_of(options.identity_path, crypto),
            listen=options.listen or DEFAULT_LISTEN,
            announce=options.announce,
            crypto=crypto,
        )
        stack.push_async_callback(host.close)
        await host.listen()
        dht = DhtNode(host, now=time.time, random_bytes=os.urandom)
        stack.push_async_callback(dht.close)
        await dht.join([await host.connect(address) for address in options.initial_peers])
        node = ServerNode(
            config,
            host=host,
            engine=NativeEngine(options.threads),
            store=NoStore(),
            source=model.source,
            manifest=model.manifest,
            announcer=DhtAnnouncer(dht, host.peer_id, time.time),
            now=time.time,
        )
        await node.start(progress)
        progress.finish()
        stack.push_async_callback(node.stop)
        status = node.status
        emit(
            {
                "event": "online",
                "peer_id": str(status.peer_id),
                "blocks": [blocks.start, blocks.end],
                "backend": status.backend,
                "maddrs": list(status.addresses),
            }
        )
        say(f"serving blocks {blocks} of {model.name}")
        await until_signalled()
        say("stopping")
    emit({"event": "offline"})
    return 0
