"""``kwaainet model``: look into model files, convert them, check them, publish them for tabs.

Rule of the file: an interrupt leaves nothing half written; what reads all of a model shows how far it is.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...errors import ConfigError, ModelFileError
from ...formats.ggml import ASSUMED, Assumed
from ...formats.manifest import MAX_JSON_BYTES, ModelManifest
from ...ports import Report
from ..convert import TYPES, write_gguf
from ..export import check_type, export
from ..info import ModelInfo, describe_model
from ..model import Model, open_model
from ..publish import MANIFEST, publish
from ..reading import read_limited
from ..text import TOKENIZER
from ..verify import verify_model, verify_published
from .flags import add_command
from .terminal import MEGA, ProgressLine, say
from .working import work

_INPUT = "a GGUF or GGML file, or a Hugging Face folder or a file in one"


def add(commands: Any) -> None:
    """Declare ``kwaainet model``."""
    parser = commands.add_parser("model", help="work on model files", description="Work on model files.")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    info = _add(actions, "info", "say what a model is", run_info)
    info.add_argument("--json", action="store_true", help="as one JSON object")
    info.add_argument(
        "--tensors", action="store_true", help="each of them too (always, if it cannot be served)"
    )
    convert = _add(actions, "convert", "write a Hugging Face folder, or a GGUF file", run_convert)
    convert.add_argument("output", type=Path, metavar="OUT", help="a folder, or a name that ends in .gguf")
    convert.add_argument(
        "--type",
        choices=list(TYPES),
        default="F32",
        help="of the matrices (%(default)s); Q8_0 and Q4_0: GGUF",
    )
    _add_assumed(convert)
    copy = _add(actions, "export", "write a float32 folder that stock Petals loads", run_convert)
    copy.add_argument("output", type=Path, metavar="OUT", help="the folder; it must not hold a model yet")
    convert.set_defaults(own_head=False)
    copy.set_defaults(type="F32", own_head=True, **asdict(ASSUMED))
    verify = _add(actions, "verify", "read every tensor, and check its hash if it was published", run_verify)
    verify.add_argument("--manifest", type=Path, metavar="FILE", help=f"({MANIFEST} in the folder, if there)")
    split = _add(actions, "split", "publish for tabs, on any host of files that serves ranges", run_split)
    split.add_argument("output", type=Path, metavar="OUT", help=f"the folder that gets {MANIFEST}")
    how = split.add_mutually_exclusive_group()
    how.add_argument("--blocks", dest="parts", action="store_const", const=0, help="one file a block")
    how.add_argument("--shards", dest="parts", type=int, metavar="N", help="so many files of blocks")
    split.add_argument("--prefix", metavar="NAME", help="the model's name in the DHT")


def _add_assumed(parser: argparse.ArgumentParser) -> None:
    """What GGML files leave out; a GGUF file made of one says it."""
    ggml = parser.add_argument_group("of a GGML file, which does not say them")
    ggml.add_argument(
        "--context-length",
        type=int,
        default=ASSUMED.context_length,
        metavar="N",
        help="tokens (%(default)s; Llama 2: 4096)",
    )
    ggml.add_argument(
        "--rms-eps",
        type=float,
        default=ASSUMED.rms_eps,
        metavar="X",
        help="of the norms (%(default)s; Llama 1: 1e-6, Llama 2: 1e-5)",
    )
    ggml.add_argument(
        "--rope-theta", type=float, default=ASSUMED.rope_theta, metavar="X", help="(%(default)s)"
    )


def _add(actions: Any, name: str, summary: str, run: Any) -> argparse.ArgumentParser:
    action = add_command(actions, name, summary, f"{summary[0].upper()}{summary[1:]}.")
    action.add_argument("input", type=Path, metavar="MODEL", help=_INPUT)
    action.set_defaults(run=run)
    return action


async def run_info(options: argparse.Namespace) -> int:
    """Print what the model is."""
    info = await work(lambda report: describe_model(options.input), lambda progress: None)
    if options.json:
        print(json.dumps(info.to_json(), indent=2))
    else:
        print("\n".join([*_lines(info), *(_tensors(info) if options.tensors or info.problem else [])]))
    return 0


def _tensors(info: ModelInfo) -> Iterator[str]:
    for name, one in info.tensors.items():
        yield f"{name}: {one.dtype} {list(one.shape)}, {one.bytes} bytes"


def _lines(info: ModelInfo) -> list[str]:
    head = (
        f"{info.name}: {info.architecture} in {info.format}, {len(info.files)} file(s) of "
        f"{sum(info.files.values()) / MEGA:.1f} MB"
    )
    kinds = [f"{name}: {one.tensors} tensors, {one.bytes / MEGA:.1f} MB" for name, one in info.types.items()]
    if info.problem:
        return [head, f"it cannot be served: {info.problem}", *kinds]
    smallest, largest = min(info.blocks), max(info.blocks)
    each = (
        f"{smallest / MEGA:.1f}" if smallest == largest else f"{smallest / MEGA:.1f} to {largest / MEGA:.1f}"
    )
    return [
        head,
        f"{len(info.blocks)} blocks of {each} MB, embedding and head {info.outer / MEGA:.1f} MB",
        *kinds,
        *(f"{key} = {value}" for key, value in info.config.items()),
    ]


async def run_convert(options: argparse.Namespace) -> int:
    """Write the model once more."""

    assumed = Assumed(options.context_length, options.rms_eps, options.rope_theta)
    _check_output(options)

    def write(report: Report) -> None:
        model = open_model(options.input, report, assumed=assumed)
        if options.output.suffix == ".gguf":
            write_gguf(model, options.output, options.type, report)
        else:
            export(model, options.output, report, options.type, own_head=options.own_head)

    await _with_progress(write)
    say(f"wrote {options.output}")
    return 0


def _check_output(options: argparse.Namespace) -> None:
    """``ConfigError`` for what cannot be written, before all of a model is read for it."""
    if options.output.suffix != ".gguf":
        check_type(options.type)
    elif options.input.is_dir() and not (options.input / TOKENIZER).is_file():
        raise ConfigError(
            f"{options.input} has no {TOKENIZER}, which a GGUF file contains; put the model's there"
        )


async def run_verify(options: argparse.Namespace) -> int:
    """Name every tensor that is not as it should be."""
    manifest = options.manifest
    if manifest is None and (options.input / MANIFEST).is_file():
        manifest = options.input / MANIFEST
    if manifest is None:
        problems = await _with_progress(lambda report: verify_model(options.input, report))
    else:
        folder = options.input if options.input.is_dir() else options.input.parent
        published = _read_manifest(manifest)
        problems = await _with_progress(lambda report: verify_published(published, folder, report))
    for name, problem in problems.items():
        print(f"{name}: {problem}")
    if problems:
        raise ModelFileError(f"{options.input}: {len(problems)} tensors are not as they should be")
    say(f"{options.input}: every tensor is well" + (", with the hash published" if manifest else ""))
    return 0


async def run_split(options: argparse.Namespace) -> int:
    """Write the manifest, and the files of blocks if they are asked for."""

    def write(report: Report) -> Model:
        model = open_model(options.input, report, name=options.prefix)
        publish(model, options.output, report, parts=options.parts)
        return model

    model = await _with_progress(write)
    first, *more = map(str, model.files.values())
    files = first + (f" and {len(more)} more" if more else "")
    others = f"the model's own ({files}), side by side," if options.parts is None else "the files there"
    say(f"{model.name}: wrote {options.output / MANIFEST}; put it and {others} on a host that serves ranges")
    return 0


def _read_manifest(path: Path) -> ModelManifest:
    try:
        return ModelManifest.from_json(read_limited(path, MAX_JSON_BYTES))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None


async def _with_progress(function: Callable[[Report], Any]) -> Any:
    progress = ProgressLine()
    try:
        return await work(function, progress)
    finally:
        progress.finish()
