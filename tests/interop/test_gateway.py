"""An unmodified petals client generates through the relay's gateway while the tab in use is killed.

The tabs are stand-ins without a browser (``native_tab.py``): what a gateway sees of a tab is the same.
"""

import json
import re
import time
import urllib.request
from pathlib import Path
from typing import Any

from interop.cases import Case
from interop.running import OFFLINE, PEERS, PEERS_PYTHON, POLL, Running, native_tab, relay, started, status

NEW_TOKENS, KILLED_AT = 80, 30
TIMEOUT = 300.0


def await_token(client: Running, index: int) -> None:
    """Until the client's first generation has got so far."""
    while not any(
        line["event"] == "token" and (line["generation"] or line["index"] >= index) for line in client.lines()
    ):
        assert client.process.poll() is None, client.tail()
        time.sleep(POLL)


def steps(origin: dict[str, Any], name: str) -> float:
    """Of the sessions that the relay answers or asks for, so far."""
    with urllib.request.urlopen(origin["http"] + "metrics") as answer:
        found = re.search(
            rf"kwaainet_{name}_seconds_count.*answered.*rpc_inference.* (.*)", answer.read().decode()
        )
    return float(found[1]) if found is not None else 0.0


def test_no_token_changes_when_the_tab_in_use_is_killed(odd: Case, tmp_path: Path) -> None:
    with (
        relay(tmp_path, "--model", odd.folder, "--prefix", odd.prefix, "--expose", "gateway") as origin,
        native_tab(tmp_path, origin, odd, "0:3", name="tab-1") as (one, first),
        native_tab(tmp_path, origin, odd, "0:3", name="tab-2") as (other, second),
        native_tab(tmp_path, origin, odd, "3:5", name="tab-3") as (_, last),
    ):
        spec, result, go_on = tmp_path / "spec", tmp_path / "result", tmp_path / "go-on"
        asked = odd.spec(origin["tcp"], generations=2, prompt_tokens=6, new_tokens=NEW_TOKENS, beams=3)
        asked["hold"] = [KILLED_AT, str(go_on)]  # or the session could be over before it is looked at
        spec.write_text(json.dumps(asked))
        command = [PEERS_PYTHON, PEERS / "petals_streamer.py", spec, result]
        with started(command, tmp_path, "client", OFFLINE) as client:
            await_token(client, KILLED_AT)
            before = status(origin)["gateway"]
            assert before["sessions"] == 1
            assert before["history_bytes"] > 0
            assert min(steps(origin, "rpc"), steps(origin, "asked")) >= KILLED_AT, "while the session lasts"
            tabs = {first["peer_id"]: one, second["peer_id"]: other}
            [busy] = before["in_use"].keys() - {last["peer_id"]}
            tabs[busy].process.kill()
            go_on.touch()
            assert client.process.wait(TIMEOUT) == 0, client.tail()
        outcome = json.loads(result.read_text())
        assert outcome["beams"], "rows of a batch are reordered, too"
        generations = outcome["generations"]
        assert [each["error"] for each in generations] == [None, None]
        assert all(each["equal"] for each in generations)
        assert all(each["servers"] == [origin["peer_id"]] for each in generations)
        after = status(origin)["gateway"]
        assert (after["failovers"], after["blocks"]) == (1, [0, 5])
