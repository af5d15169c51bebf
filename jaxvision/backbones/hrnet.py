"""HRNet (Wang et al. 2020, arXiv:1908.07919): branches of four resolutions side by side, exchanged over and over.

Stage s has s branches with strides 4 ... 2**(s + 1) and widths W, 2 W, 4 W, 8 W; its modules apply residual blocks to
each branch and then add all branches to each other (fig. 3). The levels are the four branches behind the last stage
(HRNetV2). The classifier's own layers (fig. 11 of the arXiv version's appendix) make the level "pooled". Numbers and
names of submodules are timm's, which has the authors' weights; OpenMMLab's segmenters enlarge branches bilinearly
(`upsample`), everything else by repetition.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from jaxvision import layers
from jaxvision.backbones import pyramid
from jaxvision.backbones.resnet import BasicBlock, Bottleneck, conv
from jaxvision.ops import pool
from jaxvision.ops.interpolate import interpolate

SIZES: Mapping[str, Mapping[str, Any]] = {
    "hrnet_w18_small": {"width": 16, "first_width": 32, "blocks": (1, 2, 2, 2), "modules": (1, 1, 1)},
    "hrnet_w18_small_v2": {"width": 18, "blocks": (2, 2, 2, 2), "modules": (1, 3, 2)},
    **{f"hrnet_w{width}": {"width": width} for width in (18, 30, 32, 40, 44, 48, 64)},
    **{f"hrnet_w{width}_ssld": {"width": width, "head_bias": False} for width in (18, 48)},
}
"""Name -> fields of `HRNet`, in timm's names; the first number of `hrnet_w18_small` is the paper's, not its width."""

LEVELS = ("c1", "c2", "c3", "c4", "c5", "pooled")
BRANCHES = LEVELS[1:5]


class Exchange(nn.Module):
    """One module of a stage: blocks on each branch, then every output branch is the sum of all branches (fig. 3).

    Attributes:
      width: channels of the first branch; doubles with each branch.
      blocks: residual blocks of each branch.
      outputs: number of branches that are put out; those further down have no fusing layers.
      upsample: how a smaller branch is enlarged, "nearest" or "bilinear".
      remat: recompute blocks in the backward pass.
    """

    width: int
    blocks: int
    outputs: int
    norm: layers.Norm = layers.Norm()
    upsample: str = "nearest"
    remat: bool = False

    @nn.compact
    def __call__(self, xs: Sequence[Float[Array, "b _ _ _"]], train: bool) -> list[Float[Array, "b _ _ _"]]:
        block = pyramid.block_class(BasicBlock, self.remat)
        xs = list(xs)
        for i in range(len(xs)):
            for j in range(self.blocks):
                xs[i] = block(self.width * 2**i, norm=self.norm, name=f"branches_{i}_{j}")(xs[i], train)
        fused = []
        for i in range(self.outputs):
            terms = [self.moved(x, j, i, train) for j, x in enumerate(xs)]
            if any(term.shape != terms[0].shape for term in terms):
                raise ValueError(
                    f"HRNet got images whose branches do not fit each other ({[x.shape[1:3] for x in xs]}): height and "
                    "width must be multiples of 32"
                )
            fused.append(nn.relu(sum(terms[1:], terms[0])))
        return fused

    @nn.nowrap
    def moved(self, x: Float[Array, "b h w c"], start: int, end: int, train: bool) -> Float[Array, "b h2 w2 d"]:
        """Branch `start` in the shape of branch `end`."""
        name, width = f"fuse_layers_{end}_{start}", self.width * 2**end
        if start > end:
            x = self.norm(name=f"{name}_1")(conv(width, 1, name=f"{name}_0")(x), train=train)
            return interpolate(x, scale=2 ** (start - end), method=self.upsample)
        for k in range(end - start):
            last = k == end - start - 1
            x = conv(width if last else x.shape[-1], 3, 2, name=f"{name}_{k}_0")(x)
            x = self.norm(name=f"{name}_{k}_1")(x, train=train)
            x = x if last else nn.relu(x)
        return x


class HRNet(nn.Module):
    """Feature levels "c2" ... "c5", the branches behind stage 4, "c1", the first half of the stem, and "pooled".

    Height and width must be multiples of 32.

    Attributes:
      width: channels of "c2"; doubles with each level.
      first_width: inner channels of the first stage's bottlenecks; they put out four times as many.
      blocks: residual blocks of the first stage, and per branch of each module of stages 2, 3 and 4.
      modules: number of modules of stages 2, 3 and 4.
      stem_width: channels of "c1".
      upsample: see `Exchange`.
      head_width: inner channels of the first of the bottlenecks that make "pooled", whose channels are 64 times that.
      head_bias: the convolutions behind those bottlenecks have biases.
      norm, out_levels, frozen_stages, remat: see `pyramid`; without the deeper levels only the last module's fusing
        layers go.
    """

    width: int = 18
    first_width: int = 64
    blocks: tuple[int, ...] = (4, 4, 4, 4)
    modules: tuple[int, ...] = (1, 4, 3)
    stem_width: int = 64
    upsample: str = "nearest"
    head_width: int = 32
    head_bias: bool = True
    norm: layers.Norm = layers.Norm()
    out_levels: tuple[str, ...] = BRANCHES
    frozen_stages: int = 0
    remat: bool = False

    def __post_init__(self) -> None:
        pyramid.check(self, LEVELS, stages=4)
        for name, count in (("blocks", 4), ("modules", 3)):
            if len(getattr(self, name)) != count:
                raise ValueError(f"HRNet got {name}={getattr(self, name)}; it takes {count} numbers")
        if self.upsample not in ("nearest", "bilinear"):
            raise ValueError(f"HRNet got upsample={self.upsample!r}; it knows nearest, bilinear")
        super().__post_init__()

    @property
    def channels(self) -> dict[str, int]:
        """Channels of each returned level."""
        every = (self.stem_width, *(self.width * 2**i for i in range(4)), 64 * self.head_width)
        return pyramid.select(dict(zip(LEVELS, every, strict=True)), self.out_levels)

    @property
    def strides(self) -> dict[str, int]:
        """Input pixels per output pixel of each returned level; of "pooled" those of what is averaged."""
        return pyramid.select(dict(zip(LEVELS, (2, 4, 8, 16, 32, 32), strict=True)), self.out_levels)

    @property
    def outputs(self) -> int:
        """Number of branches that the last module puts out."""
        if "pooled" in self.out_levels:
            return 4
        return max(map(LEVELS.index, self.out_levels))

    @property
    def frozen_paths(self) -> tuple[str, ...]:
        """Regular expressions, each for whole paths below this module, of the parameters that `frozen_stages` names.

        A stage is frozen with the transition in front of it.
        """
        if not self.frozen_stages:
            return ()
        if self.outputs == 0:
            return (r"(conv|bn)1/.*",)
        later = (rf"(transition{i - 1}|stage{i})_\d+(_\d+)*/.*" for i in range(2, self.frozen_stages + 1))
        return (r"(conv|bn)[12]/.*", r"layer1_\d+/.*", *later)

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"], *, train: bool) -> dict[str, Float[Array, "b *_"]]:
        """Raises ValueError unless height and width are multiples of 32."""
        frozen = self.frozen_stages > 0
        x = conv(self.stem_width, 3, 2, name="conv1")(images)
        x = nn.relu(self.norm(name="bn1")(x, train=train and not frozen))
        levels = {"c1": jax.lax.stop_gradient(x) if frozen else x}
        if self.outputs == 0:
            return levels
        x = conv(64, 3, 2, name="conv2")(x)
        x = nn.relu(self.norm(name="bn2")(x, train=train and not frozen))
        block = pyramid.block_class(Bottleneck, self.remat)
        for j in range(self.blocks[0]):
            x = block(self.first_width, norm=self.norm, name=f"layer1_{j}")(x, train and not frozen)
        branches = [jax.lax.stop_gradient(x) if frozen else x]
        for stage in (2, 3, 4):
            branches = self.stage(branches, stage, train)
        levels |= dict(zip(BRANCHES, branches, strict=False))
        if "pooled" in self.out_levels:
            levels["pooled"] = self.pooled(branches, train)
        return pyramid.select(levels, self.out_levels)

    @nn.nowrap
    def stage(self, xs: Sequence[Array], stage: int, train: bool) -> list[Array]:
        """Branches of stage `stage` - 1 -> those of stage 2, 3 or 4."""
        frozen = self.frozen_stages >= stage
        train = train and not frozen
        xs = self.transition(xs, stage - 1, train)
        count = self.modules[stage - 2]
        for j in range(count):
            xs = Exchange(
                width=self.width,
                blocks=self.blocks[stage - 1],
                outputs=self.outputs if stage == 4 and j == count - 1 else stage,
                norm=self.norm,
                upsample=self.upsample,
                remat=self.remat,
                name=f"stage{stage}_{j}",
            )(xs, train)
        return [jax.lax.stop_gradient(x) for x in xs] if frozen else list(xs)

    @nn.nowrap
    def transition(self, xs: Sequence[Array], number: int, train: bool) -> list[Array]:
        """Adds a branch of half the resolution; a branch of another width is projected (only in the first one)."""
        name = f"transition{number}"
        moved = []
        for i, x in enumerate(xs):
            if x.shape[-1] != self.width * 2**i:
                x = conv(self.width * 2**i, 3, name=f"{name}_{i}_0")(x)
                x = nn.relu(self.norm(name=f"{name}_{i}_1")(x, train=train))
            moved.append(x)
        last = len(xs)
        x = conv(self.width * 2**last, 3, 2, name=f"{name}_{last}_0_0")(xs[-1])
        return [*moved, nn.relu(self.norm(name=f"{name}_{last}_0_1")(x, train=train))]

    @nn.nowrap
    def pooled(self, xs: Sequence[Array], train: bool) -> Float[Array, "b c"]:
        """The classifier's layers in front of its last one: from the largest branch down, each added to the next."""
        wide = [
            Bottleneck(self.head_width * 2**i, norm=self.norm, name=f"incre_modules_{i}_0")(x, train)
            for i, x in enumerate(xs)
        ]
        y = wide[0]
        for i, x in enumerate(wide[1:]):
            y = self.head_conv(y, x.shape[-1], 3, 2, train, f"downsamp_modules_{i}") + x
        return pool.global_avg_pool(self.head_conv(y, 64 * self.head_width, 1, 1, train, "final_layer"))

    @nn.nowrap
    def head_conv(
        self, x: Float[Array, "b h w c"], features: int, kernel_size: int, strides: int, train: bool, name: str
    ) -> Float[Array, "b h2 w2 d"]:
        """A normalised and rectified convolution, with or without bias."""
        x = layers.Conv(features, kernel_size, strides, use_bias=self.head_bias, name=f"{name}_0")(x)
        return nn.relu(self.norm(name=f"{name}_1")(x, train=train))


# Names of published weights, see `jaxvision/pretrained/keymaps.py`. The layers of OpenMMLab's classifier are a neck.
KEYS = {
    "timm": ((r"^backbone\.", ""), (r"^head\.", "classifier.")),
    "openmmlab": (
        (r"^backbone\.incre_modules\.", "neck.increase_layers."),
        (r"^backbone\.downsamp_modules\.(\d+)\.0\.", r"neck.downsample_layers.\1.conv."),
        (r"^backbone\.downsamp_modules\.(\d+)\.1\.", r"neck.downsample_layers.\1.bn."),
        (r"^backbone\.final_layer\.0\.", "neck.final_layer.conv."),
        (r"^backbone\.final_layer\.1\.", "neck.final_layer.bn."),
        (r"^head\.", "head.fc."),
    ),
}
IGNORED = (
    r"^(incre_modules|downsamp_modules|final_layer)\.",
    r"^neck\.(increase_layers|downsample_layers|final_layer)\.",
)
