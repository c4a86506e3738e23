"""An unmodified hivemind DHT node: ``hivemind_dht.py SPEC.json``, until it is killed.

SPEC: initial_peers, client_mode; store [[key, subkey or null, value, seconds to live], ...], done once;
read [key, ...], read again and again. A value given as a list is stored as a tuple, as petals does.
Prints JSON lines: ready {maddrs, stored}, then state {table, records} at every change, or error.
"""

import json
import os
import sys
import time
import traceback
from pathlib import Path

from hivemind.dht import DHT
from hivemind.utils import get_dht_time


async def table(dht, node):
    return [peer.to_base58() for peer in node.protocol.routing_table.peer_id_to_uid]


def plain(value):
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if hasattr(value, "expiration_time"):
        return {"value": plain(value.value), "expiration": value.expiration_time}
    return ["tuple", *map(plain, value)] if isinstance(value, tuple) else value


def say(**event):
    print(json.dumps(event), flush=True)


def run(spec):
    dht = DHT(
        initial_peers=spec.get("initial_peers", []),
        client_mode=spec.get("client_mode", False),
        start=True,
        use_relay=False,
        use_auto_relay=False,
    )
    stored = []
    for key, subkey, value, seconds in spec.get("store", []):
        value = tuple(value) if isinstance(value, list) else value
        stored.append(dht.store(key, value, get_dht_time() + seconds, subkey=subkey))
    say(event="ready", maddrs=[str(address) for address in dht.get_visible_maddrs()], stored=stored)
    last = None
    while True:
        records = {key: plain(dht.get(key, latest=True)) for key in spec.get("read", [])}
        state = {"table": dht.run_coroutine(table), "records": records}
        if state != last:
            say(event="state", **state)
        last = state
        time.sleep(0.3)


if __name__ == "__main__":
    try:
        run(json.loads(Path(sys.argv[1]).read_text()))
    except BaseException:
        say(event="error", error=traceback.format_exc())
        os._exit(1)  # the daemon's threads hang an ordinary exit
