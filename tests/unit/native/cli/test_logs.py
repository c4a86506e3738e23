"""Records are lines, for people or for programs, of the level that was asked for."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import datetime

import pytest

from kwaainet.native.cli.logs import configure_logging

LOG = logging.getLogger("kwaainet.somewhere")


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    before = root.level, list(root.handlers)
    yield
    root.setLevel(before[0])
    root.handlers[:] = before[1]


def told(capsys: pytest.CaptureFixture[str]) -> list[str]:
    for level in (logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG):
        LOG.log(level, "at %s", level)
    return capsys.readouterr().err.splitlines()


@pytest.mark.parametrize(("verbosity", "lines"), [(0, 2), (1, 3), (2, 4), (9, 4)])
def test_the_flag_says_how_much(verbosity: int, lines: int, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(verbosity)
    assert len(told(capsys)) == lines


def test_a_level_wins_over_the_flag(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(2, "error")
    (line,) = told(capsys)
    assert line.endswith("ERROR kwaainet.somewhere: at 40")


def test_programs_read_an_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(0, "info", "json")
    LOG.info("two\nlines of %s", "ü")
    try:
        raise ValueError("why")
    except ValueError:
        LOG.exception("it failed")
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert datetime.fromisoformat(first.pop("time")).tzinfo is not None
    assert first == {"level": "info", "logger": "kwaainet.somewhere", "message": "two\nlines of ü"}
    assert second["level"] == "error"
    assert "ValueError: why" in second["error"]


def test_a_requests_id_is_a_field_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(1, form="json")
    LOG.info("session begins", extra={"request_id": "chatcmpl-1"})
    LOG.info("something else")
    told = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert told[0]["request_id"] == "chatcmpl-1"
    assert "request_id" not in told[1]
