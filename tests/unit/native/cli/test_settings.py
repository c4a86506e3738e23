"""Flags win over the environment, that over the file, that over defaults; what is unknown is named."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from kwaainet.errors import ConfigError
from kwaainet.native.cli.flags import seconds
from kwaainet.native.cli.settings import Settings, lines


def parser_of() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("-v", "--verbose", action="count", default=0)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--http", default="here:1")
    parser.add_argument("--listen", action="append")
    parser.add_argument("--initial-peers", nargs="+", default=[])
    parser.add_argument("--state-dir", type=Path)
    parser.add_argument("--open-hop", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--api", action="store_true")
    parser.add_argument("--api-key", action="append")
    parser.add_argument("--ice-server", action="append", default=[])
    parser.add_argument("--history", type=int, default=7)
    parser.add_argument("--drain", type=seconds, default=1.5)
    parser.add_argument("--expose", choices=("direct", "both"), default="direct")
    return parser


def resolved(words: list[str], file: str | None = None, folder: Path | None = None, **env: str) -> Any:
    parser = parser_of()
    settings = Settings(parser, "K_", {"listen": ["everywhere"]})
    if file is not None and folder is not None:
        (folder / "r.toml").write_text(file)
        words = [*words, "--config", str(folder / "r.toml")]
    return settings.resolve(parser.parse_args(words), env)


def test_each_layer_wins_over_the_next(tmp_path: Path) -> None:
    file = 'http = "file:1"\nhistory = 8\nopen-hop = false\nlisten = ["f1", "f2"]\ndrain = 2\n'
    found = resolved(["--http", "flag:1"], file, tmp_path, K_HTTP="env:1", K_HISTORY="9", K_LISTEN="e1 e2")
    told = {name: (setting.value, setting.source) for name, setting in found.items()}
    assert told["http"] == ("flag:1", "flag --http")
    assert told["history"] == (9, "environment K_HISTORY")
    assert told["listen"] == (["e1", "e2"], "environment K_LISTEN")
    assert told["open-hop"] == (False, str(tmp_path / "r.toml"))
    assert told["drain"] == (2.0, str(tmp_path / "r.toml"))
    assert told["expose"] == ("direct", "default")
    assert "verbose" not in told
    assert resolved([])["listen"].value == ["everywhere"]


def test_a_flag_replaces_a_list_and_turns_a_switch_off(tmp_path: Path) -> None:
    found = resolved(["--listen", "a", "--no-open-hop"], 'listen = ["f"]\nopen-hop = true\n', tmp_path)
    assert (found["listen"].value, found["open-hop"].value) == (["a"], False)


def test_paths_count_from_the_file_and_the_environment_may_name_it(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text('state-dir = "state"\ninitial-peers = "one"\napi = true\n')
    parser = parser_of()
    settings = Settings(parser, "K_")
    options = settings.apply(parser.parse_args([]), {"K_CONFIG": str(tmp_path / "r.toml"), "K_API": "no"})
    assert options.state_dir == tmp_path / "state"
    assert (options.initial_peers, options.api, options.listen) == (["one"], False, None)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("htpp = 1", r"r\.toml has 'htpp', which is no setting; did you mean http\?"),
        ("open_hop = true", r"has 'open_hop', which is no setting; did you mean open-hop\?"),
        ("[relay]\nhttp = 1", "has 'relay', which is no setting"),
        ("http = 8080", r"r\.toml: http is 8080; a text is needed"),
        ('history = "8"', "history is '8'; a whole number is needed"),
        ("history = true", "history is True; a whole number"),
        ('open-hop = "no"', "open-hop is 'no'; true or false is needed"),
        ("listen = [1]", "listen is 1; a text is needed"),
        ('expose = "all"', "expose is all; there are direct, both"),
        ("drain = -1", "drain: '-1' is not a number of seconds"),
        ("state-dir = 1", "a path is needed"),
        ("http = ", "is no TOML"),
        ("\x00", "is no TOML"),
    ],
)
def test_what_a_file_has_wrong_is_named(tmp_path: Path, file: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolved([], file, tmp_path)


@pytest.mark.parametrize(
    ("variable", "text", "message"),
    [
        ("K_HISTROY", "1", r"the environment has 'K_HISTROY', which is no setting; did you mean K_HISTORY\?"),
        ("K_HISTORY", "many", "K_HISTORY is 'many'; a whole number"),
        ("K_API", "perhaps", "K_API is 'perhaps'; true or false"),
        ("K_CONFIG", "/nowhere.toml", r"cannot read /nowhere\.toml"),
    ],
)
def test_what_the_environment_has_wrong_is_named(variable: str, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolved([], **{variable: text})


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="1048576 are allowed"):
        resolved([], "#" * (1 << 20) + "\n", tmp_path)


def test_what_is_shown_can_be_read_again_but_for_secrets(tmp_path: Path) -> None:
    words = ["--api-key", "topsecret", "--ice-server", "turn:h:1,me,pass", "--ice-server", "stun:h:2"]
    shown = "\n".join(lines(resolved([*words, "--http", 'a"b\\c:1', "--drain", "0.5"])))
    assert "topsecret" not in shown
    assert "pass" not in shown
    assert 'ice-server = ["turn:h:1,me,hidden", "stun:h:2"]  # flag --ice-server' in shown
    assert "# state-dir is not set" in shown
    again = resolved([], shown, tmp_path)
    assert (again["http"].value, again["drain"].value) == ('a"b\\c:1', 0.5)
