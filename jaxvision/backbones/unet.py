"""U-Net (Ronneberger et al. 2015, arXiv:1505.04597) as a backbone: encoder and decoder, of which the latter's maps are
the levels.

Numbers are those of OpenMMLab's `UNet` (`unet_s5_d16`), which differs from the paper: convolutions are padded, so that
maps keep their size and nothing is cropped; they have norms; and maps are enlarged bilinearly and then convolved (1x1).
With `upsample="transposed"` learned transposed convolutions enlarge (the paper's are 2x2, OpenMMLab's 4x4), and
`norm=None` leaves the norms out: with both it is the paper's network but for the padding.
"""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvision import layers
from jaxvision.backbones import pyramid
from jaxvision.layers.conv import kaiming_normal_fan_out
from jaxvision.ops import pool
from jaxvision.ops.interpolate import interpolate

LEVELS = ("c0", "c1", "c2", "c3", "c4")
UPSAMPLES = ("bilinear", "transposed")


class ConvUnit(nn.Module):
    """Convolution `conv`, norm `bn`, ReLU; without a norm the convolution has a bias.

    Attributes:
      features, kernel_size: of the convolution.
      norm: None: none.
    """

    features: int
    kernel_size: int = 3
    norm: layers.Norm | None = layers.Norm()

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w features"]:
        init = kaiming_normal_fan_out
        x = layers.Conv(self.features, self.kernel_size, use_bias=self.norm is None, kernel_init=init, name="conv")(x)
        return nn.relu(x if self.norm is None else self.norm(name="bn")(x, train=train))


class Convolutions(nn.Module):
    """`depth` 3x3 convolutions.

    Attributes:
      features: channels.
      norm: of each.
      depth: how many.
    """

    features: int
    norm: layers.Norm | None
    depth: int = 2

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w features"]:
        for i in range(self.depth):
            x = ConvUnit(self.features, norm=self.norm, name=f"convs_{i}")(x, train)
        return x


class Transposed(nn.Module):
    """A transposed convolution `deconv` that doubles height and width, a norm `norm`, ReLU.

    Attributes:
      features: output channels.
      kernel: side of the kernel, an even number.
      norm: None: none, and no ReLU, as in the paper.
    """

    features: int
    kernel: int
    norm: layers.Norm | None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 features"]:
        x = layers.ConvTranspose(self.features, self.kernel, 2, padding=(self.kernel - 2) // 2, name="deconv")(x)
        return x if self.norm is None else nn.relu(self.norm(name="norm")(x, train=train))


class Up(nn.Module):
    """One step of the decoder: enlarges `x`, puts it behind `skip` and convolves.

    Attributes:
      features: channels, those of `skip`.
      norm, upsample, transposed_kernel, depth: see `UNet`.
    """

    features: int
    norm: layers.Norm | None
    upsample: str
    transposed_kernel: int
    depth: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], skip: Float[Array, "b h2 w2 features"], train: bool
    ) -> Float[Array, "b h2 w2 features"]:
        size = skip.shape[1], skip.shape[2]
        if self.upsample == "bilinear":
            x = interpolate(x, (2 * x.shape[1], 2 * x.shape[2]))
            x = ConvUnit(self.features, 1, self.norm, name="upsample")(x, train)
        else:
            x = Transposed(self.features, self.transposed_kernel, self.norm, name="upsample")(x, train)
        # Poolings round down: the enlarged map of an odd one lacks a row.
        x = x if (x.shape[1], x.shape[2]) == size else interpolate(x, size)
        return Convolutions(self.features, self.norm, self.depth, name="conv_block")(
            jnp.concatenate([skip, x], axis=-1), train
        )


class UNet(nn.Module):
    """Feature levels "c0" ... "c4" of the strides 1 ... 16: the coarsest is the encoder's, the others the decoder's.

    Attributes:
      width: channels of the finest level; they double with each stage.
      norm: of each convolution; None: none.
      upsample: "bilinear" (then a 1x1 convolution) or "transposed".
      transposed_kernel: side of the kernel of transposed convolutions (2 in the paper, 4 in OpenMMLab).
      depth: convolutions per stage, in the encoder and in the decoder.
      out_levels: which levels are returned; levels finer than all of them are not built.
      frozen_stages: only 0: nothing can be frozen.
    """

    levels: ClassVar[tuple[str, ...]] = LEVELS

    width: int = 64
    norm: layers.Norm | None = layers.Norm()
    upsample: str = "bilinear"
    transposed_kernel: int = 2
    depth: int = 2
    out_levels: tuple[str, ...] = LEVELS
    frozen_stages: int = 0

    def __post_init__(self) -> None:
        pyramid.check(self, LEVELS, stages=0)
        if self.upsample not in UPSAMPLES:
            raise ValueError(f"UNet got upsample={self.upsample!r}; it knows {', '.join(UPSAMPLES)}")
        if self.transposed_kernel < 2 or self.transposed_kernel % 2:
            raise ValueError(f"UNet got transposed_kernel={self.transposed_kernel}; it takes even sides from 2")
        super().__post_init__()

    @property
    def channels(self) -> dict[str, int]:
        """Channels of each returned level."""
        return pyramid.select({name: self.width * 2**i for i, name in enumerate(LEVELS)}, self.out_levels)

    @property
    def strides(self) -> dict[str, int]:
        """Input pixels per output pixel of each returned level."""
        return pyramid.select({name: 2**i for i, name in enumerate(LEVELS)}, self.out_levels)

    @property
    def frozen_paths(self) -> tuple[str, ...]:
        """None."""
        return ()

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"], *, train: bool) -> dict[str, Float[Array, "b _ _ _"]]:
        if min(images.shape[1:3]) < 2 ** (len(LEVELS) - 1):
            raise ValueError(
                f"UNet got images of {images.shape[1]} x {images.shape[2]} pixels and halves them {len(LEVELS) - 1} "
                f"times: give at least {2 ** (len(LEVELS) - 1)}"
            )
        x, encoded = images, []
        for i in range(len(LEVELS)):
            x = pool.max_pool(x, 2) if i else x
            x = Convolutions(self.width * 2**i, self.norm, self.depth, name=f"encoder_{i}")(x, train)
            encoded.append(x)
        levels = {LEVELS[-1]: x}
        finest = min(map(LEVELS.index, self.out_levels))
        for i in reversed(range(finest, len(LEVELS) - 1)):
            step = Up(
                self.width * 2**i, self.norm, self.upsample, self.transposed_kernel, self.depth, name=f"decoder_{i}"
            )
            levels[LEVELS[i]] = x = step(x, encoded[i], train)
        return pyramid.select({name: levels[name] for name in LEVELS if name in levels}, self.out_levels)


# Names of published weights, see `jaxvision/pretrained/keymaps.py`: OpenMMLab counts the poolings.
KEYS = {
    "openmmlab": (
        (r"^backbone\.encoder\.0\.", "backbone.encoder.0.0."),
        (r"^backbone\.encoder\.([1-9])\.convs", r"backbone.encoder.\1.1.convs"),
        (r"^(backbone\.decoder\.\d)\.upsample\.(conv|bn)\.", r"\1.upsample.interp_upsample.1.\2."),
        (r"\.upsample\.deconv\.", ".upsample.deconv_upsamping.0."),
        (r"\.upsample\.norm\.", ".upsample.deconv_upsamping.1."),
    ),
}
