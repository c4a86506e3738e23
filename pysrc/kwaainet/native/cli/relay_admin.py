"""``kwaainet relay peers|ban|unban|bans|limits|drain``: ask a relay that runs here, or tell it what to do.

Rule of the file: the relay decides and words the errors; here are tables for people and JSON for programs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import ConfigError
from ..admin import MAX_DRAIN
from ..admin_socket import ask
from ..state_dir import SOCKET
from .flags import add_command, seconds
from .relay_unit import STATE
from .terminal import say

VARIABLE = "KWAAINET_RELAY_STATE_DIR"
DEFAULT_DIR = Path("/var/lib") / STATE  # of the relay that install-service starts
POLL = 0.25  # seconds
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def add(actions: Any) -> None:
    """Declare the commands."""
    _command(actions, "peers", "who is connected to the relay that runs here", _peers)
    ban = _command(actions, "ban", "keep a peer, an address or a subnet out, from this moment", _ban)
    ban.add_argument("subject", metavar="WHOM", help="a peer id, an IP address or a subnet")
    ban.add_argument("--reason", default="", metavar="TEXT", help="why, for the operator's eyes")
    ban.add_argument(
        "--for", dest="duration", type=_duration, metavar="TIME", help="30m, 12h, 7d, 2w (for good)"
    )
    unban = _command(actions, "unban", "let in again", _unban)
    unban.add_argument("subject", metavar="WHOM", help="as it was banned")
    _command(actions, "bans", "who is banned, why and for how long", _bans)
    limits = _command(actions, "limits", "the limits, what is used of them, and what was refused", _limits)
    limits.add_argument(
        "--set",
        dest="change",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="another limit until the relay restarts: PEER,ADDRESS,SUBNET, of arrivals, dials and targets a"
        " minute; of a bandwidth bytes a second; repeatable",
    )
    drain = _command(actions, "drain", "begin nothing new, and wait until circuits are quiet", _drain)
    drain.add_argument(
        "--seconds", type=seconds, default=60.0, metavar="SECONDS", help="to wait at most (%(default)g)"
    )
    drain.add_argument("--off", action="store_true", help="begin new things again")


def _command(actions: Any, name: str, summary: str, run: Any) -> argparse.ArgumentParser:
    parser = add_command(actions, name, summary, f"{summary[0].upper()}{summary[1:]}.")
    parser.add_argument(
        "--state-dir", type=Path, metavar="DIR", help=f"of the relay ({VARIABLE}, else {DEFAULT_DIR})"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)
    return parser


async def _ask(options: argparse.Namespace, what: str, **more: Any) -> Any:
    folder = options.state_dir or Path(os.environ.get(VARIABLE) or DEFAULT_DIR)
    return await ask(folder / SOCKET, {"ask": what, **more})


async def _peers(options: argparse.Namespace) -> int:
    found = await _ask(options, "peers")
    rows = [
        (
            one["peer"],
            one["address"],
            _age(one["seconds"]),
            one["streams"],
            "slot" if one["slot"] else "",
            one["circuits"],
            one["bytes"],
        )
        for one in sorted(found, key=lambda one: -one["bytes"])
    ]
    _print(options, found, ("PEER", "ADDRESS", "SINCE", "STREAMS", "SLOT", "CIRCUITS", "BYTES"), rows)
    return 0


async def _ban(options: argparse.Namespace) -> int:
    ban = await _ask(options, "ban", subject=options.subject, reason=options.reason, seconds=options.duration)
    _print(options, ban, ("BANNED", "UNTIL", "CLOSED"), [(ban["subject"], _until(ban), ban["closed"])])
    return 0


async def _unban(options: argparse.Namespace) -> int:
    answer = await _ask(options, "unban", subject=options.subject)
    _print(options, answer, ("LET IN AGAIN",), [(answer["subject"],)])
    return 0


async def _bans(options: argparse.Namespace) -> int:
    bans = await _ask(options, "bans")
    rows = [(ban["subject"], _until(ban), ban["reason"]) for ban in bans]
    _print(options, bans, ("BANNED", "UNTIL", "REASON"), rows)
    return 0


async def _limits(options: argparse.Namespace) -> int:
    change = {}
    for text in options.change:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set {text!r:.80} is not NAME=VALUE")
        change[name] = value
    answer = await _ask(options, "limits", set=change)
    if options.json:
        _print(options, answer, (), [])
        return 0
    most: Mapping[str, Mapping[str, int]] = answer["most"]
    rows = [
        (name, value, ",".join(str(most[name].get(scope, 0)) for scope in ("peer", "address", "subnet")))
        if name in most
        else (name, value, "")
        for name, value in answer["limits"].items()
    ]
    _print(options, answer, ("LIMIT", "PEER,ADDRESS,SUBNET", "MOST NOW"), rows)
    _print(options, answer, ("REFUSED", "TIMES"), sorted(answer["refused"].items()))
    return 0


async def _drain(options: argparse.Namespace) -> int:
    if options.off:
        answer = await _ask(options, "resume")
        _print(options, answer, ("DRAINING",), [("no",)])
        return 0
    limit = min(max(options.seconds, 1.0), MAX_DRAIN)
    answer, left = await _ask(options, "drain", seconds=limit), None
    while answer["draining"] and not answer["quiet"]:
        if answer["circuits"] != left and not options.json:
            left = answer["circuits"]
            say(f"draining; {left} circuits are left")
        await asyncio.sleep(POLL)
        answer = await _ask(options, "drain")
    drained = answer["draining"]  # somebody else may have said --off meanwhile
    _print(options, answer, ("DRAINED", "CIRCUITS LEFT"), [("yes" if drained else "no", answer["circuits"])])
    return 0 if drained else 1


def _print(
    options: argparse.Namespace, found: Any, heads: Sequence[str], rows: Sequence[Sequence[Any]]
) -> None:
    if options.json:
        print(json.dumps(found))
        return
    texts = [[str(cell) for cell in row] for row in (heads, *rows)]
    widths = [max(len(row[at]) for row in texts) for at in range(len(heads))]
    for row in texts:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        print(_PLAIN.sub("?", line))


_PLAIN = re.compile(r"[^ -~\u00a0-\uffff]")  # a reason holds what somebody pasted


def _until(ban: Mapping[str, Any]) -> str:
    if ban["until"] is None:
        return "for good"
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(ban['until']))} UTC"


def _age(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def _duration(text: str) -> float:
    match = re.fullmatch(r"([0-9]{1,8})([smhdw])", text)
    if match is None or not int(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r:.40} is no time; give for example 90s, 30m, 12h, 7d or 2w")
    return float(int(match[1]) * _UNITS[match[2]])
