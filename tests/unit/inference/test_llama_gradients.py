"""What the graphs ask for and the tables hold; for their numbers see ``tests/ports/test_gradients.py``."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kwaainet.errors import UnsupportedModel
from kwaainet.formats.rope import RopeScaling
from kwaainet.inference.llama_gradients import backward_graph, forward_graph, tables, working_bytes
from kwaainet.testing.engine import read_graph
from kwaainet.testing.model import TINY

WEIGHTS = set(TINY.block_shapes())


def test_the_graphs_hold_no_weights_and_need_each_of_them() -> None:
    for graph, states in ((forward_graph(TINY), {"x"}), (backward_graph(TINY), {"x", "dy"})):
        nodes, initializers = read_graph(graph)
        made = {name for node in nodes for name in node.outputs}
        used = {name for node in nodes for name in node.inputs}
        assert initializers == {}
        assert used - made == WEIGHTS | states | {"cos", "sin", "mask"}


def test_every_value_is_made_once_and_before_it_is_used() -> None:
    for graph in (forward_graph(TINY), backward_graph(TINY)):
        nodes, _ = read_graph(graph)
        known = WEIGHTS | {"x", "dy", "cos", "sin", "mask"}
        for node in nodes:
            assert set(node.inputs) <= known
            assert not set(node.outputs) & known
            known |= set(node.outputs)


def test_the_tables_turn_by_position_and_hide_what_comes_later() -> None:
    at = tables(TINY, 5)
    assert {name: array.shape for name, array in at.items()} == {"cos": (5, 4), "sin": (5, 4), "mask": (5, 5)}
    np.testing.assert_array_equal(at["cos"][0], np.ones(4))
    np.testing.assert_allclose(at["sin"][3], np.sin([3.0, 0.03, 3.0, 0.03]), atol=1e-7)
    np.testing.assert_array_equal(at["mask"] == 0, np.tril(np.ones((5, 5), bool)))
    assert np.isfinite(at["mask"]).all()


def test_attention_weighs_most_for_long_sequences() -> None:
    assert working_bytes(TINY, 2, 50) == 2 * working_bytes(TINY, 1, 50)
    assert working_bytes(TINY, 1, 2000) > 3.5 * working_bytes(TINY, 1, 1000)


@pytest.mark.parametrize("change", [{"qkv_bias": True}, {"sliding_window": 8}, {"post_norms": True}])
def test_other_architectures_are_refused_by_name(change: dict[str, Any]) -> None:
    config = replace(TINY, architecture="other", **change)
    with pytest.raises(UnsupportedModel, match=f"through other is not supported .{next(iter(change))}"):
        backward_graph(config)
    forward_graph(replace(TINY, rope_scaling=RopeScaling("linear", 2.0)))
