"""The messages to a page's Python as TypeScript: current, and each with a type of its own."""

import importlib.util
import typing
from pathlib import Path

from kwaainet.browser import page_messages

ROOT = Path(__file__).resolve().parents[3]


def test_the_generated_file_is_current() -> None:
    spec = importlib.util.spec_from_file_location("build_messages", ROOT / "build" / "messages.py")
    assert spec is not None
    assert spec.loader is not None
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    text = (ROOT / "web" / "worker" / "page_messages.ts").read_text()
    assert generator.render(page_messages) == text


def test_every_message_names_its_type_once() -> None:
    for union in (page_messages.PythonToSdk, page_messages.SdkToPython):
        kinds = [typing.get_args(typing.get_type_hints(one)["type"])[0] for one in typing.get_args(union)]
        assert len(set(kinds)) == len(kinds), kinds
