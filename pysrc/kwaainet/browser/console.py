"""Logging in a tab: Pyodide writes stdout to the console as information and stderr as a warning.

Rule of the file: only what is wrong looks wrong.
"""

from __future__ import annotations

import logging
import sys


def log_to_console() -> None:
    """Send information to stdout, warnings and errors to stderr."""
    usual = logging.StreamHandler(sys.stdout)
    usual.addFilter(lambda record: record.levelno < logging.WARNING)
    wrong = logging.StreamHandler(sys.stderr)
    wrong.setLevel(logging.WARNING)
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s", handlers=[usual, wrong])
