"""Affine and perspective maps against torchvision v2, and the distributions they are drawn from."""

import importlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.augment import RandomAffine, geometry, warp
from jaxvision.augment.affine import shear_ranges
from tests.conftest import strict

pytestmark = pytest.mark.parity
HEIGHT, WIDTH = 23, 31


@pytest.fixture
def v2(request):
    try:
        import torchvision  # noqa: F401
    except RuntimeError:  # beside the CPU build of torch it lacks its compiled operators
        sys.path.append(str(request.getfixturevalue("test_data") / "parity"))
        importlib.import_module("torchvision_cpu")
    from torchvision.transforms import v2

    return v2


def image():
    return np.random.default_rng(0).random((HEIGHT, WIDTH, 3), np.float32)


def ours(picture, matrix, fill):
    with strict():
        size = jnp.int32(HEIGHT), jnp.int32(WIDTH)
        at = geometry._transformed(geometry.invert(matrix), warp.pixel_centres(HEIGHT, WIDTH))
        return np.asarray(warp.bilinear(jnp.asarray(picture), at, size, fill))


def compare(picture, matrix, fill, theirs, tolerance):
    """With a fill value torchvision lets the pixels of the border fade twice, which is undone here."""
    covered = ours(np.ones_like(picture), matrix, 0.0)
    value = ours(picture, matrix, 0.0)
    np.testing.assert_allclose(value if fill is None else covered * (value - fill) + fill, theirs, atol=tolerance)
    whole = covered > 0.9999
    np.testing.assert_allclose(ours(picture, matrix, fill or 0.0)[whole], theirs[whole], atol=tolerance)
    assert whole.mean() > 0.2


def to_torch(picture):
    import torch

    return torch.from_numpy(picture.transpose(2, 0, 1).copy())


def to_numpy(picture):
    return picture.numpy().transpose(1, 2, 0)


@pytest.mark.parametrize("fill", [None, 0.5])
@pytest.mark.parametrize(
    "angle,translate,scale,shear",
    [
        (0, (0, 0), 1.0, (0, 0)),
        (30, (0, 0), 1.0, (0, 0)),
        (-100, (3, -2), 0.7, (0, 0)),
        (0, (5, 1), 1.0, (20, 0)),
        (10, (-4, 2), 1.3, (-15, 25)),
    ],
)
def test_affine_equals_torchvision(v2, angle, translate, scale, shear, fill):
    picture = image()
    theirs = v2.functional.affine(
        to_torch(picture),
        angle=angle,
        translate=list(translate),
        scale=scale,
        shear=list(shear),
        interpolation=v2.InterpolationMode.BILINEAR,
        fill=fill,
    )
    matrix = geometry.affine_matrix(float(angle), translate, scale, shear, (WIDTH / 2, HEIGHT / 2))
    compare(picture, matrix, fill, to_numpy(theirs), 2e-4)


@pytest.mark.parametrize("fill", [None, 0.5])
def test_perspective_equals_torchvision(v2, fill):
    picture = image()
    start = [[0, 0], [WIDTH, 0], [WIDTH, HEIGHT], [0, HEIGHT]]
    end = [[4, 2], [WIDTH - 3, 5], [WIDTH - 6, HEIGHT - 1], [1, HEIGHT - 7]]
    theirs = v2.functional.perspective(
        to_torch(picture), start, end, interpolation=v2.InterpolationMode.BILINEAR, fill=fill
    )
    matrix = geometry.quad_matrix(jnp.asarray(end, jnp.float32), (jnp.int32(HEIGHT), jnp.int32(WIDTH)))
    compare(picture, matrix, fill, to_numpy(theirs), 1e-3)


def test_boxes_equal_those_of_torchvision(v2):
    """Of four moved corners, before they are clipped."""
    from torchvision import tv_tensors

    from jaxvision.augment.instances import move_points

    box = np.array([8, 5, 20, 16], np.float32)
    theirs = v2.functional.affine(
        tv_tensors.BoundingBoxes(box[None], format="XYXY", canvas_size=(200, 200), clamping_mode=None),
        angle=25,
        translate=[60, 50],
        scale=1.2,
        shear=[10.0, -5.0],
    ).numpy()[0]
    matrix = geometry.affine_matrix(25.0, (60, 50), 1.2, (10, -5), (100, 100))
    corners = np.array([[box[i], box[j]] for i in (0, 2) for j in (1, 3)])
    moved = np.asarray(move_points(matrix, jnp.asarray(corners)))
    np.testing.assert_allclose([*moved.min(0), *moved.max(0)], theirs, atol=1e-3)


def test_parameters_are_drawn_from_the_ranges_of_torchvision(v2):
    settings = dict(degrees=(-20.0, 50.0), translate=(0.1, 0.3), scale=(0.8, 1.5), shear=(-5.0, 10.0, -2.0, 3.0))
    theirs = v2.RandomAffine(**settings)
    draws = [theirs.make_params([to_torch(np.zeros((200, 100, 3), np.float32))]) for _ in range(600)]
    transform = RandomAffine(**settings)
    size = jnp.int32(200), jnp.int32(100)
    matrices = jax.vmap(lambda key: transform.matrix(key, size))(jax.random.split(jax.random.key(0), 600))
    area = np.linalg.det(matrices[:, :2, :2])
    shears = np.array([draw["shear"] for draw in draws])
    assert shear_ranges(settings["shear"]) == ((-5.0, 10.0), (-2.0, 3.0))
    assert shears.min(0) == pytest.approx([-5, -2], abs=0.5) and shears.max(0) == pytest.approx([10, 3], abs=0.5)
    their_scales = np.array([draw["scale"] for draw in draws])
    for quantile in (0.02, 0.5, 0.98):
        assert np.quantile(np.sqrt(area), quantile) == pytest.approx(np.quantile(their_scales, quantile), abs=0.06)
    centre = np.array([50, 100, 1])
    shift = (np.asarray(matrices) @ centre)[:, :2] - centre[:2]
    their_shift = np.array([draw["translate"] for draw in draws])
    np.testing.assert_allclose(shift, np.round(shift), atol=1e-3)
    assert np.abs(shift).max(0) == pytest.approx(np.abs(their_shift).max(0), abs=2)
