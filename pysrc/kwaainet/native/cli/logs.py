"""What the commands log, to stderr: lines for people, or one JSON object a line for what collects them.

Rule of the file: a record is one line, whatever its message holds; the level of all of it is one setting.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from datetime import UTC, datetime

LEVELS = ("error", "warning", "info", "debug")
TEXT, JSON = "text", "json"
_LINE = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class JsonLines(logging.Formatter):
    """time (ISO 8601, UTC), level, logger, message and, where there are, the request's id (as relay and
    tab name it both) and the error with its traceback."""

    def format(self, record: logging.LogRecord) -> str:
        told = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id := getattr(record, "request_id", ""):
            told["request_id"] = request_id
        if record.exc_info:
            told["error"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=False)


def configure_logging(verbosity: int, level: str | None = None, form: str = TEXT) -> None:
    """Log what is as grave as ``level``; without one warnings, with ``-v`` what happens, with ``-vv`` all."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == JSON else logging.Formatter(_LINE))
    wanted = level or LEVELS[1 + min(verbosity, 2)]
    logging.basicConfig(level=wanted.upper(), handlers=[handler], force=True)


def add_logging(parser: argparse.ArgumentParser) -> None:
    """``--log-level`` and ``--log-format``, for what runs on."""
    parser.add_argument("--log-level", choices=LEVELS, help="what is logged (warning; -v: info, -vv: debug)")
    parser.add_argument(
        "--log-format", choices=(TEXT, JSON), default=TEXT, help="lines of this form (%(default)s)"
    )
