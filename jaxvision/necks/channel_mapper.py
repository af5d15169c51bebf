"""Every level of a backbone with the same channels, without a pyramid: the neck of DETR and of Deformable DETR.

OpenMMLab's `ChannelMapper`, whose names the submodules carry.
"""

from collections.abc import Mapping

import flax.linen as nn
from jaxtyping import Array, Float

from jaxvision import layers
from jaxvision.necks.levels import check_names, needed, returned


class ChannelMapper(nn.Module):
    """Levels "p<k>": a 1x1 convolution of "c<k>", and `extra_levels` coarser ones, 3x3 convolutions of stride 2.

    The first of those starts from the last level of the backbone, each other one from the one before.

    Attributes:
      channels: of every level.
      in_levels: levels of the backbone, finest first.
      extra_levels: number of levels beyond the last one.
      norm: after every convolution; None: none.
      bias: of the convolutions.
    """

    channels: int = 256
    in_levels: tuple[str, ...] = ("c3", "c4", "c5")
    extra_levels: int = 0
    norm: layers.Norm | None = None
    bias: bool = True

    def __post_init__(self) -> None:
        check_names("ChannelMapper", self.in_levels, "c5")
        if self.extra_levels < 0 or self.channels < 1:
            raise ValueError(
                f"ChannelMapper got channels={self.channels}, extra_levels={self.extra_levels}: a negative number"
            )
        super().__post_init__()

    @property
    def out_levels(self) -> tuple[str, ...]:
        """Names of the returned levels, finest first."""
        return returned(self.in_levels, self.extra_levels)

    @nn.nowrap
    def strides(self, of_backbone: Mapping[str, int]) -> dict[str, int]:
        """Input pixels per pixel of each returned level, from those of the backbone's levels."""
        known = [of_backbone[level] for level in self._check(of_backbone)]
        known += [known[-1] * 2 ** (i + 1) for i in range(self.extra_levels)]
        return dict(zip(self.out_levels, known, strict=True))

    @nn.compact
    def __call__(
        self, levels: Mapping[str, Float[Array, "b _ _ _"]], *, train: bool = False
    ) -> dict[str, Float[Array, "b _ _ channels"]]:
        """Raises ValueError where a level of `in_levels` is missing."""
        inputs = [levels[level] for level in self._check(levels)]
        outputs = [self._map(1, 1, name=f"convs_{i}")(x, train) for i, x in enumerate(inputs)]
        x = inputs[-1]
        for i in range(self.extra_levels):
            x = self._map(3, 2, name=f"extra_convs_{i}")(x, train)
            outputs.append(x)
        return dict(zip(self.out_levels, outputs, strict=True))

    @nn.nowrap
    def _map(self, kernel: int, strides: int, *, name: str) -> "Mapped":
        return Mapped(self.channels, kernel, strides, self.norm, self.bias, name=name)

    @nn.nowrap
    def _check(self, levels: Mapping[str, object]) -> tuple[str, ...]:
        return needed("ChannelMapper", self.in_levels, levels)


class Mapped(nn.Module):
    """A convolution `conv` and, where there is one, a norm `norm`."""

    channels: int
    kernel: int
    strides: int
    norm: layers.Norm | None
    bias: bool

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 d"]:
        x = layers.Conv(
            self.channels,
            self.kernel,
            self.strides,
            use_bias=self.bias,
            kernel_init=nn.initializers.xavier_uniform(),
            bias_init=nn.initializers.zeros,
            name="conv",
        )(x)
        return x if self.norm is None else self.norm(name="norm")(x, train=train)
