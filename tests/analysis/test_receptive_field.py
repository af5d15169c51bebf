"""Receptive fields: published figures, nan that spreads as far as a unit sees, the measured field of known kernels."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxvision as jv
from jaxvision import layers
from jaxvision.analysis.receptive_field import Span, effective, extent, theoretical
from jaxvision.errors import SetupError
from jaxvision.ops import pool

PUBLISHED = {
    # Araujo et al. 2019 (Distill), table of models; there ResNets have the stride in the first 1x1 ("caffe" here).
    "resnet50_caffe": 483,
    # Basic blocks have no such choice.
    "resnet18": 435,
    # With the stride in the 3x3, as in torchvision: 11 + 3 * 8, then 8 + 3 * 16, 16 + 5 * 32, 32 + 2 * 64 pixels.
    "resnet50": 11 + 24 + 8 + 48 + 16 + 160 + 32 + 128,
}


def shapes(model, size, channels=3):
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *size, channels)))


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_fields_equal_published_figures(name):
    model = jv.create_model(name, num_classes=10)
    height, width = theoretical(model, shapes(model, (64, 64)), ["c5"], (64, 64))["c5"]
    assert height.size == width.size == PUBLISHED[name] and height.stride == 32
    assert height.low == -(PUBLISHED[name] // 2)


class Network(nn.Module):
    """Branches, dilation, uneven padding and both kinds of pooling."""

    @nn.compact
    def __call__(self, x, *, train=False):
        x = jnp.pad(x, ((0, 0), (1, 0), (0, 2), (0, 0)))
        x = nn.relu(layers.Conv(4, (3, 5), (2, 1), name="a")(x))
        y = layers.Conv(4, 3, 2, dilation=2, name="b")(x)
        z = pool.max_pool(x, 3, 2, 1) + pool.avg_pool(x, 2, ceil_mode=True, count_include_pad=False)[:, : y.shape[1]]
        x = nn.sigmoid(y) + z
        x = jnp.transpose(jnp.transpose(x, (0, 2, 1, 3))[:, 1:], (0, 2, 1, 3))
        out = jnp.concatenate([x, layers.Conv(2, 1, name="c")(x)], axis=-1)
        return {"c1": out, "c2": x * nn.sigmoid(pool.global_avg_pool(x))[:, None, None]}


def test_a_unit_becomes_nan_exactly_where_it_sees_the_nan():
    model, size = Network(), (37, 34)
    variables = model.init(jax.random.key(0), jnp.ones((1, *size, 1)))
    fields = theoretical(model, variables, ["c1", "c2"], size, 1)
    assert fields["c2"] == (None, None)
    for axis in range(2):
        span = fields["c1"][axis]
        images = np.ones((size[axis], *size, 1), np.float32)
        for place in range(size[axis]):
            images[place, place if axis == 0 else slice(None), place if axis == 1 else slice(None)] = np.nan
        out = np.isnan(model.apply(variables, jnp.asarray(images))["c1"])
        seen = out.any(axis=(2 - axis, 3))  # [pixel, unit]
        assert not seen.all()
        for unit in range(seen.shape[1]):
            low, high = span.stride * unit + span.low, span.stride * unit + span.high
            pixels = np.flatnonzero(seen[:, unit])
            assert (pixels[0], pixels[-1]) == (max(low, 0), min(high, size[axis] - 1)), (axis, unit)


class Mixer(nn.Module):
    """Attention over all positions."""

    @nn.compact
    def __call__(self, x, *, train=False):
        x = layers.Conv(4, 4, 4, padding=0, name="patch_embed")(x)
        tokens = x.reshape(x.shape[0], -1, 4)
        weights = nn.softmax(jnp.einsum("bnc,bmc->bnm", tokens, tokens))
        mixed = jnp.einsum("bnm,bmc->bnc", weights, tokens)
        return {"c2": x, "c3": mixed.reshape(x.shape)}


def test_attention_sees_the_whole_image_and_patches_see_themselves():
    model = Mixer()
    fields = theoretical(model, shapes(model, (16, 24)), ["c2", "c3"], (16, 24))
    assert fields == {"c2": (Span(1, 4, 0, 3), Span(2, 4, 0, 3)), "c3": (None, None)}


class Blur(nn.Module):
    """`depth` convolutions of 3 x 3 ones: the gradient of a unit is a binomial kernel."""

    depth: int

    @nn.compact
    def __call__(self, x, *, train=False):
        for i in range(self.depth):
            x = layers.Conv(1, 3, use_bias=False, kernel_init=nn.initializers.ones, name=f"conv{i}")(x)
        return {"c1": x, "c2": jax.lax.stop_gradient(x)}


def test_the_effective_field_of_ones_is_binomial():
    model, size = Blur(4), (21, 25)
    variables = model.init(jax.random.key(0), jnp.ones((1, *size, 1)))
    heat = effective(model, variables, "c1", size, channels=1, samples=2)
    kernel = np.ones(1)
    for _ in range(4):
        kernel = np.convolve(kernel, np.ones(3))
    expected = np.zeros(size)
    expected[6:15, 8:17] = np.multiply.outer(kernel, kernel) / kernel.max() ** 2
    np.testing.assert_allclose(heat, expected, rtol=1e-5, atol=1e-7)
    assert theoretical(model, variables, ["c1"], size, 1)["c1"][0].size == 9
    assert extent(heat) == pytest.approx(np.sqrt((expected > 0.0455).sum())) and extent(heat) < 9
    with pytest.raises(SetupError, match="no gradient of the layer 'c2' reaches the image"):
        effective(model, variables, "c2", size, channels=1, samples=1)
