import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaainet.errors import ConfigError
from kwaainet.inference.sampling import Sampling, choose, probabilities

LOGITS = np.log(np.array([0.5, 0.3, 0.15, 0.05], dtype=np.float32))


def test_greedy_takes_the_largest_and_the_first_of_equals() -> None:
    assert choose(LOGITS, Sampling(), 0.99) == 0
    assert choose(np.array([1.0, 7.0, 7.0], dtype=np.float32), Sampling(), 0.0) == 1


@pytest.mark.parametrize(
    ("chance", "token"), [(0.0, 0), (0.49, 0), (0.51, 1), (0.81, 2), (0.96, 3), (0.9999999, 3)]
)
def test_temperature_one_follows_the_distribution(chance: float, token: int) -> None:
    assert choose(LOGITS, Sampling(temperature=1.0), chance) == token


def test_low_temperature_sharpens() -> None:
    assert probabilities(LOGITS, Sampling(temperature=0.5))[0] == pytest.approx(0.25 / 0.365)


def test_top_k_keeps_k() -> None:
    np.testing.assert_allclose(probabilities(LOGITS, Sampling(1.0, top_k=2)), [0.625, 0.375, 0, 0], atol=1e-6)


@pytest.mark.parametrize(("top_p", "kept"), [(0.4, 1), (0.6, 2), (0.9, 3), (0.99, 4)])
def test_top_p_keeps_the_token_that_crosses_the_line(top_p: float, kept: int) -> None:
    assert np.count_nonzero(probabilities(LOGITS, Sampling(1.0, top_p=top_p))) == kept


@given(
    st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=50),
    st.floats(0.1, 5),
    st.integers(0, 60),
    st.floats(0.01, 1),
    st.floats(0, 1, exclude_max=True),
)
def test_only_tokens_of_the_distribution_are_drawn(
    values: list[float], temperature: float, top_k: int, top_p: float, chance: float
) -> None:
    logits = np.array(values, dtype=np.float32)
    sampling = Sampling(temperature, top_k, top_p)
    weights = probabilities(logits, sampling)
    assert weights.sum() == pytest.approx(1.0)
    assert weights[choose(logits, sampling, chance)] > 0


@pytest.mark.parametrize(
    "bad", [{"temperature": -1.0}, {"temperature": float("nan")}, {"top_k": -1}, {"top_p": 0.0}]
)
def test_a_setting_that_makes_no_sense_is_refused_by_name(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        Sampling(**bad)  # type: ignore[arg-type]
