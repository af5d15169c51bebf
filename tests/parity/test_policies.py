"""The host policies against torchvision's and timm's on Pillow images: operations bit for bit, ranges, tables, odds."""

import random
import re

import numpy as np
import pytest
from PIL import Image

from jaxvision.data.transforms import policies, policy_tables
from jaxvision.data.transforms.policies import RESAMPLING, Step, apply, timm_value
from tests.parity.torch_weights import load_tool

pytestmark = pytest.mark.parity


def snake(name):
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def camel(name):
    return "".join(part.capitalize() for part in name.split("_"))


@pytest.fixture(scope="module")
def theirs():
    load_tool("torchvision_cpu")
    from torchvision.transforms import autoaugment

    return autoaugment


@pytest.fixture(scope="module")
def timm():
    load_tool("torchvision_cpu")
    from timm.data import auto_augment

    return auto_augment


def image(channels, size=(37, 52)):
    rng = np.random.default_rng(0)
    smooth = np.array(Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8)).resize(size[::-1]))
    noisy = smooth.astype(int) + rng.integers(-20, 21, smooth.shape)
    return noisy.clip(5, 240).astype(np.uint8)[..., :channels]


def pil(pixels):
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def all_bins(theirs, name, size):
    """Every (operation, magnitude, signed) that a torchvision policy can draw."""
    import torch

    space = {
        "autoaugment": lambda: theirs.AutoAugment()._augmentation_space(10, size),
        "randaugment": lambda: theirs.RandAugment()._augmentation_space(31, size),
        "trivial": lambda: theirs.TrivialAugmentWide()._augmentation_space(31),
        "augmix": lambda: theirs.AugMix()._augmentation_space(10, size),
    }[name]()
    return {op: (torch.atleast_1d(values).numpy(), signed) for op, (values, signed) in space.items()}


OURS = {
    "autoaugment": lambda size: policy_tables.ranges(10, size),
    "randaugment": lambda size: policy_tables.ranges(31, size),
    "trivial": lambda size: policy_tables.wide_ranges(31),
    "augmix": lambda size: policy_tables.augmix_ranges(size),
}


@pytest.mark.parametrize("size", [(37, 52), (224, 224), (32, 32)])
@pytest.mark.parametrize("name", OURS)
def test_ranges(name, size, theirs):
    found = OURS[name](size)
    expected = all_bins(theirs, name, size)
    extra = {"autoaugment": {"identity"}, "randaugment": {"invert"}}.get(name, set())
    assert set(found) - extra == {snake(op) for op in expected}
    for op, (values, signed) in expected.items():
        mine = found[snake(op)]
        assert signed == (snake(op) in policy_tables.SIGNED)
        if mine is None:
            np.testing.assert_array_equal(values, [0])
        else:
            # torch's vectorised linspace may round otherwise in the last bit, depending on the processor.
            np.testing.assert_allclose(mine, values, rtol=2e-7, atol=1e-7)
            if "translate" in snake(op):
                np.testing.assert_array_equal(mine.astype(int), values.astype(int))


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["randaugment", "trivial"])
def test_every_operation_at_every_magnitude(name, channels, interpolation, theirs):
    from torchvision.transforms import InterpolationMode

    pixels = image(channels)
    fill = (10, 20, 30)[:channels]
    spaces = all_bins(theirs, name, pixels.shape[:2])
    spaces["Invert"] = np.zeros(1), False
    for op, (values, signed) in spaces.items():
        for level in range(len(values)):
            for negative in {False, signed}:
                bins = (OURS[name](pixels.shape[:2]) | {"invert": None})[snake(op)]
                step = policies._step(snake(op), bins, level, negative, interpolation)
                magnitude = float(values[level]) * (-1 if negative else 1)
                expected = theirs._apply_op(pil(pixels), op, magnitude, InterpolationMode(interpolation), list(fill))
                result = apply(pixels, [step], fill)
                message = f"{op} {magnitude}"
                np.testing.assert_array_equal(result, np.array(expected).reshape(pixels.shape), err_msg=message)


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (1, 9), (3, 3)])
@pytest.mark.parametrize("flat", [False, True])
def test_degenerate_images(flat, size, theirs):
    from torchvision.transforms import InterpolationMode

    pixels = np.full((*size, 3), 77, np.uint8) if flat else image(3, size)
    for op, (values, _) in all_bins(theirs, "randaugment", size).items():
        step = policies._step(
            snake(op), OURS["randaugment"](size)[snake(op)], min(9, len(values) - 1), False, "nearest"
        )
        magnitude = float(values[min(9, len(values) - 1)])
        expected = theirs._apply_op(pil(pixels), op, magnitude, InterpolationMode.NEAREST, None)
        np.testing.assert_array_equal(apply(pixels, [step]), np.array(expected), err_msg=op)


