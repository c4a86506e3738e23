import numpy as np
import pytest

from kwaainet.errors import InputError, ModelFileError
from kwaainet.inference.head import LanguageHead

RNG = np.random.default_rng(1)
EMBED = RNG.standard_normal((11, 4), dtype=np.float32)
NORM = RNG.standard_normal(4, dtype=np.float32)
HEAD = LanguageHead(EMBED, NORM, EMBED, 1e-5)


def test_embed_takes_rows_in_order() -> None:
    hidden = HEAD.embed([3, 0, 3])
    assert hidden.shape == (1, 3, 4)
    assert hidden.dtype == np.float32
    np.testing.assert_array_equal(hidden[0], EMBED[[3, 0, 3]])


@pytest.mark.parametrize("token", [-1, 11])
def test_a_foreign_token_is_named(token: int) -> None:
    with pytest.raises(InputError, match=str(token)):
        HEAD.embed([1, token])


def test_logits_are_norm_then_head() -> None:
    x = np.array([1.0, -2.0, 3.0, 0.5], dtype=np.float32)
    scale = np.sqrt(np.mean(x.astype(np.float64) ** 2) + 1e-5)
    expected = EMBED.astype(np.float64) @ (x / scale * NORM)
    np.testing.assert_allclose(HEAD.logits(x), expected, rtol=1e-5, atol=1e-6)


def test_parts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ModelFileError, match="lm_head"):
        LanguageHead(EMBED, NORM, EMBED[:, :3], 1e-5)
