"""A command's settings from four layers: flags win over the environment, that over one TOML file, that
over the defaults.

Rule of the file: a setting is a flag that was declared to argparse, and nothing else: its name, its type
and its choices hold in every layer; what no flag is called is refused with the nearest name.
"""

from __future__ import annotations

import argparse
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ...errors import ConfigError

MAX_FILE_BYTES = 1 << 20
CONFIG = "config"  # the flag that names the file; it and these are no settings
NO_SETTINGS = ("help", "verbose", CONFIG)
_YES, _NO = ("1", "yes", "true", "on"), ("0", "no", "false", "off")
_SECRETS = ("api-key",)


@dataclass(frozen=True, slots=True)
class Setting:
    """A value in effect and the layer that it is from."""

    value: Any
    source: str


class Settings:
    """The flags of a parser as settings; ``prefix`` begins their names in the environment, ``defaults`` are
    those that argparse does not know.

    From now on the parser gives only those that were on the command line: ``resolve`` adds the rest.
    """

    def __init__(
        self, parser: argparse.ArgumentParser, prefix: str, defaults: Mapping[str, Any] | None = None
    ) -> None:
        found = [action for action in parser._actions if action.option_strings]
        self._actions = {_name(one): one for one in found if one.dest not in NO_SETTINGS}
        self._defaults = {name: one.default for name, one in self._actions.items()} | {**(defaults or {})}
        self._prefix = prefix
        for action in self._actions.values():
            action.help, action.default = _help(action), argparse.SUPPRESS

    def resolve(self, options: argparse.Namespace, environment: Mapping[str, str]) -> dict[str, Setting]:
        """Every setting by its name. ``ConfigError`` names the file or the variable that is wrong."""
        named = getattr(options, CONFIG, None) or environment.get(self._variable(CONFIG))
        file = self._from_file(Path(named)) if named else {}
        variables = self._from_environment(environment)
        settings: dict[str, Setting] = {}
        for name, action in self._actions.items():
            if hasattr(options, action.dest):
                settings[name] = Setting(getattr(options, action.dest), f"flag --{name}")
            else:
                default = Setting(self._defaults[name], "default")
                settings[name] = variables.get(name) or file.get(name) or default
        return settings

    def apply(self, options: argparse.Namespace, environment: Mapping[str, str]) -> argparse.Namespace:
        """``options`` with every setting as an attribute, as if all had been flags."""
        for name, setting in self.resolve(options, environment).items():
            setattr(options, self._actions[name].dest, setting.value)
        return options

    def _variable(self, name: str) -> str:
        return self._prefix + name.upper().replace("-", "_")

    def _from_environment(self, environment: Mapping[str, str]) -> dict[str, Setting]:
        names = {self._variable(name): name for name in self._actions}
        found: dict[str, Setting] = {}
        for variable, text in environment.items():
            if not variable.startswith(self._prefix) or variable == self._variable(CONFIG):
                continue
            if variable not in names:
                raise ConfigError(f"the environment has {_unknown(variable, names)}")
            action = self._actions[names[variable]]
            value: Any = text.split() if _is_list(action) else text
            if _is_switch(action):
                value = text.lower() in _YES if text.lower() in (*_YES, *_NO) else text
            elif action.type is int and text.removeprefix("-").isdecimal():
                value = int(text)
            converted = _converted(action, value, variable, Path())
            found[names[variable]] = Setting(converted, f"environment {variable}")
        return found

    def _from_file(self, path: Path) -> dict[str, Setting]:
        try:
            data = path.read_bytes()
            if len(data) > MAX_FILE_BYTES:
                raise ConfigError(f"{path} has {len(data)} bytes; {MAX_FILE_BYTES} are allowed")
            values = tomllib.loads(data.decode())
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from None
        except ValueError as error:  # of TOML, or of its encoding
            raise ConfigError(f"{path} is no TOML: {error}") from None
        found: dict[str, Setting] = {}
        for name, value in values.items():
            if name not in self._actions:
                raise ConfigError(f"{path} has {_unknown(name, self._actions)}")
            converted = _converted(self._actions[name], value, f"{path}: {name}", path.parent)
            found[name] = Setting(converted, str(path))
        return found


def lines(settings: Mapping[str, Setting]) -> list[str]:
    """As a TOML file would say them, each with its source; secrets are hidden."""
    return [
        f"# {name} is not set"
        if setting.value in (None, [], ())
        else f"{name} = {_toml(name, setting.value)}  # {setting.source}"
        for name, setting in settings.items()
    ]


def _toml(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"{value:g}" if isinstance(value, float) else str(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml(name, one) for one in value)}]"
    text = "hidden" if name in _SECRETS else str(value)
    if text.startswith(("turn:", "turns:")):
        text = ",".join([*text.split(",")[:-1], "hidden"])
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _help(action: argparse.Action) -> str:
    """With the default in it, which argparse will not know any more."""

    def shown(match: re.Match[str]) -> str:
        return f"%{match[1]}" % (action.default,)

    return re.sub(r"%\(default\)(\w)", shown, action.help or "")


def _name(action: argparse.Action) -> str:
    return next(one for one in action.option_strings if one.startswith("--")).removeprefix("--")


def _unknown(name: str, known: Mapping[str, Any]) -> str:
    near = get_close_matches(name, known, 1, 0.5)
    return f"{name!r:.80}, which is no setting" + (f"; did you mean {near[0]}?" if near else "")


def _is_switch(action: argparse.Action) -> bool:
    return action.nargs == 0


def _is_list(action: argparse.Action) -> bool:
    return action.nargs == "+" or isinstance(action, argparse._AppendAction)


def _converted(action: argparse.Action, value: Any, where: str, folder: Path) -> Any:
    """``value`` as the flag would have given it; a path counts from ``folder``."""
    if _is_switch(action):
        return _typed(value, bool, where, "true or false")
    if not _is_list(action):
        return _one(action, value, where, folder)
    many = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    return [_one(action, each, where, folder) for each in many]


def _one(action: argparse.Action, value: Any, where: str, folder: Path) -> Any:
    if action.type is int:
        return _typed(value, int, where, "a whole number")
    if action.type is Path:
        return folder / os.path.expanduser(_typed(value, str, where, "a path"))
    if action.type is None:
        return _chosen(action, _typed(value, str, where, "a text"), where)
    try:
        return _chosen(action, action.type(str(value)), where)  # type: ignore[operator]
    except (argparse.ArgumentTypeError, ValueError) as error:
        raise ConfigError(f"{where}: {error}") from None


def _chosen(action: argparse.Action, value: Any, where: str) -> Any:
    if action.choices is not None and value not in action.choices:
        raise ConfigError(f"{where} is {value!s:.80}; there are {', '.join(map(str, action.choices))}")
    return value


def _typed(value: Any, kind: type, where: str, words: str) -> Any:
    if type(value) is not kind:
        raise ConfigError(f"{where} is {value!r:.80}; {words} is needed")
    return value
