"""Anchors and points against numbers worked out by hand and loops in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.ops.anchors import base_anchors, centered_boxes, grid_anchors, grid_points
from tests.conftest import strict


def test_base_anchors_have_the_area_of_their_size_and_the_ratio_of_their_sides():
    boxes = base_anchors((32.0, 64.0), (0.5, 1.0, 2.0))
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    np.testing.assert_allclose(height / width, [0.5, 0.5, 1, 1, 2, 2], rtol=1e-6)
    np.testing.assert_allclose(width * height, [32**2, 64**2] * 3, rtol=1e-6)
    np.testing.assert_array_equal(boxes[:, :2], -boxes[:, 2:])
    assert boxes.dtype == np.float32


def test_conventions_are_arguments():
    plain = base_anchors((32.0, 64.0), (0.5, 1.0, 2.0))
    # Published in torchvision's tests and in the reference implementation of Faster R-CNN: 23 x 45 for ratio 2.
    np.testing.assert_array_equal(base_anchors((32.0,), (2.0,), rounded=True), [[-11, -23, 11, 23]])
    order = base_anchors((32.0, 64.0), (0.5, 1.0, 2.0), sizes_first=True)
    np.testing.assert_array_equal(order, plain[[0, 2, 4, 1, 3, 5]])
    np.testing.assert_array_equal(base_anchors((9.0,), (1.0,), center=4.5), [[0, 0, 9, 9]])
    np.testing.assert_array_equal(centered_boxes(((10, 20), (4, 2)), center=(8, 16)), [[3, 6, 13, 26], [6, 15, 10, 17]])


@pytest.mark.parametrize("stride", [8, (4, 8)])
def test_grids_run_over_rows_columns_and_anchors(stride):
    base = base_anchors((9.0,), (1.0, 4.0))
    with strict():
        anchors, middles, corners = jax.jit(
            lambda base: (
                grid_anchors((2, 3), stride, base),
                grid_points((2, 3), stride),
                grid_points((2, 3), stride, 0.0),
            )
        )(base)
    down, right = (8, 8) if stride == 8 else stride
    cells = [(row, column) for row in range(2) for column in range(3)]
    np.testing.assert_array_equal(corners, [(x * right, y * down) for y, x in cells])
    np.testing.assert_array_equal(middles, [((x + 0.5) * right, (y + 0.5) * down) for y, x in cells])
    want = [base[i] + np.array([x * right, y * down] * 2) for y, x in cells for i in range(2)]
    np.testing.assert_allclose(anchors, want, rtol=1e-6)


def test_a_level_without_cells_has_no_anchors():
    assert grid_anchors((0, 3), 8, base_anchors((9.0,), (1.0,))).shape == (0, 4)


def test_grids_are_computed_in_the_program_not_stored_in_it():
    text = jax.jit(lambda: grid_anchors((100, 100), 8, base_anchors((9.0,), (1.0,)))).lower().as_text()
    assert len(text) < 5000


def test_errors_name_what_was_given():
    with pytest.raises(ValueError, match=r"base anchors \[A, 4\] \(see base_anchors\), and got \(4,\)"):
        grid_anchors((2, 2), 8, jnp.zeros(4))
