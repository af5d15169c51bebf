"""What every backbone promises, as functions that the tests of families call with their own forms."""

import re

import jax
import jax.numpy as jnp
import numpy as np

from jaxvision.trees import flatten
from tests.backbones.fill import fill
from tests.conftest import strict

KEY = jax.random.key(0, impl="rbg")  # compiles several times faster than the default


def shapes_of(backbone, image):
    """Shapes of the levels and of the variables, by path, for one image [h, w, c] (a batch of two)."""
    x = jax.ShapeDtypeStruct((2, *image), jnp.float32)
    with strict():
        levels, variables = jax.eval_shape(lambda x: backbone.init_with_output(KEY, x, train=False), x)
    assert {v.dtype for v in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    return {level: y.shape for level, y in levels.items()}, flatten(variables)


def check_levels(backbone, image):
    """Levels have the channels and strides that the properties promise; equal fields make equal, hashable modules."""
    levels, _ = shapes_of(backbone, image)
    h, w, _ = image
    assert list(levels) == list(backbone.channels) == list(backbone.strides)
    for level, shape in levels.items():
        stride, channels = backbone.strides[level], backbone.channels[level]
        sides = {"pooled": (), "tokens": (h // stride * (w // stride),)}.get(level, (h // stride, w // stride))
        assert shape == (2, *sides, channels), level
    assert backbone == backbone.clone() and hash(backbone) == hash(backbone.clone())


def check_frozen_paths(backbone, image, parts):
    """`frozen_paths` name exactly the parameters of the first `parts`: one pattern per stage, of whole paths."""
    _, variables = shapes_of(backbone, image)
    paths = {path.partition("/")[2] for path in variables if path.startswith("params/")}
    assert backbone.frozen_paths == ()
    for stages in range(1, len(parts) + 1):
        patterns = backbone.clone(frozen_stages=stages).frozen_paths
        frozen = {path for path in paths if any(re.fullmatch(pattern, path) for pattern in patterns)}
        assert frozen == {path for path in paths if any(re.match(part, path) for part in parts[:stages])}
        assert all(any(re.fullmatch(pattern, path) for path in paths) for pattern in patterns)


def check_frozen(backbone, image):
    """A frozen form has no gradient exactly where its `frozen_paths` say, and the levels of the free form."""
    x = images(2, image)
    free = backbone.clone(frozen_stages=0)
    variables = fill(free, x, train=False)
    assert backbone.frozen_paths

    @jax.jit
    def run(params):
        def loss(params):
            levels = backbone.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])[0]
            return sum(jnp.mean(jnp.square(y)) for y in levels.values()), levels

        return jax.grad(loss, has_aux=True)(params), free.apply({**variables, "params": params}, x, train=False)

    (grads, levels), free_levels = run(variables["params"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), levels, free_levels)
    for path, gradient in flatten(grads).items():
        assert is_frozen(backbone, path) == (not np.any(gradient)), path


def check_frozen_stages(backbone, image):
    """A form with frozen stages has no gradient and keeps its statistics exactly where its `frozen_paths` say."""
    x = images(2, image)
    variables = fill(backbone, x, train=False)
    assert backbone.frozen_paths

    @jax.jit
    def run(params):
        def loss(params):
            levels, updated = backbone.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
            return sum(jnp.mean(jnp.square(y)) for y in levels.values()), updated["batch_stats"]

        return jax.grad(loss, has_aux=True)(params)

    grads, statistics = run(variables["params"])
    before = flatten(variables["batch_stats"])
    for path, gradient in flatten(grads).items():
        assert is_frozen(backbone, path) == (not np.any(gradient)), path
    for path, value in flatten(statistics).items():
        assert is_frozen(backbone, path) == np.array_equal(value, before[path]), path


def check_remat(backbone, image):
    """Recomputed blocks give the same levels, gradients and statistics, with stochastic depth on."""
    x = images(2, image)
    variables = fill(backbone, x, train=False)

    def run(model):
        def loss(params):
            given, options = {**variables, "params": params}, {"rngs": {"dropout": KEY}, "mutable": ["batch_stats"]}
            levels, updated = model.apply(given, x, train=True, **options)
            return sum(jnp.mean(jnp.square(y)) for y in levels.values()), updated

        return jax.value_and_grad(loss, has_aux=True)

    both = jax.jit(lambda p: (run(backbone)(p), run(backbone.clone(remat=True))(p)))(variables["params"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *both)
    count = [str(jax.make_jaxpr(run(backbone.clone(remat=on)))(variables["params"])).count("remat") for on in (0, 1)]
    assert count[0] == 0 < count[1]


def is_frozen(backbone, path):
    return any(re.fullmatch(pattern, path) for pattern in backbone.frozen_paths)


def images(n, image):
    return jnp.asarray(np.random.default_rng(0).standard_normal((n, *image), np.float32))
