"""An unmodified petals client generates again and again while one of its two servers leaves by choice.

The client reads the DHT every two seconds instead of every sixty, and the server drains for eight
instead of ninety: everything else is stock.
"""

import json
import signal
from collections.abc import Sequence
from pathlib import Path

from interop.cases import Case
from interop.running import KWAAINET, OFFLINE, PEERS, PEERS_PYTHON, relay, started

UPDATE_PERIOD, DRAIN = 2.0, 8.0  # seconds
PATIENCE = 180.0
ROUNDS_AFTER = 5  # generations that must work when the server is gone


def _serve(model: Path, initial_peer: str) -> Sequence[str | Path]:
    command = [KWAAINET, "serve", "-v", "--model", model, "--prefix", "odd-llama", "--threads", "1"]
    return [*command, "--drain", f"{DRAIN:g}", "--initial-peers", initial_peer]


def _loop(folder: Path, model: Path, initial_peer: str) -> tuple[Sequence[str | Path], Path]:
    spec, result = folder / "looper.spec", folder / "looper.result"
    asked = {"model": str(model), "initial_peers": [initial_peer], "dht_prefix": "odd-llama"}
    asked |= {"update_period": UPDATE_PERIOD, "until": str(folder / "gone"), "rounds_after": ROUNDS_AFTER}
    spec.write_text(json.dumps(asked))
    return [PEERS_PYTHON, PEERS / "petals_looper.py", spec, result], result


def test_no_generation_fails_while_a_server_drains(odd: Case, tmp_path: Path) -> None:
    with (
        relay(tmp_path) as origin,
        started(_serve(odd.folder, origin["tcp"]), tmp_path, "serve-1") as one,
        started(_serve(odd.folder, origin["tcp"]), tmp_path, "serve-2") as other,
    ):
        servers = {server.event("online")["peer_id"]: server for server in (one, other)}
        command, result = _loop(tmp_path, odd.folder, origin["tcp"])
        with started(command, tmp_path, "looper", OFFLINE) as looper:
            [used] = looper.event("generating")["servers"]
            leaves = servers.pop(used)
            leaves.process.send_signal(signal.SIGTERM)
            leaves.event("draining")
            assert leaves.process.wait(PATIENCE) == 0, leaves.tail()
            assert leaves.lines()[-1]["event"] == "offline"
            (tmp_path / "gone").touch()
            assert looper.process.wait(PATIENCE) == 0, looper.tail()
    rounds = json.loads(result.read_text())["rounds"]
    assert [each["error"] for each in rounds if each["error"]] == []
    assert all(each["equal"] for each in rounds)
    assert [each["servers"] for each in rounds[-ROUNDS_AFTER:]] == [list(servers)] * ROUNDS_AFTER
