"""Colour on the device: numpy and colorsys oracles, and what holds for every transform of pixel values."""

import colorsys
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxvision import augment, registry
from jaxvision.augment import ColorJitter, PhotoMetricDistortion, RandomGrayscale, RandomHSV, pipeline
from jaxvision.augment.color import adjust_hsv, adjust_hue, distort, grayscale
from jaxvision.structures import Instances
from tests.conftest import strict

pytestmark = pytest.mark.usefixtures("unoptimized")

ALL = (
    ColorJitter(0.4, 0.4, 0.4, 0.1),
    ColorJitter(hue=0.5, probability=0.8),
    RandomHSV(),
    RandomGrayscale(0.5),
    PhotoMetricDistortion(),
    augment.RandomInvert(),
    augment.RandomSolarize(),
    augment.RandomPosterize(3),
    augment.RandomEqualize(),
    augment.RandomAutocontrast(),
    augment.GaussianBlur(5, probability=0.5),
    augment.RandomSharpness(),
    augment.GaussianNoise(),
    augment.RandomErasing(),
    augment.RandomErasing(mode="mean"),
    augment.RandomErasing(mode="uniform"),
)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def batch_of(image):
    n = len(image)
    boxes = np.tile(np.array([[[1, 1, 4, 4]]], np.float32), (n, 2, 1))
    flags = np.ones((n, 2), bool)
    targets = Instances(
        boxes, flags.astype(np.int32), flags, ~flags, boxes[..., 0], masks=np.ones((n, 2, 8, 1), np.uint8)
    )
    semantic = np.zeros((n, *image.shape[1:3]), np.uint8)
    return {"image": image, "position": np.arange(7, 7 + n, dtype=np.uint32), "targets": targets, "semantic": semantic}


@functools.cache
def program(transforms):
    return jax.jit(pipeline(transforms))


def run(transforms, image, seed=0):
    with strict():
        return program(transforms)(batch_of(image), jax.random.key(seed))


def call(function, *args):
    with strict():
        return np.asarray(jax.jit(function)(*map(jnp.asarray, args)))


def by_pixel(function, image):
    return np.array([[function(*pixel) for pixel in row] for row in image.astype(float)])


@pytest.mark.parametrize("transform", ALL, ids=repr)
def test_only_the_image_changes_and_only_by_seed_and_position(transform):
    image = noise(16, 20, 16, 3)
    batch = batch_of(image)
    out = run((transform,), image)
    assert out["image"].shape == image.shape and out["image"].dtype == np.uint8
    for mine, given in zip(jax.tree.leaves(out | {"image": 0}), jax.tree.leaves(batch | {"image": 0}), strict=True):
        np.testing.assert_array_equal(mine, given)
    assert (np.asarray(out["image"]) != image).any((1, 2, 3)).sum() > 2
    if transform.probability <= 0.5 and not isinstance(transform, PhotoMetricDistortion):
        assert (np.asarray(out["image"]) == image).all((1, 2, 3)).sum() > 2
    with strict():
        some = np.array([9, 2, 2, *range(3, 16)])
        part = program((transform,))(jax.tree.map(lambda x: x[some], batch), jax.random.key(0))
    np.testing.assert_array_equal(part["image"], out["image"][some])


@pytest.mark.parametrize("transform", ALL[:-3], ids=repr)
def test_floating_point_follows_uint8(transform):
    """The same draws on 0..1: equal up to rounding (posterize has its own levels)."""
    image = noise(16, 20, 16, 3)
    out = np.asarray(run((transform,), (image / np.float32(255)))["image"])
    assert out.dtype == np.float32 and out.min() >= 0 and out.max() <= 1
    expected = np.asarray(run((transform,), image)["image"]) / 255
    tolerance = 1 / 8 if isinstance(transform, augment.RandomPosterize) else 1.01 / 510
    assert abs(out - expected).max() <= tolerance


