"""Device transforms: what they do to pixels, and that they depend on the seed and the sample's position only."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxvision.augment import ColorJitter, Normalize, RandomCropPad, RandomFlip, pipeline
from jaxvision.augment.color import adjust_brightness, adjust_contrast, adjust_saturation
from tests.conftest import strict

ALL = (RandomFlip(), RandomCropPad(2, fill=3), ColorJitter(0.4, 0.4, 0.4), Normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)))


def make_batch(n=16, channels=3, dtype=np.uint8):
    image = np.random.default_rng(0).integers(0, 256, (n, 8, 6, channels), np.uint8)
    return {
        "image": image if dtype == np.uint8 else (image / 255).astype(dtype),
        "label": np.arange(n, dtype=np.int32),
        "valid": np.ones(n, bool),
        "position": np.arange(100, 100 + n, dtype=np.uint32),
        "original_boxes": np.zeros((n, 3, 4), np.float32),
    }


def run(transforms, batch, seed=0):
    with strict():
        return jax.jit(pipeline(transforms))(batch, jax.random.key(seed))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("transform", [*ALL[:3], Normalize(), ColorJitter(contrast=0.5)], ids=repr)
def test_shapes_and_everything_but_the_image_stay(transform, dtype, channels):
    batch = make_batch(channels=channels, dtype=dtype)
    out = run((transform,), batch)
    assert out["image"].shape == batch["image"].shape
    assert out["image"].dtype == (np.float32 if isinstance(transform, Normalize) else dtype)
    for key in ("label", "valid", "position"):
        np.testing.assert_array_equal(out[key], batch[key], strict=True)
    np.testing.assert_array_equal(out["original_boxes"], batch["original_boxes"])


def test_transforms_are_hashable_and_equal_by_value():
    for transform in ALL:
        assert hash(transform) == hash(dataclasses.replace(transform)) and transform == dataclasses.replace(transform)


def test_a_sample_is_augmented_alike_wherever_it_stands():
    batch = make_batch()
    whole = run(ALL, batch)["image"]
    some = np.array([11, 3, 3, 8])
    part = run(ALL, jax.tree.map(lambda x: x[some], batch))["image"]
    np.testing.assert_array_equal(part, whole[some])
    assert (run(ALL, batch, seed=1)["image"] != whole).any()


@pytest.mark.parametrize("check_vma", [False, True])
def test_eight_devices_augment_as_one(check_vma):
    batch = make_batch(32)
    key = jax.random.key(4)
    mesh = Mesh(np.array(jax.devices()), ("batch",))
    assert mesh.size == 8
    augment = pipeline(ALL)
    mapped = jax.jit(
        jax.shard_map(augment, mesh=mesh, in_specs=(P("batch"), P()), out_specs=P("batch"), check_vma=check_vma)
    )
    with strict():
        alone = jax.jit(augment)(batch, key)["image"]
        np.testing.assert_array_equal(mapped(batch, key)["image"], alone)
        sharded = jax.device_put(batch, NamedSharding(mesh, P("batch")))
        np.testing.assert_array_equal(jax.jit(augment)(sharded, key)["image"], alone)


def test_no_transforms_change_nothing():
    batch = make_batch()
    assert pipeline(())(batch, jax.random.key(0)) == batch


def test_transforms_of_one_kind_draw_independently():
    batch = make_batch(64)
    once = run((RandomFlip(), RandomFlip(0.0)), batch)["image"]
    twice = run((RandomFlip(), RandomFlip()), batch)["image"]
    assert (np.asarray(once) != np.asarray(twice)).any()


def test_flip_mirrors_about_half_of_the_images():
    batch = make_batch(400)
    out = np.asarray(run((RandomFlip(),), batch)["image"])
    flipped = np.array([(a == b[:, ::-1]).all() for a, b in zip(out, batch["image"], strict=True)])
    kept = np.array([(a == b).all() for a, b in zip(out, batch["image"], strict=True)])
    assert (flipped ^ kept).all() and 160 < flipped.sum() < 240
    np.testing.assert_array_equal(run((RandomFlip(1.0),), batch)["image"], batch["image"][:, :, ::-1])
    np.testing.assert_array_equal(run((RandomFlip(0.0),), batch)["image"], batch["image"])


def test_crop_is_one_of_the_windows_of_the_padded_image_all_of_them_used():
    batch = make_batch(300)
    out = np.asarray(run((RandomCropPad(1, fill=9),), batch)["image"])
    used = set()
    for image, cropped in zip(batch["image"], out, strict=True):
        padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), constant_values=9)
        windows = {(y, x): padded[y : y + 8, x : x + 6] for y in range(3) for x in range(3)}
        matches = [offset for offset, window in windows.items() if (window == cropped).all()]
        assert len(matches) == 1
        used.update(matches)
    assert len(used) == 9
    np.testing.assert_array_equal(run((RandomCropPad(0),), batch)["image"], batch["image"])


def test_normalize_is_the_textbook_formula():
    batch = make_batch()
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    expected = (batch["image"] / 255.0 - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(run((Normalize(mean, std),), batch)["image"], expected, atol=1e-5)
    np.testing.assert_allclose(
        run((Normalize((0.5,), (0.25,)),), batch)["image"], batch["image"] / 63.75 - 2, atol=1e-5
    )
    np.testing.assert_allclose(run((Normalize(),), batch)["image"], batch["image"] / 255.0, atol=1e-6)
    reversed_channels = run((Normalize(mean, std, bgr=True),), batch)["image"]
    np.testing.assert_allclose(reversed_channels, (batch["image"][..., ::-1] / 255.0 - mean) / std, atol=1e-5)


def test_jitter_applies_its_factors_in_one_of_the_orders():
    image = jnp.asarray(make_batch(1)["image"][0]) / 255.0
    out = run((ColorJitter(brightness=0.3),), make_batch(64, dtype=np.float32))["image"]
    ratio = np.asarray(out).sum((1, 2, 3)) / make_batch(64, dtype=np.float32)["image"].sum((1, 2, 3))
    assert 0.7 <= ratio.min() < 0.8 and 1.05 < ratio.max() <= 1.3
    for adjust in (adjust_brightness, adjust_contrast, adjust_saturation):
        np.testing.assert_allclose(adjust(image, jnp.float32(1.0)), image, atol=1e-6)
    grey = adjust_saturation(image, jnp.float32(0.0))
    np.testing.assert_allclose(grey[..., 0], np.asarray(image) @ np.array([0.2989, 0.587, 0.114]), atol=1e-6)
    np.testing.assert_allclose(
        adjust_contrast(image, jnp.float32(0.0)), jnp.full(image.shape, grey[..., 0].mean()), atol=1e-6
    )
    assert np.unique(adjust_contrast(image, jnp.float32(0.0))).size == 1


def test_jitter_of_strength_zero_changes_nothing():
    batch = make_batch()
    np.testing.assert_array_equal(run((ColorJitter(),), batch)["image"], batch["image"])
    np.testing.assert_array_equal(
        run((ColorJitter(saturation=0.9),), make_batch(channels=1))["image"], make_batch(channels=1)["image"]
    )


def test_jitter_uses_every_order():
    """Brightness and contrast do not commute: with both, each image equals one of the two compositions."""
    batch = make_batch(40, dtype=np.float32)
    jitter = ColorJitter(brightness=0.3, contrast=0.3)
    orders = []
    for i in range(40):
        sample = jax.tree.map(lambda x, i=i: x[i], batch)
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), sample["position"]), 0)
        order_key, factor_key = jax.random.split(key)
        first = int(jax.random.permutation(order_key, 2)[0])
        low, high = np.full(2, 0.7, np.float32), np.full(2, 1.3, np.float32)
        factors = jax.random.uniform(factor_key, (2,), jnp.float32, low, high)
        adjust = (adjust_brightness, adjust_contrast)
        expected = adjust[1 - first](adjust[first](sample["image"], factors[first]), factors[1 - first])
        np.testing.assert_allclose(jitter(sample, key)["image"], expected, atol=1e-6)
        orders.append(first)
    assert 8 < sum(orders) < 32


def test_settings_that_make_no_sense_are_refused():
    for make, message in (
        (lambda: RandomFlip(1.5), "probability is 1.5"),
        (lambda: RandomCropPad(-1), "padding is -1"),
        (lambda: ColorJitter(brightness=-0.1), "at least 0"),
        (lambda: Normalize((0.5,), (0.0,)), "std > 0"),
        (lambda: Normalize(()), "must be numbers"),
        (lambda: run((Normalize((0.5, 0.5), (1.0,)),), make_batch()), "mean has 2 values for images of 3 channels"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    with pytest.raises(TypeError, match="image is int32"):
        run((Normalize(),), make_batch() | {"image": np.zeros((16, 8, 6, 3), np.int32)})
