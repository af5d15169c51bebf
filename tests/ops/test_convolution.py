"""Other forms of convolutions against XLA's own, and where each is taken."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.ops import convolution
from jaxvision.ops.convolution import convolve
from tests.conftest import strict

DEPTHWISE = [
    dict(kernel=(3, 3), padding=((1, 1), (1, 1)), strides=(2, 2)),
    dict(kernel=(5, 3), padding=((4, 4), (0, 1)), strides=(2, 1), dilation=(2, 1)),
    dict(kernel=(2, 2), padding="SAME", strides=(2, 2)),
    dict(kernel=(3, 3), padding=((9, 9), (9, 9)), dilation=(9, 9)),
]
DILATED = [
    dict(kernel=(3, 3), padding=((9, 9), (7, 7)), dilation=(9, 7)),
    dict(kernel=(3, 2), padding=((3, 1), (0, 3)), dilation=(2, 3)),
    dict(kernel=(2, 3), padding="SAME", dilation=(3, 3)),
]


@pytest.fixture
def eager(monkeypatch):
    """Other forms for arrays of any size."""
    for name, value in {"LARGE": 1, "WIDE": 2, "DEEP": 2}.items():
        monkeypatch.setattr(convolution, name, value)


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


def xla(x, kernel, *, strides=(1, 1), padding="VALID", dilation=(1, 1), groups=1):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        rhs_dilation=dilation,
        dimension_numbers=numbers,
        feature_group_count=groups,
        precision="highest",
    )


def forms_of(case, groups):
    case = dict(case)
    size, more = case.pop("kernel"), {**case, "groups": groups}
    return random(*size, 1 if groups > 1 else 4, 4, seed=1), more


def kinds(function, *args):
    """Names of the operations of a traced function, those of its branches apart."""
    return [eqn.primitive.name for eqn in jax.make_jaxpr(function)(*args).eqns]


@pytest.mark.parametrize(
    ("case", "groups"), [*((case, 4) for case in DEPTHWISE), *((case, 1) for case in DILATED)], ids=str
)
def test_values_and_gradients_are_those_of_xla(case, groups, eager):
    x = random(2, 9, 8, 4)
    kernel, more = forms_of(case, groups)
    assert "cond" in kinds(lambda x, k: convolve(x, k, **more), x, kernel)

    def loss(form):
        return lambda x, k: jnp.sum(jnp.sin(form(x, k, **more)))

    with strict():
        y = jax.jit(lambda x, k: convolve(x, k, **more))(x, kernel)
        found = jax.jit(jax.grad(loss(convolve), argnums=(0, 1)))(x, kernel)
    np.testing.assert_allclose(y, xla(x, kernel, **more), atol=1e-5)
    for a, b in zip(found, jax.grad(loss(xla), argnums=(0, 1))(x, kernel), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)


def test_second_derivatives_and_examples_one_by_one(eager):
    x, kernel = random(3, 6, 6, 4), random(3, 3, 1, 4, seed=1)

    def loss(form):
        return lambda k, x: jnp.sum(form(x[None], k, padding="SAME", groups=4) ** 3)

    def both(form):
        ahead = jax.jvp(lambda k: jax.grad(loss(form))(k, x[0]), (kernel,), (kernel,))[1]
        return ahead, jax.vmap(jax.grad(loss(form)), in_axes=(None, 0))(kernel, x)

    for a, b in zip(jax.jit(lambda: both(convolve))(), both(xla), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("groups", [4, 1])
def test_half_precision_stays_and_adds_up_in_float32(groups, eager):
    x, (kernel, more) = random(1, 9, 8, 4), forms_of(DILATED[1], groups)
    with strict():
        y = convolve(x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16), **more)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(np.float32), xla(x, kernel, **more), rtol=0.03, atol=0.1)


def test_small_arrays_and_other_platforms_take_xlas_form():
    more = dict(padding="SAME", groups=8)
    small, large, kernel = random(1, 8, 8, 8), random(1, 256, 128, 8), random(3, 3, 1, 8)
    run = jax.jit(lambda x, k: convolve(x, k, **more))
    assert "cond" not in str(jax.make_jaxpr(run)(small, kernel))
    for platform, expected in {"cpu": False, "tpu": True, "cuda": True}.items():
        text = run.trace(large, kernel).lower(lowering_platforms=(platform,)).as_text()
        assert ("stablehlo.convolution" in text) is expected
        assert ("stablehlo.multiply" in text) is not expected
