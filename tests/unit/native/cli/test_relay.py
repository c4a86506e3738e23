import argparse
import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from kwaainet.errors import ConfigError, KwaaiNetError, Unreachable
from kwaainet.formats.manifest import ModelManifest
from kwaainet.native.cli.joining import open_host
from kwaainet.native.cli.main import main
from kwaainet.native.cli.relay import (
    DEFAULT_LISTEN,
    RelayOptions,
    RunningRelay,
    declare,
    relay_options,
    running_relay,
)
from kwaainet.native.model import open_model
from kwaainet.native.publish import publish
from kwaainet.node.directory import dht_reader, directory_reader
from kwaainet.node.exposure import Exposure
from kwaainet.swarm.announcement import PROTOCOL, Announcement
from kwaainet.swarm.server_info import ModelInfo, ServerInfo
from kwaainet.types import ServerState

LISTEN = ("/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/0/ws")


def options(**more: object) -> RelayOptions:
    return RelayOptions(http="127.0.0.1:0", listen=LISTEN, **more)  # type: ignore[arg-type]


def with_relay(told: RelayOptions, check: Callable[[RunningRelay], Awaitable[None]]) -> None:
    async def main() -> None:
        async with running_relay(told, lambda progress: None) as relay:
            await check(relay)

    asyncio.run(main())


def test_a_relay_with_a_model_offers_it_on_its_page(page: Path, tiny_gguf: Path) -> None:
    async def check(relay: RunningRelay) -> None:
        async with aiohttp.ClientSession() as session:
            async with session.get(relay.http + "kwaainet.json") as answer:
                told = await answer.json()
            async with session.get(relay.http + "status.json") as answer:
                status = await answer.json()
        assert (told["model"]["prefix"], told["model"]["num_blocks"]) == ("named-hf", 2)
        assert told["model"]["repository"] == "https://huggingface.co/kwaai/tiny"
        assert [address.split("/")[5:7] for address in told["relay"]] == [["ws", "p2p"]]
        assert (status["peers"], status["reservations"], status["announced"]) == (0, 0, {})
        assert status["open_hop"] == {"circuits": 0, "bytes": 0, "refused": {}}

    repository = "https://huggingface.co/kwaai/tiny"
    with_relay(options(models=[tiny_gguf], prefixes=["named-hf"], repository=repository), check)


def test_the_identity_file_is_kept_and_private(page: Path, tmp_path: Path) -> None:
    seen: list[str] = []

    async def check(relay: RunningRelay) -> None:
        seen.append(str(relay.host.peer_id))

    for _ in range(2):
        with_relay(options(identity_path=tmp_path / "key"), check)
    assert seen[0] == seen[1]
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def test_a_second_relay_joins_the_first(page: Path) -> None:
    async def check(first: RunningRelay) -> None:
        address = first.host.addresses[0]
        async with running_relay(options(initial_peers=[address]), lambda progress: None) as second:
            assert await second.dht.store("key", None, b"\xc0", 4e9) is False  # beyond every horizon
            assert first.host.peer_id in second.host.connected_peers

    with_relay(options(), check)


@pytest.mark.parametrize(
    ("flags", "error", "text"),
    [
        ({"listen": ["/ip4/127.0.0.1/tcp/0", "nonsense"]}, KwaaiNetError, "nonsense"),
        ({"initial_peers": ["/ip4/127.0.0.1/tcp/1/p2p/12D3KooW"]}, KwaaiNetError, "12D3KooW"),
        ({"initial_peers": ["/ip4/127.0.0.1/tcp/1"]}, KwaaiNetError, "/ip4/127.0.0.1/tcp/1"),
        ({"prefixes": ["a.b"]}, KwaaiNetError, "a.b"),
        ({"models": [Path("nowhere.gguf")]}, KwaaiNetError, "nowhere.gguf"),
        ({"http": "everywhere"}, ConfigError, "everywhere"),
    ],
)
def test_what_cannot_be_used_is_named(
    page: Path, flags: dict[str, object], error: type[Exception], text: str
) -> None:
    async def check(relay: RunningRelay) -> None:
        raise AssertionError("it came up")

    with pytest.raises(error, match=text):
        with_relay(RelayOptions(**{"http": "127.0.0.1:0", "listen": LISTEN, **flags}), check)  # type: ignore[arg-type]


def announcement(prefix: str) -> Announcement:
    server = ServerInfo(ServerState.ONLINE, 1.0, start_block=0, end_block=2, version="tab")
    return Announcement(prefix, server, 100.0, ModelInfo(2))


