"""``kwaainet model export``: write a model as a Hugging Face directory that stock clients load."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import Any

from ..export import export
from ..model import open_model
from .flags import add_command
from .terminal import ProgressLine, say


def add(commands: Any) -> None:
    """Declare ``kwaainet model``."""
    parser = commands.add_parser("model", help="work on model files", description="Work on model files.")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    action = add_command(actions, "export", "write a Hugging Face directory", __doc__)
    action.add_argument("input", type=Path, metavar="IN", help="a .gguf file or a folder with safetensors")
    action.add_argument(
        "output", type=Path, metavar="OUT", help="the folder to write; it must not hold a model yet"
    )
    action.set_defaults(run=run_export)


async def run_export(options: argparse.Namespace) -> int:
    """Convert once."""
    progress = ProgressLine()
    model = await asyncio.to_thread(open_model, options.input, report=progress)
    await asyncio.to_thread(export, model, options.output, progress)
    progress.finish()
    say(f"wrote {options.output}")
    return 0
