"""What the doctor prints, for people and programs, and its exit codes."""

import asyncio
import json
from pathlib import Path

import pytest
import uvloop

from kwaainet.native.cli.doctor import line
from kwaainet.native.cli.main import build_parser, main
from kwaainet.native.cli.relay import RelayOptions, running_relay
from kwaainet.native.doctor import Outcome, Step


def test_a_line_says_what_to_do() -> None:
    step = Step("tls", Outcome.FAILED, 0.034, "", "it has expired", "renew it")
    assert line(step).splitlines() == [
        "tls            FAILED    0.03 s",
        "                it has expired",
        "                what to do: renew it",
    ]
    untried = Step("page", Outcome.UNTRIED, 0.0, "", "tls did not work")
    assert line(untried) == "page           -                 tls did not work"
    assert line(Step("dns", Outcome.OK, 1.5, "127.0.0.1")) == "dns            ok        1.50 s  127.0.0.1"


def test_a_running_relay_is_reachable(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def run() -> int:
        listen = ("/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/0/ws")
        async with running_relay(
            RelayOptions(http="127.0.0.1:0", listen=listen), lambda progress: None
        ) as relay:
            options = build_parser().parse_args(["doctor", relay.http])
            return int(await options.run(options))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(run()) == 0
    said = capsys.readouterr()
    assert said.out == "reachable from a browser: yes\n"
    assert "kad lookup     ok" in said.err


def test_one_that_is_not_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "http://127.0.0.1:9/"]) == 1
    said = capsys.readouterr().out
    assert said.startswith("reachable from a browser: no\nwhy: tcp: nobody answers at port 9 of 127.0.0.1")
    assert main(["doctor", "--json", "http://127.0.0.1:9/"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["reachable"], told["steps"][1]["outcome"]) == (False, "failed")
    assert main(["doctor", "gopher://x"]) == 2
    assert "no address of a page" in capsys.readouterr().err