@pytest.mark.parametrize("shape,dtype", [((6, 1, 1, 3), np.uint8), ((6, 4, 3, 1), jnp.bfloat16)])
def test_one_pixel_one_colour_one_channel_and_bfloat16(shape, dtype):
    """Black, grey and white images; all but the last few transforms leave them of one colour."""
    image = np.broadcast_to(np.uint8([0, 200, 255] * 2).reshape(-1, 1, 1, 1), shape)
    out = run(ALL, jnp.asarray(image if dtype == np.uint8 else image / 255, dtype))["image"]
    assert out.shape == shape and out.dtype == dtype
    out = np.asarray(out, np.float32) / (255 if dtype == np.uint8 else 1)
    assert np.isfinite(out).all() and out.min() >= 0 and out.max() <= 1


def test_probability_zero_changes_nothing_and_one_is_always():
    image = noise(8, 8, 6, 3)
    never = [dataclasses.replace(t, probability=0.0) for t in ALL if not isinstance(t, PhotoMetricDistortion)]
    np.testing.assert_array_equal(run(tuple(never), image)["image"], image)
    np.testing.assert_allclose(run((PhotoMetricDistortion(probability=0.0),), image)["image"], image)
    changed = run((RandomGrayscale(1.0),), image)["image"]
    assert (changed == changed[..., :1]).all()


def test_traces_inside_a_mapped_axis_with_its_checks():
    mesh = Mesh(np.array(jax.devices()), ("batch",))
    specs = dict(in_specs=(P("batch"), P()), out_specs=P("batch"), check_vma=True)
    mapped = jax.shard_map(pipeline((*ALL, augment.Normalize())), mesh=mesh, **specs)
    with strict():
        out = jax.eval_shape(mapped, batch_of(noise(16, 8, 6, 3)), jax.random.key(0))
    assert out["image"].shape == (16, 8, 6, 3)


def test_names_in_the_registry():
    for transform in ALL:
        name = type(transform).__name__
        assert type(transform) in [registry.lookup("augment", row).load() for row in registry.names("augment")], name
        assert hash(transform) == hash(dataclasses.replace(transform))


@pytest.mark.parametrize("turn", [-0.5, -0.2, 0.0, 0.07, 0.5])
def test_hue_is_that_of_colorsys(turn):
    image = noise(6, 5, 3) / np.float32(255)
    image[0, :3] = [[0.4, 0.4, 0.4], [0, 0, 0], [1, 1, 1]]

    def turned(r, g, b):
        h, s, v = colorsys.rgb_to_hsv(r, g, b)
        return colorsys.hsv_to_rgb((h + turn) % 1, s, v)

    np.testing.assert_allclose(call(adjust_hue, image, np.float32(turn)), by_pixel(turned, image), atol=2e-6)


@pytest.mark.parametrize("hue,saturation,value", [(0.1, 1.7, 1.4), (-0.3, 0.3, 0.6), (0, 1, 1), (0, 0, 1), (0.2, 2, 0)])
def test_hsv_gains_are_those_of_colorsys(hue, saturation, value):
    image = noise(6, 5, 3) / np.float32(255)
    image[0, :3] = [[0.4, 0.4, 0.4], [0, 0, 0], [1, 1, 1]]

    def changed(r, g, b):
        h, s, v = colorsys.rgb_to_hsv(r, g, b)
        return colorsys.hsv_to_rgb((h + hue) % 1, min(1, s * saturation), min(1, v * value))

    factors = np.float32([hue, saturation, value])
    np.testing.assert_allclose(call(adjust_hsv, image, *factors), by_pixel(changed, image), atol=3e-6)
    grey = image[..., :1]
    np.testing.assert_allclose(call(adjust_hsv, grey, *factors), np.minimum(grey * value, 1), atol=1e-6)


def test_hsv_draws_stay_in_their_ranges():
    keys = jax.random.split(jax.random.key(0), 500)
    hue, saturation, value = (np.asarray(x) for x in jax.jit(jax.vmap(RandomHSV(0.1, 0.7, 0.4).draw))(keys))
    for drawn, centre, gain in ((hue, 0, 0.1), (saturation, 1, 0.7), (value, 1, 0.4)):
        assert abs(drawn - centre).max() <= gain and abs(drawn.mean() - centre) < 0.1 * gain
        assert abs(drawn.std() - gain / 3**0.5) < 0.1 * gain


def test_grayscale_is_the_luminance():
    image = noise(6, 5, 3)
    expected = np.repeat((image @ np.array([0.2989, 0.587, 0.114]))[..., None], 3, -1)
    np.testing.assert_allclose(call(grayscale, image), np.rint(expected), atol=1)
    np.testing.assert_array_equal(call(grayscale, image[..., :1]), image[..., :1])


