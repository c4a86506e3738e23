"""What servers cover together, and the one record a gateway makes of it."""

import pytest

from kwaainet.swarm.coverage import as_one_server, covered, holders, is_gateway
from kwaainet.swarm.server_info import ServerInfo
from kwaainet.types import BlockRange, PeerId, ServerState

ALICE, BOB = (PeerId(b"\x00\x24\x08\x01\x12\x20" + bytes([number]) * 32) for number in (1, 2))
ONLINE = ServerInfo(ServerState.ONLINE, 1.0, version="1.0")


def records(text):
    """One letter a block: who serves it (``.``: nobody)."""
    return [{} if letter == "." else {ALICE if letter == "a" else BOB: ONLINE} for letter in text]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("...", None),
        ("aabb", "0:4"),
        (".ab.", "1:3"),
        ("a.bb", "2:4"),
        ("aa.bb", "0:2"),
        ("a..b.aab", "5:8"),
    ],
)
def test_the_longest_run_is_covered(text, expected):
    blocks = covered(records(text))
    assert (str(blocks) if blocks else None) == expected


def test_neither_gateways_nor_servers_that_are_not_online_hold_anything():
    gateway = ServerInfo(ServerState.ONLINE, 1.0, version="1.0+gateway")
    joining = ONLINE.with_state(ServerState.JOINING)
    held = holders([{ALICE: gateway}, {ALICE: joining}, {ALICE: gateway, BOB: ONLINE}])
    assert held == [{}, {}, {BOB: ONLINE}]


def test_a_gateways_own_record_is_known_as_such():
    info = as_one_server(records("aab"), BlockRange(0, 3), "1.2")
    assert is_gateway(info)
    assert is_gateway(ServerInfo.decode(info.encode()))
    assert not is_gateway(ONLINE)
    assert not is_gateway(ServerInfo(ServerState.ONLINE, 1.0))


def test_rates_are_those_of_the_fastest_way():
    slow = ServerInfo(ServerState.ONLINE, 2.0, forward_rps=10.0, inference_rps=1.0)
    fast = ServerInfo(ServerState.ONLINE, 5.0, forward_rps=30.0, inference_rps=3.0)
    info = as_one_server([{}, {ALICE: slow}, {ALICE: slow, BOB: fast}], BlockRange(1, 3), "1")
    assert info.throughput == 2.0
    assert info.inference_rps == pytest.approx(2 / (1 / 1 + 1 / 3))
    assert info.forward_rps == pytest.approx(2 / (1 / 10 + 1 / 30))
    assert info.blocks == BlockRange(1, 3)


def test_an_unknown_rate_stays_unknown():
    info = as_one_server(records("ab"), BlockRange(0, 2), "1")
    assert (info.inference_rps, info.forward_rps) == (None, None)
