"""Turned, sheared and bent pictures keep their boxes, masks, keypoints and label maps; the warp agrees with scipy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from jaxvision.augment import RandomAffine, RandomPerspective, RandomRot90, RandomRotate, RandomShear, geometry, warp
from jaxvision.augment.instances import Keep
from tests.augment import drawing
from tests.conftest import strict

WARPS = (
    RandomRotate(180.0),
    RandomShear((-20.0, 20.0, -10.0, 10.0)),
    RandomAffine(30.0, (0.2, 0.2), (0.7, 1.4), (-5.0, 5.0), fill=0.1),
    RandomPerspective(distortion_scale=0.4),
    RandomRot90(),
)
KEEP_ALL = Keep(0.0, 0.0)


def run(transform, sample, seeds=range(4)):
    """The sample under several keys, as a list of samples."""
    with strict():
        keys = jax.vmap(jax.random.key)(np.asarray(list(seeds), np.uint32))
        out = jax.device_get(jax.jit(jax.vmap(transform, in_axes=(None, 0)))(sample, keys))
    return [jax.tree.map(lambda leaf, i=i: leaf[i], out) for i in range(len(keys))]


@pytest.mark.parametrize("transform", WARPS, ids=lambda t: type(t).__name__)
def test_a_drawn_object_moves_with_its_annotations(transform, unoptimized):
    dtype = np.float32 if isinstance(transform, RandomAffine) else np.uint8
    before = drawing.scene(dtype=dtype)
    for sample in run(transform, before, range(12)):
        drawing.assert_consistent(sample, before=before)
        assert jax.tree.structure(sample) == jax.tree.structure(before)
        assert jax.tree.map(lambda x: (x.shape, x.dtype), sample) == jax.tree.map(lambda x: (x.shape, x.dtype), before)


def affine_runner():
    def move(sample, angle, shift, scale, shear):
        height, width = geometry.picture_size(sample)
        centre = width.astype(jnp.float32) / 2.0, height.astype(jnp.float32) / 2.0
        matrix = geometry.affine_matrix(angle, (shift[0], shift[1]), scale, (shear[0], shear[1]), centre)
        return geometry.move_sample(sample, matrix, Keep(), fill=3.0)

    return jax.jit(move)


MOVE = affine_runner()


@settings(max_examples=40, deadline=None)
@given(
    st.floats(-180, 180),
    st.tuples(st.floats(-60, 60), st.floats(-60, 60)),
    st.floats(0.5, 2),
    st.tuples(st.floats(-30, 30), st.floats(-30, 30)),
)
def test_any_affine_map_keeps_annotations_and_pixels_together(angle, shift, scale, shear):
    before = drawing.scene()
    with strict():
        sample = MOVE(before, *(np.asarray(v, np.float32) for v in (angle, shift, scale, shear)))
    drawing.assert_consistent(jax.device_get(sample), before=before)


def test_rotated_boxes_are_exact_under_similarities():
    """The corners of the moved box are the moved corners, in any order; a mirror included."""
    boxes = np.array([[30, 20, 12, 6, 0.4], [50, 60, 5, 9, -2.0]], np.float32)
    for angle, scale, mirror in ((0.3, 1.0, 1), (-2.0, 0.5, 1), (1.0, 2.0, -1), (0.0, 1.0, -1)):
        c, s = scale * np.cos(angle), scale * np.sin(angle)
        matrix = np.array([[c * mirror, -s, 5], [s * mirror, c, -3], [0, 0, 1]], np.float32)
        moved = np.asarray(geometry_rotated(boxes, matrix))
        for old, new in zip(boxes, moved, strict=True):
            expected = (np.c_[corners(old), np.ones(4)] @ matrix.T)[:, :2]
            distance = np.linalg.norm(expected[:, None] - corners(new)[None], axis=-1)
            assert distance.min(axis=1).max() < 1e-3
            down = matrix[:2, :2] @ [-np.sin(old[4]), np.cos(old[4])]
            np.testing.assert_allclose(down / scale, [-np.sin(new[4]), np.cos(new[4])], atol=1e-5)


def geometry_rotated(boxes, matrix):
    from jaxvision.augment.instances import move_rotated

    return move_rotated(jnp.asarray(boxes), jnp.asarray(matrix))


def corners(box):
    x, y, width, height, angle = box
    u, v = np.array([np.cos(angle), np.sin(angle)]) * width / 2, np.array([-np.sin(angle), np.cos(angle)]) * height / 2
    return np.array([(x, y) + i * u + j * v for i in (-1, 1) for j in (-1, 1)])


def test_rotated_boxes_keep_their_area_under_shears():
    matrix = np.array([[1, 0.5, 0], [0, 1.5, 0], [0, 0, 1]], np.float32)
    moved = geometry_rotated(np.array([[5, 5, 4, 3, 0.7]], np.float32), matrix)[0]
    np.testing.assert_allclose(moved[2] * moved[3], 12 * 1.5, rtol=1e-5)


@pytest.mark.parametrize("fill", [0.0, 0.4])
def test_the_warp_agrees_with_scipy(fill):
    image = np.random.default_rng(0).random((13, 17, 2), np.float32)
    labels = np.random.default_rng(1).integers(0, 9, (13, 17)).astype(np.uint8)
    matrix = geometry.affine_matrix(25.0, (2.0, -1.5), 1.2, (8.0, -4.0), (8.5, 6.5))
    with strict():
        inverse = geometry.invert(matrix)
        at = geometry._transformed(inverse, warp.pixel_centres(13, 17))
        size = jnp.int32(13), jnp.int32(17)
        smooth, near = warp.bilinear(jnp.asarray(image), at, size, fill), warp.nearest(jnp.asarray(labels), at, size, 5)
    # scipy: rows first, centres at whole numbers
    swap = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1]])
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    theirs = np.linalg.inv(half) @ swap @ np.asarray(inverse, np.float64) @ swap @ half
    for channel in range(2):
        expected = ndimage.affine_transform(image[..., channel], theirs, order=1, mode="grid-constant", cval=fill)
        np.testing.assert_allclose(smooth[..., channel], expected, atol=1e-5)
    rows, columns = np.asarray(at[1]) - 0.5, np.asarray(at[0]) - 0.5
    expected = ndimage.map_coordinates(labels, [rows, columns], order=0, mode="grid-constant", cval=5)
    assert (np.asarray(near) == expected).mean() > 0.99  # the border is one of half a pixel


def test_the_identity_changes_nothing(unoptimized):
    sample = drawing.scene()
    with strict():
        same = jax.jit(lambda s, matrix: geometry.move_sample(s, matrix, KEEP_ALL, fill=3))(sample, jnp.eye(3))
    for moved in (jax.device_get(same), run(RandomAffine(90.0, fill=3, probability=0.0), sample, [0])[0]):
        np.testing.assert_allclose(moved["targets"].rotated_boxes, sample["targets"].rotated_boxes, atol=1e-6)
        moved["targets"] = moved["targets"].replace(rotated_boxes=sample["targets"].rotated_boxes)
        for key in sample:
            jax.tree.map(np.testing.assert_array_equal, moved[key], sample[key])


def test_a_sample_is_moved_with_its_probability():
    before = drawing.scene()
    out = run(RandomRotate((20.0, 20.0), probability=0.3), {"image": before["image"]}, range(200))
    assert 30 < sum((sample["image"] != before["image"]).any() for sample in out) < 90


def test_rotation_counts_counter_clockwise_and_affine_clockwise():
    image = np.zeros((9, 9, 1), np.uint8)
    image[4, 8] = 200  # at the right
    assert run(RandomRotate((90.0, 90.0)), {"image": image})[0]["image"][0, 4, 0] == 200
    assert run(RandomAffine((90.0, 90.0)), {"image": image})[0]["image"][8, 4, 0] == 200


def test_quarter_turns_are_those_of_numpy(unoptimized):
    before = drawing.scene()
    picture = before["image"][: drawing.SIZE[0], : drawing.SIZE[1]]
    turned = {(*tuple(np.rot90(picture, k).shape[:2]), k): np.rot90(picture, k) for k in range(4)}
    seen = set()
    for sample in run(RandomRot90(fill=PAD), before, range(30)):
        height, width = sample["size"].astype(int)
        matches = [
            k
            for (h, w, k), view in turned.items()
            if (h, w) == (height, width) and (sample["image"][:height, :width] == view).all()
        ]
        assert len(matches) == 1
        assert (sample["image"][height:] == PAD).all() and (sample["image"][:, width:] == PAD).all()
        assert (sample["semantic"][height:] == 255).all()
        seen.update(matches)
        drawing.assert_consistent(sample, before=before, box_tolerance=0)
    assert seen == {0, 1, 2, 3}


PAD = drawing.PADDING


def test_objects_of_which_too_little_is_left_are_dropped(unoptimized):
    before = drawing.scene(objects=((20, 40, 20, 20, 0), (60, 40, 20, 20, 0)))
    move = jax.jit(geometry.move_sample, static_argnums=2)
    for left, expected in ((8, [True, True]), (18, [True, True]), (27, [False, True]), (100, [False, False])):
        with strict():
            moved = move(before, geometry.shift_matrix(-float(left), 0.0), Keep(0.2, 1.0))
        assert list(moved["targets"].valid[1:3]) == expected
        drawing.assert_consistent(jax.device_get(moved))
    with strict():
        tiny = move(before, geometry.scale_matrix(0.1, 0.1), Keep(0.0, 3.0))
    assert not tiny["targets"].valid.any()


def test_corners_alone_make_larger_boxes(unoptimized):
    before = drawing.scene(objects=((45, 40, 20, 20, 0.0),))
    turn = RandomRotate((45.0, 45.0))
    tight, loose = (run(t, before, [0])[0]["targets"] for t in (turn, dataclasses.replace(turn, tight_boxes=False)))
    np.testing.assert_allclose(tight.boxes, loose.boxes, atol=1)  # the corners of a square are its mask's
    diamond = drawing.scene(objects=((45, 40, 20, 20, np.pi / 4),))
    tight, loose = (run(t, diamond, [0])[0]["targets"] for t in (turn, dataclasses.replace(turn, tight_boxes=False)))
    np.testing.assert_allclose(tight.boxes[1], [35, 30, 55, 50], atol=1)
    np.testing.assert_allclose(loose.boxes[1], [25, 20, 65, 60], atol=1)


@pytest.mark.parametrize("transform", WARPS[2:], ids=lambda t: type(t).__name__)
def test_degenerate_samples_stay_finite(transform, unoptimized):
    nothing = drawing.scene(objects=())
    padding = {**drawing.scene(objects=()), "size": np.zeros(2, np.float32)}
    pixel = drawing.scene(objects=(), canvas=(1, 1), size=(1, 1))
    for before in (nothing, padding, pixel):
        for sample in run(transform, before, range(2)):
            assert not sample["targets"].valid.any()
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(sample))
    for sample in run(transform, padding, range(2)):
        np.testing.assert_array_equal(sample["image"], padding["image"])


def test_settings_that_make_no_sense_are_refused():
    for make, message in (
        (lambda: RandomRotate(-5.0), "degrees is -5.0"),
        (lambda: RandomAffine((5.0, -5.0)), "degrees is"),
        (lambda: RandomAffine(translate=(2.0, 0.0)), "translate is"),
        (lambda: RandomAffine(scale=(0.0, 1.0)), "scale is"),
        (lambda: RandomShear((1.0, 2.0, 3.0)), "shear is"),
        (lambda: RandomPerspective(distortion_scale=1.0), "distortion_scale is"),
        (lambda: RandomRotate(probability=2.0), "probability is 2.0"),
        (lambda: RandomRotate(min_area_ratio=-1.0), "min_area_ratio is"),
        (lambda: RandomRotate(min_size=-1.0), "min_size is"),
        (lambda: RandomRot90(2.0), "probability is"),
        (lambda: run(RandomRot90(), {"image": np.zeros((4, 6, 1), np.uint8)}), "square canvas, got 4 x 6"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    with pytest.raises(TypeError, match="targets are a dict"):
        run(RandomRotate(), {"image": np.zeros((4, 6, 1), np.uint8), "targets": {"boxes": np.zeros((1, 4))}})
