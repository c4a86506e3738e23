"""The messages as TypeScript: current, and only of types that cross a MessagePort."""

import importlib.util
import typing
from pathlib import Path
from types import ModuleType
from typing import Any, TypedDict

import pytest

from kwaainet.browser import messages

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_messages", ROOT / "build" / "messages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_generated_file_is_current(generator: ModuleType) -> None:
    assert generator.render(messages) == (ROOT / "web" / "worker" / "messages.ts").read_text()


def test_every_message_names_its_type_once() -> None:
    unions = [
        messages.PageToNetwork,
        messages.NetworkToPage,
        messages.NodeToNetwork,
        messages.NetworkToNode,
    ]
    for union in unions:
        kinds = [
            typing.get_args(typing.get_type_hints(message)["type"])[0] for message in typing.get_args(union)
        ]
        assert len(set(kinds)) == len(kinds), kinds


def test_bytes_are_only_in_a_body() -> None:
    for value in vars(messages).values():
        if typing.is_typeddict(value):
            fields = {name for name, kind in typing.get_type_hints(value).items() if kind is bytes}
            assert fields <= {"body"}, value


def test_what_cannot_cross_is_refused(generator: ModuleType) -> None:
    class Odd(TypedDict):
        when: set[int]

    with pytest.raises(TypeError, match="cannot be part of a message"):
        generator.interface(Odd)


def test_optional_lists_and_ports_are_spelled(generator: ModuleType) -> None:
    class Fine(TypedDict):
        names: list[str]
        body: typing.NotRequired[bytes]
        port: messages.Port

    text: Any = generator.interface(Fine)
    assert "names: string[]" in text
    assert "body?: Uint8Array<ArrayBuffer>" in text
    assert "port: MessagePort" in text
