"""What JavaScript throws arrives as an error of ours, by its name."""

import asyncio
import importlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest


class JsError(Exception):
    """A JsException as Pyodide shows it."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name, self.message = name, message


@pytest.fixture
def module() -> Iterator[Any]:
    """Imported over a stand-in for what only Pyodide has."""
    names = ("pyodide", "pyodide.ffi", "kwaainet.browser.crossing")
    saved = {name: sys.modules.pop(name, None) for name in names}
    ffi = ModuleType("pyodide.ffi")
    ffi.__dict__["JsException"] = JsError
    sys.modules.update({"pyodide": ModuleType("pyodide"), "pyodide.ffi": ffi})
    yield importlib.import_module("kwaainet.browser.crossing")
    for name, module in saved.items():
        sys.modules.pop(name, None)
        if module is not None:
            sys.modules[name] = module


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("EngineError", "EngineError"),
        ("CapacityError", "CapacityError"),
        ("DeviceLost", "DeviceLost"),
        ("TypeError", "EngineError"),
        ("LocalError", "EngineError"),
    ],
)
@pytest.mark.parametrize("at_once", [False, True])
def test_errors_cross_by_name(module: Any, name: str, kind: str, at_once: bool) -> None:
    def fail() -> None:
        raise JsError(name, "the words")

    async def fail_later() -> None:
        fail()

    with pytest.raises(Exception, match="the words") as caught:
        module.crossed(fail) if at_once else asyncio.run(module.crossing(fail_later()))
    assert type(caught.value).__name__ == kind


def test_what_is_given_comes_through(module: Any) -> None:
    assert asyncio.run(module.crossing(asyncio.sleep(0, 7))) == 7
    assert module.crossed(max, 3, 7) == 7
