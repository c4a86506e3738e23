"""``kwaainet relay``: circuit relay, kad server, Hivemind DHT node and the page's origin in one process."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ... import __version__
from ...errors import ConfigError
from ...libp2p.multiaddr import Multiaddr
from ...node.announce import AnnounceHandler, DhtAnnouncer
from ...node.announced import AnnouncedServers
from ...node.bandwidth import TransferHandler
from ...node.dht import DhtNode
from ...node.directory import DirectoryHandler
from ...node.exposure import Exposure, HiddenRecords, announced_reader
from ...node.gateway import Gateway
from ...node.overview import Overview
from ...ports import Report
from .. import operator_page
from ..allocator import collect_seldom, keep_freed_memory
from ..assets import find_assets
from ..doors import Doors
from ..host import NativeHost
from ..http import Origin, parse_http_address, parse_ice_server, serve
from ..model import Model
from ..network import MAX_CONNECTIONS
from ..offered import check_offer, offer, open_models
from ..open_files import most_connections, most_visitors
from ..open_hop import OpenHop
from ..openai import ApiOptions
from ..relay import Relay
from ..relay_metrics import RelayMetrics
from ..state_dir import StateDir
from ..swarm_page import SwarmPage
from . import relay_admin, relay_config, relay_defence, relay_tls, relay_unit
from .api import add_api_flags, check_api_on_relay, open_api, relay_api_options
from .clock import following_the_clock
from .flags import add_command, add_initial_peers, add_listening, add_model, add_repository, seconds
from .gateway import (
    DEFAULT_OPTIONS,
    GatewayOptions,
    add_gateway_flags,
    gateway_options,
    make_gateway,
)
from .joining import join_dht, known_addresses, open_host
from .logs import add_logging, configure_logging
from .relay_status import RelayStatus
from .seed import serve_as_seed
from .settings import Settings
from .sharing import among_relays, for_browsers
from .signals import drained, until_signalled
from .terminal import ProgressLine, emit, say

log = logging.getLogger(__name__)

PREFIX = "KWAAINET_RELAY_"  # of settings in the environment
DRAIN = 90.0  # seconds: as long as a tab or server that leaves
DEFAULT_HTTP = "127.0.0.1:8080"
REMEMBER_PERIOD = 60.0  # seconds between writings of the peers known
TABLE_LOOK_PERIOD = 1.0  # seconds between the gateway's looks at who is announced; costs no call
DEFAULT_LISTEN = ("/ip4/127.0.0.1/tcp/4001", "/ip4/127.0.0.1/tcp/4002/ws")


@dataclass(frozen=True, slots=True)
class RelayOptions:
    """Everything a relay is told. ``http`` port 0 and ``/tcp/0`` take free ports."""

    http: str = DEFAULT_HTTP
    listen: Sequence[str] = DEFAULT_LISTEN
    announce: Sequence[str] = ()
    initial_peers: Sequence[str] = ()
    identity_path: Path | None = None
    models: Sequence[Path] = ()
    prefixes: Sequence[str] = ()  # of the models, in their order; one without a model names what is published
    repository: str = ""
    open_hop: bool = True
    open_hop_private: bool = False
    expose: Exposure = Exposure.DIRECT
    gateway: GatewayOptions = DEFAULT_OPTIONS
    ice_servers: Sequence[str] = ()
    api: ApiOptions | None = None
    model_url: str = ""
    state_dir: Path | None = None
    tls: relay_tls.TlsOptions = relay_tls.NO_TLS
    defence: relay_defence.Defence = relay_defence.OPEN


@dataclass(slots=True)
class RunningRelay:
    """A relay that is up: its parts, for whoever runs something beside it."""

    host: NativeHost
    relay: Relay
    dht: DhtNode
    http: str
    models: Sequence[Model]


@asynccontextmanager
async def running_relay(options: RelayOptions, report: Report) -> AsyncIterator[RunningRelay]:
    """Start a relay; everything is closed again, in reverse order, at the end."""
    http_host, http_port = parse_http_address(options.http)
    ice_servers = [parse_ice_server(text) for text in options.ice_servers]
    check_api_on_relay(options.api, http_host, options.models)
    check_offer(options.models, options.prefixes, options.model_url, options.repository)
    relay_tls.check_tls(options.tls, options.announce, options.listen, time.time())
    assets = find_assets()
    if len(options.models) != 1 and options.expose != Exposure.DIRECT:
        raise ConfigError(f"--expose {options.expose} needs --model once: a gateway must know its sizes")
    async with AsyncExitStack() as stack:
        models = await open_models(options.models, options.prefixes, report)
        offered = await offer(models, options.prefixes, options.model_url, options.repository)
        doors = await stack.enter_async_context(
            relay_tls.opened_doors(options.tls, options.http, options.listen)
        )
        host, relay, dht = await _join(stack, options, doors)
        host.network.max_connections = most_connections(MAX_CONNECTIONS)
        hidden = [one.prefix for one in offered] if options.expose == Exposure.GATEWAY else []
        records = HiddenRecords(dht, hidden, time.time)
        relays = among_relays(stack, host, relay, dht)
        directory = DirectoryHandler(host, records, time.time)
        announcements = AnnounceHandler(
            host, records, relay.has_reservation, time.time, relays.reaches, directory.changed
        )
        host.on_peer_lost(announcements.peer_lost)
        TransferHandler(host, time.time)
        await stack.enter_async_context(following_the_clock(announcements.clock_set_ahead))
        stack.push_async_callback(announcements.withdraw_all)
        gateway = await _open_gateway(stack, options, models, host, dht, announcements)
        api = await open_api(options.api, models, host, records) if options.api else None
        metrics = RelayMetrics(host, relay, dht, lambda: announcements.announced.values())
        overview = Overview(records, {one.prefix: one.num_blocks for one in offered}, time.time)
        status = RelayStatus(stack, host, relay)
        swarm = SwarmPage(overview, status.figures)
        origin = Origin(
            assets,
            lambda: [*filter(_for_browsers, host.addresses), *for_browsers(relays)],
            __version__,
            offered,
            lambda: status.status(announcements, gateway),
            ice_servers,
            api,
            [*metrics.routes(), *swarm.routes(), *operator_page.routes()],
            near_bits=lambda: host.routing.near_bits,
        )
        visitors = most_visitors(host.network.max_connections)
        runner, page = await serve(origin, http_host, http_port, doors, host.network.admission, visitors)
        stack.push_async_callback(runner.cleanup)
        yield RunningRelay(host, relay, dht, page, models)


def _for_browsers(address: str) -> bool:
    parsed = Multiaddr.parse(address)
    return parsed.transport in ("ws", "wss") or "webrtc-direct" in parsed.names


async def _join(
    stack: AsyncExitStack, options: RelayOptions, doors: Doors
) -> tuple[NativeHost, Relay, DhtNode]:
    """A host that listens, the relay on it, and its node in the swarm."""
    state = StateDir(options.state_dir) if options.state_dir is not None else None
    identity = options.identity_path or (state.identity if state else None)
    host = await open_host(
        stack,
        listen=options.listen,
        announce=options.announce,
        identity_path=identity,
        of_relay=True,
    )
    host.network.doors = doors
    doors.admission = host.network.admission
    relay_defence.arm(host, options.defence, state)
    relay = Relay(host)
    await host.listen()
    known = state.known_peers() if state else []
    dht = await join_dht(stack, host, options.initial_peers, known=known)
    await relay_defence.watch(stack, host, relay, state)
    serve_as_seed(stack, host, relay, dht, allow_private=options.open_hop_private)
    if state is not None:
        await stack.enter_async_context(_remembering(state, host, dht))
    if options.open_hop:
        servers = AnnouncedServers(dht, time.time)
        relay.open_hop = OpenHop(host, servers.find, allow_private=options.open_hop_private)
    return host, relay, dht


@asynccontextmanager
async def _remembering(state: StateDir, host: NativeHost, dht: DhtNode) -> AsyncIterator[None]:
    """Keep whom we know, now and then and at the end: the next run begins with them."""

    async def keep() -> None:
        while True:
            await asyncio.sleep(REMEMBER_PERIOD)
            state.keep_peers(known_addresses(host, dht))

    keeping = asyncio.ensure_future(keep())
    try:
        yield
    finally:
        keeping.cancel()
        state.keep_peers(known_addresses(host, dht))


async def _open_gateway(
    stack: AsyncExitStack,
    options: RelayOptions,
    models: Sequence[Model],
    host: NativeHost,
    dht: DhtNode,
    announcements: AnnounceHandler,
) -> Gateway | None:
    """The gateway to the tabs of this relay, if Petals clients are to find one."""
    if options.expose == Exposure.DIRECT:
        return None
    gateway = make_gateway(
        options.gateway,
        models[0],
        host,
        announced_reader(lambda: announcements.announced),
        DhtAnnouncer(dht, host.peer_id, time.time),
        repository=options.repository,
        look_period=TABLE_LOOK_PERIOD,
    )
    await gateway.start()
    stack.push_async_callback(gateway.stop)
    return gateway


def add_relay_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that ``relay`` and ``up`` share."""
    parser.add_argument(
        "--http", default=DEFAULT_HTTP, metavar="HOST:PORT", help="where the page is served (%(default)s)"
    )
    parser.add_argument(
        "--ice-server",
        action="append",
        default=[],
        metavar="URL",
        help="STUN or TURN server by which tabs find each other: stun:HOST:PORT, or "
        "turn:HOST:PORT,USERNAME,CREDENTIAL, which every visitor can read; repeatable (none)",
    )
    add_listening(parser, DEFAULT_LISTEN)
    relay_tls.add_tls_flags(parser)
    add_initial_peers(parser, required=False)
    add_repository(parser)
    add_model(parser, required=False, several=True)
    parser.add_argument(
        "--model-url",
        default="",
        metavar="URL",
        help="where tabs fetch the model instead: a folder that kwaainet model split wrote, on any host "
        "that serves ranges; --model is then needed only for a gateway or --api",
    )
    parser.add_argument(
        "--open-hop",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="let tabs reach servers of the DHT that are not connected to us, within quotas (on)",
    )
    parser.add_argument(
        "--open-hop-private", action="store_true", help="also such servers at private and loopback addresses"
    )
    parser.add_argument(
        "--expose",
        type=Exposure,
        choices=list(Exposure),
        default=Exposure.DIRECT,
        help="what Petals clients find of the tabs: themselves, a gateway in this process that replaces "
        "lost ones but sees what passes, or both (%(default)s)",
    )
    add_gateway_flags(parser)
    add_api_flags(parser, switch=True)


