"""The ``kwaainet`` command; a command is a module here, ``main`` puts them together."""

from .main import main

__all__ = ["main"]
