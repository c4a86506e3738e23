"""PyTorch's files (``.pt``, ``.pth``, ``.bin``): where the tensors of a state dict lie.

Follows ``torch/serialization.py`` and ``torch/_utils.py``: the zip archive (since 1.6) and the stream
of pickles before it. Rule of the file: a tensor is a place in a storage that the file really holds,
also where it is a view of it with strides of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any, TypeVar

from ..errors import ModelFileError, Truncated, UnsupportedModel
from . import pickles
from .pickles import Call, Constant, unpickle
from .reading import Reading
from .stored import MAX_DIMENSIONS, MAX_SIZE, MAX_TENSORS, StoredTensor, stored_length, type_problem
from .zip_directory import Member, find_data, read_directory

ZIP_MAGIC, PICKLE_MAGIC = b"PK\3\4", b"\x80"
WRAPPERS = ("state_dict", "model_state_dict", "model", "module")  # keys that training scripts use
MAX_WRAPPERS = 4  # one inside the other
_LEGACY_MAGIC, _LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001
_FIRST_READ = 1 << 18  # bytes of a legacy file, whose pickles of names come first

_T = TypeVar("_T")

_STORAGES = {
    **{"Double": "F64", "Float": "F32", "Half": "F16", "BFloat16": "BF16", "Long": "I64", "Int": "I32"},
    **{"Short": "I16", "Char": "I8", "Byte": "U8", "Bool": "BOOL", "Untyped": "U8"},
    **{"ComplexFloat": "C64", "ComplexDouble": "C128"},
}
_TYPES = {
    **{"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64"},
    **{"int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL", "uint16": "U16"},
    **{"uint32": "U32", "uint64": "U64", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2"},
    **{"float8_e4m3fnuz": "F8_E4M3FNUZ", "float8_e5m2fnuz": "F8_E5M2FNUZ", "float8_e8m0fnu": "F8_E8M0"},
    **{"complex64": "C64", "complex128": "C128"},
}


@dataclass(frozen=True, slots=True)
class _Storage:
    """``count`` numbers of ``dtype`` from number ``first`` on of the file's storage ``key``."""

    key: str
    dtype: str
    count: int
    whole: int  # numbers in all of the file's storage
    first: int = 0


@dataclass(frozen=True, slots=True)
class _Tensor:
    storage: _Storage
    dtype: str
    offset: int  # numbers of ``dtype`` from the storage's begin
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Place:
    offset: int  # in the file
    length: int


def read_tensors(size: int) -> Reading[dict[str, StoredTensor]]:
    """The tensors of the state dict in a file of ``size`` bytes, which may lie below ``WRAPPERS``.

    Raises ``ModelFileError`` for a broken file, and ``UnsupportedModel`` naming what a file of
    weights does not need: foreign classes, sparse or quantized tensors, compressed members.
    """
    if size < 4:
        raise ModelFileError(f"truncated: a PyTorch file has more than {size} bytes")
    head = yield 0, 4
    if head == ZIP_MAGIC:
        return (yield from _read_zip(size))
    if head[:1] == PICKLE_MAGIC:
        return (yield from _read_stream(size))
    raise ModelFileError(f"not a PyTorch file: it begins with {head!r}, neither a zip archive nor a pickle")


# --- the zip archive --------------------------------------------------------------------------------


def _read_zip(size: int) -> Reading[dict[str, StoredTensor]]:
    members = yield from read_directory(size)
    found = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(found) != 1:
        raise ModelFileError(f"not a PyTorch file: the zip archive has {len(found)} data.pkl")
    root = found[0].removesuffix("data.pkl")
    order = members.get(root + "byteorder")
    if order is not None and (yield from _content(order, size)) != b"little":
        raise UnsupportedModel("the numbers are not little-endian; save the file on a common machine")
    reader = _Pickles()
    data = yield from _content(members[found[0]], size)
    tensors, _ = reader.read(data, 0, state_dict)
    places: dict[str, _Place] = {}
    for storage in {tensor.storage.key: tensor.storage for tensor in tensors.values()}.values():
        member = members.get(f"{root}data/{storage.key}")
        if member is None:
            raise ModelFileError(f"the zip archive lacks {root:.80}data/{storage.key:.80}")
        places[storage.key] = _Place((yield from find_data(member, size)), member.length)
    return _placed(tensors, places)


def _content(member: Member, size: int) -> Reading[bytes]:
    if member.length > pickles.MAX_BYTES:
        raise ModelFileError(f"{member.name:.80} has {member.length} bytes; {pickles.MAX_BYTES} are allowed")
    return (yield (yield from find_data(member, size)), member.length)


# --- the stream of pickles --------------------------------------------------------------------------


