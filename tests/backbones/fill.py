"""Variables without running the initialisers: compiling them takes longer than compiling most networks."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np

from jaxvision.trees import map_with_path


def fill(model, x, **kwargs):
    """Numpy draws in the shapes of `model.init`: kernels keep the signal's size, no statistic or bias is 0 or 1."""
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, **kwargs), x)

    def draw(name, leaf):
        rng, kind = np.random.default_rng(zlib.crc32(name.encode())), name.rsplit("/", 1)[-1]
        if kind in ("scale", "var"):
            return jnp.asarray(rng.uniform(0.6, 1.4, leaf.shape), leaf.dtype)
        std = (2 / max(np.prod(leaf.shape[:-1]), 1)) ** 0.5 if kind == "kernel" else 0.1
        return jnp.asarray(std * rng.standard_normal(leaf.shape), leaf.dtype)

    return map_with_path(draw, shapes)