def relay_options(options: argparse.Namespace) -> RelayOptions:
    """From the parsed flags."""
    return RelayOptions(
        options.http,
        options.listen or DEFAULT_LISTEN,
        options.announce,
        options.initial_peers,
        options.identity_path,
        options.model or (),
        options.prefix or (),
        options.repository,
        options.open_hop,
        options.open_hop_private,
        options.expose,
        gateway_options(options),
        options.ice_server,
        relay_api_options(options),
        options.model_url,
        getattr(options, "state_dir", None),
        relay_tls.tls_options(options),
        relay_defence.defence_options(options),
    )


def add_service_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of a relay that runs by itself: they and ``add_relay_flags``'s are its settings."""
    add_logging(parser)
    relay_defence.add_defence_flags(parser)
    parser.add_argument(
        "--state-dir",
        type=Path,
        metavar="DIR",
        help="keep here all that outlives a run: the identity, and known peers to begin with next time",
    )
    parser.add_argument(
        "--drain",
        type=seconds,
        default=DRAIN,
        metavar="SECONDS",
        help="how long circuits in use, and those of tabs that another relay holds, too, may go on after a "
        "signal, while nothing new begins (%(default)g); a second signal ends it at once",
    )


def declare(parser: argparse.ArgumentParser) -> Settings:
    """All flags of a relay on ``parser``, as settings of four layers."""
    add_relay_flags(parser)
    add_service_flags(parser)
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=f"settings in TOML, each named as its flag; {PREFIX}HTTP and the like in the environment win "
        f"over it, flags over both ({PREFIX}CONFIG)",
    )
    return Settings(parser, PREFIX, {"listen": list(DEFAULT_LISTEN)})


def add(commands: Any) -> None:
    """Declare ``kwaainet relay``."""
    parser = add_command(commands, "relay", "relay, DHT node and page for contributing tabs", __doc__)
    settings = declare(parser)
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    relay_config.add(actions, declare)
    relay_unit.add(actions)
    relay_admin.add(actions)
    parser.set_defaults(run=lambda options: run(settings.apply(options, os.environ)))


async def run(options: argparse.Namespace) -> int:
    """Run until SIGINT or SIGTERM, then drain."""
    configure_logging(options.verbose, options.log_level, options.log_format)
    progress = ProgressLine()
    async with running_relay(relay_options(options), progress) as relay:
        progress.finish()
        keep_freed_memory()
        collect_seldom()
        addresses = list(relay.host.addresses)
        emit({"event": "ready", "peer_id": str(relay.host.peer_id), "maddrs": addresses, "http": relay.http})
        say(f"relay {relay.host.peer_id} is up; open {relay.http} in a browser to contribute")
        await until_signalled()
        say(f"stopping; {relay.relay.circuits} circuits have up to {options.drain:g} s")
        await drained(relay.relay.drain(options.drain))
    return 0
