"""``kwaainet up``: relay, page and contributing tabs in one command, and a prompt answered through them."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

from ...errors import ConfigError
from ...libp2p.multiaddr import Multiaddr
from ...types import BlockRange
from ..assets import checkout
from .flags import add_command
from .generate import (
    Completion,
    add_completion_flags,
    complete,
    completion_of,
    joined_completer,
    say_rate,
    write_stdout,
)
from .relay import RelayOptions, RunningRelay, add_relay_flags, relay_options, running_relay
from .signals import until_signalled
from .tab import Event, Narrator, TabOptions, add_tab_flags, contributing_tab
from .terminal import ProgressLine, say

DEFAULT_PROMPT = "What is the capital of France?"
DEFAULT_MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_VARIABLE = "KWAAINET_MODEL"


def default_model() -> Path:
    """The model that set-up fetched; ``ConfigError`` if there is none."""
    named = os.environ.get(MODEL_VARIABLE)
    root = checkout()
    path = Path(named) if named else root and root / ".cache" / "models" / DEFAULT_MODEL
    if path is None or not path.exists():
        raise ConfigError(f"no model at {path}; run: make setup, or give --model PATH")
    return path


def split_blocks(num_blocks: int, tabs: int) -> list[BlockRange]:
    """Consecutive spans of nearly equal length, one a tab."""
    if not 1 <= tabs <= num_blocks:
        raise ConfigError(f"--tabs is {tabs}; this model has {num_blocks} blocks for 1 to {num_blocks} tabs")
    edges = [num_blocks * index // tabs for index in range(tabs + 1)]
    return [BlockRange(start, end) for start, end in itertools.pairwise(edges)]


def add(commands: Any) -> None:
    """Declare ``kwaainet up``."""
    parser = add_command(commands, "up", "relay, page, tab and an answered prompt at once", __doc__)
    add_relay_flags(parser)
    parser.add_argument(
        "--tabs", type=int, default=1, metavar="N", help="share the blocks among N tabs (%(default)s)"
    )
    add_tab_flags(parser)
    parser.add_argument(
        "--prompt", default=DEFAULT_PROMPT, metavar="TEXT", help="what to answer (%(default)r)"
    )
    add_completion_flags(parser, 64)
    parser.add_argument("--once", action="store_true", help="end after the answer instead of running on")
    parser.set_defaults(run=run)


async def run(options: argparse.Namespace) -> int:
    """Everything at once; with ``--once`` the completion is the last thing printed."""
    completion = completion_of(options)
    options.model = options.model or [default_model()]
    progress = ProgressLine()
    async with AsyncExitStack() as stack:
        relay = await stack.enter_async_context(running_relay(relay_options(options), progress))
        progress.finish()
        say(f"relay {relay.host.peer_id} is up, page at {relay.http}")
        await _open_tabs(stack, relay, options, progress)
        text = await _answer(relay, completion, stream=not options.once)
        if not options.once:
            say(_snippet(relay, relay_options(options)))
            await until_signalled()
            say("stopping")
    if options.once:
        print(text, flush=True)
    return 0


async def _open_tabs(
    stack: AsyncExitStack, relay: RunningRelay, options: argparse.Namespace, progress: ProgressLine
) -> None:
    spans = split_blocks(relay.models[0].manifest.config.num_hidden_layers, options.tabs)
    say(f"opening {len(spans)} contributing tab{'s' * (len(spans) > 1)} in Chromium")

    headless = options.headless or not _has_display()
    for index, blocks in enumerate(spans):
        name = f"tab {index}: "
        narrator = Narrator(progress, partial(_tell, name), name)
        tab_options = TabOptions(
            relay.http, blocks, options.backend, options.weights, headless, options.browser, drain=0.0
        )
        tab = await stack.enter_async_context(contributing_tab(tab_options, narrator))
        await tab.until("online")


def _tell(name: str, event: Event) -> None:
    say(name + _words(event))


def _words(event: Event) -> str:
    """``online blocks 0:30 wasm 12D3Koo…``"""
    blocks = event.get("blocks") or []
    words = [event["event"], f"blocks {blocks[0]}:{blocks[1]}" if len(blocks) == 2 else ""]
    words += [
        ", ".join(event.get("reasons", [])),
        event.get("backend"),
        event.get("peer_id"),
        event.get("message"),
    ]
    return " ".join(str(word) for word in words if word)


def _is_tcp(address: str) -> bool:
    return Multiaddr.parse(address).transport == "tcp"


def _has_display() -> bool:
    return sys.platform in ("darwin", "win32") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )


async def _answer(relay: RunningRelay, completion: Completion, *, stream: bool) -> str:
    say(f"prompt: {completion.prompt}")
    pieces: list[str] = []

    def write(text: str) -> None:
        pieces.append(text)
        if stream:
            write_stdout(text)

    addresses = [address for address in relay.host.addresses if _is_tcp(address)]
    async with joined_completer(addresses[:1], relay.models[0]) as completer:
        count, seconds = await complete(completer, completion, write)
    if stream:
        write_stdout("\n")
    say_rate(count, seconds)
    return "".join(pieces)


def _snippet(relay: RunningRelay, options: RelayOptions) -> str:
    address = next(address for address in relay.host.addresses if _is_tcp(address))
    return f"""
The page is at {relay.http}; Ctrl-C ends everything.

An unmodified petals client uses the tab like any other server. Write the weights once:
  {sys.argv[0]} model export {options.models[0]} model-hf
and then, in a Python that has petals:
  import torch
  from petals import AutoDistributedModelForCausalLM
  from transformers import AutoTokenizer
  tokenizer = AutoTokenizer.from_pretrained("model-hf")
  model = AutoDistributedModelForCausalLM.from_pretrained(
      "model-hf", initial_peers=["{address}"],
      dht_prefix="{relay.models[0].name}", torch_dtype=torch.float32)
  inputs = tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
  print(tokenizer.decode(model.generate(inputs, max_new_tokens=16)[0]))
"""
