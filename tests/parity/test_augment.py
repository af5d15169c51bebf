"""Colour adjustments against torchvision's, in floating point."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.augment.color import adjust_brightness, adjust_contrast, adjust_saturation
from tests.conftest import strict
from tests.parity.torch_weights import load_tool

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def functional():
    load_tool("torchvision_cpu")
    from torchvision.transforms import functional

    return functional


@pytest.mark.parametrize("factor", [0.0, 0.4, 1.0, 1.7])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("ours", [adjust_brightness, adjust_contrast, adjust_saturation], ids=lambda f: f.__name__)
def test_adjustments_equal_torchvision(ours, channels, factor, functional):
    import torch

    image = np.random.default_rng(0).random((9, 7, channels), np.float32)
    theirs = getattr(functional, ours.__name__)(torch.from_numpy(image.transpose(2, 0, 1).copy()), factor)
    with strict():
        result = ours(jnp.asarray(image), jnp.float32(factor))
    np.testing.assert_allclose(result, theirs.numpy().transpose(1, 2, 0), atol=1e-6)
