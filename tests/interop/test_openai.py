"""The official OpenAI client against a real swarm: relay and servers as processes of their own, and a tab."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from interop.running import KWAAINET, ROOT, Running, ask, relay, started, tab
from openai import OpenAI
from robustness.small_model import PREFIX as SMALL
from robustness.small_model import write_model

from kwaainet.identity.keys import PrivateKey
from kwaainet.native.host import NativeHost
from kwaainet.native.model import open_model
from kwaainet.types import PeerId
from kwaainet.wire import msgpack
from kwaainet.wire.messages import ExpertInfo, ExpertUID

GGUF = ROOT / ".cache" / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
SMOL = "SmolLM2-135M-Instruct-hf"
QUESTION = "What is the capital of France?"
ANSWER = "The capital of France is Paris."
ASKED: Any = {"model": SMOL, "messages": [{"role": "user", "content": QUESTION}], "temperature": 0}
KEY = "a-key-of-the-tests"
PATIENCE = 180.0
MORE_PIECES = 100  # after a kill: more than what was under way when it came
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@dataclass
class Swarm:
    """A relay with the endpoint, and how many tokens its one server has left."""

    tcp: str
    http: str
    server: str

    @property
    def client(self) -> OpenAI:
        return OpenAI(base_url=f"{self.http}v1", api_key="none", max_retries=0)

    def status(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.http}status.json") as answer:
            told: dict[str, Any] = json.load(answer)["openai"]
            return told

    def free_tokens(self) -> int:
        async def read() -> int:
            host = await NativeHost.create(PrivateKey(os.urandom(32)))
            try:
                await host.connect(self.tcp)
                protocol, request = "TransformerConnectionHandler.rpc_info", ExpertUID("").encode()
                answer = await host.call(PeerId.parse(self.server), protocol, request, timeout=PATIENCE)
            finally:
                await host.close()
            info: Any = msgpack.loads(ExpertInfo.decode(answer).serialized_info)
            return int(info["cache_tokens_available"])

        return asyncio.run(read())


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def serving(folder: Path, model: Path, tcp: str, name: str, *flags: str) -> Any:
    command = [KWAAINET, "serve", "-v", "--model", model, "--initial-peers", tcp, "--threads", "1"]
    return started([*command, "--drain", "0", *flags], folder, name, ONE_THREAD)


@pytest.fixture(scope="module")
def smol(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    folder = tmp_path_factory.mktemp("openai")
    with (
        relay(folder, "--model", GGUF, "--api") as ready,
        serving(folder, GGUF, ready["tcp"], "serve", "--listen", f"{ready['tcp']}/p2p-circuit") as server,
    ):
        yield Swarm(ready["tcp"], ready["http"], server.event("online")["peer_id"])


def streamed(chunks: Any) -> list[str]:
    return [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]


def test_a_chat_answers_as_our_own_client_does(smol: Swarm) -> None:
    assert [model.id for model in smol.client.models.list()] == [SMOL]
    whole = smol.client.chat.completions.create(**ASKED, max_tokens=16)
    assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == (ANSWER, "stop")
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (37, 7)
    command = [KWAAINET, "generate", QUESTION, "--model", GGUF, "--initial-peers", smol.tcp]
    said = subprocess.run(
        [*command, "--max-new-tokens", "16"], capture_output=True, text=True, timeout=PATIENCE
    )
    assert said.stdout == f"{ANSWER}\n"


def test_a_stream_says_the_same_piece_by_piece(smol: Swarm) -> None:
    usage = {"include_usage": True}
    chunks = list(
        smol.client.chat.completions.create(**ASKED, max_tokens=4, stream=True, stream_options=usage)
    )
    assert streamed(chunks) == ["", "The", " capital", " of", " France", ""]
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert chunks[-1].usage is not None
    assert (chunks[-1].usage.completion_tokens, chunks[-1].choices) == (4, [])


@pytest.mark.parametrize("stop", ["rance is", ["Berlin", " of France"]])
def test_a_stop_over_tokens_ends_the_text_before_it(smol: Swarm, stop: Any) -> None:
    expected = "The capital of F" if isinstance(stop, str) else "The capital"
    whole = smol.client.chat.completions.create(**ASKED, max_tokens=16, stop=stop)
    assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == (expected, "stop")
    pieces = streamed(smol.client.chat.completions.create(**ASKED, max_tokens=16, stop=stop, stream=True))
    assert "".join(pieces) == expected


def test_a_seed_gives_the_same_text_twice(smol: Swarm) -> None:
    def text(seed: int, **more: Any) -> list[str]:
        create = smol.client.completions.create
        whole = create(
            model=SMOL, prompt="Once", max_tokens=8, temperature=1.2, top_p=0.95, seed=seed, **more
        )
        return [choice.text for choice in whole.choices]

    one, other = text(5), text(6)
    assert (text(5), text(5, n=2)) == (one, one + other)
    assert one != other


@pytest.mark.parametrize("stream", [True, False])
def test_who_hangs_up_frees_the_session_at_the_server(smol: Swarm, stream: bool) -> None:
    until(lambda: smol.status()["in_flight"] == 0)
    before, cancelled = smol.free_tokens(), smol.status()["cancelled"]
    asked = {**ASKED, "max_tokens": 2000, "stop": "never said"}

    async def hang_up() -> None:
        async with openai.AsyncOpenAI(base_url=f"{smol.http}v1", api_key="none", max_retries=0) as client:
            asking = asyncio.ensure_future(client.chat.completions.create(**asked, stream=stream))
            if stream:
                await anext(aiter(await asking))
            await asyncio.to_thread(until, lambda: smol.free_tokens() < before)
            if stream:
                await (await asking).close()
            asking.cancel()

    asyncio.run(hang_up())
    until(lambda: smol.status()["cancelled"] == cancelled + 1)
    until(lambda: smol.free_tokens() == before)
    until(lambda: smol.status()["in_flight"] == 0)


def test_what_cannot_be_answered_is_refused(smol: Swarm) -> None:
    chat = smol.client.chat.completions
    with pytest.raises(openai.NotFoundError) as unknown:
        chat.create(**{**ASKED, "model": "gpt-4o"})
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as too_long:
        chat.create(**{**ASKED, "messages": [{"role": "user", "content": "word " * 9000}]})
    assert too_long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as tools:
        chat.create(**ASKED, tools=[{"type": "function", "function": {"name": "f"}}])
    assert tools.value.param == "tools"


def test_a_process_of_its_own_with_keys_and_a_rate(smol: Swarm, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"{KEY}\n")
    command = [KWAAINET, "api", "--model", GGUF, "--initial-peers", smol.tcp, "--http", "127.0.0.1:0"]
    command += ["--api-key-file", tmp_path / "keys", "--api-requests-per-minute", "1"]
    with started(command, tmp_path, "api") as running:
        client = OpenAI(base_url=running.event("ready")["http"] + "v1", api_key=KEY, max_retries=0)
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="another-key").models.list()
        assert client.chat.completions.create(**ASKED).choices[0].message.content == ANSWER
        with pytest.raises(openai.RateLimitError) as limited:
            client.chat.completions.create(**ASKED)
        assert 1 <= int(limited.value.response.headers["retry-after"]) <= 60


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights and a byte-level tokenizer; it holds enough to outlast a server's start."""
    return write_model(tmp_path_factory.mktemp("small") / "small", context=4096)


