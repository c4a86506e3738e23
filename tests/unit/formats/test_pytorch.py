"""Both of PyTorch's file formats give the places of their tensors; whatever else is in one is refused."""

from __future__ import annotations

import argparse
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any

import numpy as np
import pytest

from kwaainet.errors import KwaaiNetError, ModelFileError, UnsupportedModel
from kwaainet.formats.manifest import TensorEntry
from kwaainet.formats.weights import Weight

from .torch_files import LEGACY, Storage, Tensor, contents, legacy_file, read, tensor, zip_file

ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "half": np.ones(5, np.float16),
    "brain": np.arange(4, dtype=np.uint16),
    "scalar": np.array(3.0),
    "empty": np.zeros((0, 4), np.float32),
    "steps": np.arange(3, dtype=np.int64),
}
DTYPES = {"a": "F32", "half": "F16", "brain": "BF16", "scalar": "F64", "empty": "F32", "steps": "I64"}
Write = Callable[..., bytes]
both = pytest.mark.parametrize("write", [zip_file, legacy_file])


def shared() -> Storage:
    return Storage("Float", np.arange(12, dtype=np.float32).tobytes(), 12)


@both
@pytest.mark.parametrize(
    "wrap", [lambda d: d, lambda d: {"epoch": 3, "model": {"state_dict": OrderedDict(d)}}]
)
def test_tensors_of_many_types_lie_where_they_were_written(write: Write, wrap: Callable[[Any], Any]) -> None:
    value = {name: tensor(array, parameter=name == "a") for name, array in ARRAYS.items()}
    data = write(wrap({**value, "note": "kept out", "lr": 0.1, "sizes": [1, (2, None, True)]}))
    tensors = read(data)
    assert {name: one.dtype for name, one in tensors.items()} == DTYPES
    assert {name: one.shape for name, one in tensors.items()} == {n: a.shape for n, a in ARRAYS.items()}
    assert contents(data, tensors) == {name: array.tobytes() for name, array in ARRAYS.items()}
    assert "I64" in tensors["steps"].problem
    assert not tensors["a"].problem


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_reads_alike(protocol: int) -> None:
    data = zip_file({name: tensor(array) for name, array in ARRAYS.items()}, protocol)
    assert contents(data, read(data)) == {name: array.tobytes() for name, array in ARRAYS.items()}


@both
def test_views_of_one_storage(write: Write) -> None:
    whole = shared()
    data = write(
        {
            "rows": Tensor(whole, 4, (2, 4), (4, 1)),
            "same": Tensor(whole, 0, (12,), (1,)),
            "one column": Tensor(whole, 2, (1, 3), (99, 1)),
            "turned": Tensor(whole, 0, (4, 3), (1, 4)),
            "repeated": Tensor(whole, 0, (1000, 12), (0, 1)),
        }
    )
    tensors, numbers = read(data), np.arange(12, dtype=np.float32)
    got = contents(data, tensors)
    assert got["rows"] == numbers[4:].tobytes()
    assert got["same"] == numbers.tobytes()
    assert got["one column"] == numbers[2:5].tobytes()
    assert not any(one.problem for one in tensors.values())
    strides = {name: one.strides for name, one in tensors.items() if one.strides}
    assert strides == {"turned": (1, 4), "repeated": (0, 1)}
    turned = tensors["turned"]
    entry = TensorEntry("f", turned.offset, turned.length, "", turned.dtype, (4, 3), strides=turned.strides)
    expected = numbers.reshape(3, 4).T
    assert Weight.stored(entry, got["turned"]).data == np.ascontiguousarray(expected).tobytes()


def test_types_that_have_no_storage_class() -> None:
    storage = Storage("Untyped", bytes(range(6)), 6)
    tensors = read(zip_file({"f": Tensor(storage, 2, (4,), (1,), dtype="float8_e4m3fn")}))
    assert (tensors["f"].dtype, tensors["f"].length) == ("F8_E4M3", 4)
    assert not tensors["f"].problem


def test_parts_of_storages_as_before_pytorch_0_4() -> None:
    data = legacy_file({"part": Tensor(Storage(**{**vars(shared()), "view": ("v", 3, 6)}), 1, (4,), (1,))})
    assert contents(data, read(data))["part"] == np.arange(4, 8, dtype=np.float32).tobytes()
    with pytest.raises(ModelFileError, match="a part of it ends after"):
        read(legacy_file({"part": Tensor(Storage(**{**vars(shared()), "view": ("v", 8, 6)}), 0, (4,), (1,))}))


@both
@pytest.mark.parametrize(
    ("value", "name"),
    [
        (print, r"builtins\.print|__builtin__\.print"),
        (argparse.Namespace(lr=1), r"argparse\.Namespace"),
        (np.float64(1.0), r"numpy\.\S+"),
        ({1, 2}, r"builtins\.set|__builtin__\.set"),
        (b"bytes", r"_codecs\.encode"),
    ],
)
def test_every_other_global_is_refused_by_its_name(write: Write, value: Any, name: str) -> None:
    with pytest.raises(UnsupportedModel, match=f"asks for ({name}), which no weights need"):
        read(write({"a": tensor(ARRAYS["a"]), "more": value}))


