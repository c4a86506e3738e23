"""The ONNX writer against messages put together by hand, and against onnxruntime's reading of them."""

import pytest

from kwaainet.inference.onnx import IR_VERSION, OPSET, ElementType, external, model, node, value
from kwaainet.testing.engine import read_graph


def test_a_node_is_written_field_by_field() -> None:
    assert node("Add", ["a", "b"], ["c"]) == b"\x0a\x01a\x0a\x01b\x12\x01c\x1a\x01c\x22\x03Add"


def test_a_domain_follows_and_skipped_names_stay_empty() -> None:
    written = node("Op", ["a", "", "b"], ["", "y"], "com.microsoft")
    assert written == b"\x0a\x01a\x0a\x00\x0a\x01b\x12\x00\x12\x01y\x1a\x01y\x22\x02Op\x3a\x0dcom.microsoft"


def test_an_integer_attribute_below_zero_is_twos_complement() -> None:
    written = node("N", [], ["y"], axis=-1)
    attribute = b"\x0a\x04axis\x18" + b"\xff" * 9 + b"\x01" + b"\xa0\x01\x02"
    assert written.endswith(b"\x2a" + bytes([len(attribute)]) + attribute)


def test_a_float_attribute_is_four_bytes() -> None:
    attribute = b"\x0a\x05alpha\x15\x00\x00\x80\x3f\xa0\x01\x01"
    assert node("N", [], ["y"], alpha=1.0).endswith(b"\x2a" + bytes([len(attribute)]) + attribute)


def test_a_list_attribute_is_one_number_after_another() -> None:
    numbers = b"\x40\x02\x40" + b"\xff" * 9 + b"\x01"
    attribute = b"\x0a\x04perm" + numbers + b"\xa0\x01\x07"
    assert node("N", [], ["y"], perm=(2, -1)).endswith(b"\x2a" + bytes([len(attribute)]) + attribute)


def test_a_value_has_sizes_and_symbols() -> None:
    dims = b"\x0a\x03\x12\x01n" + b"\x0a\x02\x08\x05"
    tensor = b"\x08\x01\x12" + bytes([len(dims)]) + dims
    wrapped = b"\x0a" + bytes([len(tensor)]) + tensor
    assert value("x", ElementType.FLOAT, ["n", 5]) == b"\x0a\x01x\x12" + bytes([len(wrapped)]) + wrapped


def test_a_scalar_has_a_shape_without_dimensions() -> None:
    assert value("t", ElementType.INT32, []) == b"\x0a\x01t\x12\x06\x0a\x04\x08\x06\x12\x00"


def test_an_initializer_names_its_file_and_size() -> None:
    written = external("w", ElementType.FLOAT, [300, 2])
    assert written.startswith(b"\x08\xac\x02\x08\x02\x10\x01\x42\x01w")
    assert written.endswith(b"\x70\x01")
    for key, text in ((b"location", b"w"), (b"offset", b"0"), (b"length", b"2400")):
        assert b"\x0a" + bytes([len(key)]) + key + b"\x12" + bytes([len(text)]) + text in written


def test_a_model_states_its_versions() -> None:
    written = model([], [], [], [])
    assert written.startswith(bytes([0x08, IR_VERSION, 0x12]) + b"\x08kwaainet\x3a\x06\x12\x04span")
    assert written.endswith(
        b"\x42\x04\x0a\x00\x10" + bytes([OPSET]) + b"\x42\x11\x0a\x0dcom.microsoft\x10\x01"
    )


@pytest.mark.parametrize("size", [0, 1, 127, 128, 1 << 20])
def test_what_is_written_can_be_read(size: int) -> None:
    nodes = [node("A", ["x", ""], ["y"], axis=-size, alpha=0.5), node("B", ["y"], ["z"], "d", n=size)]
    read, shapes = read_graph(model(nodes, [external("w", ElementType.FLOAT, [size, 3])], [], []))
    assert [(item.operator, item.inputs, item.outputs) for item in read] == [
        ("A", ("x", ""), ("y",)),
        ("B", ("y",), ("z",)),
    ]
    assert [item.attributes for item in read] == [{"axis": -size, "alpha": 0.5}, {"n": size}]
    assert shapes == {"w": (size, 3)}
