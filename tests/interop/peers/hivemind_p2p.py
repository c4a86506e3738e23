"""An unmodified hivemind P2P (p2pd): ``hivemind_p2p.py SPEC.json``, until it is killed.

SPEC: initial_peers; target, a bare peer id to call; identity_path (optional; made as RSA if absent).
Serves ``Peer.unary`` (reverses the uid; fails for "boom") and ``Peer.stream`` (echoes). Calls the target's
``Echo.unary``, ``Echo.stream``, ``Echo.refuse``, ``Echo.refuse_stream`` and ``Echo.nobody``.
Prints JSON lines: ready {peer_id}, then called {unary, stream, errors, milliseconds}, or error.
"""

import asyncio
import json
import os
import sys
import time
import traceback
from pathlib import Path

from hivemind.p2p import P2P, PeerID
from hivemind.proto.runtime_pb2 import ExpertInfo, ExpertUID

SIZES = (0, 1, 70_000, 3_000_000)
CALLS = 50


def say(**event):
    print(json.dumps(event), flush=True)


async def unary(request, context):
    if request.uid == "boom":
        raise ValueError("boom")
    return ExpertInfo(serialized_info=request.uid.encode()[::-1])


async def stream(requests, context):
    async for request in requests:
        yield request


async def requests():
    for size in SIZES:
        yield ExpertUID(uid="x" * size)


async def error_of(call):
    try:
        await call
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "none"


async def sizes_of(p2p, target, name):
    replies = await p2p.iterate_protobuf_handler(target, name, requests(), ExpertUID)
    return [len(reply.uid) async for reply in replies]


async def run(spec):
    options = {"identity_path": spec["identity_path"]} if "identity_path" in spec else {}
    p2p = await P2P.create(initial_peers=spec["initial_peers"], **options)
    await p2p.add_protobuf_handler("Peer.unary", unary, ExpertUID)
    await p2p.add_protobuf_handler("Peer.stream", stream, ExpertUID, stream_input=True, stream_output=True)
    say(event="ready", peer_id=str(p2p.peer_id))
    target = PeerID.from_base58(spec["target"])

    async def call(name):
        return (await p2p.call_protobuf_handler(target, name, ExpertUID(uid="hello"), ExpertUID)).uid

    answer = await call("Echo.unary")
    spent = []
    for _ in range(CALLS):
        start = time.perf_counter()
        await call("Echo.unary")
        spent.append(time.perf_counter() - start)
    errors = [await error_of(call(name)) for name in ("Echo.refuse", "Echo.nobody")]
    errors.append(await error_of(sizes_of(p2p, target, "Echo.refuse_stream")))
    sizes = await sizes_of(p2p, target, "Echo.stream")
    milliseconds = sorted(spent)[CALLS // 2] * 1e3
    say(event="called", unary=answer, stream=sizes, errors=errors, milliseconds=milliseconds)
    await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    try:
        asyncio.run(run(json.loads(Path(sys.argv[1]).read_text())))
    except BaseException:
        say(event="error", error=traceback.format_exc())
    os._exit(1)
