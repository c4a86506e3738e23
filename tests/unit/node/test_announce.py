from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import pytest

from kwaainet.dht.record import StoreItem
from kwaainet.errors import RpcError, Unreachable
from kwaainet.node import announce
from kwaainet.node.announce import AnnounceHandler, DhtAnnouncer, RelayAnnouncer
from kwaainet.swarm.announcement import PROTOCOL, Announcement
from kwaainet.swarm.server_info import ModelInfo, ServerInfo
from kwaainet.testing.clock import now, run
from kwaainet.testing.host import MemoryHost, MemoryNetwork
from kwaainet.types import PeerId, ServerState
from kwaainet.wire import msgpack

OFFLINE, JOINING, ONLINE = ServerState
REAL = Announcement("m", ServerInfo(ONLINE, 5.0, start_block=0, end_block=2), 150.0, ModelInfo(5))


class Records:
    """A DHT of one node: the later expiration wins."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str | None], StoreItem] = {}
        self.seconds = 0.0
        self.refuse = False

    async def store_many(self, items: Sequence[StoreItem]) -> list[bool]:
        await asyncio.sleep(self.seconds)
        return [self._store(item) for item in items]

    def _store(self, record: StoreItem) -> bool:
        place = (record.key, record.subkey)
        if self.refuse or (place in self.kept and self.kept[place].expiration >= record.expiration):
            return False
        self.kept[place] = record
        return True

    def states(self, peer: PeerId) -> dict[str, ServerState]:
        return {
            key: ServerInfo.decode(record.value).state
            for (key, subkey), record in sorted(self.kept.items())
            if subkey == str(peer)
        }


class Swarm:
    def __init__(self) -> None:
        self.network = MemoryNetwork(1)
        self.relay, self.tab = self.network.host(), self.network.host()
        self.dht = Records()
        self.handler = AnnounceHandler(
            self.relay, self.dht, lambda peer: peer in self.relay.connected_peers, now
        )
        self.relay.on_peer_lost(self.handler.peer_lost)
        self.announcer = RelayAnnouncer(self.tab, self.relay.peer_id)

    def states(self, tab: MemoryHost | None = None) -> dict[str, ServerState]:
        return self.dht.states((tab or self.tab).peer_id)


def served(test: Callable[[Swarm], Awaitable[None]]) -> None:
    async def main() -> None:
        swarm = Swarm()
        await swarm.relay.listen()
        await test(swarm)

    run(main())


def test_what_a_tab_announces_stands_under_its_own_id() -> None:
    async def test(swarm: Swarm) -> None:
        await swarm.announcer.announce(REAL)
        assert swarm.states() == {"m.0": ONLINE, "m.1": ONLINE}
        record = swarm.dht.kept["m.0", str(swarm.tab.peer_id)]
        assert 149 < record.expiration - now() <= 150
        model = swarm.dht.kept["_petals.models", "m"]
        assert msgpack.loads(model.value) == {"num_blocks": 5, "repository": None}
        assert swarm.handler.announced == {swarm.tab.peer_id: [REAL]}

    served(test)


def test_a_refresh_lives_longer() -> None:
    async def test(swarm: Swarm) -> None:
        await swarm.announcer.announce(REAL)
        first = swarm.dht.kept["m.0", str(swarm.tab.peer_id)].expiration
        await asyncio.sleep(60)
        await swarm.announcer.announce(REAL)
        assert 59 < swarm.dht.kept["m.0", str(swarm.tab.peer_id)].expiration - first < 61

    served(test)


def test_the_farewell_takes_it_down_whenever_it_is_sent() -> None:
    async def test(swarm: Swarm) -> None:
        assert swarm.announcer.farewell() == b""
        await swarm.announcer.announce(REAL)
        farewell = swarm.announcer.farewell()
        await asyncio.sleep(100)
        await swarm.tab.call(swarm.relay.peer_id, PROTOCOL, farewell, timeout=5.0)
        assert swarm.states() == {"m.0": OFFLINE, "m.1": OFFLINE}
        assert swarm.handler.announced == {}

    served(test)


def test_a_shorter_time_to_live_still_has_the_last_word() -> None:
    async def test(swarm: Swarm) -> None:
        await swarm.announcer.announce(REAL)
        await swarm.announcer.announce(replace(REAL, ttl=5.0).with_state(OFFLINE))
        assert swarm.states() == {"m.0": OFFLINE, "m.1": OFFLINE}

    served(test)


def test_a_tab_that_vanishes_is_taken_down() -> None:
    async def test(swarm: Swarm) -> None:
        await swarm.announcer.announce(REAL)
        swarm.network.vanish(swarm.tab.peer_id)
        await asyncio.sleep(1)
        assert swarm.states() == {"m.0": OFFLINE, "m.1": OFFLINE}

    served(test)


def test_a_tab_that_comes_back_at_once_stays_up() -> None:
    async def test(swarm: Swarm) -> None:
        await swarm.announcer.announce(REAL)
        swarm.dht.seconds = 5.0  # the farewell is slow to be stored
        swarm.network.vanish(swarm.tab.peer_id)
        again = swarm.network.host(swarm.tab.peer_id)
        await RelayAnnouncer(again, swarm.relay.peer_id).announce(REAL)
        await asyncio.sleep(20)
        assert swarm.states() == {"m.0": ONLINE, "m.1": ONLINE}

    served(test)


def test_losing_one_of_two_connections_takes_nothing_down() -> None:
    async def test(swarm: Swarm) -> None:
        await swarm.announcer.announce(REAL)
        swarm.handler.peer_lost(swarm.tab.peer_id)
        await asyncio.sleep(1)
        assert swarm.states() == {"m.0": ONLINE, "m.1": ONLINE}

    served(test)


def test_losing_somebody_else_takes_nothing_down() -> None:
    async def test(swarm: Swarm) -> None:
        other = swarm.network.host()
        await swarm.announcer.announce(REAL)
        await other.connect(swarm.relay.addresses[0])
        swarm.network.vanish(other.peer_id)
        await asyncio.sleep(1)
        assert swarm.states() == {"m.0": ONLINE, "m.1": ONLINE}

    served(test)


def test_a_span_that_moves_leaves_no_block_behind() -> None:
    async def test(swarm: Swarm) -> None:
        await swarm.announcer.announce(REAL)
        moved = replace(REAL, server=replace(REAL.server, start_block=1, end_block=3))
        await swarm.announcer.announce(moved)
        assert swarm.states() == {"m.0": OFFLINE, "m.1": ONLINE, "m.2": ONLINE}

    served(test)


def test_a_relay_that_stops_takes_everything_down() -> None:
    async def test(swarm: Swarm) -> None:
        other = swarm.network.host()
        await swarm.announcer.announce(REAL)
        await RelayAnnouncer(other, swarm.relay.peer_id).announce(replace(REAL, prefix="n"))
        await swarm.handler.withdraw_all()
        assert set(swarm.states().values()) == {OFFLINE}
        assert swarm.states(other) == {"n.0": OFFLINE, "n.1": OFFLINE}

    served(test)


def test_one_without_a_reservation_is_refused() -> None:
    async def main() -> None:
        network = MemoryNetwork(1)
        relay, tab, dht = network.host(), network.host(), Records()
        AnnounceHandler(relay, dht, lambda peer: False, now)
        await relay.listen()
        with pytest.raises(RpcError, match="holds no reservation here"):
            await RelayAnnouncer(tab, relay.peer_id).announce(REAL)
        assert dht.kept == {}

    run(main())


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (b"", "ProtocolError"),
        (b"\xc1", "ProtocolError"),
        (b"x" * 70_000, "70000 bytes"),
        (msgpack.dumps({"prefix": "a.b"}), "ProtocolError"),
    ],
)
def test_a_bad_announcement_is_told_why_and_changes_nothing(request_: bytes, reason: str) -> None:
    async def test(swarm: Swarm) -> None:
        await swarm.announcer.announce(REAL)
        with pytest.raises(RpcError, match=reason):
            await swarm.tab.call(swarm.relay.peer_id, PROTOCOL, request_, timeout=5.0)
        assert swarm.states() == {"m.0": ONLINE, "m.1": ONLINE}

    served(test)


def test_too_many_models_of_one_peer_are_refused_until_they_expire() -> None:
    async def test(swarm: Swarm) -> None:
        for number in range(announce.MAX_PREFIXES_PER_PEER):
            await swarm.announcer.announce(replace(REAL, prefix=f"m{number}"))
        with pytest.raises(RpcError, match="4 models of one peer"):
            await swarm.announcer.announce(replace(REAL, prefix="one-more"))
        await asyncio.sleep(200)
        await swarm.announcer.announce(replace(REAL, prefix="one-more"))

    served(test)


def test_too_many_announcements_a_minute_are_refused_and_only_of_that_peer() -> None:
    async def test(swarm: Swarm) -> None:
        for _ in range(announce.MAX_PER_MINUTE):
            await swarm.announcer.announce(REAL)
        with pytest.raises(RpcError, match="slow down"):
            await swarm.announcer.announce(REAL)
        await RelayAnnouncer(swarm.network.host(), swarm.relay.peer_id).announce(REAL)
        await asyncio.sleep(61)
        await swarm.announcer.announce(REAL)

    served(test)


def test_a_clock_that_is_set_back_refuses_nobody_and_keeps_the_last_word() -> None:
    async def test(swarm: Swarm) -> None:
        ahead = 3600.0
        handler = AnnounceHandler(swarm.relay, swarm.dht, lambda peer: True, lambda: now() + ahead)
        for _ in range(announce.MAX_PER_MINUTE):
            await handler.rpc_announce(swarm.tab.peer_id, REAL.encode())
        ahead = 0.0
        await handler.rpc_announce(swarm.tab.peer_id, REAL.with_state(OFFLINE).encode())
        assert swarm.states() == {"m.0": OFFLINE, "m.1": OFFLINE}

    served(test)


def test_a_clock_that_is_set_ahead_takes_nobody_down_who_is_there() -> None:
    async def test(swarm: Swarm) -> None:
        ahead = 0.0
        clock = lambda: now() + ahead  # noqa: E731
        left, stays, said = swarm.network.host().peer_id, swarm.tab.peer_id, swarm.network.host().peer_id
        handler = AnnounceHandler(swarm.relay, swarm.dht, lambda peer: peer != left or ahead == 0, clock)
        for peer, state in ((left, ONLINE), (stays, ONLINE), (said, OFFLINE)):
            await handler.rpc_announce(peer, REAL.with_state(state).encode())
        await asyncio.sleep(100)
        ahead = 3600.0
        assert handler.announced == {}
        await handler.clock_set_ahead(ahead)
        assert handler.announced == {stays: [REAL]}
        left_to_live = swarm.dht.kept["m.0", str(stays)].expiration - clock()
        assert left_to_live == pytest.approx(50), "as long as it had left"
        assert swarm.dht.kept["m.0", str(said)].expiration < clock()

    served(test)


def test_those_whose_records_have_expired_are_forgotten() -> None:
    async def test(swarm: Swarm) -> None:
        for _ in range(40):
            tabs = [swarm.network.host() for _ in range(10)]
            for tab in tabs:
                await RelayAnnouncer(tab, swarm.relay.peer_id).announce(REAL)
                await tab.close()
            await asyncio.sleep(100)
        assert len(swarm.handler._peers) <= 64

    served(test)


def test_a_relay_remembers_no_more_peers_than_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announce, "MAX_PEERS", 2)

    async def test(swarm: Swarm) -> None:
        tabs = [RelayAnnouncer(swarm.network.host(), swarm.relay.peer_id) for _ in range(3)]
        for tab in tabs[:2]:
            await tab.announce(REAL)
        with pytest.raises(RpcError, match="use another relay"):
            await tabs[2].announce(REAL)
        await asyncio.sleep(200)
        await tabs[2].announce(REAL)

    served(test)


def test_a_dht_that_stores_nothing_is_said_so() -> None:
    async def test(swarm: Swarm) -> None:
        swarm.dht.refuse = True
        with pytest.raises(RpcError, match="none of the 3 records"):
            await swarm.announcer.announce(REAL)

    served(test)


def test_a_relay_that_is_gone_is_said_so() -> None:
    async def test(swarm: Swarm) -> None:
        swarm.network.vanish(swarm.relay.peer_id)
        with pytest.raises(Unreachable):
            await swarm.announcer.announce(REAL)

    served(test)


def test_a_native_server_stores_its_own_records() -> None:
    async def main() -> None:
        dht, peer = Records(), MemoryNetwork(1).host().peer_id
        announcer = DhtAnnouncer(dht, peer, now)
        await announcer.announce(REAL)
        assert dht.states(peer) == {"m.0": ONLINE, "m.1": ONLINE}
        await announcer.announce(replace(REAL, ttl=5.0).with_state(OFFLINE))
        assert dht.states(peer) == {"m.0": OFFLINE, "m.1": OFFLINE}
        assert announcer.farewell() == b""

    run(main())
