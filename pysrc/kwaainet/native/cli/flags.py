"""The flags that more than one command has, so that they mean the same everywhere.

Rule of the file: a flag and its help stand here once; a command names those it takes.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...inference.weight_format import AUTO, WEIGHT_FORMATS
from ...swarm.bootstraps import BOOTSTRAPS
from ...types import BlockRange

DRAIN = 90.0  # seconds; NodeConfig.drain_limit
MAX_DRAIN = 3600.0


def add_command(commands: Any, name: str, summary: str, description: str | None) -> argparse.ArgumentParser:
    """A command's parser, with the flags every command has."""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=description)
    parser.add_argument(
        "-v", "--verbose", action="count", default=0, help="log what happens; twice for everything"
    )
    return parser


def add_model(parser: argparse.ArgumentParser, *, required: bool, several: bool = False) -> None:
    """``--model`` and ``--prefix``; with ``several`` both are lists, or ``None``."""
    action = "append" if several else "store"
    again = "; repeat it, and the flags of each in the same order, to serve several" if several else ""
    parser.add_argument(
        "--model",
        type=Path,
        required=required,
        action=action,
        metavar="PATH",
        help=f"a .gguf file, or a Hugging Face folder or a file in one{again}",
    )
    parser.add_argument(
        "--prefix",
        action=action,
        metavar="NAME",
        help="the model's name in the DHT; the default follows its file",
    )


def add_repository(parser: argparse.ArgumentParser) -> None:
    """``--repository``."""
    parser.add_argument(
        "--repository",
        default="",
        metavar="URL",
        help="the model's page, https://huggingface.co/...: health monitors list models that name one",
    )


def add_initial_peers(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """``--initial-peers``."""
    text = f"peers of the swarm to join, or its name: {' or '.join(BOOTSTRAPS)}, the public ones"
    parser.add_argument(
        "--initial-peers",
        nargs="+",
        default=[],
        required=required,
        metavar="MULTIADDR",
        help=text if required else f"{text}; none starts a new one",
    )


def add_listening(parser: argparse.ArgumentParser, default: Sequence[str]) -> None:
    """``--listen``, ``--announce`` and ``--identity-path``; ``options.listen`` is ``None`` if not given."""
    parser.add_argument(
        "--listen",
        action="append",
        metavar="MULTIADDR",
        help=f"listen here; repeatable ({' '.join(default)})",
    )
    parser.add_argument(
        "--announce", action="append", default=[], metavar="MULTIADDR", help="an address others reach us by"
    )
    parser.add_argument(
        "--identity-path",
        type=Path,
        metavar="FILE",
        help="keep the identity here (made if absent, mode 0600)",
    )


def add_weights(parser: argparse.ArgumentParser) -> None:
    """``--weights``; ``None`` if not given."""
    parser.add_argument(
        "--weights",
        choices=(AUTO, *WEIGHT_FORMATS),
        help="how weights are kept in memory (auto: the best format that computes exactly and fits)",
    )


def add_drain(parser: argparse.ArgumentParser) -> None:
    """``--drain``."""
    parser.add_argument(
        "--drain",
        type=seconds,
        default=DRAIN,
        metavar="SECONDS",
        help="how long leaving may take: sessions are served on, and clients that have not heard of it "
        "yet (%(default)g); a second signal ends it at once",
    )


def seconds(text: str) -> float:
    """The type of a flag that is a time."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= MAX_DRAIN:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0 to {MAX_DRAIN:g}")
    return seconds


def add_blocks(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """``--blocks``, or ``--num-blocks`` as ``auto:N``: both are ``options.blocks``, and the last one counts.

    ``None`` if not given; with ``several`` a list.
    """
    action = "append" if several else "store"
    parser.add_argument(
        "--blocks", type=_blocks, action=action, metavar="A:B", help="serve these blocks (all of them)"
    )
    parser.add_argument(
        "--num-blocks",
        dest="blocks",
        action=action,
        type=_count,
        metavar="N",
        help="serve so many, where the swarm needs them; they move when it needs them elsewhere",
    )


def _count(text: str) -> str:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of blocks")
    return f"auto:{int(text)}"


def _blocks(text: str) -> BlockRange:
    try:
        return BlockRange.parse(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
