"""The extra layers of SSD (Liu et al. 2016, arXiv:1512.02325, figure 2), and its norm of the finest level.

Behind the last level of the backbone come pairs of a 1x1 and a 3x3 convolution with ReLU, each pair a level. The finest
level, conv4_3 of VGG, has larger values than the others, so each pixel of it is divided by its length and multiplied by
learned factors (section 3.1; Liu et al. 2016, arXiv:1506.04579). `SSDExtras()` is that of SSD300; that of SSD512 has
five pairs of which the last has a 4x4 convolution (footnote 5). Unlike in Caffe's first version, all maps of SSD300
beyond "p6" shrink by convolutions without padding.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvision import layers
from jaxvision.necks.levels import check_names, needed, returned

xavier_uniform = nn.initializers.xavier_uniform()
TINY = 1e-10
"""Added to lengths, as in Caffe and OpenMMLab."""


class L2Norm(nn.Module):
    """Divides each pixel by the length of its channels, in float32, and multiplies them by a learned `scale`.

    Attributes:
      start: of the factors (section 3.1: 20).
    """

    start: float = 20.0

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        scale = self.param("scale", nn.initializers.constant(self.start), (x.shape[-1],), jnp.float32)
        wide = x.astype(jnp.float32)
        squares = jnp.sum(jnp.square(wide), axis=-1, keepdims=True)
        # The root has no slope at 0, where all pixels of a black corner may lie.
        length = jnp.sqrt(jnp.where(squares > 0, squares, 1.0))
        inverse = jnp.where(squares > 0, 1.0 / (length + TINY), 0.0)
        return (wide * inverse * scale.reshape(1, 1, 1, -1)).astype(x.dtype)


class ExtraLayer(nn.Module):
    """A 1x1 convolution to half of the channels, and one of `kernel`; both with ReLU."""

    features: int
    kernel: int = 3
    strides: int = 1
    padding: int = 0

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        options: dict[str, Any] = {"kernel_init": xavier_uniform, "bias_init": nn.initializers.zeros}
        x = nn.relu(layers.Conv(self.features // 2, 1, name="conv1", **options)(x))
        if min(x.shape[1:3]) + 2 * self.padding < self.kernel:
            raise ValueError(
                f"SSD's {self.name} got a map of {x.shape[1]} x {x.shape[2]} pixels, too small for its convolution of "
                f"{self.kernel}: take larger images, or fewer extra levels"
            )
        conv = layers.Conv(self.features, self.kernel, self.strides, self.padding, name="conv2", **options)
        return nn.relu(conv(x))


class SSDExtras(nn.Module):
    """Levels "p<k>": those of the backbone, the first one normalised, and one for each of `channels`.

    Attributes:
      in_levels: levels of the backbone, finest first.
      channels: of each extra level.
      down: stride of each extra level's second convolution.
      padding: of the same.
      last_kernel: width of the last one's kernel; of the others: 3.
      scale: factor with which the norm of the finest level starts; None: no norm.
    """

    in_levels: tuple[str, ...] = ("c3", "c4")
    channels: tuple[int, ...] = (512, 256, 256, 256)
    down: tuple[int, ...] = (2, 2, 1, 1)
    padding: tuple[int, ...] = (1, 1, 0, 0)
    last_kernel: int = 3
    scale: float | None = 20.0

    def __post_init__(self) -> None:
        if not len(self.channels) == len(self.down) == len(self.padding):
            raise ValueError(
                f"SSDExtras got channels={self.channels}, down={self.down}, padding={self.padding}: "
                "expected one number of each for every extra level"
            )
        check_names("SSDExtras", self.in_levels)
        super().__post_init__()

    @property
    def out_levels(self) -> tuple[str, ...]:
        """Names of the returned levels, finest first."""
        return returned(self.in_levels, len(self.down))

    @nn.nowrap
    def strides(self, of_backbone: Mapping[str, int]) -> dict[str, int]:
        """Input pixels between neighbours of each returned level, from those of the backbone's levels."""
        known = [of_backbone[level] for level in self._check(of_backbone)]
        for factor in self.down:
            known.append(known[-1] * factor)
        return dict(zip(self.out_levels, known, strict=True))

    @nn.compact
    def __call__(
        self, levels: Mapping[str, Float[Array, "b _ _ _"]], *, train: bool = False
    ) -> dict[str, Float[Array, "b _ _ _"]]:
        """Raises ValueError where a level of `in_levels` is missing or too small. `train` changes nothing."""
        outputs = [levels[level] for level in self._check(levels)]
        x = outputs[-1]
        if self.scale is not None:
            outputs[0] = L2Norm(self.scale, name="l2_norm")(outputs[0])
        for i, (channels, down, padding) in enumerate(zip(self.channels, self.down, self.padding, strict=True)):
            kernel = self.last_kernel if i == len(self.channels) - 1 else 3
            x = ExtraLayer(channels, kernel, down, padding, name=f"extra_layers_{i}")(x)
            outputs.append(x)
        return dict(zip(self.out_levels, outputs, strict=True))

    @nn.nowrap
    def _check(self, levels: Mapping[str, object]) -> tuple[str, ...]:
        return needed("SSDExtras", self.in_levels, levels)
