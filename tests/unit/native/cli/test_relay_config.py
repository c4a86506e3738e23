"""The settings a relay would run with, printed and checked without starting one."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from kwaainet.native.cli.main import main


def test_show_names_every_setting_and_its_source(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "relay.toml"
    file.write_text('api-key = "topsecret"\nmodel = "m.gguf"\n')
    monkeypatch.setenv("KWAAINET_RELAY_DRAIN", "3")
    assert main(["relay", "config", "show", "--config", str(file), "--http", "h:1"]) == 0
    said = capsys.readouterr().out
    assert 'http = "h:1"  # flag --http' in said
    assert "drain = 3  # environment KWAAINET_RELAY_DRAIN" in said
    assert f'model = ["{tmp_path / "m.gguf"}"]  # {file}' in said
    assert "topsecret" not in said
    assert tomllib.loads(said)["listen"] == ["/ip4/127.0.0.1/tcp/4001", "/ip4/127.0.0.1/tcp/4002/ws"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--http", "nowhere"], "--http 'nowhere' is not HOST:PORT"),
        (["--listen", "nonsense"], "nonsense"),
        (["--initial-peers", "/ip4/1.2.3.4/tcp/1/p2p/x"], "x"),
        (["--ice-server", "http:x"], "is neither stun"),
        (["--model", "nowhere.gguf"], "--model nowhere.gguf: no such file"),
        (["--api"], "--api needs --model"),
        (["--api-sessions", "3"], "--api-sessions does nothing without --api"),
        (["--gateway-history", "0"], "give at least 1 MiB"),
        (["--tls-cert", "nowhere.pem"], "go together"),
        (["--tls-cert", "nowhere.pem", "--tls-key", "no"], "--tls-cert nowhere.pem cannot be read"),
        (["--listen", "/ip4/0.0.0.0/tcp/443/tls/ws"], "needs a certificate"),
        (["--trusted-proxy", "nobody"], "'nobody' is no IP address"),
    ],
)
def test_check_names_what_cannot_work(
    page: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["relay", "config", "check", *words]) != 0
    assert message in capsys.readouterr().err


def test_check_of_what_works(page: Path, tiny_gguf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["relay", "config", "check"]) == 0
    assert "the settings are fine (all of them are defaults)" in capsys.readouterr().out
    assert main(["relay", "config", "check", "--model", str(tiny_gguf), "--api"]) == 0
    assert "fine (flag --api, flag --model)" in capsys.readouterr().out