@functools.cache
def _photo_metric():
    return jax.jit(PhotoMetricDistortion(probability=0.8).draw), jax.jit(distort)


@pytest.mark.parametrize("seed", range(4))
def test_photo_metric_distortion_by_its_steps(seed):
    """The steps of SSD, pixel by pixel, in colorsys' HSV, with the drawn numbers."""
    image = noise(5, 4, 3, seed=seed) / np.float32(255)
    with strict():
        draw, apply = _photo_metric()
        drawn = draw(jax.random.key(seed))
        result = apply(jnp.asarray(image), **drawn)
        drawn = jax.tree.map(np.asarray, drawn)
    expected = image.astype(float) + drawn["brightness"]
    expected = expected * drawn["contrast"] if drawn["contrast_first"] else expected

    def turned(r, g, b):
        h, s, v = colorsys.rgb_to_hsv(r, g, b)
        return colorsys.hsv_to_rgb((h + drawn["hue"]) % 1, min(1, s * drawn["saturation"]), v)

    expected = by_pixel(turned, expected.clip(0))[..., drawn["channels"]]
    expected = expected if drawn["contrast_first"] else expected * drawn["contrast"]
    np.testing.assert_allclose(result, expected.clip(0, 1), atol=5e-6)


def test_photo_metric_distortion_draws_each_with_its_probability():
    keys = jax.random.split(jax.random.key(1), 1000)
    drawn = jax.tree.map(np.asarray, jax.jit(jax.vmap(PhotoMetricDistortion().draw))(keys))
    for name, neutral in (("brightness", 0), ("contrast", 1), ("saturation", 1), ("hue", 0)):
        assert 0.43 < (drawn[name] == neutral).mean() < 0.57
    assert abs(drawn["brightness"]).max() <= 32 / 255 and abs(drawn["hue"]).max() <= 0.05
    assert 0.5 <= drawn["contrast"].min() < 0.55 and 1.45 < drawn["saturation"].max() <= 1.5
    assert (np.sort(drawn["channels"]) == [0, 1, 2]).all() and len(np.unique(drawn["channels"], axis=0)) == 6
    assert 0.5 < (drawn["channels"] == [0, 1, 2]).all(1).mean() < 0.67  # half are kept, and a sixth of the others
    assert 0.43 < drawn["contrast_first"].mean() < 0.57


def test_jitter_of_hue_alone_and_in_every_place():
    image = noise(6, 5, 3) / np.float32(255)
    key, jitter = jax.random.key(3), ColorJitter(hue=0.3)
    with strict():
        turn, alone = jax.jit(lambda x: (jitter.draw(key)[1][0], jitter({"image": x}, key)["image"]))(image)
    assert abs(turn) <= 0.3
    np.testing.assert_allclose(alone, call(adjust_hue, image, turn), atol=1e-6)
    draw = jax.jit(jax.vmap(lambda key: ColorJitter(0.1, 0.1, 0.1, 0.1).draw(key)[0]))
    orders = draw(jax.random.split(key, 400))
    assert len(np.unique(np.asarray(orders), axis=0)) == 24


def test_settings_that_make_no_sense_are_refused():
    for make, message in (
        (lambda: ColorJitter(hue=0.6), "hue is 0.6, expected at most 0.5"),
        (lambda: ColorJitter(0.4, probability=-0.1), "color_jitter: probability is -0.1"),
        (lambda: RandomHSV(saturation=1.5), "saturation is 1.5, expected 0..1"),
        (lambda: RandomGrayscale(2), "probability is 2"),
        (lambda: PhotoMetricDistortion(contrast=(1.5, 0.5)), "contrast is .* expected .smallest, largest."),
        (lambda: PhotoMetricDistortion(hue=0.7), "hue in 0..0.5"),
        (lambda: run((ColorJitter(0.4),), noise(2, 4, 4, 4)), "color_jitter: the image has 4 channels"),
        (lambda: run((RandomHSV(),), noise(2, 4, 4, 2)), "the image has 2 channels, expected 1 .grey. or 3 .RGB."),
    ):
        with pytest.raises(ValueError, match=message):
            make()
