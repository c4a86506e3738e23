import asyncio
import json
from pathlib import Path

import pytest

from kwaainet.errors import ConfigError
from kwaainet.native.cli.gateway import gateway_options
from kwaainet.native.cli.main import build_parser
from kwaainet.native.cli.relay import RelayOptions, running_relay
from kwaainet.node.directory import dht_reader
from kwaainet.swarm.coverage import is_gateway
from kwaainet.types import PeerId


def test_a_gateway_announces_what_a_server_holds_until_it_stops(
    page: Path, tiny_gguf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def main() -> None:
        told = RelayOptions(http="127.0.0.1:0", listen=["/ip4/127.0.0.1/tcp/0"])
        async with running_relay(told, lambda progress: None) as relay:
            common = ["--model", str(tiny_gguf), "--prefix", "m", "--initial-peers", relay.host.addresses[0]]
            read, printed, running = dht_reader(relay.dht), "", list[asyncio.Task[int]]()

            async def servers() -> dict[bool, PeerId]:
                """Who is ONLINE with block 1: by whether it is a gateway."""
                found = (await read("m", 2))[1]
                return {is_gateway(info): peer for peer, info in found.items() if info.state == 2}

            for command in ("serve", "gateway"):
                parsed = build_parser().parse_args([command, *common])
                running.append(asyncio.ensure_future(parsed.run(parsed)))
                async with asyncio.timeout(60):
                    while len(found := await servers()) < len(running):
                        await asyncio.sleep(0.05)
            async with asyncio.timeout(60):
                printed += capsys.readouterr().out
                assert any(
                    json.loads(line).get("peer_id") == str(found[True]) for line in printed.splitlines()
                )
                running[1].cancel()
                await asyncio.wait(running[1:])
                while True in await servers():
                    await asyncio.sleep(0.05)
            running[0].cancel()
            await asyncio.wait(running)

    asyncio.run(main())


def test_a_budget_of_nothing_is_refused() -> None:
    words = ["gateway", "--model", "m", "--initial-peers", "/ip4/1.1.1.1/tcp/1", "--gateway-history", "0"]
    with pytest.raises(ConfigError, match="--gateway-history is 0"):
        gateway_options(build_parser().parse_args(words))
