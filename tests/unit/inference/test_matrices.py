"""Each form's tensors hold the weights, and its product's node names them."""

from __future__ import annotations

import numpy as np
import pytest

from kwaainet.inference.matrices import Form, Matrix
from kwaainet.testing.engine import OPERATORS, _read_node
from kwaainet.testing.model import TINY
from kwaainet.testing.span import stored

OUT, COLUMNS = 24, 64
NUMBERS = np.random.default_rng(0).standard_normal((OUT, COLUMNS), np.float32)
X = np.random.default_rng(1).standard_normal((3, COLUMNS), np.float32)


@pytest.mark.parametrize(
    ("types", "form"),
    [
        (["F32", "F16"], Form.FLOAT),
        (["Q4_0", "Q4_0"], Form.Q4),
        (["Q4_0", "Q4_1"], Form.Q4_WITH_ZEROS),
        (["Q8_0"], Form.Q8),
        (["Q8_0", "Q4_0"], Form.FLOAT),
        (["Q4_0", "F32"], Form.FLOAT),
    ],
)
def test_the_exact_form_of_weights_side_by_side(types: list[str], form: Form) -> None:
    assert Form.exact(types, 64) is form
    assert Form.exact(types, 48) is Form.FLOAT


@pytest.mark.parametrize(
    ("types", "form", "tolerance"),
    [
        (["F32", "F32"], Form.FLOAT, 1e-5),
        (["Q4_0", "Q4_0"], Form.Q4, 1e-5),
        (["Q4_0", "Q4_1"], Form.Q4_WITH_ZEROS, 1e-5),
        (["Q8_0", "Q8_0"], Form.Q8, 1e-5),
        (["Q4_0", "F32"], Form.Q8, 0.3),  # rounded, as somebody asked for
    ],
)
@pytest.mark.parametrize("real", ["float32", "float16"])
def test_the_product_of_what_was_packed(types: list[str], form: Form, tolerance: float, real: str) -> None:
    weights = [stored(dtype, half) for dtype, half in zip(types, np.split(NUMBERS, 2), strict=True)]
    matrix = Matrix("0.qkv", OUT, COLUMNS, form, real)
    tensors = dict(matrix.pack(weights, TINY))
    described = [(name, str(array.dtype), array.shape) for name, array in tensors.items()]
    assert described == list(matrix.tensors())
    assert all(array.flags.c_contiguous for array in tensors.values())
    node = _read_node(matrix.product("x", "y"))
    inputs = [X, *(tensors[name] for name in node.inputs[1:])]
    (found,) = OPERATORS[node.operator](inputs, node.attributes)
    wanted = X @ np.concatenate([weight.floats(TINY) for weight in weights]).T
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance + (0.2 if real == "float16" else 0))
