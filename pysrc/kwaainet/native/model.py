"""Opens a model on disk: GGUF files, a GGML file, or a Hugging Face directory (SafeTensors, PyTorch).

Rule of the file: all of a model is checked when it is opened, down to every tensor's place and
hash; nothing is cached beside the model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any

from ..errors import InputError, ModelFileError
from ..formats import gguf_llama, huggingface
from ..formats.config import EMBED, LM_HEAD, NORM, ModelConfig
from ..formats.ggml import ASSUMED, Assumed
from ..formats.gguf import GgufIndex
from ..formats.gguf_names import ROPE_FACTORS
from ..formats.json_text import parse_object
from ..formats.manifest import ModelManifest, TensorEntry, check_file_name
from ..formats.quants import dequantize
from ..formats.rope import MAX_FACTORS
from ..formats.weights import Weight
from ..inference.head import LanguageHead
from ..inference.text import TextSettings
from ..inference.tokenizer import Tokenizer
from ..ports import Floats, Report
from ..types import Progress
from .checkpoint import find_shards, is_checkpoint, read_checkpoint
from .gguf_files import read_gguf
from .reading import read_limited
from .store import FileSource
from .text import from_directory, from_gguf

_JSON_FILES = ("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json")
MAX_CONFIG_BYTES = 4 << 20  # tokenizer_config.json lists every added token
_HASHED_AT_ONCE = 4 << 20
_SUFFIX = re.compile(r"(-\d{5}-of-\d{5})?\.(gguf|bin)$")
_QUANTIZATION = re.compile(r"[.-](I?Q\d\w*|F16|F32|BF16|FP16|FP32)$", re.IGNORECASE)


@dataclass(frozen=True)
class Model:
    """An opened model: ``manifest`` says what it is, ``files`` where its bytes lie by file name."""

    path: Path
    manifest: ModelManifest
    files: Mapping[str, Path]
    text: TextSettings

    @property
    def name(self) -> str:
        """The default prefix of its blocks in the DHT."""
        return self.manifest.name

    @property
    def config(self) -> ModelConfig:
        return self.manifest.config

    @cached_property
    def source(self) -> FileSource:
        return FileSource(self.files)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Raises ``UnsupportedModel`` or ``ModelFileError`` if the model's cannot be used."""
        try:
            return self.text.load_tokenizer()
        except InputError as error:
            raise type(error)(f"{self.path}: {error}") from None

    @property
    def chat_template(self) -> str | None:
        """Jinja source, see ``chat.render_chat``."""
        return self.text.chat_template

    @property
    def special_tokens(self) -> Mapping[str, str]:
        """``bos_token``, ``eos_token``, ``unk_token``, ``pad_token`` as text, as far as there are any."""
        return self.text.special_tokens

    @property
    def stop_tokens(self) -> frozenset[int]:
        """Ids that end a reply."""
        return self.text.stop_tokens

    def read_tensor(self, name: str) -> Floats:
        """One tensor, float32 in Hugging Face's layout. Blocks while it reads."""
        entry = self.manifest.tensors[name]
        data = self.source.read_now(entry.file, entry.offset, entry.length)
        return Weight.stored(entry, data).floats(self.config)

    def load_head(self) -> LanguageHead:
        """What a client computes itself: embedding, final norm and head (the embedding if tied)."""
        names = (EMBED, NORM) if self.config.tie_word_embeddings else (EMBED, NORM, LM_HEAD)
        return LanguageHead.of(self.config, {name: self.read_tensor(name) for name in names})


def open_model(
    path: Path | str, report: Report | None = None, *, name: str | None = None, assumed: Assumed = ASSUMED
) -> Model:
    """Open and hash the model at ``path``; ``name`` overrides the one derived from its file name.

    ``assumed`` is what a GGML file leaves out. Raises ``InputError`` if there is no model, ``ModelFileError``
    if it is broken and ``UnsupportedModel`` if it is sound but not supported; each message names the path.
    """
    path = Path(path)
    try:
        config, entries, files, text = look_into(path, assumed)
        hashed = hash_tensors(entries, files, report or (lambda progress: None))
        manifest = ModelManifest(name or default_name(path), config, hashed)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    except InputError as error:
        raise type(error)(f"{path}: {error}") from None
    return Model(path, manifest, files, text)