def test_learned_policies(theirs):
    for policy in theirs.AutoAugmentPolicy:
        expected = [
            tuple((snake(op), chance, level) for op, chance, level in pair)
            for pair in theirs.AutoAugment(policy).policies
        ]
        assert list(policy_tables.AUTOAUGMENT[policy.value]) == expected


@pytest.mark.parametrize("name", ["AutoAugment", "RandAugment", "TrivialAugmentWide"])
def test_the_odds_of_the_operations(name, theirs, monkeypatch):
    import torch

    torch.manual_seed(0)
    drawn, n = [], 3000
    monkeypatch.setattr(
        theirs, "_apply_op", lambda img, op, magnitude, **_: drawn.append((op, magnitude > 0, magnitude < 0)) or img
    )
    transform, picture = getattr(theirs, name)(), pil(image(3))
    for _ in range(n):
        transform(picture)
    ours, rng = [], np.random.default_rng(0)
    for _ in range(n):
        policy = getattr(policies, name)()
        ours += policy.draw(rng, (37, 52)) if name != "TrivialAugmentWide" else policy.draw(rng)
    assert abs(len(ours) - len(drawn)) < 0.04 * n
    for op in {op for op, *_ in drawn}:
        expected = sum(other == op for other, *_ in drawn)
        assert abs(sum(step.op == snake(op) for step in ours) - expected) < 5 * np.sqrt(expected) + 5, op
    signed = [step.value for step in ours if step.op in ("rotate", "shear_x")]
    assert 0.45 < np.mean([value > 0 for value in signed if value]) < 0.55


@pytest.mark.parametrize("channels", [1, 3])
def test_timm_operations_at_every_level(channels, timm, monkeypatch):
    pixels = image(channels)
    fill = (10, 20, 30)[:channels]
    for op in policy_tables.TIMM_OPS:
        base = camel(op) + ("Rel" if op.startswith("translate") else "")
        for increasing in (False, True):
            name = base + ("Increasing" if increasing and base + "Increasing" in timm.NAME_TO_OP else "")
            assert name in (timm._RAND_INCREASING_TRANSFORMS if increasing else timm._RAND_TRANSFORMS)
            for level in (0, 0.3, 1, 2.5, 4.99, 5, 7, 9, 9.6, 10):
                for negative in (False, True):
                    monkeypatch.setattr(random, "random", lambda negative=negative: 0.9 if negative else 0.1)
                    for interpolation in ("bilinear", "bicubic"):
                        value = timm_value(op, level, negative, increasing, pixels.shape[:2])
                        if op == "posterize" and not value:
                            continue  # Pillow refuses 0 bits; ours is black
                        hparams = dict(
                            img_mean=fill if channels == 3 else fill[0], interpolation=RESAMPLING[interpolation]
                        )
                        theirs = timm.AugmentOp(name, 1.0, level, hparams)(pil(pixels))
                        result = apply(pixels, [Step(op, value, interpolation)], fill)
                        message = f"{name} {level} {negative}"
                        np.testing.assert_array_equal(result, np.array(theirs).reshape(pixels.shape), message)


def test_timm_string_form(timm):
    for policy in ("rand-m9-mstd0.5-inc1", "rand-m7-n3-p0.7", "rand-m15-mmax30-mstd101", "rand"):
        settings = policies.TimmRandAugment(policy).settings()
        reference = timm.rand_augment_transform(policy, {})
        op = reference.ops[4]
        assert reference.num_layers == settings["n"] and op.prob == settings["p"] and op.magnitude == settings["m"]
        assert op.name == ("PosterizeIncreasing" if settings["inc"] else "Posterize")
        assert min(op.magnitude_std, 101) == settings["mstd"] and (op.magnitude_max or 10) == settings["mmax"]
