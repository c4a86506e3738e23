"""Messages of ``kwaainet.browser`` and the TypeScript that ``build/messages.py`` makes of them."""

from __future__ import annotations

import importlib.util
import typing
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[3]


def load_generator() -> ModuleType:
    """``build/messages.py`` as a module."""
    spec = importlib.util.spec_from_file_location("build_messages", ROOT / "build" / "messages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def current_text(messages: ModuleType) -> str:
    """The committed file of a module's messages, which is what would be generated now."""
    text = (ROOT / "web" / "worker" / f"{messages.__name__.rpartition('.')[2]}.ts").read_text()
    assert load_generator().render(messages) == text
    return text


def each_of_its_own_type(*unions: object) -> None:
    """No two messages that go the same way have one type."""
    for union in unions:
        kinds = [typing.get_args(typing.get_type_hints(one)["type"])[0] for one in typing.get_args(union)]
        assert kinds
        assert len(set(kinds)) == len(kinds), kinds
