"""GoogLeNet (Szegedy et al. 2015, arXiv:1409.4842, table 1), with batch normalisation, as torchvision has it.

Where the paper has 5x5 convolutions, torchvision's network, and so its weights, has 3x3. The two auxiliary classifiers,
which only training uses, are not built, and files may hold them. Submodules carry torchvision's names.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxvision import layers
from jaxvision.backbones import pyramid
from jaxvision.ops import pool

SIZES: Mapping[str, Mapping[str, Any]] = {"googlenet": {"transform_input": True}}
"""Name -> fields of `GoogLeNet`; torchvision builds the network so, too, when it loads its weights."""

LEVELS = ("c1", "c2", "c3", "c4", "c5")

STAGES = (
    {"3a": (64, 96, 128, 16, 32, 32), "3b": (128, 128, 192, 32, 96, 64)},
    {
        "4a": (192, 96, 208, 16, 48, 64),
        "4b": (160, 112, 224, 24, 64, 64),
        "4c": (128, 128, 256, 24, 64, 64),
        "4d": (112, 144, 288, 32, 64, 64),
        "4e": (256, 160, 320, 32, 128, 128),
    },
    {"5a": (256, 160, 320, 32, 128, 128), "5b": (384, 192, 384, 48, 128, 128)},
)
"""Table 1: channels of the six convolutions of each inception module, in the order of its columns."""

# Channel i of images normalised with ImageNet's statistics times SCALE plus SHIFT is (pixel / 255 - 0.5) / 0.5.
_MEAN, _STD = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))
SCALE, SHIFT = (_STD / 0.5).astype(np.float32), ((_MEAN - 0.5) / 0.5).astype(np.float32)


class ConvNorm(nn.Module):
    """Convolution without bias, normalisation and ReLU."""

    features: int
    kernel_size: int = 1
    strides: int = 1
    norm: layers.Norm = layers.Norm()

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 d"]:
        init = nn.initializers.truncated_normal(0.01)
        x = layers.Conv(self.features, self.kernel_size, self.strides, use_bias=False, kernel_init=init, name="conv")(x)
        return nn.relu(self.norm(name="bn")(x, train=train))


class Inception(nn.Module):
    """Four branches side by side (fig. 2b): 1x1; 1x1 and 3x3; 1x1 and 3x3 (the paper's 5x5); max pooling and 1x1.

    Attributes:
      features: channels of the branches' convolutions, a row of `STAGES`.
    """

    features: tuple[int, ...]
    norm: layers.Norm = layers.Norm()

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w d"]:
        one, reduce3, three, reduce5, five, projection = self.features
        branches = [self._conv("branch1", x, one, 1, train)]
        for name, reduced, features in (("branch2", reduce3, three), ("branch3", reduce5, five)):
            y = self._conv(f"{name}_0", x, reduced, 1, train)
            branches.append(self._conv(f"{name}_1", y, features, 3, train))
        branches.append(self._conv("branch4_1", pool.max_pool(x, 3, 1, 1), projection, 1, train))
        return jnp.concatenate(branches, axis=-1)

    @nn.nowrap
    def _conv(self, name: str, x: Float[Array, "b h w c"], features: int, size: int, train: bool) -> Array:
        return ConvNorm(features, size, norm=self.norm, name=name)(x, train)


class GoogLeNet(pyramid.Pyramid):
    """Levels "c1" ... "c5": the last activation at each stride, before its max pooling.

    Attributes:
      width: multiplies all channels (rounded down).
      transform_input: images come normalised with ImageNet's mean and standard deviation and are renormalised to
        -1 ... 1, which is what the published weights were trained on. Needs three channels.
      norm: normalisation of every convolution.
      out_levels: which levels are returned; later modules are not built.
      frozen_stages: the stem and this many of the three stages of inception modules pass no gradient and use running
        statistics.
      remat: recompute inception modules in the backward pass.
    """

    levels = LEVELS
    stem_levels = 2
    parts = (r"conv[123]/.*", *(rf"inception{i}[a-e]/.*" for i in range(3, 6)))

    width: float = 1.0
    transform_input: bool = False
    norm: layers.Norm = layers.Norm(epsilon=1e-3)
    out_levels: tuple[str, ...] = LEVELS[1:]
    frozen_stages: int = 0
    remat: bool = False

    def __post_init__(self) -> None:
        pyramid.check(self, LEVELS, stages=3)
        super().__post_init__()

    @nn.nowrap
    def _scaled(self, features: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(max(int(n * self.width), 1) for n in features)

    @property
    def level_channels(self) -> tuple[int, ...]:
        """Channels of every level, built or not."""
        last = [self._scaled(list(stage.values())[-1]) for stage in STAGES]
        return (*self._scaled((64, 192)), *(one + three + five + proj for one, _, three, _, five, proj in last))

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"], *, train: bool) -> dict[str, Float[Array, "b _ _ _"]]:
        x = self._transform(images) if self.transform_input else images
        first, second = self._scaled((64, 192))
        running = train and not self.frozen_stages
        freeze = jax.lax.stop_gradient if self.frozen_stages else lambda x: x
        x = ConvNorm(first, 7, 2, self.norm, name="conv1")(x, running)
        levels = {"c1": freeze(x)}
        if self.out_levels != ("c1",):
            x = ConvNorm(first, norm=self.norm, name="conv2")(pool.max_pool(x, 3, 2, ceil_mode=True), running)
            levels["c2"] = x = freeze(ConvNorm(second, 3, norm=self.norm, name="conv3")(x, running))
        block = pyramid.block_class(Inception, self.remat)
        for i, stage in enumerate(STAGES[: self.built]):
            frozen = i < self.frozen_stages
            x = pool.max_pool(x, 2 if i == 2 else 3, 2, ceil_mode=True)
            for name, features in stage.items():
                x = block(self._scaled(features), self.norm, name=f"inception{name}")(x, train and not frozen)
            levels[LEVELS[i + 2]] = x = pyramid.freeze(x, frozen)
        return pyramid.select(levels, self.out_levels)

    @nn.nowrap
    def _transform(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
        if x.shape[-1] != 3:
            raise ValueError(
                f"GoogLeNet got images of shape {x.shape}; with transform_input it takes three channels: "
                "give it transform_input=False"
            )
        y = x.astype(jnp.float32) * SCALE.reshape(1, 1, 1, 3) + SHIFT.reshape(1, 1, 1, 3)
        return y.astype(x.dtype)


# Names of published weights, see `jaxvision/pretrained/keymaps.py`.
KEYS = {"torchvision": ((r"^backbone\.", ""), (r"^head\.", "fc."))}
IGNORED = (r"^aux[12]\.",)
