"""Conv against a loop over output pixels in numpy; Dense against a matrix product."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision import layers
from tests.conftest import strict

KEY = jax.random.key(0, impl="rbg")  # compiles several times faster than the default


def random(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def oracle(x, kernel, strides, padding, dilation, groups):
    (kh, kw, per_group, features), (sh, sw), (ph, pw), (dh, dw) = kernel.shape, strides, padding, dilation
    x = np.pad(x.astype(np.float64), ((0, 0), (ph, ph), (pw, pw), (0, 0)))
    rows = (x.shape[1] - dh * (kh - 1) - 1) // sh + 1
    columns = (x.shape[2] - dw * (kw - 1) - 1) // sw + 1
    out = np.zeros((x.shape[0], rows, columns, features))
    for i, j, f in itertools.product(range(rows), range(columns), range(features)):
        group = f // (features // groups)
        patch = x[:, i * sh : i * sh + dh * (kh - 1) + 1 : dh, j * sw : j * sw + dw * (kw - 1) + 1 : dw]
        patch = patch[..., group * per_group : (group + 1) * per_group]
        out[:, i, j, f] = (patch * kernel[..., f]).sum(axis=(1, 2, 3))
    return out


CASES = [
    {"features": 4},
    {"features": 4, "kernel_size": 1, "strides": 2},
    {"features": 3, "kernel_size": (3, 2), "strides": (2, 1), "padding": (0, 1)},
    {"features": 4, "kernel_size": 3, "dilation": 2},
    {"features": 4, "kernel_size": 3, "dilation": (1, 2), "padding": 0, "groups": 2},
    {"features": 8, "kernel_size": 3, "strides": 2, "groups": 4},
    {"features": 2, "kernel_size": 7, "strides": 2},
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_conv_equals_the_sum_over_windows(case):
    pair = lambda v: (v, v) if isinstance(v, int) else v  # noqa: E731
    kernel_size, dilation = pair(case.get("kernel_size", 3)), pair(case.get("dilation", 1))
    default = tuple(d * (k - 1) // 2 for k, d in zip(kernel_size, dilation, strict=True))
    conv = layers.Conv(**case)
    x = random((2, 8, 7, 4))
    with strict():
        y, variables = jax.jit(conv.init_with_output)(KEY, x)
    kernel, bias = variables["params"]["kernel"], variables["params"]["bias"]
    strides, padding = pair(case.get("strides", 1)), pair(case.get("padding", default))
    want = oracle(x, np.asarray(kernel), strides, padding, dilation, case.get("groups", 1)) + np.asarray(bias)
    np.testing.assert_allclose(y, want, atol=1e-5)
    bound = 1 / math.sqrt(kernel[..., 0].size)
    assert np.abs(kernel).max() <= bound and np.abs(kernel).max() > 0.7 * bound
    assert np.abs(bias).max() <= bound


def test_dense_is_a_matrix_product_over_the_last_axis():
    x = random((2, 3, 5))
    dense = layers.Dense(4)
    with strict():
        variables = dense.init(KEY, x)
        y = dense.apply(variables, x)
    np.testing.assert_allclose(y, x @ variables["params"]["kernel"] + variables["params"]["bias"], atol=1e-6)


def test_without_bias_the_kernel_is_the_only_parameter():
    x = jnp.zeros((1, 4, 4, 2))
    for layer in (layers.Conv(3, use_bias=False), layers.Dense(3, use_bias=False)):
        assert list(layer.init(KEY, x)["params"]) == ["kernel"]


@pytest.mark.parametrize("layer", [layers.Conv(4, strides=2, groups=2), layers.Dense(4)], ids=["conv", "dense"])
def test_parameters_stay_float32_and_the_result_follows_the_input(layer):
    x = jnp.asarray(random((2, 6, 6, 4)))
    variables = layer.init(KEY, x.astype(jnp.bfloat16))
    assert {p.dtype for p in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    with strict():
        half, full = layer.apply(variables, x.astype(jnp.bfloat16)), layer.apply(variables, x)
    assert half.dtype == jnp.bfloat16 and full.dtype == jnp.float32
    np.testing.assert_allclose(half.astype(jnp.float32), full, atol=3e-2)


def test_conv_works_under_jit_grad_jvp_and_vmap():
    conv = layers.Conv(3, strides=2)
    x = jnp.asarray(random((2, 1, 5, 5, 2)))
    variables = conv.init(KEY, x[0])
    with strict():
        grads = jax.jit(jax.grad(lambda v: jnp.square(conv.apply(v, x[0])).sum()))(variables)
        value, tangent = jax.jvp(lambda x: conv.apply(variables, x), (x[0],), (x[1],))
        mapped = jax.vmap(lambda x: conv.apply(variables, x))(x)
        per_model = jax.vmap(lambda key: conv.init(key, x[0]))(jax.random.split(jax.random.key(1), 3))
    assert np.abs(grads["params"]["kernel"]).max() > 0
    zero = conv.apply(variables, jnp.zeros_like(x[0]))
    np.testing.assert_allclose(tangent, conv.apply(variables, x[1]) - zero, atol=1e-5)
    np.testing.assert_allclose(mapped[0], value, atol=1e-5)
    assert per_model["params"]["kernel"].shape == (3, 3, 3, 2, 3)


def test_errors_name_what_was_given():
    with pytest.raises(ValueError, match="groups=3 for 4 input"):
        layers.Conv(6, groups=3).init(KEY, jnp.zeros((1, 4, 4, 4)))
    with pytest.raises(ValueError, match=r"shape \(4, 4, 4\); it takes \[B, H, W, C\]"):
        layers.Conv(6).init(KEY, jnp.zeros((4, 4, 4)))
