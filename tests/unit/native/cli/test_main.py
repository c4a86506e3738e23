from pathlib import Path

import pytest

from kwaainet import __version__
from kwaainet.native.cli.main import build_parser, main

PEER = "/ip4/127.0.0.1/tcp/9/p2p/12D3KooWFw697Ur2KZ2SSjvP8Md1udsjrXzbsKEaFVAY5dc6hYWn"


@pytest.mark.parametrize(
    "command", ["up", "relay", "tab", "serve", "generate", "api", "model", "model export"]
)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        build_parser().parse_args([*command.split(), "--help"])
    assert end.value.code == 0
    assert f"kwaainet {command}" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"kwaainet {__version__}\n"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "COMMAND"),
        (["fly"], "fly"),
        (["tab"], "URL"),
        (["tab", "http://h/", "--blocks", "3"], "START:END"),
        (["tab", "http://h/", "--num-blocks", "0"], "is not a number of blocks"),
        (["tab", "http://h/", "--drain", "soon"], "number of seconds"),
        (["tab", "http://h/", "--drain", "-1"], "number of seconds"),
        (["tab", "http://h/", "--backend", "cuda"], "cuda"),
        (["serve", "--model", "m.gguf"], "--initial-peers"),
        (["up", "--max-new-tokens", "many"], "many"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(
    words: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert text in err


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["tab", "not-a-page"], 2, "not-a-page"),
        (["generate", "hi", "--model", "gone.gguf", "--initial-peers", PEER], 1, "gone.gguf"),
        (["model", "export", "gone.gguf", "out"], 1, "gone.gguf"),
        (["up", "--model", "gone.gguf", "--max-new-tokens", "0"], 2, "--max-new-tokens"),
        (["up", "--model", "gone.gguf", "--temperature", "-1"], 2, "temperature"),
        (["serve", "--model", "gone.gguf", "--initial-peers", PEER, "--threads", "-1"], 2, "--threads"),
        (["api", "--model", "gone.gguf", "--initial-peers", PEER, "--http", "0.0.0.0:0"], 2, "--api-open"),
        (["api", "--model", "gone.gguf", "--initial-peers", PEER, "--http", "127.0.0.1:0"], 1, "gone.gguf"),
        (["relay", "--api"], 2, "--model"),
        (["relay", "--api-open"], 2, "--api-open does nothing without --api"),
        (["relay", "--api", "--model", "gone.gguf", "--http", "0.0.0.0:0"], 2, "--api-open"),
    ],
)
def test_what_goes_wrong_is_one_line_without_a_traceback(
    words: list[str], code: int, text: str, capsys: pytest.CaptureFixture[str], page: Path
) -> None:
    assert main(words) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith(f"kwaainet {words[0]}: ")
    assert text in err
