"""AlexNet in its one-column form (Krizhevsky 2014, arXiv:1404.5997), the one that torchvision and OpenMMLab have.

Against Krizhevsky et al. 2012 it has no local response normalisation, no groups, and 64, 192, 384, 256 and 256
channels. Submodules carry torchvision's names.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from jaxvision import layers
from jaxvision.backbones import pyramid
from jaxvision.ops import pool

SIZES: Mapping[str, Mapping[str, Any]] = {"alexnet": {}}
"""Name -> fields of `AlexNet`."""

LEVELS = ("c2", "c3", "c4", "c5", "pooled")
STAGES = (("features_0",), ("features_3",), ("features_6", "features_8", "features_10"))
"""Convolutions between the max poolings."""


class AlexNet(nn.Module):
    """Levels "c2", "c3", "c4": the convolutions in front of each max pooling; "c5": the last pooling; and "pooled".

    Neither the first convolution nor the poolings pad fully, so maps are up to a pixel smaller than the image divided
    by the stride; the smallest image is 63 x 63. "pooled" is the second hidden layer of the classifier, over means of
    6 x 6 bins of "c5"; it and its parameters exist only if asked for.

    Attributes:
      width: channels of the first convolution; the others have 3, 6, 4 and 4 times as many.
      hidden: units of the two hidden layers.
      dropout: in front of each hidden layer while training (rng collection "dropout"); 0.5 in the paper.
      out_levels: which levels are returned.
      frozen_stages: the first, the first two or all three groups of convolutions pass no gradient.
    """

    width: int = 64
    hidden: int = 4096
    dropout: float = 0.0
    out_levels: tuple[str, ...] = LEVELS[:4]
    frozen_stages: int = 0

    def __post_init__(self) -> None:
        pyramid.check(self, LEVELS, stages=3)
        super().__post_init__()

    @property
    def channels(self) -> dict[str, int]:
        """Channels of each returned level."""
        w = self.width
        return pyramid.select(dict(zip(LEVELS, (w, 3 * w, 4 * w, 4 * w, self.hidden), strict=True)), self.out_levels)

    @property
    def strides(self) -> dict[str, int]:
        """Input pixels per output pixel of each returned level; "pooled" stands for the whole canvas."""
        return pyramid.select(dict(zip(LEVELS, (4, 8, 16, 32, 32), strict=True)), self.out_levels)

    @property
    def frozen_paths(self) -> tuple[str, ...]:
        """Regular expressions, each for whole paths below this module, of the parameters that `frozen_stages` names."""
        built = STAGES[: min(self.frozen_stages, self._last + 1)]
        return tuple(f"({'|'.join(names)})/.*" for names in built)

    @property
    def _last(self) -> int:
        return min(max(map(LEVELS.index, self.out_levels)), 2)

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"], *, train: bool) -> dict[str, Array]:
        w, x, levels = self.width, images, {}
        features = {"features_3": 3 * w, "features_6": 6 * w, "features_8": 4 * w, "features_10": 4 * w}
        for i, names in enumerate(STAGES[: self._last + 1]):
            x = pool.max_pool(x, 3, 2) if i else x
            for name in names:
                if name == "features_0":
                    x = layers.Conv(w, 11, 4, padding=2, name=name)(x)
                else:
                    x = layers.Conv(features[name], 5 if i == 1 else 3, name=name)(x)
                x = nn.relu(x)
            levels[LEVELS[i]] = x = jax.lax.stop_gradient(x) if i < self.frozen_stages else x
        if {"c5", "pooled"} & {*self.out_levels}:
            levels["c5"] = x = pool.max_pool(x, 3, 2)
        if "pooled" in self.out_levels:
            x = nn.Dropout(self.dropout)(pool.adaptive_avg_pool(x, 6), deterministic=not train)
            x = nn.relu(layers.FlatDense(self.hidden, name="classifier_1")(x))
            x = nn.Dropout(self.dropout)(x, deterministic=not train)
            levels["pooled"] = nn.relu(layers.Dense(self.hidden, name="classifier_4")(x))
        return pyramid.select(levels, self.out_levels)


# Names of published weights, see `jaxvision/pretrained/keymaps.py`. OpenMMLab's last layer belongs to its backbone.
_FLAT = (r"\.classifier\.1\.weight$", ".classifier.1.weight[flat]")
KEYS = {
    "torchvision": (_FLAT, (r"^backbone\.", ""), (r"^head\.", "classifier.6.")),
    "openmmlab": (_FLAT, (r"^head\.", "backbone.classifier.6.")),
}
