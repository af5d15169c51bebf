"""Losses of boxes against numpy, and their gradients where boxes have no area."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision import losses
from tests.conftest import strict


@pytest.mark.parametrize("beta", [0.0, 0.11, 1.0])
def test_smooth_l1_is_quadratic_near_zero(beta):
    values, targets = np.random.default_rng(0).normal(size=(2, 50)).astype(np.float32)
    with strict():
        ours = losses.smooth_l1(jnp.asarray(values), jnp.asarray(targets), beta=beta)
    distance = np.abs(values - targets)
    quadratic = distance**2 / (2 * beta) if beta else distance
    np.testing.assert_allclose(ours, np.where(distance < beta, quadratic, distance - beta / 2), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", ["iou", "giou", "diou", "ciou"])
def test_the_loss_of_an_overlap_is_zero_for_equal_boxes_and_its_gradient_finite(kind):
    boxes = jnp.asarray([[0, 0, 4, 6], [3, 3, 3, 3], [0, 0, 2, 2], [0, 0, 0, 0.0]])
    others = jnp.asarray([[0, 0, 4, 6], [3, 3, 3, 3], [5, 5, 9, 9], [1, 1, 2, 2.0]])
    with strict():
        values = losses.iou_loss(boxes, others, kind=kind)
        slopes = jax.grad(lambda x: jnp.sum(losses.iou_loss(x, others, kind=kind)))(boxes)
    assert values.shape == (4,) and values[0] == pytest.approx(0, abs=1e-6) and values[2] >= 1
    assert jnp.isfinite(values).all() and jnp.isfinite(slopes).all()


def test_shapes_that_do_not_belong_together_are_told():
    with pytest.raises(ValueError, match="the shapes must be equal"):
        losses.smooth_l1(jnp.zeros(3), jnp.zeros(4))
    with pytest.raises(ValueError, match="the shapes must be equal"):
        losses.iou_loss(jnp.zeros((3, 4)), jnp.zeros((2, 4)))
