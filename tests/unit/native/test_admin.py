"""What an operator tells a relay holds at once, for who is connected, too."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from kwaainet.errors import ConfigError, InputError, KwaaiNetError, RequestError, Unreachable
from kwaainet.identity.keys import PrivateKey
from kwaainet.libp2p import circuit
from kwaainet.native import relay as relay_module
from kwaainet.native.admin import Admin
from kwaainet.native.host import NativeHost
from kwaainet.native.relay import Relay

ANY = "/ip4/127.0.0.1/tcp/0"


class Scene:
    """A relay with its admin, a tab with a slot on it, and what was kept."""

    def __init__(self, hub: NativeHost, tab: NativeHost, client: NativeHost) -> None:
        self.hub, self.tab, self.client = hub, tab, client
        self.relay = Relay(hub)
        self.kept: list[str] = []
        self.admin = Admin(hub, self.relay, self.kept.append)

    def ask(self, what: str, **more: Any) -> Any:
        return json.loads(json.dumps(self.admin.answer({"ask": what, **more})))

    async def gone(self, host: NativeHost) -> None:
        while host.connected_peers:
            await asyncio.sleep(0)


def run(test: Callable[[Scene], Awaitable[None]]) -> None:
    async def main() -> None:
        hub = await NativeHost.create(PrivateKey(os.urandom(32)), [ANY])
        scene = Scene(hub, hub, await NativeHost.create(PrivateKey(os.urandom(32))))
        await hub.listen()
        scene.tab = await NativeHost.create(PrivateKey(os.urandom(32)), [f"{hub.addresses[0]}/p2p-circuit"])
        await scene.tab.listen()
        await scene.client.connect(hub.addresses[0])
        try:
            await test(scene)
        finally:
            for one in (scene.client, scene.tab, hub):
                await one.close()

    asyncio.run(asyncio.wait_for(main(), 60))


def test_peers_are_listed_with_what_they_hold() -> None:
    async def test(scene: Scene) -> None:
        await scene.client.connect(f"{scene.hub.addresses[0]}/p2p-circuit/p2p/{scene.tab.peer_id}")
        peers = {one["peer"]: one for one in scene.ask("peers")}
        assert set(peers) == {str(scene.tab.peer_id), str(scene.client.peer_id)}
        tab, client = peers[str(scene.tab.peer_id)], peers[str(scene.client.peer_id)]
        assert (tab["slot"], client["slot"]) == (True, False)
        assert (tab["circuits"], client["circuits"]) == (1, 1)
        assert tab["bytes"] == client["bytes"] > 0
        assert tab["address"].startswith("/ip4/127.0.0.1/tcp/")
        assert tab["seconds"] >= 0
        assert tab["streams"] >= 1

    run(test)


@pytest.mark.parametrize("by", ["peer", "address"])
def test_a_ban_closes_connections_at_once_and_keeps_out(by: str) -> None:
    async def test(scene: Scene) -> None:
        subject = str(scene.client.peer_id) if by == "peer" else "127.0.0.0/8"
        answer = scene.ask("ban", subject=subject, reason="rude", seconds=60)
        assert answer["closed"] == (1 if by == "peer" else 2)
        assert answer["until"] == answer["since"] + 60
        await scene.gone(scene.client)
        assert bool(scene.tab.connected_peers) == (by == "peer"), "nobody else is concerned"
        with pytest.raises(KwaaiNetError):
            await scene.client.call_through(scene.hub.addresses[0], "/nothing", b"", timeout=60)
        assert [ban["reason"] for ban in scene.ask("bans")] == ["rude"]
        assert json.loads(scene.kept[-1])[0]["subject"] == subject
        assert scene.ask("limits")["refused"]["banned"] >= 1
        scene.ask("unban", subject=subject)
        assert json.loads(scene.kept[-1]) == []
        await scene.client.connect(scene.hub.addresses[0])
        assert scene.client.connected_peers

    run(test)


def test_a_ban_ends_the_circuits_of_whom_it_concerns() -> None:
    async def test(scene: Scene) -> None:
        await scene.client.connect(f"{scene.hub.addresses[0]}/p2p-circuit/p2p/{scene.tab.peer_id}")
        assert scene.relay.circuits == 1
        scene.ask("ban", subject=str(scene.client.peer_id))
        while scene.relay.circuits:
            await asyncio.sleep(0)
        assert scene.relay.has_reservation(scene.tab.peer_id)

    run(test)


def test_limits_are_shown_and_changed() -> None:
    async def test(scene: Scene) -> None:
        told = scene.ask("limits")
        assert told["limits"]["connections"] == "16,512,2048"
        assert told["most"]["connections"] == {"peer": 1}
        told = scene.ask("limits", set={"circuits": "1,1,1", "bandwidth": "1000000"})
        assert (told["limits"]["circuits"], told["limits"]["bandwidth"]) == ("1,1,1", "1000000")
        through = f"{scene.hub.addresses[0]}/p2p-circuit/p2p/{scene.tab.peer_id}"
        await scene.client.connect(through)
        with pytest.raises(Unreachable, match="RESOURCE_LIMIT_EXCEEDED"):
            await scene.client.call_through(through, "/nothing", b"", timeout=60)
        assert scene.ask("limits")["refused"] == {"too many circuits of one peer": 1}

    run(test)


def test_drain_begins_nothing_new_until_it_is_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "QUIET", 0.05)

    async def test(scene: Scene) -> None:
        assert scene.ask("drain") == {"draining": False, "quiet": False, "circuits": 0}
        assert scene.ask("drain", seconds=5)["draining"], "from the first answer on"
        while not scene.ask("drain")["quiet"]:
            await asyncio.sleep(0.01)
        assert scene.relay.draining
        assert circuit.HOP_PROTOCOL not in scene.hub.network.protocols
        through = f"{scene.hub.addresses[0]}/p2p-circuit/p2p/{scene.tab.peer_id}"
        with pytest.raises(Unreachable):
            await scene.client.connect(through)
        assert scene.ask("resume") == {"draining": False}
        await scene.client.connect(through)
        assert circuit.HOP_PROTOCOL in scene.hub.network.protocols

    run(test)


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"ask": []},
        {"ask": "tea"},
        {"ask": "ban"},
        {"ask": "ban", "subject": 7},
        {"ask": "ban", "subject": "nobody"},
        {"ask": "ban", "subject": "192.0.2.1", "seconds": "long"},
        {"ask": "ban", "subject": "192.0.2.1", "seconds": True},
        {"ask": "ban", "subject": "192.0.2.1", "reason": 5},
        {"ask": "unban", "subject": "192.0.2.1"},
        {"ask": "limits", "set": [1]},
        {"ask": "limits", "set": {"tea": "1"}},
        {"ask": "drain", "seconds": -1},
        {"ask": "drain", "seconds": 1e9},
    ],
)
def test_a_bad_request_changes_nothing(request_: dict[str, Any]) -> None:
    async def test(scene: Scene) -> None:
        with pytest.raises((RequestError, ConfigError, InputError)):
            scene.admin.answer(request_)
        assert not scene.relay.draining
        assert scene.kept == []
        assert len(scene.hub.connected_peers) == 2

    run(test)


def test_the_relay_does_not_ban_itself() -> None:
    async def test(scene: Scene) -> None:
        with pytest.raises(ConfigError, match="the relay itself"):
            scene.ask("ban", subject=str(scene.hub.peer_id))

    run(test)
