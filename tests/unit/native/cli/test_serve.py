import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from kwaainet.errors import ConfigError
from kwaainet.native.cli.main import build_parser
from kwaainet.native.cli.relay import RelayOptions, running_relay
from kwaainet.native.cli.serve import run


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


def test_a_relay_a_server_and_a_client_make_a_swarm(
    page: Path, tiny_gguf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def main() -> str:
        told = RelayOptions(http="127.0.0.1:0", listen=["/ip4/127.0.0.1/tcp/0"])
        async with running_relay(told, lambda progress: None) as relay:
            common = ["--model", str(tiny_gguf), "--initial-peers", relay.host.addresses[0]]
            serving = asyncio.ensure_future(run(build_parser().parse_args(["serve", *common])))
            printed = ""

            def online() -> bool:
                nonlocal printed
                printed += capsys.readouterr().out
                return serving.done() or '"online"' in printed

            await until(online)
            event = json.loads(printed)
            assert (event["blocks"], event["backend"]) == ([0, 2], "cpu")
            answers = []
            for blocks in ("", "0:9"):
                flags = ["--blocks", blocks] if blocks else []
                command = "serve" if blocks else "generate"
                words = [command, *([] if blocks else ["hello world"]), *common, *flags]
                parsed = build_parser().parse_args([*words, *([] if blocks else ["--max-new-tokens", "5"])])
                answers.append(await asyncio.gather(parsed.run(parsed), return_exceptions=True))
            assert answers[0] == [0]
            assert "0:9" in str(answers[1][0])
            serving.cancel()
            await asyncio.wait([serving])
            return capsys.readouterr().out

    completion = asyncio.run(main())
    assert completion.endswith("\n")
    assert len(completion) > 1


def test_one_node_serves_what_is_asked_of_each_model(
    page: Path, tiny_gguf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def main() -> None:
        told = RelayOptions(http="127.0.0.1:0", listen=["/ip4/127.0.0.1/tcp/0"])
        async with running_relay(told, lambda progress: None) as relay:
            words = ["serve", "--initial-peers", relay.host.addresses[0]]
            for prefix, blocks in (("one", ["--blocks", "1:2"]), ("two", ["--num-blocks", "2"])):
                words += ["--model", str(tiny_gguf), "--prefix", prefix, *blocks]
            serving = asyncio.ensure_future(run(build_parser().parse_args(words)))
            printed = ""

            def online() -> bool:
                nonlocal printed
                printed += capsys.readouterr().out
                return serving.done() or '"online"' in printed

            await until(online)
            assert json.loads(printed)["models"] == {"one": [1, 2], "two": [0, 2]}
            serving.cancel()
            await asyncio.wait([serving])

    asyncio.run(main())


def test_flags_that_do_not_fit_the_models_are_refused() -> None:
    words = ["serve", "--initial-peers", "/ip4/127.0.0.1/tcp/1", "--model", "a", "--model", "b"]
    for flags in (["--prefix", "x"], ["--blocks", "0:1"], ["--num-blocks", "1"]):
        with pytest.raises(ConfigError, match="1 times for 2 models"):
            asyncio.run(run(build_parser().parse_args([*words, *flags])))
