"""VGG (Simonyan and Zisserman 2015, arXiv:1409.1556, table 1: A, B, D, E) and its form with batch normalisation.

Names and numbers are those of timm and torchvision. A detector that continues the convolutions in another way (SSD)
asks for their levels and adds its own layers behind them; nothing of the classifier is built then.
"""

import itertools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from jaxvision import layers
from jaxvision.backbones import pyramid
from jaxvision.layers.conv import kaiming_normal_fan_out
from jaxvision.ops import pool

STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Table 1: convolutions per stage."""

SIZES: Mapping[str, Mapping[str, Any]] = {
    **{f"vgg{depth}": {"depth": depth} for depth in STAGES},
    **{f"vgg{depth}_bn": {"depth": depth, "norm": layers.Norm()} for depth in STAGES},
}
"""Name -> fields of `VGG`, in the names of timm and torchvision."""

LEVELS = ("c0", "c1", "c2", "c3", "c4", "c5", "pooled")


class VGG(nn.Module):
    """Levels "c0" ... "c4": each stage's last activation, before its max pooling; "c5": the last pooling; "pooled".

    So "c3" is conv4_3 of VGG-16, where SSD begins, and "c4" is conv5_3, where Faster R-CNN does; the features of timm
    and segmentation_models.pytorch are these, too. OpenMMLab's, and FCN's pool3, pool4 and pool5, are the outputs of
    the poolings: `pool_levels`. "pooled" is the second hidden layer of the classifier, over means of 7 x 7 bins of
    "c5"; it and its parameters exist only if asked for. There is no dilated form: the stride lies in the poolings.

    Attributes:
      depth: a key of `STAGES`.
      norm: normalisation behind every convolution (which keeps its bias); None: none.
      width: channels of the first stage; the others have 2, 4, 8 and 8 times as many.
      hidden: units of the two hidden layers.
      dropout: behind the first hidden layer while training (rng collection "dropout"); 0.5 in the paper, which has as
        much behind the second one: that is `Classifier.dropout`.
      pool_levels: "c1" ... "c5" are the outputs of the five poolings.
      sliding: where "c5" is larger than 7 x 7, the hidden layers slide over it and their outputs are averaged, as in
        timm, instead of being given the means of bins, as in torchvision. Up to 7 x 7 (images of 255) both are equal.
      out_levels: which levels are returned.
      frozen_stages: this many stages pass no gradient and use running statistics.
      remat: recompute stages in the backward pass.
    """

    depth: int = 16
    norm: layers.Norm | None = None
    width: int = 64
    hidden: int = 4096
    dropout: float = 0.0
    pool_levels: bool = False
    sliding: bool = False
    out_levels: tuple[str, ...] = LEVELS[2:6]
    frozen_stages: int = 0
    remat: bool = False

    def __post_init__(self) -> None:
        if self.depth not in STAGES:
            raise ValueError(f"VGG got depth={self.depth}; it knows {', '.join(map(str, STAGES))}")
        pyramid.check(self, LEVELS[1:] if self.pool_levels else LEVELS, stages=5)
        super().__post_init__()

    @property
    def stages(self) -> int:
        """Number of stages that are built."""
        last = max(map(LEVELS.index, self.out_levels))
        return min(last if self.pool_levels else last + 1, 5)

    @property
    def channels(self) -> dict[str, int]:
        """Channels of each returned level."""
        widths = [self.width * 2 ** min(i, 3) for i in range(5)]
        levels = (0, *widths) if self.pool_levels else (*widths, widths[-1])
        return pyramid.select(dict(zip(LEVELS, (*levels, self.hidden), strict=True)), self.out_levels)

    @property
    def strides(self) -> dict[str, int]:
        """Input pixels per output pixel of each returned level; "pooled" stands for the whole canvas."""
        return pyramid.select(dict(zip(LEVELS, (1, 2, 4, 8, 16, 32, 32), strict=True)), self.out_levels)

    @property
    def frozen_paths(self) -> tuple[str, ...]:
        """Regular expressions, each for whole paths below this module, of the parameters that `frozen_stages` names."""
        return stage_paths(self.depth, self.norm is not None, min(self.frozen_stages, self.stages))

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"], *, train: bool) -> dict[str, Array]:
        stage = nn.remat(VGG._stage, static_argnums=(2, 3)) if self.remat else VGG._stage
        x, levels = images, {}
        for i in range(self.stages):
            frozen = i < self.frozen_stages
            x = stage(self, x, i, train and not frozen)
            x = jax.lax.stop_gradient(x) if frozen else x
            if not self.pool_levels:
                levels[LEVELS[i]] = x
            if self.pool_levels or i < self.stages - 1 or {"c5", "pooled"} & {*self.out_levels}:
                levels[LEVELS[i + 1]] = x = pool.max_pool(x, 2)
        if "pooled" in self.out_levels:
            levels["pooled"] = self._hidden(x, train)
        return pyramid.select(levels, self.out_levels)

    @nn.nowrap
    def _stage(self, x: Float[Array, "b h w c"], i: int, train: bool) -> Float[Array, "b h w d"]:
        return convolutions(x, i, depth=self.depth, width=self.width, norm=self.norm, train=train)

    @nn.nowrap
    def _hidden(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b d"]:
        """The two hidden layers of the classifier."""
        options: dict[str, Any] = {"kernel_init": _NORMAL, "bias_init": _ZEROS}
        if self.sliding:
            x = pool.adaptive_avg_pool(x, (max(x.shape[1], 7), max(x.shape[2], 7)))
            x = layers.Conv(self.hidden, 7, padding=0, name="pre_logits_fc1", **options)(x)
        else:
            x = pool.adaptive_avg_pool(x, 7)
            x = layers.FlatDense(self.hidden, name="pre_logits_fc1", **options)(x)
        x = nn.Dropout(self.dropout)(nn.relu(x), deterministic=not train)
        x = nn.relu(layers.Dense(self.hidden, name="pre_logits_fc2", **options)(x))
        return pool.global_avg_pool(x) if self.sliding else x


def convolutions(
    x: Float[Array, "b h w c"],
    stage: int,
    *,
    depth: int,
    width: int,
    norm: layers.Norm | None,
    train: bool,
    dilation: int = 1,
) -> Float[Array, "b h w d"]:
    """The 3x3 convolutions of one stage, each with its norm and ReLU; called inside of a module's `__call__`."""
    index, features = starts(depth, norm is not None)[stage], width * 2 ** min(stage, 3)
    for _ in range(STAGES[depth][stage]):
        x = layers.Conv(
            features,
            3,
            dilation=dilation,
            kernel_init=kaiming_normal_fan_out,
            bias_init=_ZEROS,
            name=f"features_{index}",
        )(x)
        if norm is not None:
            x = norm(name=f"features_{index + 1}")(x, train=train)
        x = nn.relu(x)
        index += 2 if norm is None else 3
    return x


