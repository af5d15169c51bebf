"""Pyramid pooling and atrous pyramid pooling against plain numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision import layers
from jaxvision.segmentation.aspp import ASPP
from jaxvision.segmentation.pyramid_pooling import PyramidPooling
from jaxvision.trees import flatten, nest
from tests.conftest import strict

WIDTH = 3
RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 7, 6, 4)).astype(np.float32)


def drawn(module):
    """Random variables of a module, and what it makes of `X`."""
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.asarray(X), train=False))
    values = {name: RNG.uniform(0.2, 1.0, x.shape).astype(np.float32) for name, x in flatten(shapes).items()}
    values = {name: x - 0.6 if name.endswith("kernel") else x for name, x in values.items()}
    with strict():
        made = jax.jit(lambda v, x: module.apply(v, x, train=False))(nest(values), jnp.asarray(X))
    return values, np.asarray(made)


def unit(values, name, x, dilation=1, depthwise=False):
    """Convolution, norm and ReLU."""
    kernel = values[f"params/{name}/conv/kernel"]
    reach, (b, h, w, _) = dilation * (kernel.shape[0] // 2), x.shape
    padded = np.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    y = np.zeros((b, h, w, kernel.shape[-1]))
    for i in range(kernel.shape[0]):
        for j in range(kernel.shape[1]):
            seen = padded[:, i * dilation : i * dilation + h, j * dilation : j * dilation + w]
            y += seen * kernel[i, j, 0] if depthwise else seen @ kernel[i, j]
    mean, var = (values[f"batch_stats/{name}/bn/{key}"] for key in ("mean", "var"))
    scale, bias = (values[f"params/{name}/bn/{key}"] for key in ("scale", "bias"))
    return np.maximum((y - mean) / np.sqrt(var + 1e-5) * scale + bias, 0)


def pooled(x, bins):
    """Means over `bins` x `bins` regions, which may overlap."""
    edges = [[(i * n // bins, -(-(i + 1) * n // bins)) for i in range(bins)] for n in x.shape[1:3]]
    rows = [[x[:, a:b, c:d].mean(axis=(1, 2)) for c, d in edges[1]] for a, b in edges[0]]
    return np.stack([np.stack(row, axis=1) for row in rows], axis=1)


def enlarged(x, size):
    """Bilinear, the borders repeated."""
    for axis, n in ((1, size[0]), (2, size[1])):
        place = np.clip((np.arange(n) + 0.5) * x.shape[axis] / n - 0.5, 0, x.shape[axis] - 1)
        low = np.floor(place).astype(int)
        high = np.minimum(low + 1, x.shape[axis] - 1)
        part = (place - low).reshape((-1, 1, 1) if axis == 1 else (-1, 1))
        x = x.take(low, axis) * (1 - part) + x.take(high, axis) * part
    return x


def test_pyramid_pooling_joins_means_over_regions():
    values, ours = drawn(PyramidPooling(WIDTH, scales=(1, 2, 3)))
    parts = [X]
    for i, scale in enumerate((1, 2, 3)):
        parts.append(enlarged(unit(values, f"branches_{i}", pooled(X, scale)), X.shape[1:3]))
    np.testing.assert_allclose(ours, unit(values, "bottleneck", np.concatenate(parts, axis=-1)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("separable", [False, True])
def test_atrous_pyramid_pooling_joins_dilations_and_the_mean(separable):
    values, ours = drawn(ASPP(WIDTH, dilations=(1, 2, 4), separable=separable, kernel=1))
    mean = unit(values, "image_pool", X.mean(axis=(1, 2), keepdims=True))
    parts = [np.broadcast_to(mean, (*X.shape[:3], WIDTH)), unit(values, "branches_0", X)]
    for i, dilation in ((1, 2), (2, 4)):
        if separable:
            seen = unit(values, f"branches_{i}/depthwise", X, dilation, depthwise=True)
            parts.append(unit(values, f"branches_{i}/pointwise", seen))
        else:
            parts.append(unit(values, f"branches_{i}", X, dilation))
    np.testing.assert_allclose(ours, unit(values, "bottleneck", np.concatenate(parts, axis=-1)), rtol=1e-4, atol=1e-4)


def test_the_mean_of_one_picture_needs_a_norm_over_all_devices():
    module = ASPP(WIDTH, dilations=(1,), norm=layers.Norm())
    variables = jax.jit(lambda x: module.init(jax.random.key(0), x, train=False))(jnp.asarray(X[:1]))
    with pytest.raises(ValueError, match="one value per channel"):
        module.apply(variables, jnp.asarray(X[:1]), train=True, mutable=["batch_stats"])
