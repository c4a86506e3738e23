"""What the OpenAI endpoint costs: the same greedy chat through it and through our client by itself.

Both ask the same native server, in turns: the endpoint in a process of its own by the official client,
our client in this process as ``kwaainet generate`` uses it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from statistics import median

from interop.running import KWAAINET, relay, started
from openai import AsyncOpenAI

from kwaainet.native.cli.generate import joined_completer
from kwaainet.native.completion import Completer, Order
from kwaainet.native.model import open_model

from .model import GGUF, PREFIX
from .report import Result, Row

MESSAGES = [{"role": "user", "content": "Tell me about the history of Paris."}]
NEW_TOKENS = 33
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


def measure(folder: Path, rounds: int) -> Result:
    """Needs the default model."""
    with relay(folder) as ready:
        common = ["--model", GGUF, "--initial-peers", ready["tcp"]]
        serve = [KWAAINET, "serve", *common, "--threads", "1", "--drain", "0"]
        api = [KWAAINET, "api", *common, "--http", "127.0.0.1:0"]
        with started(serve, folder, "serve", ONE_THREAD) as serving, started(api, folder, "api") as endpoint:
            serving.event("online")
            figures = asyncio.run(_probe(ready["tcp"], endpoint.event("ready")["http"], rounds))
    return Result(_rows(figures), figures)


async def _probe(relay_address: str, address: str, rounds: int) -> dict[str, list[dict[str, float]]]:
    """Seconds to the first token and for each after it, every round of both; one round is a warm-up."""
    figures: dict[str, list[dict[str, float]]] = {"endpoint": [], "client": []}
    model = await asyncio.to_thread(open_model, GGUF)
    async with (
        joined_completer([relay_address], model) as completer,
        AsyncOpenAI(base_url=f"{address}v1", api_key="none") as client,
    ):
        for turn in range(rounds + 1):
            for name, pieces in (("endpoint", _asked(client)), ("client", _completed(completer))):
                found = await _timed(pieces)
                if turn:
                    figures[name].append(found)
    return figures


async def _asked(client: AsyncOpenAI) -> AsyncIterator[str]:
    create = client.chat.completions.create
    stream = await create(
        model=PREFIX,
        messages=MESSAGES,
        max_tokens=NEW_TOKENS,
        temperature=0,
        stream=True,  # type: ignore[call-overload]
    )
    async for chunk in stream:
        if text := chunk.choices[0].delta.content:
            yield text


async def _completed(completer: Completer) -> AsyncIterator[str]:
    order = Order(await completer.chat_prompt(MESSAGES), NEW_TOKENS)
    async with aclosing(completer.complete(order)) as pieces:
        async for piece in pieces:
            if piece.text:
                yield piece.text


async def _timed(pieces: AsyncIterator[str]) -> dict[str, float]:
    times = [time.perf_counter()]
    async for _ in pieces:
        times.append(time.perf_counter())
    return {"first": times[1] - times[0], "per_token": (times[-1] - times[1]) / (len(times) - 2)}


def _rows(figures: dict[str, list[dict[str, float]]]) -> list[Row]:
    def middle(name: str, key: str) -> float:
        return median(found[key] for found in figures[name])

    rates = {name: 1 / middle(name, "per_token") for name in figures}
    first = {name: 1000 * middle(name, "first") for name in figures}
    return [
        Row(
            "OpenAI endpoint, native server, 1 thread: tokens per second",
            f"{rates['endpoint']:.1f}",
            f"{rates['client']:.1f} (our client by itself)",
            rates["endpoint"] / rates["client"],
        ),
        Row(
            "the same: time to the first token",
            f"{first['endpoint']:.0f} ms",
            f"{first['client']:.0f} ms (our client by itself)",
            first["client"] / first["endpoint"],
        ),
    ]
