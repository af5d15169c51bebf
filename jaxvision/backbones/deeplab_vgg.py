"""VGG with holes, stride 8: the base of DeepLab (Chen et al. 2015, arXiv:1412.7062, section 3.1; Chen et al. 2016).

Poolings are 3x3 at the same strides, the last two at stride 1, and the convolutions between these two are dilated by 2.
The hidden layers of the classifier belong to the heads, which have them in other forms.
"""

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from jaxvision import layers
from jaxvision.backbones import pyramid, vgg
from jaxvision.ops import pool

LEVELS = ("c5",)


class DeepLabVGG(nn.Module):
    """Level "c5": the fifth pooling, with (n + 7) // 8 of n pixels.

    Attributes:
      depth: a key of `vgg.STAGES`.
      norm: normalisation behind every convolution; None: none.
      width: channels of the first stage; the others have 2, 4, 8 and 8 times as many.
      averaged: a 3x3 mean at stride 1 follows the last pooling, as in the published LargeFOV net.
      out_levels: which levels are returned.
      frozen_stages: this many of the five stages pass no gradient and use running statistics.
      remat: recompute stages in the backward pass.
    """

    depth: int = 16
    norm: layers.Norm | None = None
    width: int = 64
    averaged: bool = False
    out_levels: tuple[str, ...] = LEVELS
    frozen_stages: int = 0
    remat: bool = False

    def __post_init__(self) -> None:
        if self.depth not in vgg.STAGES:
            raise ValueError(f"DeepLabVGG got depth={self.depth}; it knows {', '.join(map(str, vgg.STAGES))}")
        pyramid.check(self, LEVELS, stages=5)
        super().__post_init__()

    @property
    def channels(self) -> dict[str, int]:
        """Channels of each returned level."""
        return {"c5": 8 * self.width}

    @property
    def strides(self) -> dict[str, int]:
        """Input pixels per output pixel of each returned level."""
        return {"c5": 8}

    @property
    def frozen_paths(self) -> tuple[str, ...]:
        """Regular expressions, each for whole paths below this module, of the parameters that `frozen_stages` names."""
        return vgg.stage_paths(self.depth, self.norm is not None, self.frozen_stages)

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"], *, train: bool) -> dict[str, Float[Array, "b _ _ _"]]:
        stage = nn.remat(DeepLabVGG._stage, static_argnums=(2, 3)) if self.remat else DeepLabVGG._stage
        x = images
        for i in range(5):
            frozen = i < self.frozen_stages
            x = stage(self, x, i, train and not frozen)
            x = jax.lax.stop_gradient(x) if frozen else x
            x = pool.max_pool(x, 3, 2 if i < 3 else 1, 1)
        return {"c5": pool.avg_pool(x, 3, 1, 1) if self.averaged else x}

    @nn.nowrap
    def _stage(self, x: Float[Array, "b h w c"], i: int, train: bool) -> Float[Array, "b h w d"]:
        dilation = 2 if i == 4 else 1
        return vgg.convolutions(
            x, i, depth=self.depth, width=self.width, norm=self.norm, train=train, dilation=dilation
        )


# Names of published weights, see `jaxvision/pretrained/keymaps.py`: those of VGG's files, whose classifier goes.
KEYS = {"torchvision": ((r"^backbone\.", ""),)}
IGNORED = (r"^classifier\.",)
