"""Tables of angles, for all blocks and for those that turn by a base of their own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from kwaainet.formats.config import FULL, SLIDING
from kwaainet.formats.rope import RopeScaling
from kwaainet.inference.rope import rope_tables, table_names
from kwaainet.testing.span import CONFIG
from kwaainet.types import BlockRange


def test_rope_tables_hold_the_angle_of_each_position() -> None:
    tables = dict(rope_tables(CONFIG, BlockRange(0, 1)))
    half = CONFIG.head_dim // 2
    assert tables["cos"].shape == tables["sin"].shape == (CONFIG.max_position_embeddings, half)
    assert tables["cos"].dtype == tables["sin"].dtype == np.float32
    assert (tables["cos"][0] == 1).all()
    for position, pair in ((1, 0), (7, 3), (319, half - 1)):
        angle = position / CONFIG.rope_theta ** (2 * pair / CONFIG.head_dim)
        assert tables["cos"][position, pair] == np.float32(np.cos(angle))
        assert tables["sin"][position, pair] == np.float32(np.sin(angle))


def test_blocks_that_slide_turn_by_the_local_base_unscaled() -> None:
    scaling = RopeScaling("linear", factor=8.0)
    config = replace(
        CONFIG,
        sliding_window=4,
        layer_types=(SLIDING, SLIDING, FULL),
        rope_local_base_freq=100.0,
        rope_scaling=scaling,
    )
    assert [table_names(config, index)[0] for index in range(3)] == ["cos_local", "cos_local", "cos"]
    assert set(dict(rope_tables(config, BlockRange(0, 2)))) == {"cos_local", "sin_local"}
    tables = dict(rope_tables(config, BlockRange(1, 3)))
    pair, dim = 3, config.head_dim
    local, scaled = 5 / 100.0 ** (2 * pair / dim), 5 / 8 / config.rope_theta ** (2 * pair / dim)
    assert tables["sin_local"][5, pair] == np.float32(np.sin(local))
    assert tables["sin"][5, pair] == np.float32(np.sin(scaled))
