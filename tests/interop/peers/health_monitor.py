"""The public health monitor's procedure, with the real packages: ``health_monitor.py SPEC RESULT``.

A client-mode DHT reads ``_petals.models`` and every block key, computes the spans, then calls
``rpc_info`` with an empty uid on each online server within 5 s, dialling by bare peer id. Of one that does
not answer in time "info" is empty; the monitor looks again a minute later.
"""

import functools

from answering import answer
import petals_shim  # noqa: F401  (before petals: it mends its imports)
import hivemind
from hivemind.dht import DHT
from hivemind.proto import runtime_pb2
from hivemind.utils import MSGPackSerializer
from petals.data_structures import ServerState
from petals.server.handler import TransformerConnectionHandler
from petals.utils.dht import compute_spans, get_remote_module_infos


async def info(peer, dht, node):
    p2p = await node.replicate_p2p() if hasattr(node, "replicate_p2p") else node.protocol.p2p
    stub = TransformerConnectionHandler.get_stub(p2p, peer)
    try:
        answer = await stub.rpc_info(runtime_pb2.ExpertUID(uid=""), timeout=5)
    except TimeoutError:
        return {}
    return MSGPackSerializer.loads(answer.serialized_info)


def run(spec):
    dht = DHT(initial_peers=spec["initial_peers"], client_mode=True, start=True, use_auto_relay=True)
    models = dht.get("_petals.models", latest=True)
    listed = {name: value.value for name, value in models.value.items()} if models else {}
    prefix = spec["dht_prefix"]
    uids = [f"{prefix}.{index}" for index in range(listed[prefix]["num_blocks"])]
    spans = compute_spans(get_remote_module_infos(dht, uids, latest=True), min_state=ServerState.JOINING)
    servers = []
    for peer, span in spans.items():
        reply = dht.run_coroutine(functools.partial(info, peer))
        servers.append(
            {
                "peer_id": peer.to_base58(),
                "state": span.state.name,
                "start": span.start,
                "end": span.end,
                "version": span.server_info.version,
                "info": sorted(reply),
            }
        )
    return {"models": listed, "servers": servers, "hivemind": hivemind.__version__}


if __name__ == "__main__":
    answer(run)
