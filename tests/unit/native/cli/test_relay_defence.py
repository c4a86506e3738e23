"""A relay's limits and lists, from its settings and over its restarts."""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from kwaainet.errors import ConfigError
from kwaainet.identity.keys import PrivateKey
from kwaainet.libp2p.admission import Limits
from kwaainet.native.admin_socket import ask
from kwaainet.native.cli.main import main
from kwaainet.native.cli.relay_defence import Defence, arm, watch
from kwaainet.native.host import NativeHost
from kwaainet.native.relay import Relay
from kwaainet.native.state_dir import StateDir


def test_settings_are_limits_and_lists() -> None:
    told = Defence(["circuits=1,2,3", "bandwidth=7"], ["192.0.2.1"], ["192.0.2.0/24"])
    limits, rules = told.admission()
    assert limits == Limits().changed("circuits", "1,2,3").changed("bandwidth", "7")
    assert not rules.allow_only


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--limit", "tabs=1"], "'tabs' is no limit"),
        (["--limit", "streams=9,2,3"], "none more than its subnet"),
        (["--deny", "me"], "neither a peer id"),
        (["--allow", "1.2.3.4/99"], "is no subnet"),
        (["--allow-only"], "would let nobody in"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(["relay", "config", "check", *words])
    except SystemExit as left:
        code = int(left.code or 0)
    assert code == 2
    assert message in capsys.readouterr().err


def test_a_file_of_settings_may_hold_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "relay.toml"
    file.write_text('limit = ["streams=1,2,3"]\ndeny = "192.0.2.0/24"\nallow-only = false\n')
    assert main(["relay", "config", "show", "--config", str(file)]) == 0
    said = capsys.readouterr().out
    assert 'limit = ["streams=1,2,3"]' in said
    assert 'deny = ["192.0.2.0/24"]' in said


def test_a_ban_outlives_its_relay(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = StateDir(tmp_path)

    async def running(*words: str) -> list[str]:
        async with AsyncExitStack() as stack:
            host = await NativeHost.create(PrivateKey(os.urandom(32)), ["/ip4/127.0.0.1/tcp/0"])
            stack.push_async_callback(host.close)
            arm(host, Defence(), state)
            await watch(stack, host, Relay(host), state)
            for subject in words:
                await ask(state.socket, {"ask": "ban", "subject": subject})
            return [ban["subject"] for ban in await ask(state.socket, {"ask": "bans"})]

    assert asyncio.run(running("192.0.2.1")) == ["192.0.2.1/32"]
    assert asyncio.run(running()) == ["192.0.2.1/32"]
    (tmp_path / "bans.json").write_bytes(b"[7")
    assert asyncio.run(running()) == []
    assert "are left aside" in caplog.text


def test_without_a_folder_there_is_no_socket() -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            host = await NativeHost.create(PrivateKey(os.urandom(32)))
            stack.push_async_callback(host.close)
            arm(host, Defence(["streams=1,2,3"]), None)
            await watch(stack, host, Relay(host), None)
            assert host.network.admission.limits.streams.peer == 1

    asyncio.run(main())
    with pytest.raises(ConfigError):
        Defence(["streams"]).admission()
