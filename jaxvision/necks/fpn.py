"""Feature pyramid network (Lin et al. 2017, arXiv:1612.03144) with the coarser levels of RetinaNet (arXiv:1708.02002).

A neck is called as `neck(levels, train=...)` with the levels of a backbone and returns levels of its own, all of
`channels`; `strides(backbone.strides)` are their strides. So heads learn everything from these two properties.

Where the references differ: OpenMMLab's RetinaNet convolves "c5" for "p6" (`extra="input"`), torchvision's convolves
"p5" (`extra="output"`) and takes the ReLU of "p6" before it makes "p7" (as section 4 of the RetinaNet paper says);
two-stage detectors subsample "p5" (`extra="pool"`). Submodules carry torchvision's names.
"""

from collections.abc import Mapping

import flax.linen as nn
from jaxtyping import Array, Float

from jaxvision import layers
from jaxvision.necks.levels import check_names, needed, returned
from jaxvision.ops import interpolate, pool
from jaxvision.registry import hint

EXTRA = ("pool", "input", "output")
xavier_uniform_fan_in = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")
"""torchvision's: `kaiming_uniform_(a=1)`."""


class FPN(nn.Module):
    """Levels "p<k>" from "c<k>", top down: a 1x1 convolution of each level, plus the coarser sum enlarged to nearest
    pixels, then a 3x3 convolution; and `extra_levels` coarser ones.

    Attributes:
      channels: of every level.
      in_levels: levels of the backbone, finest first; each half as large as the one before.
      extra_levels: number of levels beyond the last one, each half as large as the one before.
      extra: what they are: "pool" (every second pixel of the last level), or 3x3 convolutions of stride 2 that start
        from the last level of the backbone ("input") or of the pyramid ("output").
      relu_before_extra: ReLU between those convolutions.
    """

    channels: int = 256
    in_levels: tuple[str, ...] = ("c2", "c3", "c4", "c5")
    extra_levels: int = 0
    extra: str = "pool"
    relu_before_extra: bool = False

    def __post_init__(self) -> None:
        if self.extra not in EXTRA:
            raise ValueError(f"FPN got extra={self.extra!r}: {hint(self.extra, EXTRA)}")
        check_names("FPN", self.in_levels)
        if self.extra_levels < 0 or self.channels < 1:
            raise ValueError(f"FPN got channels={self.channels}, extra_levels={self.extra_levels}: a negative number")
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
        """Raises ValueError where a level of `in_levels` is missing. `train` changes nothing."""
        inputs = [levels[level] for level in self._check(levels)]
        sums = [self._conv(1, name=f"inner_blocks_{i}")(x) for i, x in enumerate(inputs)]
        for i in reversed(range(len(sums) - 1)):
            height, width = sums[i].shape[1:3]
            sums[i] = sums[i] + interpolate.interpolate(sums[i + 1], (height, width), method="nearest")
        outputs = self._bottom_up([self._conv(3, name=f"layer_blocks_{i}")(x) for i, x in enumerate(sums)])
        x = inputs[-1] if self.extra == "input" else outputs[-1]
        for i in range(self.extra_levels):
            if self.extra == "pool":
                x = pool.max_pool(x, 1, 2)
            else:
                x = nn.relu(x) if self.relu_before_extra and i else x
                x = self._conv(3, 2, name=f"extra_blocks_{i}")(x)
            outputs.append(x)
        return dict(zip(self.out_levels, outputs, strict=True))

    @nn.nowrap
    def _bottom_up(self, levels: list[Float[Array, "b _ _ channels"]]) -> list[Float[Array, "b _ _ channels"]]:
        """What becomes of the levels before the coarser ones are made: nothing; PAFPN has a path here."""
        return levels

    @nn.nowrap
    def _conv(self, kernel: int, strides: int = 1, *, name: str) -> layers.Conv:
        zeros = nn.initializers.zeros
        return layers.Conv(
            self.channels, kernel, strides, kernel_init=xavier_uniform_fan_in, bias_init=zeros, name=name
        )

    @nn.nowrap
    def _check(self, levels: Mapping[str, object]) -> tuple[str, ...]:
        return needed("FPN", self.in_levels, levels)
