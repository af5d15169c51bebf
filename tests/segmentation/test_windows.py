"""Windows see every pixel, are averaged where they overlap, and are those of OpenMMLab's mode "slide"."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.segmentation.windows import slide, window_corners
from tests.conftest import strict


def as_openmmlab_places_them(canvas, window, stride):
    """The loop of its `slide_inference`: top, left, bottom, right."""
    counts = [max(side - own + step - 1, 0) // step + 1 for side, own, step in zip(canvas, window, stride, strict=True)]
    for row in range(counts[0]):
        for column in range(counts[1]):
            bottom, right = min(row * stride[0] + window[0], canvas[0]), min(column * stride[1] + window[1], canvas[1])
            yield max(bottom - window[0], 0), max(right - window[1], 0), bottom, right


@pytest.mark.parametrize(
    "canvas,window,stride", [((9, 14), (4, 5), (3, 4)), ((8, 8), (8, 8), (3, 3)), ((5, 7), (4, 4), (4, 4))]
)
def test_corners_are_those_of_openmmlab(canvas, window, stride):
    corners = window_corners(canvas, window, stride)
    wanted = [place[:2] for place in as_openmmlab_places_them(canvas, window, stride)]
    assert corners.tolist() == [list(place) for place in wanted]


@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_logits_are_the_mean_over_windows(at_once):
    """A network that sees where in its window a pixel lies, so that overlapping windows disagree."""
    images = np.random.default_rng(0).normal(size=(2, 9, 14, 3)).astype(np.float32)
    ramp = np.arange(20, dtype=np.float32).reshape(4, 5, 1)

    def network(x):
        return jnp.concatenate([x * jnp.asarray(ramp)[None], jnp.sum(x, axis=3, keepdims=True)], axis=3)

    with strict():
        found = jax.jit(lambda x: slide(network, x, (4, 5), (3, 4), at_once=at_once))(jnp.asarray(images))
    sums, seen = np.zeros((2, 9, 14, 4)), np.zeros((1, 9, 14, 1))
    for top, left, bottom, right in as_openmmlab_places_them((9, 14), (4, 5), (3, 4)):
        part = images[:, top:bottom, left:right]
        sums[:, top:bottom, left:right] += np.concatenate([part * ramp, part.sum(3, keepdims=True)], axis=3)
        seen[:, top:bottom, left:right] += 1
    np.testing.assert_allclose(found, sums / seen, rtol=1e-5, atol=1e-5)
    assert (seen > 0).all() and seen.max() > 1


def test_a_window_larger_than_the_image_is_the_image():
    images = jnp.ones((1, 4, 6, 2), jnp.float32)
    with strict():
        found = slide(lambda x: x * 2.0, images, (8, 5), (6, 3))
    np.testing.assert_array_equal(found, images * 2)
