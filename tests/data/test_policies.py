"""The host policies: what holds for every one of them, their odds and their operations; no torch needed."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxvision import registry
from jaxvision.data.transforms.policies import (
    OPS,
    AugMix,
    AutoAugment,
    RandAugment,
    Step,
    TimmRandAugment,
    TrivialAugmentWide,
    apply,
    timm_value,
)
from jaxvision.data.transforms.policy_tables import AUTOAUGMENT, TIMM_OPS, augmix_ranges, ranges, wide_ranges

ALL = (
    AutoAugment(),
    AutoAugment("cifar10", "bilinear"),
    AutoAugment("svhn", fill=(128,)),
    RandAugment(),
    RandAugment(3, 30, interpolation="bicubic"),
    TrivialAugmentWide(),
    TimmRandAugment(),
    TimmRandAugment("rand-m15-n4-p1-mmax15", "bicubic", (7,)),
    AugMix(),
    AugMix(severity=10, width=2, depth=4),
)
IDENTITY = {
    **dict.fromkeys(("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "solarize_add"), 0),
    **dict.fromkeys(("brightness", "color", "contrast", "sharpness"), 1),
    "posterize": 8,
    "solarize": 256,
}


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("policy", ALL, ids=repr)
@settings(max_examples=25, deadline=None)
@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    channels=st.sampled_from((1, 3)),
    seed=st.integers(0, 2**32),
    flat=st.booleans(),
)
def test_shape_dtype_and_determinism(policy, size, channels, seed, flat):
    image = noise(*size, channels) if not flat else np.full((*size, channels), 200, np.uint8)
    given_image = image.copy()
    out = policy.pixels(image, np.random.default_rng(seed))
    assert out.shape == image.shape and out.dtype == np.uint8
    np.testing.assert_array_equal(out, policy.pixels(image, np.random.default_rng(seed)))
    np.testing.assert_array_equal(image, given_image)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("op", IDENTITY)
def test_the_value_that_changes_nothing(op, channels):
    image = noise(21, 30, channels)
    for interpolation in ("nearest", "bilinear", "bicubic"):
        np.testing.assert_array_equal(apply(image, [Step(op, IDENTITY[op], interpolation)]), image)


def test_operations_on_pixels_in_numpy():
    image = noise(15, 17, 3)
    levels = image.astype(int)
    for step, expected in (
        (Step("invert"), 255 - levels),
        (Step("solarize", 100), np.where(levels < 100, levels, 255 - levels)),
        (Step("solarize_add", 60), np.where(levels < 128, np.minimum(levels + 60, 255), levels)),
        (Step("posterize", 3), levels // 32 * 32),
        (Step("posterize", 0), 0 * levels),
        (Step("brightness", 0), 0 * levels),
        (Step("brightness", 1.5), np.minimum(np.floor(1.5 * levels), 255)),
    ):
        np.testing.assert_array_equal(apply(image, [step]), expected, err_msg=str(step))
    grey = apply(image, [Step("color", 0)])
    assert (grey == grey[..., :1]).all() and len(np.unique(apply(image, [Step("contrast", 0)]))) == 1


def test_operations_that_move_pixels():
    """To the right, down, and counter-clockwise, as `Step` says."""
    image = noise(12, 12, 3)
    fill = (1, 2, 3)
    right = np.full_like(image, fill)
    right[:, 4:] = image[:, :-4]
    np.testing.assert_array_equal(apply(image, [Step("translate_x", 4)], fill), right)
    down = np.full_like(image, fill)
    down[3:] = image[:-3]
    np.testing.assert_array_equal(apply(image, [Step("translate_y", 3)], fill), down)
    np.testing.assert_array_equal(apply(image, [Step("rotate", 90)], fill), np.rot90(image))
    sheared = apply(image, [Step("shear_x", 1.0)], fill)
    for row in range(1, 12):
        shift = row + 1  # nearest: the centre of row y, at y + 0.5, is looked up y + 0.5 further right
        assert any((sheared[row, : 12 - s] == image[row, s:]).all() for s in (shift - 1, shift))


def test_steps_are_applied_in_order():
    image = noise(9, 9, 1)
    steps = [Step("solarize", 100), Step("posterize", 2)]
    np.testing.assert_array_equal(apply(image, steps), apply(apply(image, steps[:1]), steps[1:]))
    assert (apply(image, steps) != apply(image, steps[::-1])).any()
    assert apply(image, []) is image


@pytest.mark.parametrize("bins", [2, 10, 31])
def test_magnitudes_grow_from_nothing(bins):
    for table in (ranges(bins, (50, 80)), wide_ranges(bins)):
        for op, values in table.items():
            if values is None:
                continue
            assert len(values) == bins
            first = {"posterize": 8, "solarize": 255}.get(op, 0)
            assert values[0] == first and (np.diff(np.abs(values - values[0])) >= 0).all()
    assert ranges(31, (50, 80))["translate_x"][-1] == np.float32(150 / 331 * 80)
    assert augmix_ranges((60, 30))["translate_y"][-1] == 20 and augmix_ranges((60, 30))["posterize"].max() == 4


def test_the_tables_name_known_operations():
    assert {len(pairs) for pairs in AUTOAUGMENT.values()} == {25}
    drawn = {op for pairs in AUTOAUGMENT.values() for pair in pairs for op, *_ in pair}
    assert drawn | set(TIMM_OPS) | set(wide_ranges(31)) <= set(OPS)
    assert all(0 <= chance <= 1 for pairs in AUTOAUGMENT.values() for pair in pairs for _, chance, _ in pair)


def test_randaugment_draws_every_operation_alike_and_both_signs():
    rng = np.random.default_rng(0)
    steps = [step for _ in range(3500) for step in RandAugment(magnitude=15).draw(rng, (32, 32))]
    counts = {op: sum(step.op == op for step in steps) for op in OPS}
    assert len(steps) == 7000 and counts["invert"] == counts["solarize_add"] == 0
    assert all(400 < count < 600 for op, count in counts.items() if op not in ("invert", "solarize_add"))
    turns = {step.value for step in steps if step.op == "rotate"}
    assert turns == {-15.0, 15.0}
    assert {step.value for step in steps if step.op == "color"} == {
        1 + float(np.float32(0.45)),
        1 - float(np.float32(0.45)),
    }


def test_autoaugment_draws_at_most_its_pairs_with_their_probabilities():
    rng = np.random.default_rng(0)
    draws = [tuple(step.op for step in AutoAugment("svhn").draw(rng, (32, 32))) for _ in range(3000)]
    expected = sum(chance for pair in AUTOAUGMENT["svhn"] for _, chance, _ in pair) / 25
    assert abs(np.mean([len(draw) for draw in draws]) - expected) < 0.05
    pairs = {tuple(op for op, *_ in pair) for pair in AUTOAUGMENT["svhn"]}
    assert {draw for draw in draws if len(draw) == 2} <= pairs


def test_timm_magnitudes_have_a_mean_a_spread_and_bounds():
    rng = np.random.default_rng(0)
    steps = [step for _ in range(3000) for step in TimmRandAugment().draw(rng, (32, 32))]
    assert abs(len(steps) - 3000) < 150  # two per image, each in half of the images
    turns = np.array([abs(step.value) for step in steps if step.op == "rotate"])
    assert abs(turns.mean() - 27) < 0.4 and abs(turns.std() - 1.5) < 0.3 and turns.max() <= 30
    assert {step.interpolation for step in steps} == {"bilinear", "bicubic"}
    uniform = TimmRandAugment("rand-m8-mstd101-p1", "bicubic")
    turns = [abs(s.value) for _ in range(2000) for s in uniform.draw(rng, (32, 32)) if s.op == "rotate"]
    assert min(turns) < 2 and 22 < max(turns) <= 24


def test_timm_increasing_forms_start_from_nothing():
    for op in TIMM_OPS:
        neutral = {"posterize": 4, "solarize": 256, "brightness": 1, "color": 1, "contrast": 1, "sharpness": 1}.get(
            op, 0
        )
        assert timm_value(op, 0, True, True, (32, 32)) == neutral
    assert timm_value("color", 10, False, False, (32, 32)) == pytest.approx(1.9)
    assert timm_value("translate_x", 10, True, True, (20, 40)) == 18.0


def test_augmix_is_the_weighted_sum_of_its_chains():
    rng = np.random.default_rng(0)
    for _ in range(20):
        weights, chains = AugMix().draw(rng, (32, 32))
        assert weights.min() >= 0 and abs(weights.sum() - 1) < 1e-6 and all(1 <= len(chain) <= 3 for chain in chains)
    image = noise(20, 24, 3)
    for seed in range(10):
        weights, chains = AugMix().draw(np.random.default_rng(seed), image.shape[:2])
        pictures = [image, *(apply(image, chain) for chain in chains)]
        expected = sum(weight * picture for weight, picture in zip(weights, pictures, strict=True))
        result = AugMix().pixels(image, np.random.default_rng(seed))
        assert abs(result - expected).max() <= 0.5 + 1e-3


def test_names_in_the_registry():
    rows = {name: registry.lookup("host_transform", name).load() for name in registry.names("host_transform")}
    for name, policy in (
        ("autoaugment", AutoAugment),
        ("randaugment", RandAugment),
        ("torchvision/randaugment", RandAugment),
        ("timm/randaugment", TimmRandAugment),
        ("trivial_augment", TrivialAugmentWide),
        ("augmix", AugMix),
    ):
        assert rows[name] is policy
    for policy in ALL:
        assert hash(policy) == hash(dataclasses.replace(policy))


def test_settings_and_images_that_make_no_sense_are_refused():
    image = noise(4, 4, 3)
    for make, message in (
        (lambda: AutoAugment("imagnet"), "unknown policy 'imagnet': did you mean 'imagenet'"),
        (lambda: AutoAugment(interpolation="linear"), "unknown interpolation 'linear'"),
        (lambda: RandAugment(magnitude=31), "magnitude is 31 of 31 bins"),
        (lambda: RandAugment(-1), "num_ops is -1"),
        (lambda: TrivialAugmentWide(1), "num_bins is 1"),
        (lambda: AugMix(severity=11), "severity is 11, expected 1..10"),
        (lambda: AugMix(width=0), "width >= 1"),
        (lambda: TimmRandAugment("rand-m9-mstd0.5-inc1-tweights"), "policy is .* expected 'rand' followed by"),
        (lambda: TimmRandAugment("augmix-m3"), "expected 'rand'"),
        (lambda: TimmRandAugment(interpolation="cubic"), "did you mean 'bicubic'"),
        (lambda: RandAugment().pixels(noise(4, 4, 4), np.random.default_rng(0)), "got uint8 .4, 4, 4."),
        (lambda: RandAugment().pixels(image / 255.0, np.random.default_rng(0)), "got float64"),
        (lambda: apply(image, [Step("invert")], (1, 2)), "fill has 2 values for images of 3 channels"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_grey_images_are_pillows_mode_l():
    image = noise(9, 11, 1)
    turned = np.array(Image.fromarray(image[..., 0]).rotate(30, Image.Resampling.BICUBIC, fillcolor=9))
    np.testing.assert_array_equal(apply(image, [Step("rotate", 30, "bicubic")], (9,))[..., 0], turned)
    assert TimmRandAugment("rand-p1-n4").pixels(image, np.random.default_rng(1)).shape == image.shape
