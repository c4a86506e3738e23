import argparse
from pathlib import Path

import pytest

from kwaainet.native.cli import flags
from kwaainet.types import BlockRange


def parser() -> argparse.ArgumentParser:
    made = flags.add_command(argparse.ArgumentParser().add_subparsers(), "x", "does x", "does x at length")
    flags.add_model(made, required=False)
    flags.add_repository(made)
    flags.add_initial_peers(made, required=False)
    flags.add_listening(made, ("/ip4/127.0.0.1/tcp/1",))
    flags.add_blocks(made)
    return made


def test_nothing_given_is_told_apart_from_something() -> None:
    options = parser().parse_args([])
    assert (options.model, options.prefix, options.listen, options.identity_path, options.blocks) == (
        None,
    ) * 5
    assert (options.announce, options.initial_peers, options.repository, options.verbose) == ([], [], "", 0)


def test_values_are_read() -> None:
    options = parser().parse_args(
        [
            "--model",
            "a",
            "--listen",
            "l1",
            "--listen",
            "l2",
            "--initial-peers",
            "p",
            "q",
            "--blocks",
            "1:3",
            "-vv",
        ]
    )
    assert options.model == Path("a")
    assert options.listen == ["l1", "l2"]
    assert options.initial_peers == ["p", "q"]
    assert (options.blocks, options.verbose) == (BlockRange(1, 3), 2)


@pytest.mark.parametrize("text", ["", "3", "3:1", "a:b", "-1:2", "1:"])
def test_blocks_that_are_none_are_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args([f"--blocks={text}"])
    assert "--blocks" in capsys.readouterr().err
