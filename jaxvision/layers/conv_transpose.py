"""Transposed convolution as in torch.nn.ConvTranspose2d: enlarges maps with learned weights."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer
from jaxtyping import Array, Float

from jaxvision.layers.conv import _add_bias, _pair, _uniform_bias, torch_kernel_init


class ConvTranspose(nn.Module):
    """The transpose of a convolution with `strides`. Parameters: `kernel` [kh, kw, features, in], `bias` [features].

    An output is (input - 1) * stride - 2 * padding + kernel + output_padding pixels long. The kernel is that of the
    convolution that is transposed (see `pretrained/keymaps.py`), initialised as torch does.

    Attributes:
      features: output channels.
      kernel_size, strides: one int, or a (height, width) pair.
      padding: zeros of the convolution that is transposed, on both sides: what is cut off here.
      output_padding: pixels more at the end.
    """

    features: int
    kernel_size: int | tuple[int, int] = 2
    strides: int | tuple[int, int] = 2
    padding: int | tuple[int, int] = 0
    output_padding: int | tuple[int, int] = 0
    use_bias: bool = True
    kernel_init: Initializer = torch_kernel_init
    bias_init: Initializer | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        """Raises ValueError unless `x` is [B, H, W, C]."""
        if x.ndim != 4:
            raise ValueError(f"ConvTranspose {self.name!r} got an array of shape {x.shape}; it takes [B, H, W, C]")
        sides, strides, padding = _pair(self.kernel_size), _pair(self.strides), _pair(self.padding)
        shape = (*sides, self.features, x.shape[-1])
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32).astype(x.dtype)
        more = _pair(self.output_padding)
        if sides == strides and padding == more == (0, 0):
            y = _blocks(x, kernel)
        else:
            y = jax.lax.conv_transpose(
                x,
                kernel,
                strides,
                [(k - 1 - p, k - 1 - p + o) for k, p, o in zip(sides, padding, more, strict=True)],
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                transpose_kernel=True,
            )
        if not self.use_bias:
            return y
        init = self.bias_init or _uniform_bias(math.prod(shape[:-1]))
        return _add_bias(y, self.param("bias", init, (self.features,), jnp.float32))


def _blocks(x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw d c"]) -> Float[Array, "b h2 w2 d"]:
    """Where blocks do not overlap the whole is one matrix product: a tenth of the time of the general form on a CPU."""
    batch, height, width, _ = x.shape
    down, right, features, _ = kernel.shape
    y = jnp.einsum("bhwc,ijdc->bhiwjd", x, kernel)
    return y.reshape(batch, height * down, width * right, features)
