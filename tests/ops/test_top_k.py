"""Padded top-k against a stable sort in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.ops.top_k import top_k
from tests.conftest import strict


@pytest.mark.parametrize("n,k", [(9, 4), (9, 9), (4, 7), (1, 1), (0, 3), (3, 0)])
def test_equals_a_stable_sort_of_the_valid_scores(n, k):
    rng = np.random.default_rng(n)
    scores = rng.integers(-2, 3, (3, n)).astype(np.float32)
    scores[:, : n // 4] = -np.inf
    valid = rng.uniform(size=(3, n)) < 0.7
    valid[2:] = False
    with strict():
        outputs = jax.jit(top_k, static_argnums=1)(scores, k, valid)
    values, indices, kept = map(np.asarray, outputs)
    assert values.shape == indices.shape == kept.shape == (3, k) and indices.dtype == np.int32
    for row in range(3):
        order = np.argsort(-scores[row], kind="stable")
        want = order[valid[row][order]][:k]
        np.testing.assert_array_equal(kept[row], np.arange(k) < len(want))
        np.testing.assert_array_equal(indices[row][: len(want)], want)
        np.testing.assert_array_equal(values[row][: len(want)], scores[row][want])
        assert (values[row][len(want) :] == 0).all() and (indices[row][len(want) :] == 0).all()


def test_zeros_of_both_signs_are_equal_and_bfloat16_stays():
    values, indices, _ = top_k(jnp.array([-0.0, 0.0, -1.0, -0.0], jnp.bfloat16), 3)
    np.testing.assert_array_equal(indices, [0, 1, 3])
    assert values.dtype == jnp.bfloat16


def test_nan_comes_first():
    _, indices, _ = top_k(jnp.array([1.0, np.nan, np.inf]), 3)
    np.testing.assert_array_equal(indices, [1, 2, 0])


def test_gradient_goes_to_the_chosen():
    gradient = jax.grad(lambda x: top_k(x, 5, jnp.array([True, True, False]))[0].sum())(jnp.array([1.0, 1.0, 2.0]))
    np.testing.assert_array_equal(gradient, [1, 1, 0])


def test_errors_name_what_was_given():
    with pytest.raises(ValueError, match=r"int32 \(3,\), k=2"):
        top_k(jnp.arange(3), 2)
    with pytest.raises(ValueError, match="k=-1"):
        top_k(jnp.zeros(3), -1)
