"""``kwaainet api``: the OpenAI endpoint over a swarm, in a process of its own; the same flags switch it
on in ``kwaainet relay``."""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from ...errors import ConfigError
from ...node.client import Client
from ...node.directory import RecordSource, dht_reader
from ...ports import Host
from ..completion import Completer
from ..http import parse_http_address, serve
from ..model import Model, open_model
from ..openai import DEFAULT_MAX_TOKENS, ApiOptions, OpenAiApi
from ..openai_access import Access
from ..openai_limits import ApiKeys, Limits
from .flags import add_command, add_initial_peers, add_model
from .joining import join_dht, open_host
from .signals import until_signalled
from .terminal import ProgressLine, emit, say

DEFAULT_HTTP = "127.0.0.1:8000"


async def open_api(options: ApiOptions, models: Sequence[Model], host: Host, dht: RecordSource) -> OpenAiApi:
    """The endpoint for ``models``: one client each, which lives as long as it."""
    return OpenAiApi([await open_completer(model, host, dht) for model in models], options)


async def open_completer(model: Model, host: Host, dht: RecordSource) -> Completer:
    """A model's head and a client of its servers, through a host that has joined the swarm."""
    blocks = model.config.num_hidden_layers
    client = Client(host, dht_reader(dht), model.name, blocks, now=time.perf_counter, random_bytes=os.urandom)
    return await Completer.load(model, client)


def add_api_flags(parser: argparse.ArgumentParser, *, switch: bool) -> None:
    """The flags that ``api`` and ``relay`` share; ``switch``: with ``--api``, which a relay needs."""
    group = parser.add_argument_group("OpenAI endpoint")
    if switch:
        group.add_argument("--api", action="store_true", help="serve the OpenAI API under /v1 for the model")
    group.add_argument(
        "--api-key-file",
        type=Path,
        metavar="FILE",
        help="only these keys may call: one a line, or sha256:HEX",
    )
    group.add_argument("--api-key", action="append", metavar="KEY", help="one more key; repeatable")
    group.add_argument("--api-open", action="store_true", help="anybody may call, from anywhere")
    group.add_argument(
        "--api-allow-origin", action="append", metavar="ORIGIN", help="a site whose pages may call, or *"
    )
    for name, what in (
        ("requests-per-minute", "requests a minute of one key, or of one address without keys (no limit)"),
        ("tokens-per-minute", "tokens a minute of one key, prompts and answers together (no limit)"),
        ("sessions", f"completions of one key at the same time ({Limits().sessions})"),
        ("total-sessions", f"completions of all at the same time ({Limits().total_sessions})"),
        ("default-max-tokens", f"length of a chat whose request names none ({DEFAULT_MAX_TOKENS})"),
    ):
        group.add_argument(f"--api-{name}", type=int, metavar="N", help=what)


def api_options(options: argparse.Namespace) -> ApiOptions:
    """From the parsed flags; raises ``ConfigError`` for what cannot be used."""
    lines = list(options.api_key or ())
    if options.api_key_file is not None:
        try:
            lines += options.api_key_file.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--api-key-file {options.api_key_file} cannot be read: {error}") from None
    keys = ApiKeys.parse(lines)
    if options.api_key_file is not None and not keys:
        raise ConfigError(f"--api-key-file {options.api_key_file} holds no key; put one on a line")
    limits = Limits(
        options.api_requests_per_minute,
        options.api_tokens_per_minute,
        Limits().sessions if options.api_sessions is None else options.api_sessions,
        Limits().total_sessions if options.api_total_sessions is None else options.api_total_sessions,
    )
    longest = options.api_default_max_tokens
    if longest is not None and longest < 1:
        raise ConfigError(f"--api-default-max-tokens is {longest}; give at least 1")
    access = Access(keys, options.api_open, options.api_allow_origin or ())
    return ApiOptions(access, limits, longest or DEFAULT_MAX_TOKENS)


def relay_api_options(options: argparse.Namespace) -> ApiOptions | None:
    """As ``api_options``, or ``None`` without ``--api``; its other flags make no sense then."""
    if options.api:
        return api_options(options)
    given = [name for name, value in vars(options).items() if name.startswith("api_") and value]
    if given:
        raise ConfigError(f"--{given[0].replace('_', '-')} does nothing without --api")
    return None


def check_api_on_relay(api: ApiOptions | None, http_host: str, models: Sequence[Path]) -> None:
    """Raises ``ConfigError`` if a relay so started would serve nothing, or everybody."""
    if api is not None:
        if not models:
            raise ConfigError("--api needs --model PATH: the endpoint computes the head of that model")
        api.access.check_address(http_host)


def add(commands: Any) -> None:
    """Declare ``kwaainet api``."""
    parser = add_command(commands, "api", "the OpenAI API over a swarm", __doc__)
    add_model(parser, required=True)
    add_initial_peers(parser, required=True)
    parser.add_argument(
        "--http", default=DEFAULT_HTTP, metavar="HOST:PORT", help="where it is served (%(default)s)"
    )
    add_api_flags(parser, switch=False)
    parser.set_defaults(run=run)


async def run(options: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM."""
    told = api_options(options)
    http_host, http_port = parse_http_address(options.http)
    told.access.check_address(http_host)
    progress = ProgressLine()
    model = await asyncio.to_thread(open_model, options.model, report=progress, name=options.prefix)
    progress.finish()
    async with AsyncExitStack() as stack:
        host = await open_host(stack)
        dht = await join_dht(stack, host, options.initial_peers, client_mode=True)
        api = await open_api(told, [model], host, dht)
        runner, address = await serve(api, http_host, http_port)
        stack.push_async_callback(runner.cleanup)
        emit({"event": "ready", "http": address, "models": [model.name]})
        say(f"OpenAI clients find {model.name} at {address}v1")
        await until_signalled()
        say("stopping")
    return 0
