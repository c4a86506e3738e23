"""``kwaainet doctor``: is a relay reachable from a browser, and if not, why, step by step."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ..doctor import Outcome, Report, Step, examine
from .flags import add_command
from .terminal import say

DEFAULT_URL = "http://127.0.0.1:8080/"
MARKS = {Outcome.OK: "ok", Outcome.WARNING: "ok, but", Outcome.FAILED: "FAILED", Outcome.UNTRIED: "-"}


def add(commands: Any) -> None:
    """Declare ``kwaainet doctor``."""
    parser = add_command(commands, "doctor", "say whether browsers can reach a relay, and why not", __doc__)
    parser.add_argument(
        "url",
        nargs="?",
        default=DEFAULT_URL,
        metavar="URL",
        help="the relay's page, such as https://relay.example (%(default)s)",
    )
    parser.add_argument("--browser", action="store_true", help="look at it with a real Chromium, too")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    parser.set_defaults(run=run)


async def run(options: argparse.Namespace) -> int:
    """0 if browsers can reach it, 1 if not."""
    url = options.url if "://" in options.url else f"https://{options.url}"
    report = await examine(url, _silent if options.json else _tell, options.browser)
    if options.json:
        print(json.dumps(report.to_dict(), indent=1))
    else:
        print(_verdict(report), flush=True)
    return 0 if report.reachable else 1


def _verdict(report: Report) -> str:
    verdict = "yes" if report.reachable else f"no\nwhy: {report.why}"
    return f"reachable from a browser: {verdict}"


def _tell(step: Step) -> None:
    say(line(step))


def _silent(step: Step) -> None:
    pass


def line(step: Step) -> str:
    """``tls            ok       0.03 s  TLSv1.3, ...``, with the cause and what to do below it."""
    if step.outcome is Outcome.UNTRIED:
        return f"{step.name:<14} {MARKS[step.outcome]:<8}          {step.cause}"
    text = f"{step.name:<14} {MARKS[step.outcome]:<8} {step.seconds:5.2f} s  {step.found}".rstrip()
    indent = "\n" + " " * 16
    if step.cause:
        text += f"{indent}{step.cause}"
    if step.remedy:
        text += f"{indent}what to do: {step.remedy}"
    return text