@both
@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"offset": 5}, r"tensor t reaches byte 5\d of its storage 0, after its end"),
        ({"shape": (3, 5), "strides": (5, 1)}, "reaches byte 60"),
        ({"strides": (1 << 40, 1)}, "reaches byte"),
        ({"shape": (1 << 40, 1 << 40)}, "reaches byte"),
        ({"shape": (1 << 48, 4)}, "sizes that cannot be"),
        ({"shape": (-1, 4)}, "sizes that cannot be"),
        ({"offset": -1}, "sizes that cannot be"),
        ({"offset": True}, "sizes that cannot be"),
        ({"shape": (2, 4.0)}, "sizes that cannot be"),
        ({"shape": (1,) * 9, "strides": (1,) * 9}, "sizes that cannot be"),
        ({"strides": (1,)}, "2 sizes and 1 strides"),
        ({"storage": 7}, "tensor of no storage"),
        ({"more": (1, 2, 3)}, "of 9 arguments"),
    ],
)
def test_tensors_that_cannot_be_are_refused(write: Write, broken: dict[str, Any], message: str) -> None:
    sound: dict[str, Any] = {"storage": shared(), "offset": 0, "shape": (2, 4), "strides": (4, 1)}
    with pytest.raises(ModelFileError, match=message):
        read(write({"t": Tensor(**sound | broken)}))


def test_storages_that_the_file_does_not_hold() -> None:
    whole = {"t": tensor(ARRAYS["a"])}
    with pytest.raises(ModelFileError, match="storage 0 has 4 bytes, not 6 numbers"):
        read(zip_file(whole, **{"data/0": b"1234"}))
    many = {"t": Tensor(Storage("Float", b"1234", 1 << 40), 0, (2,), (1,))}
    with pytest.raises(ModelFileError, match="not 1099511627776 numbers"):
        read(zip_file(many))
    with pytest.raises(ModelFileError, match="truncated: storage 0 ends after"):
        read(legacy_file(many))
    with pytest.raises(ModelFileError, match="has 6 numbers, not the 2 stated"):
        read(
            legacy_file({"t": Tensor(Storage("Float", bytes(24), 2), 0, (2,), (1,))})[:-32]
            + (6).to_bytes(8, "little")
            + bytes(24)
        )


def test_a_storage_that_the_end_does_not_list_is_missed() -> None:
    data = legacy_file({"t": tensor(np.ones(4, np.float32))})
    listed = pickle.dumps(["0"], 2)
    assert listed in data
    with pytest.raises(ModelFileError, match="no storage 0, which tensor t needs"):
        read(data.replace(listed, pickle.dumps([], 2)))


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (b"", ModelFileError, "truncated"),
        (b"GGUF....", ModelFileError, "not a PyTorch file: it begins with b'GGUF'"),
        (pickle.dumps({"a": 1}, 2), ModelFileError, "magic number"),
        (b"".join(pickle.dumps(one, 2) for one in (1, 2, 3, {}, [])), ModelFileError, "magic number"),
        (legacy_file({}, [*LEGACY[:2], {"little_endian": False}]), UnsupportedModel, "not little-endian"),
        (zip_file({}, byteorder=b"big"), UnsupportedModel, "not little-endian"),
        (zip_file([tensor(ARRAYS["a"])]), ModelFileError, "holds a list where a dictionary"),
        (zip_file({}, **{"data.pkl": b"\x80\x07."}), UnsupportedModel, "pickle protocol 7"),
        (zip_file({}, **{"data.pkl": b"(I1\n."}), UnsupportedModel, "opcode 0x49"),
    ],
)
def test_other_files(data: bytes, error: type[KwaaiNetError], message: str) -> None:
    with pytest.raises(error, match=re.compile(message, re.DOTALL)):
        read(data)


def test_a_file_that_contains_itself() -> None:
    loop: dict[str, Any] = {}
    loop["model"] = loop
    with pytest.raises(ModelFileError, match="holds a dict where a dictionary of tensors"):
        read(zip_file(loop))


@both
def test_damaged_files_raise_only_our_errors(write: Write) -> None:
    data = write({name: tensor(array) for name, array in ARRAYS.items()})
    random = Random(4)
    for _ in range(200):
        broken = bytearray(data[: random.randrange(4, len(data))] if random.random() < 0.2 else data)
        for _ in range(random.randrange(4)):
            broken[random.randrange(len(broken))] = random.randrange(256)
        with suppress(KwaaiNetError):
            for one in read(bytes(broken)).values():
                assert one.problem or one.offset + one.length <= len(broken)
