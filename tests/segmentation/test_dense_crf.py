"""The fully connected CRF against mean field in numpy, in float64 and pair by pair."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision import config as configs
from jaxvision import experiment
from jaxvision.segmentation.dense_crf import DenseCRF, exact_filter
from jaxvision.segmentation.task import pixels_of
from tests.conftest import strict

pytestmark = pytest.mark.usefixtures("unoptimized")
SHAPE = (2, 9, 12)
FIELDS = {"smoothness_std": 1.5, "position_std": 8.0, "color_std": 20.0, "appearance": 4.0}
MEAN_OF_LATTICE, LARGEST_OF_LATTICE = 2e-3, 0.05
"""Differences of marginals that the approximation makes here."""


@pytest.fixture(scope="module")
def sample():
    """Two pictures of two colours with some noise, and logits that are unsure of the edge."""
    rng = np.random.default_rng(0)
    side = np.broadcast_to(np.arange(12) < 7, SHAPE)
    images = np.where(side[..., None], 0.7, 0.2) + rng.normal(size=(*SHAPE, 3)) * 0.03
    logits = np.stack([side * 1.0, ~side * 1.0, np.zeros(SHAPE)], -1) + rng.normal(size=(*SHAPE, 3))
    return jnp.asarray(logits, jnp.float32), jnp.asarray(images, jnp.float32)


def mean_field(crf, logits, images, compatibility=None, valid=None):
    logits, images = np.asarray(logits, np.float64), np.asarray(images, np.float64) * 255
    height, width, classes = logits.shape
    matrix = -np.eye(classes) if compatibility is None else compatibility
    inside = np.ones(height * width) if valid is None else valid.reshape(-1)
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    places = np.stack([columns, rows], -1).reshape(-1, 2)
    colors = images.reshape(-1, 3)
    kernels = []
    for weight, features in (
        (crf.smoothness, places / crf.smoothness_std),
        (crf.appearance, np.concatenate([places / crf.position_std, colors / crf.color_std], -1)),
    ):
        kernel = np.exp(-0.5 * ((features[:, None] - features[None]) ** 2).sum(-1)) * np.outer(inside, inside)
        scale = np.where(inside > 0, 1 / np.sqrt(np.maximum(kernel.sum(1), 1e-300)), 0)
        kernels.append(weight * scale[:, None] * kernel * scale[None])
    unary = logits.reshape(-1, classes)

    def softmax(x):
        e = np.exp(x - x.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    q = softmax(unary)
    for _ in range(crf.iterations):
        q = softmax(unary - sum(k @ q for k in kernels) @ matrix)
    return q.reshape(height, width, classes)


def test_it_is_the_exact_mean_field_on_small_images(sample):
    logits, images = sample
    crf = DenseCRF(**FIELDS)
    matrix = np.array([[-1, 0.3, 0], [0.3, -1, 0.5], [0, 0.5, -0.5]], np.float32)
    valid = np.ones(SHAPE, bool)
    valid[0, 6:], valid[1, :, 9:] = False, False
    run = jax.jit(lambda *a: (crf(a[0], a[1]), crf(a[0], a[1], valid=a[2], compatibility=a[3])))
    with strict():
        plain, learned = run(logits, images, jnp.asarray(valid), jnp.asarray(matrix))
    for i in range(2):
        np.testing.assert_allclose(plain[i], mean_field(crf, logits[i], images[i]), atol=2e-5)
        expected = mean_field(crf, logits[i], images[i], matrix, valid[i].astype(float))
        np.testing.assert_allclose(learned[i], expected, atol=2e-5)
    alone = jax.nn.softmax(logits)
    np.testing.assert_allclose(np.asarray(learned)[~valid], np.asarray(alone)[~valid], atol=1e-6)
    side = np.arange(12) < 7
    wrong = [int((np.asarray(q).argmax(-1) != np.where(side, 0, 1)).sum()) for q in (alone, plain)]
    assert wrong[1] < wrong[0] / 2


def test_the_lattice_is_close_and_its_gradients_are_finite(sample):
    logits, images = sample
    crf = DenseCRF(**FIELDS, filter="lattice", iterations=3, capacity=6.0)

    def run(logits, matrix):
        q = crf(logits, images, compatibility=matrix)
        return jnp.sum(q[..., 0] ** 2), q

    with strict():
        (_, q), gradients = jax.jit(jax.value_and_grad(run, (0, 1), has_aux=True))(logits, -jnp.eye(3))
    assert all(np.isfinite(g).all() and np.abs(g).max() > 0 for g in gradients)
    exact = np.stack([mean_field(crf, logits[i], images[i]) for i in range(2)])
    apart = np.abs(np.asarray(q) - exact)
    print(f"lattice against exact: mean {apart.mean():.1e}, largest {apart.max():.1e}")
    assert apart.mean() < MEAN_OF_LATTICE and apart.max() < LARGEST_OF_LATTICE
    assert (np.asarray(q).argmax(-1) == exact.argmax(-1)).mean() > 0.99


def test_an_image_of_more_corners_than_the_capacity_loses_nothing(sample):
    logits, images = sample
    noisy = images.at[1].set(jnp.asarray(np.random.default_rng(1).uniform(size=images.shape[1:]), jnp.float32))
    few, all_of_them = (DenseCRF(**FIELDS, filter="lattice", iterations=2, capacity=c) for c in (2.0, 6.0))
    with strict():
        run = jax.jit(lambda x, y: (few(x, y), all_of_them(x, y), few.corners(y)))
        quick, whole, needed = run(logits, noisy)
    assert needed[0] < few.capacity < needed[1] <= all_of_them.capacity
    np.testing.assert_allclose(quick, whole, atol=1e-6)


def test_label_weights_are_a_diagonal_compatibility(sample):
    logits, images = sample
    weights = (1.0, 1.5, 0.5)
    with strict():
        run = jax.jit(lambda x, y: DenseCRF(**FIELDS, label_weights=weights)(x, y))
        found = run(logits, images)
    for i in range(2):
        expected = mean_field(DenseCRF(**FIELDS), logits[i], images[i], -np.diag(weights))
        np.testing.assert_allclose(found[i], expected, atol=2e-5)


def test_a_config_sets_label_weights():
    weights, name = (1.0,) * 20 + (1.5,), "segmentation/deeplab_v1_vgg16_voc12aug"
    build = functools.partial(experiment.build_task, class_names=(), num_classes=21)
    assert build(configs.load(name, [("task.crf.label_weights", str(weights))])).crf.label_weights == weights
    with pytest.raises(ValueError, match="20 label_weights for 21 classes"):
        build(configs.load(name, [("task.crf.label_weights", str(weights[1:]))]))


def test_blocks_of_the_exact_filter_do_not_matter_and_it_maps_over_images():
    rng = np.random.default_rng(0)
    features, values = (jnp.asarray(rng.normal(size=(2, 13, n)), jnp.float32) for n in (4, 2))
    whole = jax.vmap(lambda f, v: exact_filter(f)(v))(features, values)
    parts = jax.vmap(lambda f, v: exact_filter(f, block=40)(v))(features, values)
    np.testing.assert_allclose(whole, parts, rtol=1e-5)
    f = np.asarray(features[0], np.float64)
    kernel = np.exp(-0.5 * ((f[:, None] - f[None]) ** 2).sum(-1))
    np.testing.assert_allclose(whole[0], kernel @ np.asarray(values[0]), rtol=1e-4, atol=1e-5)


def test_no_kernels_or_no_valid_pixel_leave_the_softmax(sample):
    logits, images = sample
    alone = jax.nn.softmax(logits)
    np.testing.assert_allclose(DenseCRF(smoothness=0.0, appearance=0.0)(logits, images), alone, atol=1e-6)
    none = DenseCRF(**FIELDS)(logits, images, valid=jnp.zeros(SHAPE, bool))
    np.testing.assert_allclose(none, alone, atol=1e-6)


def test_wrong_arguments_are_named(sample):
    logits, images = sample
    with pytest.raises(ValueError, match="enlarge the logits"):
        DenseCRF()(logits[:, :4], images)
    with pytest.raises(ValueError, match="3 values of mean"):
        DenseCRF()(logits, images[..., :1])
    with pytest.raises(ValueError, match="compatibility"):
        DenseCRF()(logits, images, compatibility=jnp.eye(2))
    with pytest.raises(ValueError, match="2 label_weights for 3 classes"):
        DenseCRF(label_weights=(1.0, 2.0))(logits, images)
    with pytest.raises(ValueError, match="exact"):
        DenseCRF(filter="exakt")


def test_padding_of_the_canvas_is_no_pixel():
    with strict():
        inside = pixels_of(jnp.asarray([[2.0, 3.0], [4.0, 1.0]]), (4, 3))
    assert inside.shape == (2, 4, 3)
    np.testing.assert_array_equal(inside.sum((1, 2)), [6, 4])
    assert inside[0, :2].all() and inside[1, :, 0].all()
