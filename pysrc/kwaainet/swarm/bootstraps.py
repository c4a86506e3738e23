"""The public swarms by name: peers that are always there, through which anybody may join.

``petals``: ``PUBLIC_INITIAL_PEERS`` of petals 2.2.0.post1 (src/petals/constants.py), by IPv4, by IPv6, and
by the addresses reserved for them. ``kwaainet``: ``KWAAI_BOOTSTRAP_SERVERS_DNS`` and
``KWAAI_BOOTSTRAP_SERVERS`` of Kwaai-AI-Lab/KwaaiNet at 9190d4a (core/crates/kwaai-p2p/src/config.rs), which
its own nodes join through. Rule of the file: only what the projects publish themselves; a name stands
wherever an address may stand.
"""

from __future__ import annotations

from collections.abc import Iterable

_PETALS_1 = "/p2p/QmedTaZXmULqwspJXz44SsPZyTNKxhnnFvYRajfH7MGhCY"
_PETALS_2 = "/p2p/QmQGTqmM7NKjV6ggU1ZCap8zWiyKR89RViDXiqehSiCpY5"
_KWAAINET_1 = "/p2p/QmQhRuheeCLEsVD3RsnknM75gPDDqxAb8DhnWgro7KhaJc"
_KWAAINET_2 = "/p2p/Qmd3A8N5aQBATe2SYvNikaeCS9CAKN4E86jdCPacZ6RZJY"

BOOTSTRAPS: dict[str, tuple[str, ...]] = {
    "petals": (
        f"/dns/bootstrap1.petals.dev/tcp/31337{_PETALS_1}",
        f"/dns/bootstrap2.petals.dev/tcp/31338{_PETALS_2}",
        f"/dns6/bootstrap1.petals.dev/tcp/31337{_PETALS_1}",
        f"/dns6/bootstrap2.petals.dev/tcp/31338{_PETALS_2}",
        f"/ip4/159.89.214.152/tcp/31337{_PETALS_1}",
        f"/ip4/159.203.156.48/tcp/31338{_PETALS_2}",
    ),
    "kwaainet": (
        f"/dns/bootstrap-1.kwaai.ai/tcp/8000{_KWAAINET_1}",
        f"/dns/bootstrap-2.kwaai.ai/tcp/8000{_KWAAINET_2}",
        f"/ip4/18.219.43.67/tcp/8000{_KWAAINET_1}",
        f"/ip4/52.23.252.2/tcp/8000{_KWAAINET_2}",
    ),
}


def spelled_out(peers: Iterable[str]) -> list[str]:
    """Addresses as they are, names as the addresses they stand for; each once."""
    return list(dict.fromkeys(address for peer in peers for address in BOOTSTRAPS.get(peer, (peer,))))