_ZEROS = nn.initializers.zeros
_NORMAL = nn.initializers.normal(0.01)


def starts(depth: int, normed: bool) -> tuple[int, ...]:
    """The reference's index of each stage's first convolution: activations, norms and poolings count; and the end."""
    indices = [0]
    for count in STAGES[depth]:
        indices.append(indices[-1] + count * (3 if normed else 2) + 1)
    return tuple(indices)


def stage_paths(depth: int, normed: bool, stages: int) -> tuple[str, ...]:
    """A regular expression for the paths of the parameters of each of the first `stages`."""
    return tuple(
        f"features_({'|'.join(map(str, range(start, end - 1)))})/.*"
        for start, end in itertools.islice(itertools.pairwise(starts(depth, normed)), stages)
    )


# Names of published weights, see `jaxvision/pretrained/keymaps.py`. OpenMMLab counts convolutions and poolings only, so
# its names depend on the size; its last layer belongs to its backbone.
_TORCHVISION = (
    (r"^backbone\.pre_logits_fc1\.weight$", "backbone.classifier.0.weight[flat]"),
    (r"^backbone\.pre_logits_fc1\.", "backbone.classifier.0."),
    (r"^backbone\.pre_logits_fc2\.", "backbone.classifier.3."),
)


def _conv_modules(depth: int, normed: bool) -> tuple[tuple[str, str], ...]:
    rules = []
    for stage, start in enumerate(starts(depth, normed)[:-1]):
        for i in range(STAGES[depth][stage]):
            own, theirs = start + i * (3 if normed else 2), sum(STAGES[depth][:stage]) + stage + i
            for offset, part in enumerate(("conv", "bn") if normed else ("conv",)):
                name = rf"^backbone\.features\.{own + offset}\.(?!conv|bn)"
                rules.append((name, f"backbone.features.{theirs}.{part}."))
    return tuple(rules)


KEYS = {
    "torchvision": (*_TORCHVISION, (r"^backbone\.", ""), (r"^head\.", "classifier.6.")),
    "timm": (
        (r"^backbone\.pre_logits_fc2\.weight$", "backbone.pre_logits_fc2.weight[..., 1, 1]"),
        (r"^backbone\.pre_logits_", "pre_logits."),
        (r"^backbone\.", ""),
        (r"^head\.", "head.fc."),
    ),
    **{
        f"openmmlab/vgg{depth}{'_bn' * normed}": (
            *_TORCHVISION,
            *_conv_modules(depth, normed),
            (r"^head\.", "backbone.classifier.6."),
        )
        for normed in (False, True)
        for depth in STAGES
    },
    "smp": ((r"^backbone\.", "encoder."),),
}
