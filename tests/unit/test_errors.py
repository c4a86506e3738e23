"""The exception tree: one root, three faults, and texts that survive on their own."""

from __future__ import annotations

import inspect
import pickle

import pytest

from kwaainet import errors
from kwaainet.errors import (
    DeviceLost,
    EngineError,
    InputError,
    KwaaiNetError,
    LimitExceeded,
    LocalError,
    ModelFileError,
    ProtocolError,
    RemoteError,
    Truncated,
)

ALL = [value for value in vars(errors).values() if inspect.isclass(value)]
FAULTS = (LocalError, InputError, RemoteError)


@pytest.mark.parametrize("error", ALL)
def test_every_error_is_exactly_one_sides_fault(error: type[Exception]) -> None:
    assert issubclass(error, KwaaiNetError)
    blamed = [fault for fault in FAULTS if issubclass(error, fault)]
    assert len(blamed) == (0 if error is KwaaiNetError else 1)


@pytest.mark.parametrize("error", ALL)
def test_every_error_says_when_it_is_raised(error: type[Exception]) -> None:
    assert error.__doc__


@pytest.mark.parametrize(
    ("narrow", "wide"),
    [(LimitExceeded, ProtocolError), (DeviceLost, EngineError), (Truncated, ModelFileError)],
)
def test_who_handles_the_wide_error_handles_the_narrow_one(
    narrow: type[Exception], wide: type[Exception]
) -> None:
    assert issubclass(narrow, wide)


def test_truncated_says_how_far_to_read() -> None:
    error = Truncated("header ends at 900", needed=900)
    assert (str(error), error.needed) == ("header ends at 900", 900)


def test_errors_are_no_bare_exceptions_of_python() -> None:
    for error in ALL:
        assert not issubclass(error, ValueError | OSError | LookupError)


def test_plain_errors_can_cross_processes() -> None:
    assert str(pickle.loads(pickle.dumps(ProtocolError("bad frame")))) == "bad frame"
