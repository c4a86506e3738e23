import argparse
import asyncio
import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import aiohttp
import pytest
from openai import AsyncOpenAI

from kwaainet.errors import ConfigError
from kwaainet.native.cli.api import api_options, relay_api_options, run
from kwaainet.native.cli.main import build_parser
from kwaainet.native.cli.relay import RelayOptions, running_relay
from kwaainet.native.openai import DEFAULT_MAX_TOKENS, ApiOptions
from kwaainet.native.openai_limits import Limits

COMMON = ["--model", "m", "--initial-peers", "p"]


def parse(*flags: str) -> argparse.Namespace:
    return build_parser().parse_args(["api", *COMMON, *flags])


def test_flags_become_options(tmp_path: Path) -> None:
    told = api_options(parse())
    assert (bool(told.access.keys), told.access.open, told.limits) == (False, False, Limits())
    assert told.default_max_tokens == DEFAULT_MAX_TOKENS
    file = tmp_path / "keys"
    file.write_text(f"# keys\nfrom-the-file\nsha256:{sha256(b'kept-as-hash').hexdigest()}\n")
    flags = ["--api-key-file", str(file), "--api-key", "from-a-flag", "--api-allow-origin", "https://a"]
    flags += ["--api-requests-per-minute", "3", "--api-tokens-per-minute", "4", "--api-sessions", "5"]
    told = api_options(parse(*flags, "--api-total-sessions", "6", "--api-default-max-tokens", "7"))
    for key in ("from-the-file", "kept-as-hash", "from-a-flag"):
        assert told.access.keys.caller(f"Bearer {key}")
    assert (told.access.origins, told.limits) == (["https://a"], Limits(3, 4, 5, 6))
    assert told.default_max_tokens == 7


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--api-key-file", "/nowhere/keys"], "/nowhere/keys"),
        (["--api-key-file", "/dev/null"], "no key"),
        (["--api-key", "short"], "API key"),
        (["--api-sessions", "0"], "sessions"),
        (["--api-default-max-tokens", "0"], "--api-default-max-tokens"),
    ],
)
def test_what_cannot_be_used_is_named(flags: list[str], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        api_options(parse(*flags))


def test_a_relay_serves_it_only_when_told() -> None:
    parser = build_parser()
    assert relay_api_options(parser.parse_args(["up"])) is None
    told = relay_api_options(parser.parse_args(["up", "--api", "--api-sessions", "3"]))
    assert told is not None
    assert told.limits == Limits(sessions=3)
    with pytest.raises(ConfigError, match="without --api"):
        relay_api_options(parser.parse_args(["up", "--api-sessions", "3"]))


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


def test_it_answers_beside_a_relay_and_inside_one(
    page: Path, tiny_gguf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a server in the swarm both say so; the models they have are the same."""

    async def unserved(address: str) -> None:
        async with AsyncOpenAI(base_url=f"{address}v1", api_key="x", max_retries=0) as client:
            assert [model.id async for model in client.models.list()] == ["tiny-hf"]
        async with aiohttp.ClientSession() as session:
            body = {"model": "tiny-hf", "prompt": "hello"}
            async with session.post(f"{address}v1/completions", json=body) as answer:
                assert (answer.status, (await answer.json())["error"]["code"]) == (503, "no_server")
            async with session.get(f"{address}status.json") as answer:
                assert (await answer.json())["openai"]["by_status"] == {"200": 1, "503": 1}

    async def main() -> None:
        listen = ["/ip4/127.0.0.1/tcp/0"]
        told = RelayOptions("127.0.0.1:0", listen, models=[tiny_gguf], api=ApiOptions())
        async with running_relay(told, lambda progress: None) as relay:
            await unserved(relay.http)
            flags = ["--model", str(tiny_gguf), "--initial-peers", relay.host.addresses[0]]
            options = build_parser().parse_args(["api", *flags, "--http", "127.0.0.1:0"])
            serving = asyncio.ensure_future(run(options))
            printed = ""

            def ready() -> bool:
                nonlocal printed
                printed += capsys.readouterr().out
                return serving.done() or '"ready"' in printed

            await until(ready)
            event = json.loads(printed)
            assert event["models"] == ["tiny-hf"]
            await unserved(event["http"])
            serving.cancel()
            await asyncio.wait([serving])

    asyncio.run(main())
