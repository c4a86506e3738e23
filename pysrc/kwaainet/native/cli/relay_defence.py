"""The flags of a relay's defence: limits and lists; and what holds them over its runs.

Rule of the file: the lists in the settings stand for good; what is banned on the admin socket is kept in the
folder of the relay and read again when it starts.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from ...errors import ConfigError, InputError
from ...libp2p.admission import Admission, Limits
from ...libp2p.bans import Rules, parse_subject
from ..admin import Admin
from ..admin_socket import served
from ..host import NativeHost
from ..relay import Relay
from ..state_dir import StateDir

log = logging.getLogger(__name__)

FORGET_PERIOD = 60.0  # seconds between looks at which addresses need not be known any more


@dataclass(frozen=True, slots=True)
class Defence:
    """What a relay is told: limits as ``NAME=VALUE``; whom to allow, deny, or let in alone."""

    limits: Sequence[str] = ()
    allow: Sequence[str] = ()
    deny: Sequence[str] = ()
    allow_only: bool = False

    def admission(self) -> tuple[Limits, Rules]:
        """Raises ``ConfigError`` for what cannot be."""
        limits = Limits()
        for text in self.limits:
            name, _, value = text.partition("=")
            limits = limits.changed(name, value)
        return limits, Rules(self.allow, self.deny, allow_only=self.allow_only)


OPEN = Defence()


def add_defence_flags(parser: argparse.ArgumentParser) -> None:
    """Limits and lists."""
    parser.add_argument(
        "--limit",
        action="append",
        default=[],
        type=_limit,
        metavar="NAME=VALUE",
        help="what one peer, one address (an IPv6 /64) and one subnet (a /24 or /48) may have: "
        + "; ".join(f"{name}={value}" for name, value in Limits().describe().items())
        + " (bytes a second, 0 without limit); repeatable; behind a proxy give --trusted-proxy, too",
    )
    whom = "a peer id, an IP address or a subnet"
    for flag, what in (
        ("--allow", "that no list keeps out and no limit by address holds for"),
        ("--deny", "that is not let in; kwaainet relay ban does so while it runs"),
    ):
        parser.add_argument(
            flag,
            action="append",
            default=[],
            type=_subject,
            metavar="WHOM",
            help=f"{whom} {what}; repeatable",
        )
    parser.add_argument("--allow-only", action="store_true", help="let in nobody but those of --allow")


def defence_options(options: argparse.Namespace) -> Defence:
    """From the parsed flags; ``up`` has none of them."""
    return Defence(
        getattr(options, "limit", ()),
        getattr(options, "allow", ()),
        getattr(options, "deny", ()),
        getattr(options, "allow_only", False),
    )


def arm(host: NativeHost, defence: Defence, state: StateDir | None) -> None:
    """Before it listens: the limits, the lists, and the bans of the last run."""
    limits, rules = defence.admission()
    if state is not None and (data := state.bans()):
        try:
            rules.load(data, time.time())
        except InputError as error:
            log.warning("the bans in %s are left aside: %s", state.path, error)
    host.network.admission.change(limits)
    host.network.admission.rules = rules


async def watch(stack: AsyncExitStack, host: NativeHost, relay: Relay, state: StateDir | None) -> None:
    """While it runs: the admin socket, where there is a folder for it; addresses are forgotten in time."""
    forgetting = host.network.spawn(_forget(host.network.admission))
    stack.callback(forgetting.cancel)
    if state is not None:
        admin = Admin(host, relay, state.keep_bans)
        await stack.enter_async_context(served(state.socket, admin.answer))


async def _forget(admission: Admission) -> None:
    while True:
        await asyncio.sleep(FORGET_PERIOD)
        admission.forget(time.monotonic())


def _limit(text: str) -> str:
    name, _, value = text.partition("=")
    try:
        Limits().changed(name, value)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _subject(text: str) -> str:
    try:
        parse_subject(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text