def _read_stream(size: int) -> Reading[dict[str, StoredTensor]]:
    wanted = _FIRST_READ
    while True:
        prefix = yield 0, min(wanted, size)
        try:
            tensors, storages, keys, position = _stream_head(prefix)
            break
        except Truncated as more:
            if more.needed > size or len(prefix) == size:
                raise ModelFileError(f"truncated: the file ends at byte {size} inside its pickles") from None
            wanted = max(more.needed, 2 * wanted)
    places: dict[str, _Place] = {}
    for key in keys:
        if key not in storages or key in places:
            raise ModelFileError(f"storage {key:.80} of the file is named twice or by no tensor")
        storage = storages[key]
        length = stored_length(storage.dtype, storage.whole)
        if position + 8 + length > size:
            raise ModelFileError(f"truncated: storage {key:.80} ends after the file's {size} bytes")
        count = int.from_bytes((yield position, 8), "little", signed=True)
        if count != storage.whole:
            raise ModelFileError(f"storage {key:.80} has {count} numbers, not the {storage.whole} stated")
        places[key] = _Place(position + 8, length)
        position += 8 + length
    return _placed(tensors, places)


def _stream_head(prefix: bytes) -> tuple[dict[str, _Tensor], dict[str, _Storage], list[str], int]:
    reader = _Pickles()
    _, position = reader.read(prefix, 0, lambda magic: _check_number(magic, _LEGACY_MAGIC))
    _, position = reader.read(prefix, position, lambda version: _check_number(version, _LEGACY_VERSION))
    _, position = reader.read(prefix, position, _check_system)
    tensors, position = reader.read(prefix, position, state_dict)
    keys, position = reader.read(prefix, position, _storage_keys)
    return tensors, reader.storages, keys, position


def _check_number(value: Any, expected: int) -> None:
    if value != expected:
        raise ModelFileError("not a PyTorch file: a pickle without PyTorch's magic number and version")


def _check_system(value: Any) -> None:
    if not isinstance(value, dict) or value.get("little_endian") is not True:
        raise UnsupportedModel("the numbers are not little-endian; save the file on a common machine")


def _storage_keys(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(key, str) for key in value):
        raise ModelFileError("the file's list of storages is no list of names")
    return list(value)


# --- what the pickles build -------------------------------------------------------------------------


class _Pickles:
    """Reads the pickles of one file; ``storages`` collects what they name."""

    def __init__(self) -> None:
        self.storages: dict[str, _Storage] = {}

    def read(self, data: bytes, position: int, finish: Callable[[Any], _T]) -> tuple[_T, int]:
        return unpickle(data, position, _NAMES, self._load, finish)

    def _load(self, pid: Any) -> _Storage:
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
            raise UnsupportedModel(
                "the pickle refers to something beside storages, such as a module's source"
            )
        kind, key, _, count = pid[1:5]
        dtype = _STORAGES.get(kind.name) if isinstance(kind, Constant) else None
        if dtype is None or not isinstance(key, str) or not _is_size(count):
            raise ModelFileError("the pickle has a storage without a known type, a key or a size")
        storage = _Storage(key, dtype, count, count)
        known = self.storages.setdefault(key, storage)
        if stored_length(known.dtype, known.whole) != stored_length(dtype, count):
            raise ModelFileError(f"storage {key:.80} is stated with two different sizes")
        view = pid[5] if len(pid) == 6 else None
        return storage if view is None else _view(storage, view)


def _view(storage: _Storage, view: Any) -> _Storage:
    """PyTorch before 0.4 saved storages that are parts of others."""
    if not isinstance(view, tuple) or len(view) != 3 or not (_is_size(view[1]) and _is_size(view[2])):
        raise ModelFileError(f"storage {storage.key:.80} is a part of another in an unknown way")
    if view[1] + view[2] > storage.whole:
        raise ModelFileError(
            f"storage {storage.key:.80} has {storage.whole} numbers; a part of it ends after"
        )
    return replace(storage, first=view[1], count=view[2])


def state_dict(root: Any) -> dict[str, _Tensor]:
    """The tensors by name in what a file holds; anything else beside them is left out."""
    for _ in range(MAX_WRAPPERS):
        if not isinstance(root, dict):
            break
        tensors = {
            name: item for name, item in root.items() if isinstance(name, str) and isinstance(item, _Tensor)
        }
        if len(tensors) > MAX_TENSORS:
            raise ModelFileError(f"the file has {len(tensors)} tensors; {MAX_TENSORS} are allowed")
        inner = [root[key] for key in WRAPPERS if isinstance(root.get(key), dict)]
        if tensors or not inner:
            return tensors
        root = inner[0]
    kind = type(root).__name__.strip("_")
    raise ModelFileError(f"the file holds a {kind} where a dictionary of tensors should be")


def _placed(tensors: Mapping[str, _Tensor], places: Mapping[str, _Place]) -> dict[str, StoredTensor]:
    """The tensors in the file. Storages may be shared by tensors, but not lie on one another."""
    end, before = 0, ""
    for key, place in sorted(places.items(), key=lambda item: (item[1].offset, item[1].length)):
        if place.offset < end:
            raise ModelFileError(f"storages {before:.80} and {key:.80} overlap at byte {place.offset}")
        end, before = place.offset + place.length, key
    for name, tensor in tensors.items():
        if tensor.storage.key not in places:
            raise ModelFileError(
                f"the file has no storage {tensor.storage.key:.80}, which tensor {name:.80} needs"
            )
    return {name: _stored(name, tensor, places[tensor.storage.key]) for name, tensor in tensors.items()}


