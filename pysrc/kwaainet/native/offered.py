"""The models that a relay offers to tabs: opened from files, or published on another host.

Rule of the file: what an operator asks for is clear before anything is read; two models never share a name.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

from ..errors import ConfigError, InputError
from ..ports import Report
from ..swarm.blocks import check_prefix
from .http import ModelFiles
from .model import Model, open_model
from .published import fetch_published

log = logging.getLogger(__name__)

MOST = 16  # models of one relay: each takes its head's memory where an endpoint serves it


def check_offer(models: Sequence[Path], prefixes: Sequence[str], model_url: str, repository: str) -> None:
    """``ConfigError`` where it is not clear which model a name, an address or a page is of."""
    for prefix in prefixes:
        check_prefix(prefix)
    if len(models) > MOST:
        raise ConfigError(f"--model is given {len(models)} times; a relay offers at most {MOST}")
    if prefixes and len(prefixes) != max(len(models), 1):
        raise ConfigError(
            f"--prefix is given {len(prefixes)} times for {len(models)} models; give it once each, or never"
        )
    if len(models) > 1:
        for flag, given in (("--model-url", model_url), ("--repository", repository)):
            if given:
                raise ConfigError(f"{flag} is of one model, but --model names {len(models)}; give one")


async def open_models(models: Sequence[Path], prefixes: Sequence[str], report: Report) -> list[Model]:
    """Each under its own name, or that of ``prefixes``; ``ConfigError`` where two are called the same."""
    opened = [
        await asyncio.to_thread(open_model, path, report=report, name=prefix)
        for path, prefix in zip_longest(models, prefixes[: len(models)])
    ]
    names = [model.name for model in opened]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two models are called {name}; give each a --prefix of its own")
    return opened


async def offer(
    models: Sequence[Model], prefixes: Sequence[str], model_url: str, repository: str
) -> list[ModelFiles]:
    """What tabs are told of the models, wherever their files lie."""
    if model_url:
        return [await _published(models[0] if models else None, prefixes, model_url, repository)]
    return [await _own(model, repository) for model in models]


async def _own(model: Model, repository: str) -> ModelFiles:
    manifest = model.manifest
    text = await asyncio.to_thread(_text, model)
    blocks = manifest.config.num_hidden_layers
    return ModelFiles(manifest.name, blocks, manifest.to_json(), dict(model.files), repository, text)


async def _published(
    model: Model | None, prefixes: Sequence[str], model_url: str, repository: str
) -> ModelFiles:
    published = await fetch_published(model_url)
    if model is not None:
        published.check_same(model.manifest)
    name = model.name if model is not None else next(iter(prefixes), published.manifest.name)
    there = replace(published.manifest, name=name)
    text = published.text if model is None else await asyncio.to_thread(_text, model)
    blocks = there.config.num_hidden_layers
    return ModelFiles(name, blocks, there.to_json(), {}, repository, text, published.base)


def _text(model: Model) -> str:
    try:
        return model.text.to_json()
    except InputError as error:  # its blocks can be served all the same
        log.warning("%s offers no chat: %s", model.name, error)
        return ""
