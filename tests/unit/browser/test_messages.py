"""The messages as TypeScript: current, and only of types that cross a MessagePort."""

import typing
from types import ModuleType
from typing import Any, TypedDict

import pytest
from unit.browser.generated import current_text, each_of_its_own_type, load_generator

from kwaainet.browser import messages


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    return load_generator()


def test_the_generated_file_is_current() -> None:
    current_text(messages)


def test_every_message_names_its_type_once() -> None:
    each_of_its_own_type(
        messages.PageToNetwork, messages.NetworkToPage, messages.NodeToNetwork, messages.NetworkToNode
    )


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