def test_greedy_texts_are_hugging_faces_through_a_tab_too(small: Path, tmp_path: Path) -> None:
    prompts = [[5, 77, 200, 3], [9] * 40]
    spec = {"model": str(small), "prompts": prompts, "new_tokens": 24}
    tokenizer = open_model(small).tokenizer
    tokens = ask(tmp_path, "llama_greedy", spec)["completions"]
    expected = [tokenizer.decode(one, skip_special=True) for one in tokens]
    with relay(tmp_path, "--model", small, "--prefix", SMALL, "--api") as ready:
        client = OpenAI(base_url=f"{ready['http']}v1", api_key="none", max_retries=0)
        asked: Any = {"model": SMALL, "prompt": prompts, "max_tokens": 24, "temperature": 0}
        with pytest.raises(openai.InternalServerError) as unserved:
            client.completions.create(**asked)
        assert (unserved.value.status_code, unserved.value.code) == (503, "no_server")
        with serving(tmp_path, small, ready["tcp"], "serve", "--prefix", SMALL) as server:
            server.event("online")
            assert [one.text for one in client.completions.create(**asked).choices] == expected
        with tab(tmp_path, ready["http"], "--backend", "wasm"):
            assert [one.text for one in client.completions.create(**asked).choices] == expected


def test_a_lost_server_changes_no_word_of_a_stream(small: Path, tmp_path: Path) -> None:
    """The only server of a long completion is killed once another has come."""
    asked: Any = {"model": SMALL, "prompt": "x", "max_tokens": 4000, "temperature": 0.3, "seed": 3}
    with relay(tmp_path, "--model", small, "--prefix", SMALL, "--api") as ready:
        client = OpenAI(base_url=f"{ready['http']}v1", api_key="none", max_retries=0)
        with serving(tmp_path, small, ready["tcp"], "first", "--prefix", SMALL) as first:
            first.event("online")
            stream = client.completions.create(**asked, stream=True)
            with serving(tmp_path, small, ready["tcp"], "second", "--prefix", SMALL) as second:
                text, rest = _text_over_a_kill(stream, first, second)
                stream.close()
                again = client.completions.create(**asked, stream=True)
                expected = _read(again, len(text))
                again.close()
        assert text == expected
        assert len(rest) >= MORE_PIECES


def _text_over_a_kill(stream: Any, first: Running, second: Running) -> tuple[str, list[str]]:
    """Read on while ``second`` starts, kill ``first``, read some more; that is also given by itself."""
    pieces: list[str] = []
    rest: list[str] = []
    for chunk in stream:
        pieces.append(chunk.choices[0].text)
        if first.process.poll() is not None:
            rest.append(pieces[-1])
        elif any(line.get("event") == "online" for line in second.lines()):
            first.process.kill()
            first.process.wait()
        if len(rest) >= MORE_PIECES:
            break
    return "".join(pieces), rest


def _read(stream: Any, size: int) -> str:
    text = ""
    for chunk in stream:
        text += chunk.choices[0].text
        if len(text) >= size:
            break
    return text[:size]
