"""How long messages take through p2pd: to a peer's stream RPC, and to an echo behind another p2pd, in turns.

SPEC: initial_peers; target, a bare peer id; handler, its stream RPC; messages, in hex, each asked once;
warm_up, how many of them are not timed. RESULT: target and echo, milliseconds each.
"""

import asyncio
import time

from answering import answer
from hivemind.p2p import P2P, PeerID

HEADER = 9  # a marker, and the length in 8 bytes
ECHO = "Benchmark.echo"


async def frame_of(reader):
    header = await reader.readexactly(HEADER)
    assert header[0] == 0, "the server says that it failed"
    return header + await reader.readexactly(int.from_bytes(header[1:], "big"))


async def echo(info, reader, writer):
    try:
        while True:
            writer.write(await frame_of(reader))
            await writer.drain()
    except asyncio.IncompleteReadError:
        writer.close()


async def exchange(stream, frame):
    _, reader, writer = stream
    started = time.perf_counter()
    writer.write(frame)
    await writer.drain()
    await frame_of(reader)
    return 1000 * (time.perf_counter() - started)


async def measure(spec):
    other = await P2P.create()
    await other.add_binary_stream_handler(ECHO, echo)
    addresses = [str(address) for address in await other.get_visible_maddrs()]
    own = await P2P.create(initial_peers=[*spec["initial_peers"], *addresses])
    streams = {
        "target": await own.call_binary_stream_handler(PeerID.from_base58(spec["target"]), spec["handler"]),
        "echo": await own.call_binary_stream_handler(other.peer_id, ECHO),
    }
    times = {name: [] for name in streams}
    for number, message in enumerate(map(bytes.fromhex, spec["messages"])):
        for name, stream in streams.items():
            spent = await exchange(stream, b"\0" + len(message).to_bytes(8, "big") + message)
            if number >= spec["warm_up"]:
                times[name].append(spent)
    return times


if __name__ == "__main__":
    answer(lambda spec: asyncio.run(measure(spec)))
