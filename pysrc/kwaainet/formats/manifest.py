"""What a model consists of and where each tensor's bytes lie: all a node needs to fetch its blocks.

The project's own format: a relay writes it, tabs fetch it. Rule of the file: a manifest from the
network is untrusted, so everything is checked against the model's config when one is made; a
manifest that exists is sound, and bytes are believed only if they have the hash it states.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from math import prod
from typing import Any

from ..errors import InputError, IntegrityError, ModelFileError
from ..types import BlockRange
from .config import ModelConfig, block_name
from .json_text import parse_object
from .quants import STORAGE_TYPES, byte_length

VERSION = 1
MAX_JSON_BYTES = 8 << 20  # 1024 blocks take 3 MB
MAX_OFFSET = 1 << 48
MAX_TENSOR_BYTES = 8 << 30  # a 128k vocabulary of 16k numbers in float32
MAX_SPREAD = 16  # times the bytes of its numbers that a strided tensor may reach over
MAX_FILE_NAME = 200
MAX_READ = 2 << 20  # bytes of one fetch: enough to hide a round trip, little enough to lose
MAX_GAP = 64 << 10  # bytes between two tensors that are cheaper to read than to ask twice

_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_FORBIDDEN_IN_FILES = frozenset('/\\:%?#*"<>|')  # anything that could lead elsewhere on a disk or in a URL


def check_file_name(name: str) -> str:
    """``name`` if it is a plain file name that can only mean a file of the model's own folder."""
    if (
        not 0 < len(name) <= MAX_FILE_NAME
        or name.startswith(".")
        or not name.isprintable()
        or not _FORBIDDEN_IN_FILES.isdisjoint(name)
    ):
        raise ModelFileError(f"{name!r:.80} cannot be a model's file; a plain file name is needed")
    return name


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """``length`` bytes at ``offset`` of ``file``, stored as ``dtype`` (see ``quants``).

    ``shape`` is Hugging Face's ([out, in]); ``permuted`` says that rows are in GGUF's order for
    rotary embedding. ``sha256`` is lower-case hex, empty only until the bytes have been hashed.
    ``strides``, in numbers, are those of a PyTorch view whose numbers do not lie in order.
    """

    file: str
    offset: int
    length: int
    sha256: str
    dtype: str
    shape: tuple[int, ...]
    permuted: bool = False
    strides: tuple[int, ...] = ()

    @property
    def count(self) -> int:
        """Numbers in ``length`` bytes: those of the shape or, with strides, from its first to its last."""
        if not self.strides:
            return prod(self.shape)
        return 1 + sum((size - 1) * step for size, step in zip(self.shape, self.strides, strict=True))

    def check(self, shape: tuple[int, ...]) -> None:
        """``ModelFileError`` unless this is a sound entry of a tensor of ``shape``."""
        check_file_name(self.file)
        if self.shape != shape:
            raise ModelFileError(f"its shape is {list(self.shape)!r:.80}; the config asks for {list(shape)}")
        if not _DIGEST.fullmatch(self.sha256):
            raise ModelFileError(f"its sha256 {self.sha256!r:.80} is not 64 lower-case hex digits")
        whole = byte_length(self.dtype, prod(shape))
        if self.strides:
            self._check_strides(whole)
        expected = byte_length(self.dtype, self.count)
        if self.length != expected or max(expected, whole) > MAX_TENSOR_BYTES:
            raise ModelFileError(f"its length is {self.length}; {shape} of {self.dtype} take {expected}")
        if not 0 <= self.offset <= MAX_OFFSET:
            raise ModelFileError(f"its offset is {self.offset}; 0 to {MAX_OFFSET} is allowed")

    def _check_strides(self, whole: int) -> None:
        """``whole``: the bytes of the tensor's numbers."""
        if len(self.strides) != len(self.shape) or min(self.strides) < 0 or self.permuted:
            raise ModelFileError(f"its strides {list(self.strides)!r:.80} do not fit {list(self.shape)}")
        if STORAGE_TYPES[self.dtype].block != 1:
            raise ModelFileError(f"numbers of {self.dtype} come in blocks and have no strides")
        if self.length > MAX_SPREAD * whole:
            raise ModelFileError(
                f"its {whole} bytes are spread over {self.length}; {MAX_SPREAD} times as many are allowed"
            )


