"""What Pyodide makes of JavaScript, for tests in CPython."""

from __future__ import annotations

from typing import Any

import numpy as np


class JsError(Exception):
    """As Pyodide hands a JavaScript error over."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name}: {message}")
        self.name, self.message = name, message


class TypedArray:
    """What ``to_js`` makes of an array: its own flat copy."""

    def __init__(self, array: Any) -> None:
        assert array.ndim == 1, "only flat arrays cross"
        self.values = array.copy()

    def assign_to(self, target: Any) -> None:
        assert target.flags.c_contiguous
        assert target.shape == self.values.shape
        target[:] = self.values


def to_js(value: Any, dict_converter: Any = None) -> Any:
    return TypedArray(value) if isinstance(value, np.ndarray) else value
