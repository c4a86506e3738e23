"""``kwaainet gateway``: one server in the DHT for blocks that others hold, whoever of them leaves."""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from ...errors import ConfigError
from ...node.announce import Announcer, DhtAnnouncer
from ...node.directory import ReadServers, dht_reader
from ...node.gateway import Gateway, GatewayConfig
from ..host import NativeHost
from ..model import Model, open_model
from .flags import add_command, add_initial_peers, add_listening, add_model, add_repository
from .joining import join_dht, open_host
from .signals import until_signalled
from .terminal import ProgressLine, emit, say

DEFAULT_LISTEN = ("/ip4/127.0.0.1/tcp/0",)
DEFAULT_HISTORY = 1024
LOOK_PERIOD = 5.0  # seconds between readings of the DHT


@dataclass(frozen=True, slots=True)
class GatewayOptions:
    """What both commands that run a gateway are told about it."""

    history_mib: int = DEFAULT_HISTORY
    spare: bool = False


DEFAULT_OPTIONS = GatewayOptions()


def add_gateway_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that ``gateway`` and ``relay`` share."""
    parser.add_argument(
        "--gateway-history",
        type=int,
        default=DEFAULT_HISTORY,
        metavar="MIB",
        help="memory for the inputs of all sessions through the gateway (%(default)s)",
    )
    parser.add_argument(
        "--gateway-spare", action="store_true", help="keep a second server of every hop ready"
    )


def gateway_options(options: argparse.Namespace) -> GatewayOptions:
    """From the parsed flags; ``ConfigError`` for a number that makes no sense."""
    if options.gateway_history < 1:
        raise ConfigError(f"--gateway-history is {options.gateway_history}; give at least 1 MiB")
    return GatewayOptions(options.gateway_history, options.gateway_spare)


def make_gateway(
    options: GatewayOptions,
    model: Model,
    host: NativeHost,
    read_servers: ReadServers,
    announcer: Announcer,
    *,
    repository: str = "",
    public_name: str | None = None,
    look_period: float = LOOK_PERIOD,
) -> Gateway:
    """A gateway on a host that has a DHT node."""
    config = GatewayConfig(
        model.name,
        repository=repository or None,
        public_name=public_name,
        history_bytes=options.history_mib << 20,
        look_period=look_period,
        spare=options.spare,
    )
    return Gateway(
        config,
        model.config,
        host=host,
        read_servers=read_servers,
        announcer=announcer,
        now=time.time,
        random_bytes=os.urandom,
    )


def describe(gateway: Gateway) -> dict[str, Any]:
    """For status.json."""
    status = gateway.status
    return {
        "blocks": [status.blocks.start, status.blocks.end] if status.blocks else None,
        "in_use": {str(peer): count for peer, count in status.in_use.items()},
        "sessions": status.sessions,
        "failovers": status.failovers,
        "tokens_done": status.tokens_done,
        "history_bytes": status.history_bytes,
        "history_limit": status.history_limit,
    }


def add(commands: Any) -> None:
    """Declare ``kwaainet gateway``."""
    parser = add_command(commands, "gateway", "one server for what tabs hold, whoever leaves", __doc__)
    add_repository(parser)
    add_model(parser, required=True)
    add_initial_peers(parser, required=True)
    add_listening(parser, DEFAULT_LISTEN)
    add_gateway_flags(parser)
    parser.add_argument("--public-name", metavar="NAME", help="what health monitors show")
    parser.set_defaults(run=run)


async def run(options: argparse.Namespace) -> int:
    """Run until SIGINT or SIGTERM."""
    told = gateway_options(options)
    progress = ProgressLine()
    model = await asyncio.to_thread(open_model, options.model, report=progress, name=options.prefix)
    progress.finish()
    async with AsyncExitStack() as stack:
        listen = options.listen or DEFAULT_LISTEN
        host = await open_host(
            stack, listen=listen, announce=options.announce, identity_path=options.identity_path
        )
        await host.listen()
        dht = await join_dht(stack, host, options.initial_peers)
        gateway = make_gateway(
            told,
            model,
            host,
            dht_reader(dht),
            DhtAnnouncer(dht, host.peer_id, time.time),
            repository=options.repository,
            public_name=options.public_name,
        )
        await gateway.start()
        stack.push_async_callback(gateway.stop)
        emit({"event": "ready", "peer_id": str(host.peer_id), "maddrs": list(host.addresses)})
        say(f"gateway {host.peer_id} is up; it serves {model.name} as far as others hold it")
        await until_signalled()
        say("stopping")
        emit({"event": "stopped", **describe(gateway)})
    return 0
