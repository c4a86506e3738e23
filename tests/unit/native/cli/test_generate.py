import pytest

from kwaainet.errors import ConfigError
from kwaainet.inference.sampling import Sampling
from kwaainet.native.cli.generate import Completion, completion_of
from kwaainet.native.cli.main import build_parser


def parse(*flags: str) -> Completion:
    words = ["generate", "say", "--model", "m", "--initial-peers", "p", *flags]
    return completion_of(build_parser().parse_args(words))


def test_flags_become_a_completion() -> None:
    assert parse() == Completion("say", 128, Sampling(), None, False)
    told = parse(
        "--max-new-tokens", "3", "--temperature", "0.5", "--top-k", "4", "--top-p", "0.9", "--seed", "1"
    )
    assert told == Completion("say", 3, Sampling(0.5, 4, 0.9), 1, False)
    assert parse("--raw").raw


@pytest.mark.parametrize("flags", [["--max-new-tokens", "0"], ["--top-p", "0"], ["--top-k", "-1"]])
def test_numbers_that_make_no_sense_are_refused(flags: list[str]) -> None:
    with pytest.raises(ConfigError):
        parse(*flags)
