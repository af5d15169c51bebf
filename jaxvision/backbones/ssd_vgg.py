"""VGG-16 as the base of SSD (Liu et al. 2016, arXiv:1512.02325, section 3): its hidden layers become convolutions.

The fifth pooling keeps the resolution (3x3 at stride 1), the first hidden layer is a 3x3 convolution dilated by 6, the
second one a 1x1 convolution. Poolings keep a last odd row, as in Caffe, OpenMMLab and, where 300 pixels need it,
torchvision: conv4_3 has 38 x 38 pixels. What differs: the paper starts both convolutions from subsampled weights of
the classifier; here, as in both references, they start from random ones.
"""

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from jaxvision import layers
from jaxvision.backbones import pyramid
from jaxvision.backbones.vgg import STAGES, convolutions, starts
from jaxvision.ops import pool

LEVELS = ("c3", "c4")


class SSDVGG(nn.Module):
    """Levels "c3", which is conv4_3 (stride 8), and "c4", which is fc7 (stride 16); both behind their ReLU.

    Attributes:
      depth: a key of `vgg.STAGES`.
      norm: normalisation behind every 3x3 convolution of VGG; None: none.
      width: channels of the first stage; the others have 2, 4, 8 and 8 times as many.
      hidden: channels of fc6 and fc7.
      dilation: of fc6.
      out_levels: which levels are returned.
      frozen_stages: this many of the five stages pass no gradient and use running statistics.
      remat: recompute stages in the backward pass.
    """

    depth: int = 16
    norm: layers.Norm | None = None
    width: int = 64
    hidden: int = 1024
    dilation: int = 6
    out_levels: tuple[str, ...] = LEVELS
    frozen_stages: int = 0
    remat: bool = False

    def __post_init__(self) -> None:
        if self.depth not in STAGES:
            raise ValueError(f"SSDVGG got depth={self.depth}; it knows {', '.join(map(str, STAGES))}")
        pyramid.check(self, LEVELS, stages=5)
        super().__post_init__()

    @property
    def channels(self) -> dict[str, int]:
        """Channels of each returned level."""
        return pyramid.select({"c3": 8 * self.width, "c4": self.hidden}, self.out_levels)

    @property
    def strides(self) -> dict[str, int]:
        """Input pixels per output pixel of each returned level."""
        return pyramid.select({"c3": 8, "c4": 16}, self.out_levels)

    @property
    def frozen_paths(self) -> tuple[str, ...]:
        """Regular expressions, each for whole paths below this module, of the parameters that `frozen_stages` names."""
        first = starts(self.depth, self.norm is not None)
        return tuple(
            f"features_({'|'.join(map(str, range(first[i], first[i + 1] - 1)))})/.*"
            for i in range(min(self.frozen_stages, self._built))
        )

    @property
    def _built(self) -> int:
        return 5 if "c4" in self.out_levels else 4

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"], *, train: bool) -> dict[str, Float[Array, "b _ _ _"]]:
        stage = nn.remat(SSDVGG._stage, static_argnums=(2, 3)) if self.remat else SSDVGG._stage
        x, levels = images, {}
        for i in range(self._built):
            x = pool.max_pool(x, 2, ceil_mode=True) if i else x
            frozen = i < self.frozen_stages
            x = stage(self, x, i, train and not frozen)
            x = jax.lax.stop_gradient(x) if frozen else x
            if i == 3:
                levels["c3"] = x
        if "c4" in self.out_levels:
            index = starts(self.depth, self.norm is not None)[-1]
            x = pool.max_pool(x, 3, 1, 1)
            x = nn.relu(_conv(self.hidden, 3, self.dilation, name=f"features_{index}")(x))
            levels["c4"] = nn.relu(_conv(self.hidden, 1, name=f"features_{index + 2}")(x))
        return pyramid.select(levels, self.out_levels)

    @nn.nowrap
    def _stage(self, x: Float[Array, "b h w c"], i: int, train: bool) -> Float[Array, "b h w d"]:
        return convolutions(x, i, depth=self.depth, width=self.width, norm=self.norm, train=train)


def _conv(features: int, kernel: int, dilation: int = 1, *, name: str) -> layers.Conv:
    return layers.Conv(
        features,
        kernel,
        dilation=dilation,
        kernel_init=nn.initializers.xavier_uniform(),
        bias_init=nn.initializers.zeros,
        name=name,
    )


# Names of published weights, see `jaxvision/pretrained/keymaps.py`: those of VGG's files, whose classifier goes.
KEYS = {"torchvision": ((r"^backbone\.", ""),), "openmmlab": ()}
FRESH = (r"/features_(31|33)/",)
IGNORED = (r"^classifier\.", r"^head\.")
