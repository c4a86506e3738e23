"""The commands that ask a relay which runs here: tables for people, JSON for programs, and clear words."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from kwaainet.errors import RequestError
from kwaainet.native.admin_socket import served
from kwaainet.native.cli.main import main
from kwaainet.native.cli.relay_admin import VARIABLE
from kwaainet.native.state_dir import SOCKET

PEER = "12D3KooWQuiet"


class Told:
    """Answers as a relay would, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Mapping[str, Any]] = []
        self.polls = 0
        self.resumed_at = 99

    def __call__(self, request: Mapping[str, Any]) -> Any:
        self.asked.append(request)
        match request["ask"]:
            case "peers":
                row = {"peer": PEER, "address": "/ip4/192.0.2.1/tcp/1", "seconds": 3725.5, "streams": 3}
                return [row | {"slot": True, "circuits": 2, "bytes": 5}]
            case "ban":
                if request["subject"] == "me":
                    raise RequestError("'me' is nobody")
                return {"subject": request["subject"], "until": 0.0, "reason": "", "closed": 4}
            case "bans":
                return [{"subject": "192.0.2.0/24", "until": None, "reason": "bad\x1b[2Jrobots"}]
            case "unban":
                return {"subject": request["subject"]}
            case "limits":
                limits = {"streams": "1,2,3", "bandwidth": "0"}
                return {"limits": limits, "most": {"streams": {"peer": 1}}, "refused": {"banned": 9}}
            case "drain":
                self.polls += 1
                draining = self.polls < self.resumed_at
                return {"draining": draining, "quiet": self.polls > 2, "circuits": max(3 - self.polls, 0)}
        return {"draining": False}


@pytest.fixture
def relay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Told]:
    told, loop = Told(), asyncio.new_event_loop()
    up, end = threading.Event(), asyncio.Event()

    async def run() -> None:
        async with served(tmp_path / SOCKET, told):
            up.set()
            await end.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()))
    thread.start()
    assert up.wait(60)
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    yield told
    loop.call_soon_threadsafe(end.set)
    thread.join()
    loop.close()


def lines(capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    return [line.split() for line in capsys.readouterr().out.splitlines()]


def test_tables_for_people(relay: Told, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["relay", "peers"]) == 0
    heads, row = lines(capsys)
    assert heads == ["PEER", "ADDRESS", "SINCE", "STREAMS", "SLOT", "CIRCUITS", "BYTES"]
    assert row == [PEER, "/ip4/192.0.2.1/tcp/1", "1:02:05", "3", "slot", "2", "5"]
    assert main(["relay", "bans"]) == 0
    assert lines(capsys)[1] == ["192.0.2.0/24", "for", "good", "bad?[2Jrobots"]
    assert main(["relay", "limits"]) == 0
    assert lines(capsys)[1:] == [
        ["streams", "1,2,3", "1,0,0"],
        ["bandwidth", "0"],
        ["REFUSED", "TIMES"],
        ["banned", "9"],
    ]


def test_json_for_programs(relay: Told, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("peers", "bans", "limits"):
        assert main(["relay", command, "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == relay({"ask": command})


def test_a_ban_says_whom_until_when_and_what_it_closed(
    relay: Told, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["relay", "ban", "192.0.2.1", "--for", "7d", "--reason", "a scanner"]) == 0
    assert relay.asked == [
        {"ask": "ban", "subject": "192.0.2.1", "reason": "a scanner", "seconds": 7 * 86400}
    ]
    assert lines(capsys)[1] == ["192.0.2.1", "1970-01-01", "00:00:00", "UTC", "4"]
    assert main(["relay", "unban", "192.0.2.1"]) == 0
    assert main(["relay", "ban", "me"]) == 1
    assert "'me' is nobody" in capsys.readouterr().err


def test_limits_are_set(relay: Told, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["relay", "limits", "--set", "streams=1,2,3", "--set", "bandwidth=5"]) == 0
    assert relay.asked[-1]["set"] == {"streams": "1,2,3", "bandwidth": "5"}
    assert main(["relay", "limits", "--set", "streams"]) == 2
    assert "is not NAME=VALUE" in capsys.readouterr().err


def test_drain_waits_until_it_is_quiet(relay: Told, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["relay", "drain", "--seconds", "9"]) == 0
    assert [one.get("seconds") for one in relay.asked] == [9, None, None]
    said = capsys.readouterr()
    assert "draining; 2 circuits are left" in said.err
    assert said.out.splitlines()[1].split() == ["yes", "0"]
    assert main(["relay", "drain", "--off"]) == 0
    assert relay.asked[-1] == {"ask": "resume"}


def test_drain_ends_when_somebody_else_says_off(relay: Told, capsys: pytest.CaptureFixture[str]) -> None:
    relay.resumed_at = 2
    assert main(["relay", "drain"]) == 1
    assert lines(capsys)[1] == ["no", "1"]


def test_where_no_relay_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["relay", "peers", "--state-dir", str(tmp_path)]) == 1
    assert f"no relay runs with {tmp_path}" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "7", "0s", "7y", "d1", "1.5h"])
def test_a_time_that_is_none(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["relay", "ban", "192.0.2.1", "--for", text])
    assert "is no time" in capsys.readouterr().err