def look_into(path: Path, assumed: Assumed = ASSUMED) -> Opened:
    """What ``open_model`` finds before it hashes; errors do not name the path, ``OSError`` passes."""
    if path.is_dir():
        return _open_directory(path)
    if path.is_file():
        return _open_file(path, assumed)
    raise InputError("no such file or directory")


def default_name(path: Path) -> str:
    """A prefix Petals accepts (no dot, no space), like ``Llama-2-7b-hf``, from a file's or folder's name."""
    stem = _QUANTIZATION.sub("", _SUFFIX.sub("", path.resolve().name))
    words = re.sub(r"[^A-Za-z0-9_]+", "-", stem).strip("-")[:100]
    return words if words.endswith("-hf") else f"{words or 'model'}-hf"


Opened = tuple[ModelConfig, dict[str, TensorEntry], dict[str, Path], TextSettings]


def _open_file(path: Path, assumed: Assumed) -> Opened:
    if is_checkpoint(path):
        if not (path.parent / "config.json").is_file():
            raise InputError("give the directory that holds this file and its config.json")
        return _open_directory(path.parent, {path.name: []})
    index, files = read_gguf(path, assumed)
    config = gguf_llama.read_config(index, _rope_factors(index, files, path.name))
    entries = gguf_llama.read_tensors(index, path.name)
    return config, entries, files, from_gguf(index.metadata)


def _rope_factors(index: GgufIndex, files: Mapping[str, Path], file: str) -> Floats | None:
    """What divides the frequencies of the rotary embedding, where a GGUF file keeps it as a tensor."""
    for name in ROPE_FACTORS:
        stored = index.tensors.get(name)
        if stored is not None:
            if prod(stored.shape) > MAX_FACTORS:
                raise ModelFileError(
                    f"tensor {name} has {prod(stored.shape)} numbers; {MAX_FACTORS} are allowed"
                )
            data = FileSource(files).read_now(stored.file or file, stored.offset, stored.length)
            return dequantize(stored.dtype, data, prod(stored.shape))
    return None


def _open_directory(folder: Path, shards: Mapping[str, list[str]] | None = None) -> Opened:
    """A Hugging Face directory, or those of its files with the tensors that they must hold."""
    objects = {name: read_json(folder / name) for name in _JSON_FILES if (folder / name).is_file()}
    if "config.json" not in objects:
        raise ModelFileError("the directory has no config.json; a Hugging Face model directory is needed")
    config = huggingface.read_config(objects["config.json"])
    shards = find_shards(folder) if shards is None else shards
    entries: dict[str, TensorEntry] = {}
    for file, names in shards.items():
        stored = read_checkpoint(folder / check_file_name(file), names)
        entries.update(huggingface.read_tensors(stored, file, config))
    return config, entries, {file: folder / file for file in shards}, from_directory(folder, objects)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a small JSON file; ``ModelFileError`` names the file."""
    return parse_object(read_limited(path, MAX_CONFIG_BYTES), path.name)


def hash_tensors(
    entries: Mapping[str, TensorEntry], files: Mapping[str, Path], report: Report
) -> dict[str, TensorEntry]:
    """The entries with the hashes of the bytes that lie there now."""
    total, done = sum(entry.length for entry in entries.values()), 0
    hashed: dict[str, TensorEntry] = {}
    source = FileSource(files)
    for name, entry in entries.items():
        digest = sha256()
        for position in range(0, entry.length, _HASHED_AT_ONCE):
            length = min(_HASHED_AT_ONCE, entry.length - position)
            digest.update(source.read_now(entry.file, entry.offset + position, length))
            done += length
            report(Progress("hash", done, total))
        hashed[name] = replace(entry, sha256=digest.hexdigest())
    return hashed