_ENTRY_TYPES = {"file": str, "offset": int, "length": int, "sha256": str, "dtype": str, "permuted": bool}


@dataclass(frozen=True, slots=True)
class ModelManifest:
    """A whole model: ``name`` is its default prefix in the DHT, ``tensors`` has every tensor once.

    Raises ``ModelFileError`` when made of anything else, naming the tensor.
    """

    name: str
    config: ModelConfig
    tensors: Mapping[str, TensorEntry]

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ModelFileError(f"{self.name!r:.80} cannot name a model; use A-Z a-z 0-9 _ - only")
        shapes = self.config.tensor_shapes()
        if missing := shapes.keys() - self.tensors.keys():
            raise ModelFileError(f"the model lacks {len(missing)} tensors, among them {min(missing)}")
        if extra := self.tensors.keys() - shapes.keys():
            raise ModelFileError(f"the model has {len(extra)} unknown tensors, among them {min(extra):.80}")
        for name, shape in shapes.items():
            try:
                self.tensors[name].check(shape)
            except ModelFileError as error:
                raise ModelFileError(f"tensor {name}: {error}") from None

    def block(self, index: int) -> dict[str, TensorEntry]:
        """Block ``index``'s tensors by Hugging Face's suffix (``self_attn.q_proj.weight``)."""
        if not 0 <= index < self.config.num_hidden_layers:
            raise InputError(f"block {index} is not one of {self.name}'s {self.config.num_hidden_layers}")
        return {suffix: self.tensors[block_name(index, suffix)] for suffix in self.config.block_shapes()}

    def span(self, blocks: BlockRange) -> dict[str, TensorEntry]:
        """The tensors of a range of blocks by their full names, in the order of the blocks."""
        return {
            block_name(index, suffix): entry
            for index in range(blocks.start, blocks.end)
            for suffix, entry in self.block(index).items()
        }

    def to_json(self) -> str:
        """As JSON text that ``from_json`` takes."""
        tensors = {
            name: {key: getattr(entry, key) for key in _ENTRY_TYPES}
            | {"shape": list(entry.shape)}
            | ({"strides": list(entry.strides)} if entry.strides else {})  # others do without
            for name, entry in self.tensors.items()
        }
        value = {"version": VERSION, "name": self.name, "config": self.config.to_json(), "tensors": tensors}
        return json.dumps(value, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> ModelManifest:
        """From a peer's JSON; ``ModelFileError`` says what is wrong with it."""
        if len(text) > MAX_JSON_BYTES:
            raise ModelFileError(f"model manifest of {len(text)} bytes; {MAX_JSON_BYTES} are allowed")
        value = parse_object(text, "model manifest")
        if value.get("version") != VERSION:
            raise ModelFileError(f"model manifest is not a JSON object of version {VERSION}")
        name, tensors = value.get("name"), value.get("tensors")
        if not isinstance(name, str) or not isinstance(tensors, dict):
            raise ModelFileError("model manifest: name must be a string and tensors an object")
        config = ModelConfig.from_json(value.get("config"))
        return cls(name, config, {key: _entry_from_json(key, item) for key, item in tensors.items()})


def _entry_from_json(name: str, value: Any) -> TensorEntry:
    where = f"model manifest, tensor {name:.80}"
    if not isinstance(value, dict) or value.keys() - {"strides"} != {*_ENTRY_TYPES, "shape"}:
        raise ModelFileError(
            f"{where}: must have {', '.join(_ENTRY_TYPES)} and shape, may have strides, nothing else"
        )
    for key, kind in _ENTRY_TYPES.items():
        if type(value[key]) is not kind:
            raise ModelFileError(
                f"{where}: {key} is {value[key]!r:.80}, which is not of type {kind.__name__}"
            )
    lists = {key: value.get(key, []) for key in ("shape", "strides")}
    for key, sizes in lists.items():
        if not isinstance(sizes, list) or not all(type(size) is int for size in sizes):
            raise ModelFileError(f"{where}: {key} is {sizes!r:.80}, which is not a list of integers")
    return TensorEntry(**{**value, **{key: tuple(sizes) for key, sizes in lists.items()}})


@dataclass(frozen=True, slots=True)
class Piece:
    """``length`` bytes at ``at`` of a read are those at ``position`` of tensor ``name``."""

    name: str
    at: int
    position: int
    length: int


@dataclass(frozen=True, slots=True)
class Read:
    """One range of a file to fetch, and the tensors' pieces in it."""

    file: str
    offset: int
    length: int
    pieces: tuple[Piece, ...]


def fetch_plan(
    tensors: Mapping[str, TensorEntry],
    *,
    have: Mapping[str, int] | None = None,
    max_read: int = MAX_READ,
    max_gap: int = MAX_GAP,
) -> list[Read]:
    """Few reads of at most ``max_read`` bytes that cover ``tensors``, in the files' order.

    Neighbours at most ``max_gap`` bytes apart share a read; a larger tensor is cut. ``have`` are bytes of a
    tensor, from its start on, that need not be read.
    """
    have = have or {}
    plan: list[Read] = []
    for name, entry in sorted(tensors.items(), key=lambda item: (item[1].file, item[1].offset)):
        for position in range(have.get(name, 0), entry.length, max_read):
            length = min(max_read, entry.length - position)
            offset = entry.offset + position
            last = plan[-1] if plan else None
            if last is not None and _joins(last, entry.file, offset, length, max_read, max_gap):
                piece = Piece(name, offset - last.offset, position, length)
                end = max(last.length, offset + length - last.offset)
                plan[-1] = Read(last.file, last.offset, end, (*last.pieces, piece))
            else:
                plan.append(Read(entry.file, offset, length, (Piece(name, 0, position, length),)))
    return plan


def _joins(last: Read, file: str, offset: int, length: int, max_read: int, max_gap: int) -> bool:
    gap = offset - (last.offset + last.length)
    fits = offset >= last.offset and offset + length - last.offset <= max_read
    return file == last.file and gap <= max_gap and fits


class Assembly:
    """Puts the answers to a ``fetch_plan`` together and checks each tensor's hash.

    ``parts`` are the bytes that the plan was told not to read.
    """

    def __init__(self, tensors: Mapping[str, TensorEntry], parts: Mapping[str, bytes] | None = None) -> None:
        self._entries = dict(tensors)
        self._buffers: dict[str, bytearray] = {}
        self._lacking = {name: entry.length for name, entry in tensors.items()}
        for name, part in (parts or {}).items():
            entry = self._entries[name]
            self._buffers[name] = bytearray(part[: entry.length].ljust(entry.length, b"\0"))
            self._lacking[name] -= min(len(part), entry.length)

    def receive(self, read: Read, data: bytes) -> Iterator[tuple[str, bytes]]:
        """The tensors that ``data``, the bytes of ``read``, completes.

        Raises ``IntegrityError`` if a tensor has not the hash its entry states.
        """
        view = memoryview(data)
        for piece in read.pieces:
            chunk = view[piece.at : piece.at + piece.length]
            if len(chunk) != piece.length:
                raise IntegrityError(f"{read.file}: got {len(data)} bytes instead of {read.length}")
            self._lacking[piece.name] -= piece.length
            entry = self._entries[piece.name]
            if piece.length == entry.length:
                complete = bytes(chunk)
            else:
                buffer = self._buffers.setdefault(piece.name, bytearray(entry.length))
                buffer[piece.position : piece.position + piece.length] = chunk
                if self._lacking[piece.name]:
                    continue
                complete = bytes(self._buffers.pop(piece.name))
            yield piece.name, verify(piece.name, entry, complete)

    def missing(self) -> Iterable[str]:
        """Names of the tensors not complete yet."""
        return [name for name, lacking in self._lacking.items() if lacking]


def verify(name: str, entry: TensorEntry, data: bytes) -> bytes:
    """``data`` if it is what ``entry`` states; ``IntegrityError`` otherwise."""
    if len(data) != entry.length or sha256(data).hexdigest() != entry.sha256:
        raise IntegrityError(f"tensor {name}: its {len(data)} bytes do not have the sha256 {entry.sha256}")
    return data
