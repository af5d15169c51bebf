"""Convolution and dense layers: the one door through which models reach XLA's convolution.

Layout is NHWC with HWIO kernels; padding is explicit and symmetric as in torch.nn.Conv2d, unless a network whose
weights come from TensorFlow asks for "same". Default initialisation is that of
torch.nn.Conv2d and torch.nn.Linear: uniform in ±1/sqrt(fan_in) for kernel and bias.
"""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer
from jaxtyping import Array, Float, PRNGKeyArray

from jaxvision.ops.convolution import convolve

torch_kernel_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
kaiming_normal_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""He et al. 2015 (arXiv:1502.01852), eq. 14: keeps the variance of gradients behind a ReLU."""


class Conv(nn.Module):
    """2-d cross-correlation. Parameters: `kernel` [kh, kw, in / groups, features], `bias` [features].

    Attributes:
      features: output channels.
      kernel_size, strides, dilation: one int, or a (height, width) pair.
      padding: zeros added on both sides, an int or a (height, width) pair; None keeps the size at stride 1
        with an odd kernel: dilation * (kernel - 1) // 2. "same" is TensorFlow's rule: as many zeros as make the output
        ceil(input / stride) pixels, an odd one at the end. It depends on the input's size and, with a stride, shifts
        feature maps by half a pixel against the symmetric one, so it exists for weights that were trained with it.
      groups: splits input and output channels into this many independent convolutions.
      bias_init: None takes the uniform default, whose range depends on the fan-in.
    """

    features: int
    kernel_size: int | tuple[int, int] = 3
    strides: int | tuple[int, int] = 1
    padding: int | tuple[int, int] | str | None = None
    dilation: int | tuple[int, int] = 1
    groups: int = 1
    use_bias: bool = True
    kernel_init: Initializer = torch_kernel_init
    bias_init: Initializer | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        """Raises ValueError unless `x` is [B, H, W, C] and `groups` divides its channels and `features`."""
        if x.ndim != 4:
            raise ValueError(f"Conv {self.name!r} got an array of shape {x.shape}; it takes [B, H, W, C]")
        channels = x.shape[-1]
        if channels % self.groups or self.features % self.groups:
            raise ValueError(
                f"Conv {self.name!r} got groups={self.groups} for {channels} input and {self.features} output "
                "channels; choose a number that divides both"
            )
        kernel_size, dilation = _pair(self.kernel_size), _pair(self.dilation)
        shape = (*kernel_size, channels // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        y = convolve(
            x,
            kernel.astype(x.dtype),
            strides=_pair(self.strides),
            padding=self.pads(kernel_size, dilation),
            dilation=dilation,
            groups=self.groups,
        )
        if not self.use_bias:
            return y
        init = self.bias_init or _uniform_bias(math.prod(shape[:-1]))
        return _add_bias(y, self.param("bias", init, (self.features,), jnp.float32))

    @nn.nowrap
    def pads(self, kernel_size: tuple[int, int], dilation: tuple[int, int]) -> str | list[tuple[int, int]]:
        """Zeros before and behind each axis, or XLA's name of TensorFlow's rule."""
        if self.padding == "same":
            return "SAME"
        if isinstance(self.padding, str):
            raise ValueError(f"Conv {self.name!r} got padding={self.padding!r}; it takes numbers, None or 'same'")
        if self.padding is not None:
            return [(p, p) for p in _pair(self.padding)]
        return [(d * (k - 1) // 2,) * 2 for k, d in zip(kernel_size, dilation, strict=True)]


class Dense(nn.Module):
    """Linear map of the last axis. Parameters: `kernel` [in, features], `bias` [features]."""

    features: int
    use_bias: bool = True
    kernel_init: Initializer = torch_kernel_init
    bias_init: Initializer | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "*batch c"]) -> Float[Array, "*batch d"]:
        channels = x.shape[-1]
        kernel = self.param("kernel", self.kernel_init, (channels, self.features), jnp.float32)
        y = x @ kernel.astype(x.dtype)
        if not self.use_bias:
            return y
        init = self.bias_init or _uniform_bias(channels)
        return _add_bias(y, self.param("bias", init, (self.features,), jnp.float32))


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def _add_bias(y: Float[Array, "*batch d"], bias: Float[Array, "d"]) -> Float[Array, "*batch d"]:
    return y + bias.astype(y.dtype).reshape((1,) * (y.ndim - 1) + (-1,))


def _uniform_bias(fan_in: int) -> Initializer:
    bound = 1 / math.sqrt(max(fan_in, 1))

    def init(key: PRNGKeyArray, shape: Sequence[int], dtype: Any = None, out_sharding: Any = None) -> Array:
        return jax.random.uniform(key, shape, dtype or jnp.float32, -bound, bound)

    return init
