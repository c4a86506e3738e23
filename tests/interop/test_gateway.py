"""An unmodified petals client generates through the relay's gateway while the tab in use is killed.

The tabs are stand-ins without a browser (``native_tab.py``): what a gateway sees of a tab is the same.
"""

import json
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from interop.cases import Case
from interop.running import OFFLINE, PEERS, PEERS_PYTHON, POLL, Running, relay, started

NATIVE_TAB = Path(__file__).parent / "native_tab.py"
NEW_TOKENS, KILLED_AT = 80, 30
TIMEOUT = 60.0


def native_tab(origin: dict[str, Any], case: Case, blocks: str) -> list[str | Path]:
    address = next(address for address in origin["maddrs"] if "/ws/" in address)
    return [sys.executable, NATIVE_TAB, address, str(case.folder), case.prefix, blocks]


def status(origin: dict[str, Any]) -> dict[str, Any]:
    with urllib.request.urlopen(origin["http"] + "status.json", timeout=TIMEOUT) as answer:
        found: dict[str, Any] = json.load(answer)["gateway"]
    return found


def await_token(client: Running, index: int) -> None:
    """Until the client's first generation has got so far."""
    while not any(line["generation"] or line["index"] >= index for line in client.lines()):
        assert client.process.poll() is None, client.tail()
        time.sleep(POLL)


def test_no_token_changes_when_the_tab_in_use_is_killed(odd: Case, tmp_path: Path) -> None:
    with (
        relay(tmp_path, "--model", odd.folder, "--prefix", odd.prefix, "--expose", "gateway") as origin,
        started(native_tab(origin, odd, "0:3"), tmp_path, "tab-1") as one,
        started(native_tab(origin, odd, "0:3"), tmp_path, "tab-2") as other,
        started(native_tab(origin, odd, "3:5"), tmp_path, "tab-3") as last,
    ):
        for tab in (one, other, last):
            tab.event("online")
        spec, result = tmp_path / "spec", tmp_path / "result"
        asked = odd.spec(origin["tcp"], generations=2, prompt_tokens=6, new_tokens=NEW_TOKENS)
        spec.write_text(json.dumps(asked))
        command = [PEERS_PYTHON, PEERS / "petals_streamer.py", spec, result]
        with started(command, tmp_path, "client", OFFLINE) as client:
            await_token(client, KILLED_AT)
            assert status(origin)["sessions"] == 1
            assert status(origin)["history_bytes"] > 0
            [busy] = [tab for tab in (one, other) if len(tab.lines()) > 1]
            busy.process.kill()
            assert client.process.wait(TIMEOUT) == 0, client.tail()
        generations = json.loads(result.read_text())["generations"]
        assert [each["error"] for each in generations] == [None, None]
        assert all(each["equal"] for each in generations)
        assert all(each["servers"] == [origin["peer_id"]] for each in generations)
        assert status(origin)["failovers"] == 1
        assert status(origin)["blocks"] == [0, 5]
