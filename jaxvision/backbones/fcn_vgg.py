"""VGG as a network of convolutions alone (Long et al. 2015, arXiv:1411.4038, section 3.1): the base of FCN-32s to -8s.

The two hidden layers of the classifier slide over the last pooling: a 7x7 convolution without padding and a 1x1
convolution, with the classifier's own weights. The first convolution pads by 100 pixels, so that an image of any size
gives at least one output and the outputs cover it; poolings keep a last odd row, as in Caffe.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvision import layers
from jaxvision.backbones import pyramid, vgg
from jaxvision.ops import pool

LEVELS = ("c3", "c4", "c5")


class FCNVGG(nn.Module):
    """Levels "c3" and "c4", the third and fourth pooling, and "c5", the second hidden layer behind its ReLU.

    Pixel i of a level of stride s is centred on pixel s * i + (s - 1) / 2 - `pad` of the image, that of "c5" another
    s * (`window` - 1) / 2 later.

    Attributes:
      depth: a key of `vgg.STAGES`.
      norm: normalisation behind every 3x3 convolution; None: none.
      width: channels of the first stage; the others have 2, 4, 8 and 8 times as many.
      hidden: channels of the hidden layers.
      window: side of the first one's kernel, odd.
      pad: zeros put around the image, beside the one of each convolution.
      dropout: behind both hidden layers while training.
      out_levels: which levels are returned.
      frozen_stages: this many of the five stages pass no gradient and use running statistics.
      remat: recompute stages in the backward pass.
    """

    depth: int = 16
    norm: layers.Norm | None = None
    width: int = 64
    hidden: int = 4096
    window: int = 7
    pad: int = 99
    dropout: float = 0.5
    out_levels: tuple[str, ...] = LEVELS
    frozen_stages: int = 0
    remat: bool = False

    def __post_init__(self) -> None:
        if self.depth not in vgg.STAGES:
            raise ValueError(f"FCNVGG got depth={self.depth}; it knows {', '.join(map(str, vgg.STAGES))}")
        if self.window < 1 or self.window % 2 == 0 or self.pad < 16 * (self.window - 1):
            raise ValueError(
                f"FCNVGG got window={self.window} and pad={self.pad}; the window is odd, and outputs only reach the "
                "image's border with a pad of 16 (window - 1) or more"
            )
        pyramid.check(self, LEVELS, stages=5)
        super().__post_init__()

    @property
    def channels(self) -> dict[str, int]:
        """Channels of each returned level."""
        return pyramid.select({"c3": 4 * self.width, "c4": 8 * self.width, "c5": self.hidden}, self.out_levels)

    @property
    def strides(self) -> dict[str, int]:
        """Input pixels per output pixel of each returned level."""
        return pyramid.select({"c3": 8, "c4": 16, "c5": 32}, self.out_levels)

    @property
    def frozen_paths(self) -> tuple[str, ...]:
        """Regular expressions, each for whole paths below this module, of the parameters that `frozen_stages` names."""
        return vgg.stage_paths(self.depth, self.norm is not None, self.frozen_stages)

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"], *, train: bool) -> dict[str, Float[Array, "b _ _ _"]]:
        stage = nn.remat(FCNVGG._stage, static_argnums=(2, 3)) if self.remat else FCNVGG._stage
        sides = (self.pad, self.pad)
        x, levels = jnp.pad(images, ((0, 0), sides, sides, (0, 0))), {}
        last = max(int(level[1]) for level in self.out_levels)
        for i in range(last):
            frozen = i < self.frozen_stages
            x = stage(self, x, i, train and not frozen)
            x = jax.lax.stop_gradient(x) if frozen else x
            x = levels[f"c{i + 1}"] = pool.max_pool(x, 2, ceil_mode=True)
        if "c5" in self.out_levels:
            levels["c5"] = self._hidden(x, train)
        return pyramid.select(levels, self.out_levels)

    @nn.nowrap
    def _stage(self, x: Float[Array, "b h w c"], i: int, train: bool) -> Float[Array, "b h w d"]:
        return vgg.convolutions(x, i, depth=self.depth, width=self.width, norm=self.norm, train=train)

    @nn.nowrap
    def _hidden(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w d"]:
        normal, zeros = nn.initializers.normal(0.01), nn.initializers.zeros
        conv = layers.Conv(
            self.hidden, self.window, padding=0, kernel_init=normal, bias_init=zeros, name="pre_logits_fc1"
        )
        x = nn.Dropout(self.dropout)(nn.relu(conv(x)), deterministic=not train)
        x = layers.Dense(self.hidden, kernel_init=normal, bias_init=zeros, name="pre_logits_fc2")(x)
        return nn.Dropout(self.dropout)(nn.relu(x), deterministic=not train)


# Names of published weights, see `jaxvision/pretrained/keymaps.py`: those of VGG's classifiers, whose last layer goes.
KEYS = {source: rules for source, rules in vgg.KEYS.items() if source in ("torchvision", "timm")}
IGNORED = (r"^classifier\.6\.", r"^head\.")
