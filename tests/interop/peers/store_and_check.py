"""What stock packages send a seed: ``store_and_check.py SPEC RESULT``.

SPEC: initial_peers, prefix, blocks, tab (another server). A client-mode node, as behind a NAT: the records
are with the seed only. Uses petals own ``declare_active_modules`` and ``check_direct_reachability``; the
result says what was accepted.
"""

import petals_shim  # noqa: F401  (before petals: it mends its imports)
from answering import answer
from hivemind.dht import DHT
from hivemind.utils import get_dht_time
from petals.data_structures import ServerInfo, ServerState
from petals.server.reachability import check_direct_reachability
from petals.utils.dht import declare_active_modules


def run(spec):
    dht = DHT(
        initial_peers=spec["initial_peers"],
        client_mode=True,
        start=True,
        use_relay=False,
        use_auto_relay=False,
    )
    uids = [f"{spec['prefix']}.{index}" for index in range(spec["blocks"])]
    model = {"num_blocks": spec["blocks"], "repository": None}
    named = dht.store(
        "_petals.models", subkey=spec["prefix"], value=model, expiration_time=get_dht_time() + 600
    )
    info = ServerInfo(ServerState.ONLINE, throughput=1.5, start_block=0, end_block=spec["blocks"])
    declared = declare_active_modules(dht, uids, info, expiration_time=get_dht_time() + 120)
    late = get_dht_time() + 1000
    tuple_ = info.to_tuple()
    hostile = {
        "a tab's word": dht.store(uids[0], subkey=spec["tab"], value=tuple_, expiration_time=late),
        "no server": dht.store(uids[0], subkey=dht.peer_id.to_base58(), value="text", expiration_time=late),
        "no peer": dht.store(uids[0], subkey="nobody", value=tuple_, expiration_time=late),
        "no model": dht.store("_petals.models", subkey="x", value={"num_blocks": 0}, expiration_time=late),
        "for ever": dht.store("key", subkey="x", value=1, expiration_time=get_dht_time() + 1e7),
    }
    reachable = check_direct_reachability(
        initial_peers=spec["initial_peers"], use_relay=False, use_auto_relay=False
    )
    return {
        "peer": dht.peer_id.to_base58(),
        "named": named,
        "declared": all(declared.values()),
        "hostile": hostile,
        "reachable": reachable,
    }


if __name__ == "__main__":
    answer(run)
