"""Images per CPU second of our pixel transforms and of torchvision's, side by side.

    JAXVISION_TEST_DATA=... python -m tests.parity.benchmark_augment [PART OF A NAME ...]

Counts the time of the process, not of the wall, so that other work on the machine counts little; one thread of torch
and Pillow, and as many as XLA takes for ours on the device, all of them counted. uint8 images, batches of 64 on the
device; where a transform has a probability, torchvision skips the others and ours computes all of them.
"""

import os
import sys
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from jaxvision import augment
from jaxvision.data.transforms import policies
from tests.parity.torch_weights import load_tool

BATCH = 64


def rate(call, images, seconds=1.0):
    """Images per second of process time: the mean of calls, after one to warm up."""
    call()
    calls, start = 0, time.process_time()
    while time.process_time() - start < seconds:
        call()
        calls += 1
    return images * calls / (time.process_time() - start)


def device_pairs(theirs):
    return {
        "color_jitter, no hue": (augment.ColorJitter(0.4, 0.4, 0.4), theirs.ColorJitter(0.4, 0.4, 0.4)),
        "color_jitter": (augment.ColorJitter(0.4, 0.4, 0.4, 0.1), theirs.ColorJitter(0.4, 0.4, 0.4, 0.1)),
        "random_hsv": (augment.RandomHSV(), None),
        "photo_metric_distortion": (augment.PhotoMetricDistortion(), theirs.RandomPhotometricDistort()),
        "random_grayscale": (augment.RandomGrayscale(1.0), theirs.RandomGrayscale(1.0)),
        "gaussian_blur, 5": (augment.GaussianBlur(5), theirs.GaussianBlur(5, (0.1, 2.0))),
        "gaussian_blur, 23": (augment.GaussianBlur(23), theirs.GaussianBlur(23, (0.1, 2.0))),
        "random_sharpness": (augment.RandomSharpness(2.0, 1.0), theirs.RandomAdjustSharpness(2.0, 1.0)),
        "random_solarize": (augment.RandomSolarize(0.5, 1.0), theirs.RandomSolarize(128, 1.0)),
        "random_posterize": (augment.RandomPosterize(4, 1.0), theirs.RandomPosterize(4, 1.0)),
        "random_invert": (augment.RandomInvert(1.0), theirs.RandomInvert(1.0)),
        "random_equalize": (augment.RandomEqualize(1.0), theirs.RandomEqualize(1.0)),
        "random_autocontrast": (augment.RandomAutocontrast(1.0), theirs.RandomAutocontrast(1.0)),
        "random_erasing": (augment.RandomErasing(1.0), theirs.RandomErasing(1.0)),
        "random_erasing, uniform": (augment.RandomErasing(1.0, mode="uniform"), None),
        "gaussian_noise": (augment.GaussianNoise(), theirs.GaussianNoise()),
    }


def host_pairs(theirs):
    return {
        "autoaugment": (policies.AutoAugment(), theirs.AutoAugment()),
        "randaugment": (policies.RandAugment(), theirs.RandAugment()),
        "trivial_augment": (policies.TrivialAugmentWide(), theirs.TrivialAugmentWide()),
        "timm/randaugment": (policies.TimmRandAugment(), None),
        "augmix": (policies.AugMix(), theirs.AugMix()),
    }


def on_device(ours, theirs, images):
    step, key = jax.jit(augment.pipeline((ours,))), jax.random.key(0)
    batch = {"image": jnp.asarray(images), "position": jnp.arange(BATCH, dtype=jnp.uint32)}
    yield rate(lambda: jax.block_until_ready(step(batch, key)["image"]), BATCH)
    if theirs:
        import torch

        tensors = list(torch.from_numpy(images[:16].transpose(0, 3, 1, 2).copy()))
        yield rate(lambda: [theirs(x) for x in tensors], 16)


def on_host(ours, theirs, images):
    rng = np.random.default_rng(0)
    yield rate(lambda: [ours.pixels(image, rng) for image in images], BATCH)
    if theirs:
        yield rate(lambda: [np.array(theirs(Image.fromarray(image))) for image in images], BATCH)


def main(wanted):
    load_tool("torchvision_cpu")
    import torch
    from torchvision import transforms
    from torchvision.transforms import v2

    torch.set_num_threads(1)
    rows = [(name, on_device, *pair) for name, pair in device_pairs(v2).items()]
    rows += [(name, on_host, *pair) for name, pair in host_pairs(transforms).items()]
    print(f"{'':26}{'size':>5}{'ours':>12}{'torchvision':>12}")
    for size in (32, 224):
        small = np.random.default_rng(0).integers(0, 256, (BATCH, size // 8, size // 8, 3), np.uint8)
        images = np.stack([np.array(Image.fromarray(image).resize((size, size))) for image in small])
        for name, measure, ours, theirs in rows:
            if not wanted or any(part in name for part in wanted):
                rates = list(measure(ours, theirs, images))
                print(f"{name:26}{size:5}" + "".join(f"{value:12,.0f}" for value in rates), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
