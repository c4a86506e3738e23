"""Named swarms."""

import pytest

from kwaainet.libp2p.multiaddr import Multiaddr
from kwaainet.swarm.bootstraps import BOOTSTRAPS, spelled_out


@pytest.mark.parametrize("name", BOOTSTRAPS)
def test_every_name_stands_for_addresses_of_two_peers(name: str) -> None:
    parsed = [Multiaddr.parse(text) for text in BOOTSTRAPS[name]]
    assert all(address.transport == "tcp" and str(address.peer).startswith("Qm") for address in parsed)
    assert len({address.peer for address in parsed}) == 2
    assert {"dns", "ip4"} <= {address.parts[0][0] for address in parsed}


def test_names_and_addresses_mix_and_nothing_comes_twice() -> None:
    own = "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWQ"
    found = spelled_out([own, "petals", own, "petals"])
    assert found == [own, *BOOTSTRAPS["petals"]]
