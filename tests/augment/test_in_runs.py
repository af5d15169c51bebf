"""Augmentation in whole runs: names in configs, mixtures in training, whole labels in evaluation."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxvision import config as configs
from jaxvision import errors, experiment, registry, training
from jaxvision.augment import GroupTransform, RandomFlip

GEOMETRIC = (
    *("random_flip", "random_horizontal_flip", "random_vertical_flip", "random_crop_pad", "random_rotate"),
    *("random_shear", "random_affine", "random_perspective", "random_rot90", "large_scale_jitter"),
)
MIXING = ("mixup", "cutmix", "mixup_cutmix", "mosaic", "detection_mixup", "copy_paste")


def load(*overrides):
    return configs.load("lenet5_digits:smoke", list(overrides))


@pytest.mark.parametrize("name", GEOMETRIC + MIXING)
def test_every_transform_is_built_by_its_name(name):
    extra = ", num_classes=10" if name in ("mixup", "cutmix", "mixup_cutmix") else ""
    config = load(("data.augment", f"(dict(name='{name}'{extra}),)"))
    built = configs.build("augment", config.data.augment[0])
    assert isinstance(built, GroupTransform) == (name in MIXING)
    assert built == dataclasses.replace(built) and hash(built) == hash(dataclasses.replace(built))
    assert registry.lookup("augment", name).load().__doc__


def test_flips_have_the_names_that_people_expect():
    for name, direction in (("random_vertical_flip", "vertical"), ("random_horizontal_flip", "horizontal")):
        config = load(("data.augment", f"(dict(name='{name}', probability=0.25),)"))
        assert configs.build("augment", config.data.augment[0]) == RandomFlip(0.25, direction=direction)


def test_a_run_trains_on_mixtures_and_evaluates_whole_labels(tmp_path, unoptimized):
    augment = "(dict(name='random_affine', degrees=5.0), dict(name='mixup_cutmix', num_classes=10))"
    config = load(("data.augment", augment), ("schedule.accumulate", "1"))
    results = training.train(config, tmp_path / "run")
    assert np.isfinite(results["loss"]) and 0 <= results["top1"] <= 1


def test_batches_that_do_not_divide_into_groups_are_refused_before_anything_starts():
    config = load(("data.augment", "('mosaic',)"), ("data.batch_size", "16"))
    with pytest.raises(errors.SetupError, match="Mosaic mixes neighbouring samples in groups of 4, but .* 8 shares"):
        experiment.build(config)
    config = load(("data.eval_transforms", "(dict(name='mixup', num_classes=10),)"))
    with pytest.raises(errors.SetupError, match="eval_transforms holds 'mixup', which mixes samples"):
        experiment.build(config)


def test_the_closing_epochs_have_transforms_of_their_own():
    """Of the smoke form's two steps the second is the closing one, on a resumed run as well: the place decides."""
    closing = (("schedule.closing_epochs", "1"), ("data.augment", "(dict(name='random_hsv', value=0.9),)"))
    config = load(*closing)
    run = experiment.build(config)
    plain = jax.jit(experiment.build_preprocess(config, train=False))
    usual = jax.jit(experiment.build_preprocess(config, train=True))
    fed, key = jax.jit(run.settings.preprocess), jax.random.key(0)
    assert (run.total_steps, run.settings.closing_step) == (2, 1)
    for step, alone in enumerate((usual, plain)):
        batch = next(run.data.train.train(step))
        assert int(batch["position"][0]) == run.data.train.position(step)
        jax.tree.map(np.testing.assert_array_equal, fed(batch, key), alone(batch, key))


def test_closing_epochs_that_cannot_be_are_refused():
    with pytest.raises(errors.SetupError, match=r"closing_epochs=5 \(.* steps\) is longer than the run \(2 steps\)"):
        experiment.build(load(("schedule.closing_epochs", "5")))
    with pytest.raises(errors.SetupError, match="closing_augment is never used: set schedule.closing_epochs"):
        experiment.build(load(("data.closing_augment", "('random_flip',)"), ("schedule.closing_epochs", "0")))


def test_micro_batches_and_devices_see_the_same_mixtures():
    """Mixing comes before a batch is split, and each device's share holds whole groups."""
    config = load(("data.augment", "(dict(name='mixup', num_classes=10),)"))
    run = experiment.build(config)
    mixed = run.settings.preprocess
    batch = {key: np.concatenate([value] * 2) for key, value in run.example.items()}
    batch["position"] = np.arange(len(batch["position"]), dtype=np.uint32)
    whole = jax.jit(mixed)(batch, jax.random.key(0))
    half = jax.jit(mixed)(jax.tree.map(lambda x: x[len(x) // 2 :], batch), jax.random.key(0))
    np.testing.assert_allclose(half["label"], whole["label"][len(half["label"]) :], atol=1e-6)
    np.testing.assert_allclose(half["image"], whole["image"][len(half["label"]) :], atol=1e-6)
