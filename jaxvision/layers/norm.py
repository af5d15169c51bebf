"""Normalisation: batch (local, synchronised, frozen), group and layer norm, chosen by a hashable `Norm`.

Batch norm: Ioffe and Szegedy 2015 (arXiv:1502.03167); group norm: Wu and He 2018 (arXiv:1803.08494); layer norm:
Ba et al. 2016 (arXiv:1607.06450). Numbers are torch's: the running variance is unbiased (flax stores the biased
one), the normalising variance biased. Statistics are float32 whatever the dtype of the input.
"""

import dataclasses
import difflib
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer
from jaxtyping import Array, Float

BATCH_AXIS = "batch"
"""The mapped axis of the engine's steps, over which synchronised statistics are taken."""

_KINDS = ("bn", "sync_bn", "frozen_bn", "gn", "ln")


@dataclasses.dataclass(frozen=True)
class Norm:
    """Which normalisation an architecture uses: `norm(name="bn1")` makes the module, called as `module(x, train=...)`.

    Attributes:
      kind: "bn" | "sync_bn" | "frozen_bn" | "gn" | "ln".
      epsilon: added to the variance.
      momentum: share of the old running statistics that a training step keeps (0.9 is torch's momentum=0.1).
      groups: number of channel groups of "gn".
    """

    kind: str = "bn"
    epsilon: float = 1e-5
    momentum: float = 0.9
    groups: int = 32

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            near = difflib.get_close_matches(str(self.kind), _KINDS, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"unknown norm {self.kind!r}: {hint}known: {', '.join(_KINDS)}")

    def __call__(self, name: str | None = None, *, scale_init: Initializer = nn.initializers.ones) -> nn.Module:
        if self.kind == "gn":
            return GroupNorm(groups=self.groups, epsilon=self.epsilon, scale_init=scale_init, name=name)
        if self.kind == "ln":
            return LayerNorm(epsilon=self.epsilon, scale_init=scale_init, name=name)
        return BatchNorm(
            epsilon=self.epsilon,
            momentum=self.momentum,
            sync=self.kind == "sync_bn",
            frozen=self.kind == "frozen_bn",
            scale_init=scale_init,
            name=name,
        )


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last.

    Parameters `scale`, `bias` [c]; collection `batch_stats` with `mean` and unbiased `var` [c].

    Attributes:
      sync: statistics over all devices wherever the axis "batch" is mapped; local elsewhere (a plain `apply`).
      frozen: a constant affine map: running statistics also in training, and no gradient to scale and bias.
        (An optimizer that decays them would still move them: a run keeps them out of it.)
    """

    epsilon: float = 1e-5
    momentum: float = 0.9
    sync: bool = False
    frozen: bool = False
    scale_init: Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], *, train: bool) -> Float[Array, "b *space c"]:
        """Raises ValueError if a training batch has a single value per channel: its variance is undefined."""
        shape = (x.shape[-1],)
        scale = self.param("scale", self.scale_init, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        if self.frozen or not train:
            constants = running_mean.value, running_var.value, scale, bias
            return _affine(x, *(jax.lax.stop_gradient(constants) if self.frozen else constants), self.epsilon)

        # `init` must neither move the statistics nor need the axis that the steps are mapped over.
        sync = self.sync and not self.is_initializing() and _is_bound(BATCH_AXIS)
        mean, var, count = _batch_moments(x, sync)
        if not self.is_initializing():
            if count == 1:
                raise ValueError(
                    f"BatchNorm {self.name!r} got one value per channel ({x.shape}) in training, where the variance is "
                    "undefined: use a larger batch per device or image, norm='sync_bn', or norm='gn'"
                )
            unbiased = var * (count / (count - 1))
            running_mean.value = self.momentum * running_mean.value + (1 - self.momentum) * mean
            running_var.value = self.momentum * running_var.value + (1 - self.momentum) * unbiased
        return _affine(x, mean, var, scale, bias, self.epsilon)


class GroupNorm(nn.Module):
    """Normalises each sample over space and the channels of each group. Parameters `scale`, `bias` [c]."""

    groups: int = 32
    epsilon: float = 1e-5
    scale_init: Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"], *, train: bool = False) -> Float[Array, "b *space c"]:
        """Raises ValueError unless `groups` divides the channels. `train` changes nothing."""
        channels = x.shape[-1]
        if channels % self.groups:
            raise ValueError(f"GroupNorm {self.name!r} got groups={self.groups} for {channels} channels: not divisible")
        scale = self.param("scale", self.scale_init, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        grouped = x.astype(jnp.float32).reshape(x.shape[0], -1, self.groups, channels // self.groups)
        normalised = _standardise(grouped, (1, 3), self.epsilon).reshape(x.shape)
        return (normalised * _last(scale, x.ndim) + _last(bias, x.ndim)).astype(x.dtype)


class LayerNorm(nn.Module):
    """Normalises the last axis. Parameters `scale`, `bias` [c]."""

    epsilon: float = 1e-5
    scale_init: Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: Float[Array, "*batch c"], *, train: bool = False) -> Float[Array, "*batch c"]:
        """`train` changes nothing."""
        scale = self.param("scale", self.scale_init, (x.shape[-1],), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        normalised = _standardise(x.astype(jnp.float32), (-1,), self.epsilon)
        return (normalised * _last(scale, x.ndim) + _last(bias, x.ndim)).astype(x.dtype)


def _is_bound(axis_name: str) -> bool:
    try:
        jax.lax.axis_size(axis_name)
    except NameError:
        return False
    return True


def _batch_moments(x: Float[Array, "b *space c"], sync: bool) -> tuple[Float[Array, "c"], Float[Array, "c"], int]:
    """Mean, biased variance and number of values per channel, over all devices if `sync`.

    One pass over the activations: both sums fuse into one read. The naive E[x²] - E[x]² loses all digits where the
    mean is far from zero, so values are taken relative to the mean of the first sample: that mean differs from the
    batch's by at most sqrt(batch - 1) standard deviations, which bounds the loss to a factor of the batch size.
    Devices are then merged by the parallel form (Chan et al. 1983), two small reductions, instead of by raw moments.
    """
    axes = tuple(range(x.ndim - 1))
    x = x.astype(jnp.float32)
    count = x.size // x.shape[-1]
    shift = jax.lax.stop_gradient(jnp.mean(x[:1], axis=axes, keepdims=True))
    shifted = x - shift
    offset = jnp.mean(shifted, axis=axes)
    var = jnp.maximum(jnp.mean(jnp.square(shifted), axis=axes) - jnp.square(offset), 0)
    mean = shift.reshape(-1) + offset
    if sync:
        pmean = functools.partial(jax.lax.pmean, axis_name=BATCH_AXIS)
        local_mean, mean = mean, pmean(mean)
        var = pmean(var + jnp.square(local_mean - mean))
        count *= jax.lax.axis_size(BATCH_AXIS)
    return mean, var, count


def _standardise(x: Float[Array, "..."], axes: tuple[int, ...], epsilon: float) -> Float[Array, "..."]:
    centred = x - jnp.mean(x, axis=axes, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=axes, keepdims=True) + epsilon)


def _affine(x: Array, mean: Array, var: Array, scale: Array, bias: Array, epsilon: float) -> Array:
    mean, factor, bias = (_last(v, x.ndim) for v in (mean, jax.lax.rsqrt(var + epsilon) * scale, bias))
    return ((x.astype(jnp.float32) - mean) * factor + bias).astype(x.dtype)


def _last(vector: Float[Array, "c"], ndim: int) -> Array:
    return vector.reshape((1,) * (ndim - 1) + (-1,))
