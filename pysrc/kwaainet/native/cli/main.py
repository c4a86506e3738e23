"""The ``kwaainet`` command: one place that parses flags, composes the node and turns errors into a line.

Rule of the package: a command is a module with ``add(subparsers)``, which declares its flags and names
the coroutine to run. Exit codes: 0 done, 1 it failed, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import uvloop

from ... import __version__
from ...errors import ConfigError, KwaaiNetError
from . import api, doctor, gateway, generate, model, relay, serve, tab, up
from .logs import configure_logging
from .terminal import say

log = logging.getLogger(__name__)


class _Parser(argparse.ArgumentParser):
    """argparse, with a wrong flag answered by one line."""

    def error(self, message: str) -> NoReturn:
        say(f"{self.prog}: {message}; see {self.prog} --help")
        sys.exit(2)


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = _Parser(prog="kwaainet", description="A browser tab as a server of a Petals swarm.")
    parser.add_argument("--version", action="version", version=f"kwaainet {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (up, relay, tab, serve, gateway, generate, api, model, doctor):
        module.add(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = build_parser().parse_args(arguments)
    configure_logging(options.verbose)
    try:
        code = int(uvloop.run(options.run(options)) or 0)
        sys.stdout.flush()
        return code
    except KwaaiNetError as error:
        log.debug("failed", exc_info=True)
        say(f"kwaainet {options.command}: {error}")
        return 2 if isinstance(error, ConfigError) else 1
    except TimeoutError as error:
        say(f"kwaainet {options.command}: timed out: {error}")
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130
    except BrokenPipeError:  # who read has had enough, such as head
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # or the flush at the end would fail, too
        return 1
    except Exception as error:
        log.info("internal error", exc_info=True)
        say(f"kwaainet {options.command}: internal error: {error!r}; run again with -v for the details")
        return 1
