"""The files of weights in a Hugging Face folder: SafeTensors or PyTorch, whole or in shards.

Follows the names of ``transformers``' ``save_pretrained``. Rule of the file: what a file is, its
content says; what it must hold, the index beside it.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import InputError, ModelFileError
from ..formats import pytorch, safetensors
from ..formats.manifest import check_file_name
from ..formats.stored import MAX_INDEX_BYTES, StoredTensor, parse_index
from .reading import read_limited, read_ranges, read_start

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_NAMES = ((SINGLE, INDEX), ("pytorch_model.bin", "pytorch_model.bin.index.json"))


def find_shards(folder: Path) -> dict[str, list[str]]:
    """File name -> tensors that it must hold, as far as an index says so; SafeTensors come first."""
    for single, index in _NAMES:
        if (folder / single).is_file():
            return {single: []}
        if (folder / index).is_file():
            return parse_index(read_limited(folder / index, MAX_INDEX_BYTES))
    raise ModelFileError(
        f"the directory has neither of {', '.join(name for pair in _NAMES for name in pair)}"
    )


def is_pytorch(start: bytes) -> bool:
    """Whether a file that begins so is PyTorch's; no SafeTensors file has a head as long as that."""
    return start[:4] == pytorch.ZIP_MAGIC or (start[:1] == pytorch.PICKLE_MAGIC and start[8:9] != b"{")


def is_checkpoint(path: Path) -> bool:
    """Whether a file is one of SafeTensors or PyTorch, going by its name or its first bytes."""
    start = read_start(path, 9)
    named = path.suffix == ".safetensors"
    head = int.from_bytes(start[:8], "little") <= safetensors.MAX_HEADER_BYTES and start[8:9] == b"{"
    return named or head or is_pytorch(start)


def read_checkpoint(path: Path, must_hold: list[str]) -> dict[str, StoredTensor]:
    """Every tensor of a file, which must have those named. Errors name the file."""
    file = check_file_name(path.name)
    try:
        if is_pytorch(read_start(path, 9)):
            stored = read_ranges(path, pytorch.read_tensors)
        else:
            stored = read_ranges(path, safetensors.read_tensors)
    except OSError as error:
        raise ModelFileError(f"{file}: {error.strerror}") from None
    except InputError as error:
        raise type(error)(f"{file}: {error}") from None
    if missing := set(must_hold) - stored.keys():
        raise ModelFileError(f"{file} lacks the tensor {min(missing):.80} that the index puts there")
    return stored