def _stored(name: str, tensor: _Tensor, place: _Place) -> StoredTensor:
    storage, count = tensor.storage, prod(tensor.shape)
    if stored_length(storage.dtype, storage.whole) != place.length:
        raise ModelFileError(
            f"storage {storage.key:.80} has {place.length} bytes, not {storage.whole} numbers"
        )
    reach = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    begin = stored_length(tensor.dtype, tensor.offset)
    end = begin + (stored_length(tensor.dtype, reach) if count else 0)
    if end > stored_length(storage.dtype, storage.count):
        raise ModelFileError(
            f"tensor {name:.80} reaches byte {end} of its storage {storage.key:.80}, after its end"
        )
    strides = () if _is_contiguous(tensor.shape, tensor.strides) else tensor.strides
    offset = place.offset + stored_length(storage.dtype, storage.first) + begin
    return StoredTensor(tensor.dtype, tensor.shape, offset, end - begin, type_problem(tensor.dtype), strides)


def _is_contiguous(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    step = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size > 1 and stride != step:
            return prod(shape) == 0
        step *= size
    return True


# --- the names that weights need --------------------------------------------------------------------


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, dtype: str | None = None) -> _Tensor:
    if (
        not isinstance(storage, _Storage)
        or not _is_size(offset)
        or not (_are_sizes(shape) and _are_sizes(strides))
    ):
        raise ModelFileError("the pickle builds a tensor of no storage, or with sizes that cannot be")
    if len(shape) != len(strides):
        raise ModelFileError(f"the pickle builds a tensor of {len(shape)} sizes and {len(strides)} strides")
    return _Tensor(storage, dtype or storage.dtype, offset, tuple(shape), tuple(strides))


def _tensor_v2(arguments: tuple[Any, ...]) -> _Tensor:
    if not 4 <= len(arguments) <= 7:
        raise ModelFileError(f"the pickle builds a tensor of {len(arguments)} arguments")
    if len(arguments) == 7 and arguments[6]:
        raise UnsupportedModel("the pickle has a tensor that is negated or conjugated; save it resolved")
    storage, offset, shape, strides = arguments[:4]
    return _tensor(storage, offset, shape, strides)


def _tensor_v3(arguments: tuple[Any, ...]) -> _Tensor:
    if not 7 <= len(arguments) <= 8 or not isinstance(arguments[6], Constant):
        raise ModelFileError("the pickle builds a tensor without a type of numbers")
    dtype = _TYPES.get(arguments[6].name)
    if dtype is None or (len(arguments) == 8 and arguments[7]):
        raise UnsupportedModel(
            f"the pickle has a tensor of torch.{arguments[6].name:.40}, which is not supported"
        )
    storage, offset, shape, strides = arguments[:4]
    return _tensor(storage, offset, shape, strides, dtype)


def _parameter(arguments: tuple[Any, ...]) -> _Tensor:
    if not arguments or not isinstance(arguments[0], _Tensor):
        raise ModelFileError("the pickle has a parameter that is no tensor")
    return arguments[0]


def _from_type(arguments: tuple[Any, ...]) -> Any:
    """A tensor with attributes: (function, class, its arguments, attributes)."""
    if len(arguments) != 4 or not isinstance(arguments[0], Call) or not isinstance(arguments[2], tuple):
        raise ModelFileError("the pickle builds a tensor of a class in an unknown way")
    if arguments[0].run is _from_type:
        raise ModelFileError("the pickle builds a tensor of a class of a class")
    return arguments[0].run(arguments[2])


def _ordered_dict(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    pairs = arguments[0] if len(arguments) == 1 else []
    if len(arguments) > 1 or not isinstance(pairs, list | tuple):
        raise ModelFileError("the pickle builds an OrderedDict of something else than pairs")
    built: dict[Any, Any] = {}
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not isinstance(pair[0], str | int):
            raise ModelFileError("the pickle builds an OrderedDict of something else than pairs")
        built[pair[0]] = pair[1]
    return built


def _size(arguments: tuple[Any, ...]) -> tuple[int, ...]:
    if len(arguments) != 1 or not _are_sizes(arguments[0]):
        raise ModelFileError("the pickle builds a torch.Size of something else than sizes")
    return tuple(arguments[0])


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < MAX_SIZE


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) <= MAX_DIMENSIONS and all(map(_is_size, value))


_CALLS: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    "collections.OrderedDict": _ordered_dict,
    "torch.Size": _size,
    "torch._utils._rebuild_tensor": _tensor_v2,
    "torch._utils._rebuild_tensor_v2": _tensor_v2,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _from_type,
}
_NAMES: dict[str, Call | Constant] = {
    **{name: Call(run) for name, run in _CALLS.items()},
    **{f"torch.{name}Storage": Constant(name) for name in _STORAGES},
    **{f"torch.storage.{name}Storage": Constant(name) for name in _STORAGES},
    **{f"torch.{name}": Constant(name) for name in _TYPES},
    **{name: Constant(name) for name in ("torch.Tensor", "torch.nn.parameter.Parameter")},
}
