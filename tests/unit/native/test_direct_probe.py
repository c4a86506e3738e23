"""A relay that browsers reach by WebRTC-Direct alone: its port is asked by hand, the rest by a browser."""

from __future__ import annotations

import asyncio
import socket

import pytest

from kwaainet.errors import Ailment
from kwaainet.native import direct_probe
from kwaainet.native.browser_probe import probe
from kwaainet.native.direct_probe import knock
from kwaainet.native.doctor import Outcome, examine

from .doctored import patient, step

DIRECT = "/ip4/127.0.0.1/udp/0/webrtc-direct"


def test_a_port_that_answers_is_reachable_as_far_as_can_be_told() -> None:
    async def main() -> None:
        async with patient(DIRECT, with_dht=False) as one:
            report = await examine(one.url)
            [address] = one.host.addresses
        assert [done.name for done in report.steps][-2:] == ["relay address", "webrtc udp"]
        last = step(report, "webrtc udp")
        assert last.outcome == Outcome.WARNING
        assert last.found.startswith(address)
        assert "was not tried" in last.cause
        assert last.remedy == "kwaainet doctor --browser"
        assert report.reachable

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_browser_looks_into_it() -> None:
    async def main() -> None:
        async with patient(DIRECT, with_dht=False) as one:
            report = await examine(one.url, browser=True)
            assert (report.reachable, report.why) == (True, "")
            assert step(report, "webrtc udp").outcome == Outcome.OK
            assert step(report, "browser").found.endswith(", WebRTC-Direct")
            [address] = one.host.addresses
            another = address.replace(address.split("/certhash/")[1][8:16], "AAAAAAAA")
            with pytest.raises(Ailment, match="its WebRTC-Direct does not: no connection, or another cert"):
                await probe(one.url, another)

    asyncio.run(asyncio.wait_for(main(), 120))


def test_a_port_at_which_nobody_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_probe, "PAUSE", 0.01)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        with pytest.raises(Ailment, match=f"nothing answers at UDP port {port}"):
            asyncio.run(knock(f"/ip4/127.0.0.1/udp/{port}/webrtc-direct", looked_into=True))
        assert silent.recv(100)[:2] == b"\x00\x01", "a binding request came"
