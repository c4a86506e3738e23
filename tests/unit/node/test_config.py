from dataclasses import replace

import pytest

from kwaainet.errors import ConfigError
from kwaainet.node.config import NodeConfig, parse_blocks
from kwaainet.testing.model import TINY
from kwaainet.types import BlockRange

CONFIG = NodeConfig("m", BlockRange(0, 5))


def test_records_outlive_a_missed_refresh() -> None:
    assert CONFIG.expiration == 150.0


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"prefix": "a.b"}, "prefix"),
        ({"update_period": 1000.0}, "would live 2500 s"),
        ({"update_period": 0.1}, "would live 0.25 s"),
        ({"max_sessions": 0}, "max_sessions is 0"),
        ({"fetch_parallel": 0}, "fetch_parallel is 0"),
    ],
)
def test_what_cannot_work_is_refused_by_name(fields: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        replace(CONFIG, **fields)


def test_blocks_must_be_the_models() -> None:
    CONFIG.check_model(TINY)
    with pytest.raises(ConfigError, match="0:6 were asked for; the model has 0:5"):
        replace(CONFIG, blocks=BlockRange(0, 6)).check_model(TINY)


def test_blocks_are_all_given_or_chosen() -> None:
    assert parse_blocks("", 5) == (BlockRange(0, 5), False)
    assert parse_blocks("2:4", 5) == (BlockRange(2, 4), False)
    assert parse_blocks("auto:3", 5) == (BlockRange(0, 3), True)
    for wrong in ("auto:", "auto:0", "auto:6", "auto:x"):
        with pytest.raises(ConfigError, match="auto:1 to auto:5"):
            parse_blocks(wrong, 5)


def test_lengths_default_to_petals_and_stay_within_the_model() -> None:
    grouped = replace(TINY, max_position_embeddings=100_000)
    whole = replace(grouped, num_key_value_heads=6)
    assert (CONFIG.max_length(grouped), CONFIG.total_tokens(grouped)) == (8192, 16384)
    assert (CONFIG.max_length(whole), CONFIG.total_tokens(whole)) == (2048, 4096)
    assert CONFIG.max_length(TINY) == TINY.max_position_embeddings
    assert replace(CONFIG, inference_max_length=64).max_length(TINY) == 64
    assert replace(CONFIG, cache_tokens=32).max_length(TINY) == 32


def test_nothing_served_is_longer_than_the_cache_of_all() -> None:
    grouped = replace(TINY, max_position_embeddings=131072)
    assert CONFIG.positions(grouped) == 16384
    assert replace(CONFIG, cache_tokens=1 << 18).positions(grouped) == 131072
    assert CONFIG.positions(TINY) == TINY.max_position_embeddings