@pytest.mark.parametrize(
    ("expose", "in_dht", "for_tabs"),
    [
        (Exposure.DIRECT, {"tab"}, {"tab"}),
        (Exposure.GATEWAY, {"gateway"}, {"gateway", "tab"}),
        (Exposure.BOTH, {"gateway", "tab"}, {"gateway", "tab"}),
    ],
)
def test_what_petals_clients_find_is_what_the_operator_chose(
    page: Path, tiny_gguf: Path, expose: Exposure, in_dht: set[str], for_tabs: set[str]
) -> None:
    async def check(relay: RunningRelay) -> None:
        names = {relay.host.peer_id: "gateway"}
        async with AsyncExitStack() as stack:
            slot = next(address for address in relay.host.addresses if "/ws/" in address) + "/p2p-circuit"
            tab = await open_host(stack, listen=[slot])
            await tab.listen()
            names[tab.peer_id] = "tab"
            relay_id = relay.host.peer_id
            for prefix in ("named-hf", "other"):
                message = announcement(prefix).encode()
                await tab.call(relay_id, PROTOCOL, message, timeout=60)
            while "gateway" in in_dht and not await relay.dht.get("named-hf.1"):
                await asyncio.sleep(0.05)
            found = (await dht_reader(relay.dht)("named-hf", 2))[1]
            while "gateway" in in_dht and relay_id not in found:
                await asyncio.sleep(0.05)
                found = (await dht_reader(relay.dht)("named-hf", 2))[1]
            assert {names[peer] for peer in found} == in_dht
            seen = (await directory_reader(tab, relay_id)("named-hf", 2))[1]
            assert {names[peer] for peer in seen} == for_tabs
            others = (await dht_reader(relay.dht)("other", 2))[1]
            assert {names[peer] for peer in others} == {"tab"}
            async with aiohttp.ClientSession() as session, session.get(relay.http + "status.json") as answer:
                status = await answer.json()
            if expose == Exposure.DIRECT:
                assert status["gateway"] is None
            else:
                assert (status["gateway"]["blocks"], status["gateway"]["sessions"]) == ([0, 2], 0)

    with_relay(options(models=[tiny_gguf], prefixes=["named-hf"], expose=expose), check)


def test_a_gateway_needs_a_model(page: Path) -> None:
    async def check(relay: RunningRelay) -> None:
        raise AssertionError("it came up")

    with pytest.raises(ConfigError, match="--expose both needs --model once"):
        with_relay(options(expose=Exposure.BOTH), check)


def test_an_initial_peer_that_is_not_there_is_named(page: Path) -> None:
    async def check(relay: RunningRelay) -> None:
        raise AssertionError("it came up")

    gone = "/ip4/127.0.0.1/tcp/9/p2p/12D3KooWFw697Ur2KZ2SSjvP8Md1udsjrXzbsKEaFVAY5dc6hYWn"
    with pytest.raises(Unreachable, match="tcp/9"):
        with_relay(options(initial_peers=[gone]), check)


def test_flags_become_options() -> None:
    parser = argparse.ArgumentParser()
    settings = declare(parser)
    parsed = parser.parse_args(
        [
            "--http",
            "[::1]:0",
            "--prefix",
            "m",
            "--announce",
            "/dns/h/tcp/1",
            "--ice-server",
            "stun:s:1",
        ]
    )
    told = relay_options(settings.apply(parsed, {}))
    assert told.ice_servers == ["stun:s:1"]
    assert (told.http, told.prefixes, told.announce, told.listen) == (
        "[::1]:0",
        ["m"],
        ["/dns/h/tcp/1"],
        list(DEFAULT_LISTEN),
    )


def test_one_folder_keeps_what_outlives_a_run(
    page: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = tmp_path / "state"
    seen: list[str] = []

    async def main() -> None:
        async with running_relay(options(), lambda progress: None) as other:
            told = options(initial_peers=[other.host.addresses[0]], state_dir=state)
            async with running_relay(told, lambda progress: None) as relay:
                seen.append(str(relay.host.peer_id))
            again = options(state_dir=state)
            async with running_relay(again, lambda progress: None) as relay:
                seen.append(str(relay.host.peer_id))
                assert other.host.peer_id in {one.peer_id for one in relay.dht.table}
        async with running_relay(again, lambda progress: None) as relay:  # nobody is left: a new swarm
            seen.append(str(relay.host.peer_id))

    asyncio.run(main())
    assert len(set(seen)) == 1
    assert "is not there" in caplog.text
    assert {file.name for file in state.iterdir()} == {"identity.key", "peers.json"}
    assert state.stat().st_mode & 0o777 == 0o700


def test_the_command_takes_its_settings_from_a_file_and_ends_in_order(
    page: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "relay.toml"
    file.write_text('http = "127.0.0.1:0"\nlisten = ["/ip4/127.0.0.1/tcp/0"]\nstate-dir = "state"\n')
    monkeypatch.setattr("kwaainet.native.cli.relay.until_signalled", lambda: asyncio.sleep(0))
    assert main(["relay", "--config", str(file), "--listen", "/ip4/127.0.0.1/tcp/0/ws"]) == 0
    ready = json.loads(capsys.readouterr().out)
    assert [address.split("/")[5] for address in ready["maddrs"]] == ["ws"]
    assert (tmp_path / "state" / "identity.key").is_file()


def test_tabs_are_sent_to_the_host_where_a_model_is_published(
    page: Path, tiny_gguf: Path, tmp_path: Path
) -> None:
    out = tmp_path / "published"
    publish(open_model(tiny_gguf), out, lambda progress: None, parts=1)

    async def main() -> None:
        app = web.Application()
        app.router.add_static("/m/", out)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        base = f"http://127.0.0.1:{runner.addresses[0][1]}/m/"
        for more, prefix in (({"models": [tiny_gguf]}, "tiny-hf"), ({"prefixes": ["mine"]}, "mine")):
            told = options(model_url=base, **more)
            async with (
                running_relay(told, lambda progress: None) as relay,
                aiohttp.ClientSession() as session,
            ):
                async with session.get(relay.http + "kwaainet.json") as answer:
                    model = (await answer.json())["model"]
                assert (model["prefix"], model["files"], "text" in model) == (prefix, base, True)
                async with session.get(relay.http.rstrip("/") + model["manifest"]) as answer:
                    manifest = ModelManifest.from_json(await answer.read())
            assert manifest.name == prefix
            assert {entry.file for entry in manifest.tensors.values()} == {
                "outer.bin",
                "blocks-0000-0001.bin",
            }
        await runner.cleanup()

    asyncio.run(main())
