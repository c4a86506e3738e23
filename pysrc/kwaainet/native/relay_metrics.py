"""What a relay tells those who watch it: /healthz, /readyz, and /metrics in Prometheus' text.

Follows Prometheus' naming and the OpenMetrics text of ``prometheus-client``. Rule of the file: what can be
read from the relay is read when it is asked for, so that figures move during a session; no series names a
peer or an address, and their number is bounded.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from time import time

from aiohttp import web
from prometheus_client import CollectorRegistry, Histogram, exposition
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ..node.dht import DhtNode
from ..swarm.announcement import Announcement
from .host import NativeHost
from .relay import Relay
from .rpc import Told

MAX_SERIES = 4096  # blocks of all models, of which a page of figures tells
BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # seconds
Announced = Callable[[], Iterable[Sequence[Announcement]]]


class RelayMetrics:
    """Watches a host's calls from when it is made; ``routes`` are for its HTTP origin."""

    def __init__(self, host: NativeHost, relay: Relay, dht: DhtNode, announced: Announced) -> None:
        self._relay = relay
        self._registry = CollectorRegistry()
        self._registry.register(_Figures(host, relay, dht, announced))
        host.on_call = self._times("kwaainet_rpc_seconds", "Time to answer a call, or a step of a session.")
        host.on_ask = self._times("kwaainet_asked_seconds", "Time until others answered what we asked.")

    def routes(self) -> list[web.RouteDef]:
        """What the origin serves of this."""
        return [
            web.get("/healthz", self._health),
            web.get("/readyz", self._readiness),
            web.get("/metrics", self._metrics),
        ]

    def _times(self, name: str, words: str) -> Told:
        labels = ("protocol", "outcome")
        times = Histogram(name, words, labels, buckets=BUCKETS, registry=self._registry)
        return lambda protocol, seconds, well: times.labels(
            protocol, "answered" if well else "failed"
        ).observe(seconds)

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response(text="alive\n")

    async def _readiness(self, request: web.Request) -> web.Response:
        if self._relay.draining:
            return web.Response(status=503, text="draining: nothing new begins here\n")
        return web.Response(text="ready\n")

    async def _metrics(self, request: web.Request) -> web.Response:
        encode, kind = exposition.choose_encoder(request.headers.get("Accept", ""))
        response = web.Response(body=encode(self._registry), headers={"Content-Type": kind})
        response.enable_compression()
        return response


class _Figures(Collector):
    """What the relay's parts say of themselves at the moment."""

    def __init__(self, host: NativeHost, relay: Relay, dht: DhtNode, announced: Announced) -> None:
        self._host, self._relay, self._dht, self._announced = host, relay, dht, announced

    def collect(self) -> Iterator[Metric]:
        relay = self._relay
        yield _gauge("kwaainet_peers", "Peers connected.", len(self._host.connected_peers))
        yield _gauge("kwaainet_reservations", "Peers that hold a slot.", relay.reservations)
        yield _gauge("kwaainet_circuits", "Circuits open.", relay.circuits)
        yield _gauge("kwaainet_tasks", "Tasks of the event loop.", len(asyncio.all_tasks()))
        yield _gauge("kwaainet_objects", "Blocks of memory in use by Python.", sys.getallocatedblocks())
        yield _gauge("kwaainet_draining", "1 while nothing new begins.", int(relay.draining))
        yield _gauge("kwaainet_dht_peers", "Peers in the routing table.", len(self._dht.table))
        yield _counter("kwaainet_circuits_opened", "Circuits opened so far.", relay.opened)
        yield _counter("kwaainet_relayed_bytes", "Bytes carried, both ways together.", relay.relayed_bytes)
        yield _counter("kwaainet_dht_lookups", "Lookups begun in the DHT.", self._dht.lookups)
        yield _gauge("kwaainet_dht_records", "Keys with records kept for the swarm.", len(self._dht.storage))
        yield _gauge("kwaainet_dht_bytes", "Bytes these records take.", self._dht.storage.size)
        yield _by_reason("kwaainet_dht_refusals", "Records refused, by reason.", self._dht.guard.refused)
        yield _by_reason("kwaainet_refusals", "Slots and circuits refused.", relay.refused)
        admission = self._host.network.admission
        yield _by_reason("kwaainet_admission_refusals", "What limits and bans kept out.", admission.refused)
        yield _gauge("kwaainet_bans", "Bans in force.", len(admission.rules.bans(time())))
        yield _gauge("kwaainet_handshakes", "Connections under handshake.", self._host.network.opening)
        if relay.open_hop is not None:
            yield _by_reason(
                "kwaainet_open_hop_refusals", "Ways out refused.", relay.open_hop.status["refused"]
            )
        yield self._tabs()

    def _tabs(self) -> Metric:
        """How many servers announced here hold each block; a model beyond the bound is left out."""
        family = GaugeMetricFamily(
            "kwaainet_servers", "Servers announced here, by block.", labels=("model", "block", "state")
        )
        count: Counter[tuple[str, int, str]] = Counter()
        for ones in self._announced():
            for one in ones:
                blocks = one.server.blocks
                if blocks is not None and len(count) + len(blocks) <= MAX_SERIES:
                    state = one.server.state.name.lower()
                    count.update((one.prefix, block, state) for block in range(blocks.start, blocks.end))
        for (model, block, state), servers in sorted(count.items()):
            family.add_metric((model, str(block), state), servers)
        return family


def _gauge(name: str, words: str, value: float) -> Metric:
    return GaugeMetricFamily(name, words, value=value)


def _counter(name: str, words: str, value: float) -> Metric:
    return CounterMetricFamily(name, words, value=value)


def _by_reason(name: str, words: str, counts: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(name, words, labels=("reason",))
    for reason, count in sorted(counts.items()):
        family.add_metric((reason,), count)
    return family
