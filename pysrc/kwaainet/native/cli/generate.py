"""``kwaainet generate``: complete a prompt through the swarm, with our own client."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from ...errors import ConfigError
from ...inference.sampling import Sampling
from ...swarm.routing import Hop
from ..completion import Completer, Order
from ..model import Model, open_model
from .api import open_completer
from .flags import add_command, add_initial_peers, add_model
from .joining import join_dht, open_host
from .terminal import ProgressLine, say


@dataclass(frozen=True, slots=True)
class Completion:
    """What to say and how: ``raw`` passes the prompt on as it is, without the model's chat template."""

    prompt: str
    max_new_tokens: int = 128
    sampling: Sampling = field(default_factory=Sampling)
    seed: int | None = None
    raw: bool = False


@asynccontextmanager
async def joined_completer(initial_peers: Sequence[str], model: Model) -> AsyncIterator[Completer]:
    """A client of its own identity that has joined the swarm, and leaves it at the end."""
    async with AsyncExitStack() as stack:
        host = await open_host(stack)
        dht = await join_dht(stack, host, initial_peers, client_mode=True)
        yield await open_completer(model, host, dht)


async def complete(
    completer: Completer, completion: Completion, write: Callable[[str], None]
) -> tuple[int, float]:
    """Write the completion piece by piece; returns the new tokens and the seconds after the first."""
    if completion.raw or not completer.model.chat_template:
        prompt = await completer.text_prompt(completion.prompt)
    else:
        prompt = await completer.chat_prompt([{"role": "user", "content": completion.prompt}])
    if completion.max_new_tokens > completer.room(prompt):
        raise ConfigError(
            f"the prompt has {len(prompt)} tokens and {completion.max_new_tokens} more were asked for; "
            f"this model holds 1 to {completer.model.config.max_position_embeddings} together"
        )
    order = Order(prompt, completion.max_new_tokens, completion.sampling, completion.seed)
    count, started = 0, time.perf_counter()
    async with aclosing(completer.complete(order, _say_chain)) as pieces:
        async for piece in pieces:
            if not count:
                started = time.perf_counter()
            count = piece.tokens
            write(piece.text)
    return count, time.perf_counter() - started


def _say_chain(hops: Sequence[Hop]) -> None:
    say("through " + ", then ".join(f"{hop.peer} (blocks {hop.blocks})" for hop in hops))


def write_stdout(text: str) -> None:
    """A piece of the completion, at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def add_completion_flags(parser: argparse.ArgumentParser, max_new_tokens: int) -> None:
    """The flags that ``generate`` and ``up`` share."""
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        default=max_new_tokens,
        metavar="N",
        help="stop after N tokens (%(default)s)",
    )
    parser.add_argument(
        "--temperature", type=float, default=0.0, metavar="T", help="0 is greedy (%(default)s)"
    )
    parser.add_argument(
        "--top-k", type=int, default=0, metavar="K", help="only the K likeliest tokens; 0 is off"
    )
    parser.add_argument(
        "--top-p", type=float, default=1.0, metavar="P", help="only the likeliest share P; 1 is off"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="make sampling repeatable")
    parser.add_argument(
        "--raw", action="store_true", help="do not wrap the prompt in the model's chat template"
    )


def completion_of(options: argparse.Namespace) -> Completion:
    """From the parsed flags; ``ConfigError`` for a number that makes no sense."""
    if options.max_new_tokens < 1:
        raise ConfigError(f"--max-new-tokens is {options.max_new_tokens}; give at least 1")
    sampling = Sampling(options.temperature, options.top_k, options.top_p)
    return Completion(options.prompt, options.max_new_tokens, sampling, options.seed, options.raw)


def add(commands: Any) -> None:
    """Declare ``kwaainet generate``."""
    parser = add_command(commands, "generate", "complete a prompt through the swarm", __doc__)
    parser.add_argument("prompt", metavar="PROMPT")
    add_model(parser, required=True)
    add_initial_peers(parser, required=True)
    add_completion_flags(parser, 128)
    parser.set_defaults(run=run)


async def run(options: argparse.Namespace) -> int:
    """Complete one prompt; the completion goes to stdout."""
    completion = completion_of(options)
    progress = ProgressLine()
    model = await asyncio.to_thread(open_model, options.model, report=progress, name=options.prefix)
    progress.finish()
    async with joined_completer(options.initial_peers, model) as completer:
        count, seconds = await complete(completer, completion, write_stdout)
    write_stdout("\n")
    say_rate(count, seconds)
    return 0


def say_rate(count: int, seconds: float) -> None:
    """How fast a completion came."""
    if count > 1:
        say(f"{count} tokens, {(count - 1) / seconds:.1f} a second after the first")
