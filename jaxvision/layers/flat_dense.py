"""A linear layer over whole feature maps, the first one behind the convolutions of AlexNet and VGG."""

import math

import flax.linen as nn
import jax.numpy as jnp
from jax.nn.initializers import Initializer
from jaxtyping import Array, Float

from jaxvision.layers.conv import _add_bias, _uniform_bias, torch_kernel_init


class FlatDense(nn.Module):
    """Linear map of height, width and channels together. Parameters: `kernel` [h, w, c, features], `bias` [features].

    It equals a convolution without padding whose kernel is as large as the map, and has that one's parameters; as one
    matrix product it is faster. (torch flattens [C, H, W]: see "[flat]" in `jaxvision/pretrained/keymaps.py`.)
    """

    features: int
    kernel_init: Initializer = torch_kernel_init
    bias_init: Initializer | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b d"]:
        """Raises ValueError unless `x` is [B, H, W, C]."""
        if x.ndim != 4:
            raise ValueError(f"FlatDense {self.name!r} got an array of shape {x.shape}; it takes [B, H, W, C]")
        kernel = self.param("kernel", self.kernel_init, (*x.shape[1:], self.features), jnp.float32)
        init = self.bias_init or _uniform_bias(math.prod(x.shape[1:]))
        y = x.reshape(x.shape[0], -1) @ kernel.astype(x.dtype).reshape(-1, self.features)
        return _add_bias(y, self.param("bias", init, (self.features,), jnp.float32))
