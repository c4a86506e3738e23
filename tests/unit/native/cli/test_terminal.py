import json

import pytest

from kwaainet.native.cli.terminal import ProgressLine, describe, emit, say
from kwaainet.types import Progress


def test_people_read_stderr_and_programs_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    say("hello")
    emit({"event": "ready", "maddrs": ["/ip4/127.0.0.1/tcp/1"]})
    out, err = capsys.readouterr()
    assert err == "hello\n"
    assert json.loads(out) == {"event": "ready", "maddrs": ["/ip4/127.0.0.1/tcp/1"]}
    assert out.count("\n") == 1


def test_progress_in_a_log_is_a_line_per_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    line = ProgressLine()
    for done in range(1001):
        line(Progress("fetching", done * 1000, 1_000_000))
    line.finish()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 11
    assert lines[3] == "fetching: 0.3 of 1.0 MB (30 %)"


@pytest.mark.parametrize(
    ("progress", "text"),
    [
        (Progress("starting"), "starting"),
        (Progress("blocks", 3, 30), "blocks: 3 of 30 (10 %)"),
        (Progress("model", 49_181_116, 98_362_232), "model: 49.2 of 98.4 MB (50 %)"),
        (
            Progress("weights", 50_000_000, 100_000_000, 20_000_000),
            "weights: 50.0 of 100.0 MB (50 %), 20.0 MB of it from the cache",
        ),
    ],
)
def test_describe(progress: Progress, text: str) -> None:
    assert describe(progress) == text
