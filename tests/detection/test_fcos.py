"""FCOS: its size, and which point learns which object."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision import config
from jaxvision.detection.fcos import FCOS, assign
from jaxvision.detection.points import Points
from jaxvision.layers import Norm
from jaxvision.necks.fpn import FPN
from tests.conftest import strict
from tests.detection.made import Tiny, batch_of, judged

pytestmark = pytest.mark.usefixtures("unoptimized")


def test_points_are_the_middles_of_cells_and_torchvisions_their_corners():
    grids, strides = {"p3": (2, 3), "p7": (2, 2)}, {"p3": 8, "p7": 128}
    fine, coarse = Points()(grids, strides, (16, 24))
    np.testing.assert_array_equal(fine, [[x, y, 8] for y in (4, 12) for x in (4, 12, 20)])
    np.testing.assert_array_equal(coarse, [[x, y, 128] for y in (64, 192) for x in (64, 192)])
    _, coarse = Points(offset=0.0, whole=True)(grids, strides, (192, 256))
    np.testing.assert_array_equal(coarse, [[x, y, 128] for y in (0, 96) for x in (0, 128)])
    inside = Points().in_picture(fine, jnp.asarray([[64.0, 64.0], [0.0, 64.0]]))
    assert inside[0].all() and not inside[1].any()


def oracle(points, ranges, boxes, valid, usable, radius):
    """(row of the object, -1 negative, -2 neither) of each point."""
    answer = np.full(len(points), -1)
    for i, (x, y, stride) in enumerate(points):
        smallest = np.inf
        for j in np.flatnonzero(valid):
            left, top, right, bottom = boxes[j]
            sides = (x - left, y - top, right - x, bottom - y)
            area = (right - left) * (bottom - top)
            middle = max(abs(x - (left + right) / 2), abs(y - (top + bottom) / 2))
            near = radius is None or middle < radius * stride
            if min(sides) > 0 and near and ranges[i][0] <= max(sides) <= ranges[i][1] and area < smallest:
                smallest, answer[i] = area, j
    answer[~usable] = -2
    return answer


@pytest.mark.parametrize("radius", [None, 0.75])
def test_random_boxes_are_assigned_as_loops_assign_them(radius):
    """Whole coordinates, so that areas are equal and points lie on borders; no object and those without area too."""
    rng = np.random.default_rng(0)
    levels = Points()({"p3": (6, 8), "p4": (3, 4)}, {"p3": 8, "p4": 16}, (48, 64))
    points = np.concatenate(levels)
    ranges = np.repeat([[-1.0, 16.0], [16.0, np.inf]], [48, 12], axis=0).astype(np.float32)
    with strict():
        assigned = jax.jit(lambda *values: assign(*values, center_radius=radius))
        seen = set()
        for case in range(20):
            corners = rng.integers(0, 16, (5, 2, 2)) * 4
            boxes = np.concatenate([corners.min(1), corners.max(1)], axis=1).astype(np.float32)
            valid, usable = rng.random(5) < (0.0, 0.3, 0.7, 1.0)[case % 4], rng.random(60) < 0.8
            found = assigned(*map(jnp.asarray, (points, ranges, boxes, valid, usable)))
            expected = oracle(points, ranges, boxes, valid, usable, radius)
            np.testing.assert_array_equal(found.positive, expected >= 0)
            np.testing.assert_array_equal(found.negative, expected == -1)
            np.testing.assert_array_equal(np.asarray(found.truth)[expected >= 0], expected[expected >= 0])
            seen |= set(np.flatnonzero(expected >= 0) // 48)
        assert seen == {0, 1}, "both levels find objects"


def test_the_levels_share_the_distances_of_section_3_2():
    model = config.build("model", {"name": "fcos", "num_classes": 80})
    ranges = model.ranges(tuple(jnp.zeros((1, 3)) for _ in range(5)))
    np.testing.assert_array_equal(ranges, [[-1, 64], [64, 128], [128, 256], [256, 512], [512, np.inf]])


@pytest.mark.parametrize("activation", ["exp", "relu"])
def test_the_loss_is_least_where_the_outputs_say_the_truth(activation):
    """Logits of the assigned classes, codes of the distances to the objects."""
    model = FCOS(Tiny(), FPN(8, ("c3", "c4")), 3, depth=1, norm=Norm("gn", groups=2), reach=2.0, activation=activation)
    batch = batch_of([3])
    targets, points = jax.tree.map(lambda x: jnp.asarray(x[0]), batch["targets"]), model.points
    levels = points({"p3": (4, 6), "p4": (2, 3)}, {"p3": 8, "p4": 16}, (32, 48))
    flat, usable = jnp.concatenate(levels), jnp.ones(30, bool)
    found = jax.jit(assign)(flat, model.ranges(levels), targets.boxes, targets.valid, usable)
    hit = found.positive[:, None]
    boxes = jnp.where(hit, targets.boxes[found.truth], 0.0)
    sides = jnp.concatenate([flat[:, :2] - boxes[:, :2], boxes[:, 2:] - flat[:, :2]], axis=1)
    codes = jnp.log(jnp.where(hit, sides, 1.0)) if activation == "exp" else jnp.where(hit, sides, 1.0) / flat[:, 2:]
    logits = 60 * jax.nn.one_hot(targets.labels[found.truth], 3) * hit - 30
    perfect = {"logits": logits[None], "codes": codes[None], "centerness": jnp.full((1, 30), 9.0)}
    outputs = {name: (value[:, :24], value[:, 24:]) for name, value in perfect.items()} | {"points": levels}
    terms, detections = judged(model, outputs, batch)
    assert found.positive.sum() >= 3
    assert float(terms["classification"][0]) < 1e-6 and abs(float(terms["box"][0])) < 1e-4
    best = np.asarray(detections.boxes[0][detections.valid[0]])
    for row in set(np.asarray(found.truth)[np.asarray(found.positive)].tolist()):
        assert np.abs(best - np.asarray(targets.boxes[row])).max(axis=1).min() < 1e-2


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="did you mean 'relu'"):
        FCOS(Tiny(), FPN(8, ("c3", "c4")), 3, activation="relo")
    with pytest.raises(ValueError, match="positive numbers of strides"):
        FCOS(Tiny(), FPN(8, ("c3", "c4")), 3, reach=0.0)
