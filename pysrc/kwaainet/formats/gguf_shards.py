"""GGUF models in several files: which files belong together, and what they say as one.

Follows llama.cpp's ``gguf-split`` (names ``…-00001-of-00005.gguf``, keys ``split.*``). Rule of the
file: a shard is believed only if it says which one of how many it is, and that agrees with its name.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace

from ..errors import InputError, ModelFileError
from .gguf import MAX_HEADER_BYTES, MAX_TENSORS, GgufIndex, GgufTensor, parse
from .reading import Reading, read_head

MAX_SHARDS = 1024
_NAME = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})\.gguf", re.DOTALL)


def read_index(size: int) -> Reading[GgufIndex]:
    """The head of one file of ``size`` bytes, by byte range. Raises as ``gguf.parse`` does."""
    return read_head(parse, size, MAX_HEADER_BYTES)


def shard_names(file: str) -> list[str]:
    """All files of the model that ``file`` is a part of, in order; just ``file`` if it is no part."""
    match = _NAME.fullmatch(file)
    if match is None:
        return [file]
    number, count = int(match[2]), int(match[3])
    if not 1 <= number <= count <= MAX_SHARDS:
        raise ModelFileError(f"{file:.80} is part {number} of {count}; up to {MAX_SHARDS} are allowed")
    return [f"{match[1]}-{i:05d}-of-{match[3]}.gguf" for i in range(1, count + 1)]


def require_shards(present: Container[str], file: str) -> list[str]:
    """``shard_names`` if all are ``present``; ``InputError`` names the first that is not."""
    names = shard_names(file)
    for name in names:
        if name not in present:
            raise InputError(
                f"{name:.80} is missing: the model has {len(names)} files; put them side by side"
            )
    return names


def join(shards: Mapping[str, GgufIndex]) -> GgufIndex:
    """What the files of a model say together: the first one's metadata, and every tensor with its file.

    ``shards`` are all files in order. ``ModelFileError`` names the file that does not belong to the
    rest and why, or a tensor that lies in two.
    """
    names = list(shards)
    first = shards[names[0]]
    total = _integer(
        first, names[0], "split.tensors.count", sum(len(shard.tensors) for shard in shards.values())
    )
    tensors: dict[str, GgufTensor] = {}
    for number, (file, shard) in enumerate(shards.items()):
        _check_part(file, shard, number, names, total)
        for name, tensor in shard.tensors.items():
            if name in tensors:
                raise ModelFileError(f"tensor {name:.80} lies in {tensors[name].file:.80} and in {file:.80}")
            tensors[name] = replace(tensor, file=file)
    if len(tensors) != total or total > MAX_TENSORS:
        raise ModelFileError(
            f"split.tensors.count is {total}, but the {len(names)} files hold {len(tensors)} tensors "
            f"({MAX_TENSORS} are allowed)"
        )
    return replace(first, tensors=tensors)


def _check_part(file: str, shard: GgufIndex, number: int, names: Sequence[str], total: int) -> None:
    for key, expected in (
        ("split.no", number),
        ("split.count", len(names)),
        ("split.tensors.count", total),
    ):
        default = expected if len(names) == 1 and key not in shard.metadata else None
        value = _integer(shard, file, key, default)
        if value != expected:
            hint = "; open the first of its files under its own name" if len(names) == 1 else ""
            raise ModelFileError(f"{file:.80}: {key} is {value}, but {expected} was expected{hint}")


def _integer(shard: GgufIndex, file: str, key: str, default: int | None) -> int:
    value = shard.metadata.get(key, default)
    if type(value) is not int:
        raise ModelFileError(f"{file:.80}: {key} is {value!r:.40}; an integer is needed")
    return value
