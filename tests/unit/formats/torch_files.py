"""Writes PyTorch files without PyTorch: the standard pickler and zip writer, and stand-ins for its names."""

from __future__ import annotations

import io
import pickle
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from numpy.typing import NDArray

from kwaainet.formats.pytorch import read_tensors
from kwaainet.formats.stored import StoredTensor

KINDS = {"<f4": "Float", "<f2": "Half", "<f8": "Double", "<i8": "Long", "|b1": "Bool", "<u2": "BFloat16"}
LEGACY = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}]


def _torch_function(module: str, name: str) -> Callable[..., Any]:
    def stand_in(*arguments: Any) -> None: ...

    stand_in.__module__, stand_in.__qualname__, stand_in.__name__ = module, name, name
    return stand_in


FUNCTIONS = {
    name: _torch_function("torch._utils", name)
    for name in ("_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_parameter")
}
CLASSES = {
    **{f"{kind}Storage": type(f"{kind}Storage", (), {"__module__": "torch"}) for kind in KINDS.values()},
    "UntypedStorage": type("UntypedStorage", (), {"__module__": "torch"}),
    "float8_e4m3fn": _torch_function("torch", "float8_e4m3fn"),
}


@contextmanager
def _as_if_installed() -> Iterator[None]:
    modules = {"torch": ModuleType("torch"), "torch._utils": ModuleType("torch._utils")}
    vars(modules["torch"]).update(CLASSES)
    vars(modules["torch._utils"]).update(FUNCTIONS)
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


@dataclass
class Storage:
    """A storage to write; its key is its place in ``Writer.storages``."""

    kind: str
    data: bytes
    count: int
    view: Any = None


@dataclass
class Tensor:
    """Pickles as PyTorch's tensors do."""

    storage: Storage
    offset: Any
    shape: Any
    strides: Any
    dtype: str | None = None
    parameter: bool = False
    more: tuple[Any, ...] = ()

    def __reduce__(self) -> Any:
        if self.parameter:
            plain = Tensor(self.storage, self.offset, self.shape, self.strides, self.dtype)
            return FUNCTIONS["_rebuild_parameter"], (plain, True, OrderedDict())
        arguments = (self.storage, self.offset, self.shape, self.strides, False, OrderedDict())
        if self.dtype is None:
            return FUNCTIONS["_rebuild_tensor_v2"], (*arguments, *self.more)
        return FUNCTIONS["_rebuild_tensor_v3"], (*arguments, CLASSES[self.dtype], *self.more)


def tensor(array: NDArray[Any], parameter: bool = False, kind: str = "") -> Tensor:
    """``array`` in a storage of its own; uint16 stands for bfloat16."""
    storage = Storage(kind or KINDS[array.dtype.str], array.tobytes("A"), array.size)
    strides = tuple(stride // array.itemsize for stride in array.strides)
    return Tensor(storage, 0, array.shape, strides, parameter=parameter)


class Writer(pickle.Pickler):
    """A pickler that writes storages as persistent ids, and collects them."""

    def __init__(self, file: io.BytesIO, protocol: int, legacy: bool) -> None:
        super().__init__(file, protocol)
        self.storages: list[Storage] = []
        self._legacy = legacy

    def persistent_id(self, value: Any) -> Any:
        if not isinstance(value, Storage):
            return None
        if not any(value is known for known in self.storages):
            self.storages.append(value)
        key = next(str(index) for index, known in enumerate(self.storages) if known is value)
        pid = ("storage", CLASSES[f"{value.kind}Storage"], key, "cpu", value.count)
        return (*pid, value.view) if self._legacy else pid


def pickled(value: Any, protocol: int = 2, legacy: bool = False) -> tuple[bytes, list[Storage]]:
    """One pickle and the storages it names."""
    with _as_if_installed():
        file = io.BytesIO()
        writer = Writer(file, protocol, legacy)
        writer.dump(value)
    return file.getvalue(), writer.storages


def zip_file(value: Any, protocol: int = 2, **members: bytes) -> bytes:
    """As ``torch.save`` writes since 1.6; ``members`` are added or take another's place."""
    data, storages = pickled(value, protocol)
    names = {"data.pkl": data, "byteorder": b"little", "version": b"3\n"}
    names |= {f"data/{key}": storage.data for key, storage in enumerate(storages)} | members
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in names.items():
            archive.writestr(f"archive/{name}", content)
    return file.getvalue()


def legacy_file(value: Any, head: list[Any] = LEGACY) -> bytes:
    """As ``torch.save`` wrote before 1.6."""
    data, storages = pickled(value, legacy=True)
    start = b"".join(pickle.dumps(item, 2) for item in head)
    keys = pickle.dumps([str(key) for key in range(len(storages))], 2)
    whole = [storage.count.to_bytes(8, "little") + storage.data for storage in storages]
    return start + data + keys + b"".join(whole)


def drive(reading: Generator[tuple[int, int], bytes, Any], data: bytes) -> Any:
    """The result of a reading of ``data``; every range it asks for lies inside."""
    try:
        offset, length = next(reading)
        while True:
            assert 0 <= offset <= offset + length <= len(data)
            offset, length = reading.send(data[offset : offset + length])
    except StopIteration as done:
        return done.value


def read(data: bytes) -> dict[str, StoredTensor]:
    """The tensors of a PyTorch file."""
    found: dict[str, StoredTensor] = drive(read_tensors(len(data)), data)
    return found


def contents(data: bytes, tensors: Mapping[str, StoredTensor]) -> dict[str, bytes]:
    """Each tensor's bytes."""
    return {name: data[one.offset : one.offset + one.length] for name, one in tensors.items()}
