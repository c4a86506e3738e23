"""An operator and a relay that runs: the commands as they are typed, their effect on who is connected."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from kwaainet.errors import KwaaiNetError
from kwaainet.identity.keys import PrivateKey
from kwaainet.native.host import NativeHost

from .running import KWAAINET, relay, started


def told(state: Path, *words: str, code: int = 0) -> Any:
    """What a command prints as JSON; of one that fails, its words."""
    command = [KWAAINET, "relay", *words, "--state-dir", str(state), *(["--json"] if not code else [])]
    with started(command, state.parent, f"told-{words[0]}") as running:
        assert running.process.wait(180) == code, running.tail()
    return json.loads(running.out.read_text()) if not code else running.err.read_text()


async def guest() -> NativeHost:
    return await NativeHost.create(PrivateKey(os.urandom(32)))


def test_ban_limit_and_drain_a_relay_that_runs(tmp_path: Path) -> None:
    state = tmp_path / "state"
    flags = ("--state-dir", state, "--limit", "streams=900,1800,3600", "--deny", "192.0.2.0/24")

    async def main(ready: dict[str, Any]) -> str:
        rude, polite = await guest(), await guest()
        for one in (rude, polite):
            await one.connect(ready["tcp"])
        peers = await asyncio.to_thread(told, state, "peers")
        assert {one["peer"] for one in peers} == {str(rude.peer_id), str(polite.peer_id)}
        banned = await asyncio.to_thread(
            told, state, "ban", str(rude.peer_id), "--for", "1h", "--reason", "it is rude"
        )
        assert banned["closed"] == 1
        async with asyncio.timeout(180):
            while rude.connected_peers:
                await asyncio.sleep(0.01)
        assert polite.connected_peers
        limits = await asyncio.to_thread(told, state, "limits", "--set", "circuits=5,6,7")
        assert limits["limits"]["streams"] == "900,1800,3600"
        assert limits["limits"]["circuits"] == "5,6,7"
        drained = await asyncio.to_thread(told, state, "drain", "--seconds", "1")
        assert drained["draining"]
        with urllib.request.urlopen(ready["http"] + "status") as answer:
            status = json.load(answer)
        assert (status["draining"], status["bans"]) == (True, 1)
        assert not (await asyncio.to_thread(told, state, "drain", "--off"))["draining"]
        for one in (rude, polite):
            await one.close()
        return str(rude.peer_id)

    with relay(tmp_path, *flags) as ready:
        assert (state / "admin.sock").stat().st_mode & 0o777 == 0o600
        rude = asyncio.run(main(ready))
        os.kill(ready["running"].process.pid, signal.SIGKILL)
        ready["running"].process.wait(60)
    assert f"no relay runs with {state}" in told(state, "peers", code=1)
    with relay(tmp_path, *flags, name="again"):
        assert [ban["subject"] for ban in told(state, "bans")] == [rude], "over kill -9, too"


def test_who_is_denied_by_the_settings_does_not_come_in(tmp_path: Path) -> None:
    with relay(tmp_path, "--deny", "127.0.0.0/8") as ready:

        async def main() -> None:
            one = await guest()
            with pytest.raises(KwaaiNetError):
                await one.connect(ready["tcp"])
            await one.close()

        asyncio.run(main())
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(ready["http"])
        assert refused.value.code == 403
