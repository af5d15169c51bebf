"""The neck of YOLOX (Ge et al. 2021, arXiv:2107.08430): a path aggregation network of cross-stage partial layers.

From coarse to fine, then back: levels are joined side by side where an FPN adds them, each pair is mixed by a
cross-stage partial layer without residuals, and 1x1 convolutions give all levels the same channels at the end. Names of
submodules are OpenMMLab's.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvision import layers
from jaxvision.layers.csp import YOLOX_NORM, CSPLayer, spatial_conv
from jaxvision.necks.levels import check_names, needed, returned
from jaxvision.ops import interpolate


class YOLOXPAFPN(nn.Module):
    """Levels "p<k>" from "c<k>".

    Attributes:
      channels: of every returned level.
      depth: blocks of each cross-stage partial layer.
      depthwise: 3x3 convolutions are depthwise-separable.
      in_levels: levels of the backbone, finest first; each half as large as the one before.
      norm: of every convolution.
    """

    channels: int = 256
    depth: int = 3
    depthwise: bool = False
    in_levels: tuple[str, ...] = ("c3", "c4", "c5")
    norm: layers.Norm = YOLOX_NORM

    def __post_init__(self) -> None:
        check_names("YOLOXPAFPN", self.in_levels)
        if self.channels < 1 or self.depth < 1:
            raise ValueError(f"YOLOXPAFPN got channels={self.channels}, depth={self.depth}: expected at least 1")
        super().__post_init__()

    @property
    def out_levels(self) -> tuple[str, ...]:
        """Names of the returned levels, finest first."""
        return returned(self.in_levels)

    @nn.nowrap
    def strides(self, of_backbone: Mapping[str, int]) -> dict[str, int]:
        """Input pixels per pixel of each returned level, from those of the backbone's levels."""
        return dict(zip(self.out_levels, self._inputs(of_backbone), strict=True))

    @nn.compact
    def __call__(
        self, levels: Mapping[str, Float[Array, "b _ _ _"]], *, train: bool = False
    ) -> dict[str, Float[Array, "b _ _ channels"]]:
        """Raises ValueError where a level of `in_levels` is missing."""
        options: dict[str, Any] = {"norm": self.norm, "activation": nn.silu}
        inputs = self._inputs(levels)
        top, reduced = inputs[-1], []
        for i, finer in enumerate(reversed(inputs[:-1])):
            top = layers.ConvNorm(finer.shape[-1], name=f"reduce_layers_{i}", **options)(top, train)
            reduced.append(top)
            enlarged = interpolate.interpolate(top, (finer.shape[1], finer.shape[2]), method="nearest")
            mixer = self._mixer(finer.shape[-1], f"top_down_blocks_{i}")
            top = mixer(jnp.concatenate([enlarged, finer], -1), train)
        outputs = [top]
        for i, (aside, source) in enumerate(zip(reversed(reduced), inputs[1:], strict=True)):
            fine = outputs[-1]
            halved = spatial_conv(fine.shape[-1], 2, depthwise=self.depthwise, norm=self.norm, name=f"downsamples_{i}")(
                fine, train
            )
            mixer = self._mixer(source.shape[-1], f"bottom_up_blocks_{i}")
            outputs.append(mixer(jnp.concatenate([halved, aside], -1), train))
        last = [layers.ConvNorm(self.channels, name=f"out_convs_{i}", **options) for i in range(len(outputs))]
        return {name: f(x, train) for name, f, x in zip(self.out_levels, last, outputs, strict=True)}

    @nn.nowrap
    def _mixer(self, features: int, name: str) -> CSPLayer:
        return CSPLayer(
            features, (0.0,) * self.depth, residual=False, depthwise=self.depthwise, norm=self.norm, name=name
        )

    @nn.nowrap
    def _inputs(self, levels: Mapping[str, Any]) -> list[Any]:
        return [levels[level] for level in needed("YOLOXPAFPN", self.in_levels, levels)]
