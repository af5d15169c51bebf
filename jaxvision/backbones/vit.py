"""Vision transformer (Dosovitskiy et al. 2021, arXiv:2010.11929) with its DeiT, DeiT III and DINOv2 forms.

The image is cut into patches, each patch becomes a token, and a plain transformer works on the tokens at one
resolution. DeiT (Touvron et al. 2021, arXiv:2012.12877) adds a distillation token; DeiT III (2022, arXiv:2204.07118)
layer scale, and positions for the patches only; DINOv2 (Oquab et al. 2023, arXiv:2304.07193) 14-pixel patches and
layer scale, later with register tokens (Darcet et al. 2023, arXiv:2309.16588). Without class token ("gap") the patch
tokens are averaged (Zhai et al. 2022, arXiv:2106.04560); FlexiViT: Beyer et al. 2023 (arXiv:2212.08013); EVA: Fang et
al. 2023 (arXiv:2211.07636); CLIP: Radford et al. 2021 (arXiv:2103.00020). Numbers and submodule names are timm's.

One block takes 24 n c² + 4 n² c floating point operations for n tokens of c channels (`mlp_ratio=4`): the attention map
of `heads * n²` values rules only for large images or small patches.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxvision import layers
from jaxvision.backbones import pyramid, vit_keys

TINY = {"width": 192, "depth": 12, "heads": 3}
WEE = {"width": 256, "depth": 14, "heads": 4, "mlp_ratio": 5.0}
LITTLE = {"width": 320, "depth": 14, "heads": 5, "mlp_ratio": 5.6}
SMALL = {"width": 384, "depth": 12, "heads": 6}
MEDIUM = {"width": 512, "depth": 12, "heads": 8}
DEEP_MEDIUM = {"width": 512, "depth": 20, "heads": 8}
BETWIXT = {"width": 640, "depth": 12, "heads": 10}
BASE = {"width": 768, "depth": 12, "heads": 12}
PLUS = {"width": 896, "depth": 12, "heads": 14}
LARGE = {"width": 1024, "depth": 24, "heads": 16}
HUGE = {"width": 1280, "depth": 32, "heads": 16}
"""Table 1 has base, large and huge; tiny and small are DeiT's, the others timm's."""

GAP = {"class_token": False, "pool": "avg"}
UNBIASED_GAP = {**GAP, "fc_norm": False, "qkv_bias": False, "layer_scale": 1e-6}
REGISTERS = {**GAP, "prefix_positions": "none"}
SCALED_REGISTERS = {**REGISTERS, "layer_scale": 1e-5}
CLIP = {"pre_norm": True, "norm": layers.Norm("ln", epsilon=1e-5)}
DEIT3 = {"layer_scale": 1e-6, "prefix_positions": "none"}
DINOV2 = {"image_size": 518, "patch_size": 14, "layer_scale": 1e-5}


def _sizes(pattern: str, structure: Mapping[str, Any], grids: tuple[tuple[int, int], ...], **fields: Any) -> dict:
    """Rows for (patch size, image size) pairs, named by the pattern."""
    return {
        pattern.format(patch, image): {**structure, "patch_size": patch, "image_size": image, **fields}
        for patch, image in grids
    }


PLAIN = "vit_{}_patch{{}}_{{}}"
SIZES: Mapping[str, Mapping[str, Any]] = {
    **_sizes(PLAIN.format("tiny"), TINY, ((16, 224), (16, 384))),
    **_sizes(PLAIN.format("small"), SMALL, ((32, 224), (32, 384), (16, 224), (16, 384), (8, 224))),
    **_sizes(PLAIN.format("base"), BASE, ((32, 224), (32, 384), (16, 224), (16, 384), (8, 224))),
    **_sizes(PLAIN.format("large"), LARGE, ((32, 224), (32, 384), (16, 224), (16, 384), (14, 224))),
    **_sizes(PLAIN.format("huge"), HUGE, ((14, 224),)),
    **_sizes("vit_base_patch{}_{}_miil", BASE, ((16, 224),), qkv_bias=False),
    **_sizes("vit_base_patch{}_plus_{}", PLUS, ((32, 256), (16, 240)), layer_scale=1e-5),
    **_sizes("vit_small_patch{}_36x1_{}", {**SMALL, "depth": 36}, ((16, 224),), layer_scale=1e-5),
    **_sizes("vit_medium_patch{}_gap_{}", MEDIUM, ((16, 240), (16, 256), (16, 384)), **UNBIASED_GAP),
    **_sizes("vit_betwixt_patch{}_gap_{}", BETWIXT, ((16, 256),), **UNBIASED_GAP),
    **_sizes("vit_base_patch{}_gap_{}", {**BASE, "heads": 16}, ((16, 224),), **GAP, fc_norm=False),
    **_sizes("vit_wee_patch{}_reg1_gap_{}", WEE, ((16, 256),), **SCALED_REGISTERS, registers=1),
    **_sizes("vit_little_patch{}_reg1_gap_{}", LITTLE, ((16, 256),), **SCALED_REGISTERS, registers=1),
    **_sizes("vit_little_patch{}_reg4_gap_{}", LITTLE, ((16, 256),), **SCALED_REGISTERS, registers=4),
    **_sizes("vit_medium_patch{}_reg1_gap_{}", MEDIUM, ((16, 256),), **SCALED_REGISTERS, registers=1),
    **_sizes("vit_medium_patch{}_reg4_gap_{}", MEDIUM, ((16, 256),), **SCALED_REGISTERS, registers=4),
    **_sizes("vit_mediumd_patch{}_reg4_gap_{}", DEEP_MEDIUM, ((16, 256), (16, 384)), **SCALED_REGISTERS, registers=4),
    **_sizes("vit_betwixt_patch{}_reg1_gap_{}", BETWIXT, ((16, 256),), **SCALED_REGISTERS, registers=1),
    **_sizes("vit_betwixt_patch{}_reg4_gap_{}", BETWIXT, ((16, 256), (16, 384)), **SCALED_REGISTERS, registers=4),
    **_sizes("vit_base_patch{}_reg4_gap_{}", BASE, ((16, 256),), **REGISTERS, registers=4),
    **_sizes("vit_xsmall_patch{}_clip_{}", {"width": 256, "depth": 10, "heads": 4}, ((16, 224),), **CLIP),
    **_sizes("vit_medium_patch{}_clip_{}", MEDIUM, ((32, 224), (16, 224)), **CLIP),
    **_sizes("vit_betwixt_patch{}_clip_{}", BETWIXT, ((32, 224),), **CLIP),
    **_sizes("vit_base_patch{}_clip_{}", BASE, ((32, 224), (32, 256), (32, 384), (32, 448)), **CLIP),
    **_sizes("vit_base_patch{}_clip_{}", BASE, ((16, 224), (16, 384)), **CLIP),
    **_sizes("vit_base_patch{}_plus_clip_{}", PLUS, ((16, 240),), **CLIP),
    **_sizes("vit_large_patch{}_clip_{}", LARGE, ((14, 224), (14, 336)), **CLIP),
    **_sizes("eva_large_patch{}_{}", LARGE, ((14, 196), (14, 336)), pool="avg"),
    **{
        f"flexivit_{name}": {**structure, "image_size": 240, "prefix_positions": "none"}
        for name, structure in (("small", SMALL), ("base", BASE), ("large", LARGE))
    },
    **{
        f"vit_{name}_patch14_{form}dinov2": {**structure, **DINOV2, **fields}
        for form, fields in (("", {}), ("reg4_", {"registers": 4, "prefix_positions": "none"}))
        for name, structure in (("small", SMALL), ("base", BASE), ("large", LARGE))
    },
    **_sizes("deit_tiny_patch{}_{}", TINY, ((16, 224),)),
    **_sizes("deit_small_patch{}_{}", SMALL, ((16, 224),)),
    **_sizes("deit_base_patch{}_{}", BASE, ((16, 224), (16, 384))),
    **_sizes("deit_tiny_distilled_patch{}_{}", TINY, ((16, 224),)),
    **_sizes("deit_small_distilled_patch{}_{}", SMALL, ((16, 224),)),
    **_sizes("deit_base_distilled_patch{}_{}", BASE, ((16, 224), (16, 384))),
    **_sizes("deit3_small_patch{}_{}", SMALL, ((16, 224), (16, 384)), **DEIT3),
    **_sizes("deit3_medium_patch{}_{}", MEDIUM, ((16, 224),), **DEIT3),
    **_sizes("deit3_base_patch{}_{}", BASE, ((16, 224), (16, 384)), **DEIT3),
    **_sizes("deit3_large_patch{}_{}", LARGE, ((16, 224), (16, 384)), **DEIT3),
    **_sizes("deit3_huge_patch{}_{}", HUGE, ((14, 224),), **DEIT3),
}
"""Name -> fields of `VisionTransformer` ("distilled": of `DistilledVisionTransformer`), in timm's names."""

POOLS = {
    "token": lambda tokens, prefix: tokens[:, 0],
    "avg": lambda tokens, prefix: tokens[:, prefix:].mean(axis=1),
    "max": lambda tokens, prefix: tokens[:, prefix:].max(axis=1),
    "avgmax": lambda tokens, prefix: (tokens[:, prefix:].mean(axis=1) + tokens[:, prefix:].max(axis=1)) / 2,
    "token_avg": lambda tokens, prefix: jnp.concatenate([tokens[:, 0], tokens[:, prefix:].mean(axis=1)], axis=-1),
}
"""How tokens [B, N, C], of which the first `prefix` belong to no patch, become one vector."""

_INNER = re.compile(r"(?:block|tokens)(\d+)")
_LINEAR: dict[str, Any] = {"kernel_init": nn.initializers.normal(0.02), "bias_init": nn.initializers.zeros}


class PatchEmbed(nn.Module):
    """Cuts images into patches and maps each one linearly: a convolution `proj` whose stride is its kernel's size.

    Attributes:
      features: channels of the tokens.
      patch_size: side of a patch in pixels.
      padding: zeros around the image (2 in ViTPose).
    """

    features: int
    patch_size: int = 16
    padding: int = 0
    use_bias: bool = True

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        """Raises ValueError unless the patch size divides height and width."""
        size = self.patch_size
        if images.ndim != 4 or images.shape[1] % size or images.shape[2] % size or not images.size:
            raise ValueError(
                f"got images of shape {images.shape}; patches of {size} pixels take [B, H, W, C] with H and W "
                f"multiples of {size}: resize or pad them"
            )
        return layers.Conv(self.features, size, size, padding=self.padding, use_bias=self.use_bias, name="proj")(images)


class Block(nn.Module):
    """Attention and a perceptron, each on normalised tokens and added to its input (fig. 1, right).

    Attributes:
      heads, qkv_bias: of the attention.
      hidden: size inside the perceptron.
      mlp: "gelu", or "swiglu": gated, with `hidden // 2` gated units.
      layer_scale: initial value of the learned scale of both branches; None: there is none.
      norm: of both branches.
      drop_path: probability of dropping each branch while training.
    """

    heads: int
    hidden: int
    mlp: str = "gelu"
    qkv_bias: bool = True
    layer_scale: float | None = None
    norm: layers.Norm = layers.Norm("ln", epsilon=1e-6)
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "b n c"], train: bool) -> Float[Array, "b n c"]:
        y = self.norm(name="norm1")(x, train=train)
        y = layers.SelfAttention(self.heads, qkv_bias=self.qkv_bias, name="attn", **_LINEAR)(y)
        x = x + self.scaled(y, 1, train)
        y = self.norm(name="norm2")(x, train=train)
        if self.mlp == "swiglu":
            y = layers.GatedMlp(self.hidden // 2, name="mlp", **_LINEAR)(y)
        else:
            y = layers.Mlp(self.hidden, name="mlp", **_LINEAR)(y)
        return x + self.scaled(y, 2, train)

    @nn.nowrap
    def scaled(self, y: Float[Array, "b n c"], branch: int, train: bool) -> Float[Array, "b n c"]:
        """What the residual branch adds."""
        if self.layer_scale is not None:
            y = layers.LayerScale(self.layer_scale, name=f"ls{branch}")(y)
        return layers.DropPath(self.drop_path, name=f"drop_path{branch}")(y, train=train)


class VisionTransformer(nn.Module):
    """Levels of one stride, `patch_size`, whatever their names.

      "block<i>"   [B, h, w, C]  patch tokens after block i (from 0) as a map, for detectors, DPT or UPerNet
      "tokens<i>"  [B, N, C]     all tokens after block i: class, distillation and register tokens, then patches by row
      "c4"         [B, h, w, C]  patch tokens after the last block and its norm
      "tokens"     [B, N, C]     all of them
      "pooled"     [B, C]        what the classifier sees (2 C with `pool="token_avg"`)

    Images may have any size that is a multiple of the patch size: the position embedding, which is stored for
    `image_size`, is resampled (`layers.resample_position_embedding`). Parameters that only later levels need are not
    built.

    Attributes:
      image_size: pixels (height, width), or one number for both; decides the grid of the stored position embedding.
      patch_size: side of a patch in pixels.
      width, depth, heads: channels, blocks and heads of the attentions.
      mlp_ratio: hidden size of the perceptrons, in widths.
      mlp: "gelu" or "swiglu", see `Block`.
      qkv_bias: whether queries, keys and values have a bias.
      layer_scale: initial scale of residual branches; None: they have none.
      norm: of everything; Hugging Face's ViT has an epsilon of 1e-12 in its place.
      class_token, distillation_token: whether there is one; a distillation token needs a class token.
      registers: number of further tokens that belong to no patch.
      prefix_positions: which of these tokens have a position embedding of their own, before those of the patches:
        "all", "class" (DINOv2 with registers as first published) or "none".
      pre_norm: a norm in front of the blocks, and no bias in the patch embedding (CLIP).
      final_norm: a norm behind the blocks.
      pool: "token" (the class token; with a distillation token the mean of both), "avg", "max" or "avgmax" (their mean)
        over patches, or "token_avg" (class token and average side by side, as DINOv2's linear classifier sees them).
      fc_norm: the final norm follows the pooling instead; None: for "avg", "max" and "avgmax".
      norm_blocks: the final norm is applied to "block<i>" and "tokens<i>", too (DINOv2 as a backbone).
      patch_padding: zeros around the image (2 in ViTPose).
      position_antialias, position_offset: how the position embedding is resampled; timm's rule by default, see there.
      out_levels: which levels are returned.
      frozen_stages: the embedding and this many blocks pass no gradient (0: nothing is frozen).
      drop_path_rate: stochastic depth of the last block, rising linearly from 0.
      remat: recompute blocks in the backward pass.
    """

    image_size: int | tuple[int, int] = 224
    patch_size: int = 16
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    mlp: str = "gelu"
    qkv_bias: bool = True
    layer_scale: float | None = None
    norm: layers.Norm = layers.Norm("ln", epsilon=1e-6)
    class_token: bool = True
    distillation_token: bool = False
    registers: int = 0
    prefix_positions: str = "all"
    pre_norm: bool = False
    final_norm: bool = True
    pool: str = "token"
    fc_norm: bool | None = None
    norm_blocks: bool = False
    patch_padding: int = 0
    position_antialias: bool = True
    position_offset: float = 0.0
    out_levels: tuple[str, ...] = ("c4",)
    frozen_stages: int = 0
    drop_path_rate: float = 0.0
    remat: bool = False

    def __post_init__(self) -> None:
        family = type(self).__name__
        for name, known in (
            ("mlp", ("gelu", "swiglu")),
            ("prefix_positions", ("all", "class", "none")),
            ("pool", POOLS),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{family} got {name}={getattr(self, name)!r}; it knows {', '.join(known)}")
        if any(side % self.patch_size or side <= 0 for side in self.image_sides):
            raise ValueError(f"{family} got image_size={self.image_size}: no multiple of patch_size={self.patch_size}")
        if self.width % self.heads:
            raise ValueError(f"{family} got heads={self.heads}, which does not divide width={self.width}")
        if not self.class_token and (self.distillation_token or self.pool in ("token", "token_avg")):
            raise ValueError(
                f"{family} got class_token=False with pool={self.pool!r} and distillation_token="
                f"{self.distillation_token}; without a class token take pool='avg' and no distillation token"
            )
        pyramid.check(self, self.levels, stages=self.depth)
        super().__post_init__()

    @property
    def levels(self) -> tuple[str, ...]:
        """Every level that can be asked for."""
        inner = tuple(f"{kind}{i}" for i in range(self.depth) for kind in ("block", "tokens"))
        return (*inner, "c4", "tokens", "pooled")

    @property
    def channels(self) -> dict[str, int]:
        """Channels of each returned level."""
        every = dict.fromkeys(self.levels, self.width)
        return pyramid.select({**every, "pooled": self.width * (1 + (self.pool == "token_avg"))}, self.out_levels)

    @property
    def strides(self) -> dict[str, int]:
        """Input pixels per token of each returned level."""
        return pyramid.select(dict.fromkeys(self.levels, self.patch_size), self.out_levels)

    @property
    def image_sides(self) -> tuple[int, int]:
        """Height and width of the images whose position embedding is stored."""
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the stored position embedding."""
        spare = 2 * self.patch_padding - self.patch_size
        height, width = ((side + spare) // self.patch_size + 1 for side in self.image_sides)
        return height, width

    @property
    def prefix(self) -> int:
        """Number of tokens in front of the patches'."""
        return self.class_token + self.distillation_token + self.registers

    @property
    def positioned(self) -> int:
        """Number of those that have a position embedding."""
        return {"all": self.prefix, "class": int(self.class_token), "none": 0}[self.prefix_positions]

    @property
    def frozen_paths(self) -> tuple[str, ...]:
        """Regular expressions, each for whole paths below this module, of the parameters that `frozen_stages` names."""
        if not self.frozen_stages:
            return ()
        embedding = r"(patch_embed|norm_pre)/.*|(pos_embed|cls_token|dist_token|reg_token)"
        return (embedding, *(rf"blocks_{i}/.*" for i in range(min(self.frozen_stages, self.built))))

    @property
    def built(self) -> int:
        """Number of blocks that the returned levels need."""
        inner = [match for level in self.out_levels if (match := _INNER.fullmatch(level))]
        return self.depth if len(inner) < len(self.out_levels) else max(int(match[1]) for match in inner) + 1

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"], *, train: bool) -> dict[str, Float[Array, "b ..."]]:
        x, grid = self.embed(images, train)
        x = jax.lax.stop_gradient(x) if self.frozen_stages else x
        block = pyramid.block_class(Block, self.remat)
        (rates,) = pyramid.drop_path_rates(self.drop_path_rate, (self.depth,))
        after = []
        for i in range(self.built):
            frozen = i < self.frozen_stages
            x = block(
                heads=self.heads,
                hidden=int(self.width * self.mlp_ratio),
                mlp=self.mlp,
                qkv_bias=self.qkv_bias,
                layer_scale=self.layer_scale,
                norm=self.norm,
                drop_path=rates[i],
                name=f"blocks_{i}",
            )(x, train and not frozen)
            x = jax.lax.stop_gradient(x) if frozen else x
            after.append(x)
        return pyramid.select(self.to_levels(after, grid, train), self.out_levels)

    @nn.nowrap
    def embed(self, images: Float[Array, "b h w c"], train: bool) -> tuple[Float[Array, "b n c"], tuple[int, int]]:
        """Tokens with their positions, and the grid (rows, columns) of the patches."""
        patches = PatchEmbed(
            self.width, self.patch_size, padding=self.patch_padding, use_bias=not self.pre_norm, name="patch_embed"
        )(images)
        batch, height, width, channels = patches.shape
        rows, columns = self.grid
        shape = (1, self.positioned + rows * columns, channels)
        positions = layers.resample_position_embedding(
            self.param("pos_embed", nn.initializers.normal(0.02), shape, jnp.float32),
            self.grid,
            (height, width),
            prefix=self.positioned,
            antialias=self.position_antialias,
            offset=self.position_offset,
        )
        x = patches.reshape(batch, -1, channels) + positions[:, self.positioned :].astype(patches.dtype)
        counts = (
            ("cls_token", self.class_token),
            ("dist_token", self.distillation_token),
            ("reg_token", self.registers),
        )
        tokens = [
            self.param(name, nn.initializers.normal(0.02), (1, int(count), channels), jnp.float32)
            for name, count in counts
            if count
        ]
        if tokens:
            prefix = jnp.concatenate(tokens, axis=1)
            own = prefix[:, : self.positioned] + positions[:, : self.positioned]
            prefix = jnp.concatenate([own, prefix[:, self.positioned :]], axis=1).astype(x.dtype)
            x = jnp.concatenate([jnp.broadcast_to(prefix, (batch, *prefix.shape[1:])), x], axis=1)
        return (self.norm(name="norm_pre")(x, train=train) if self.pre_norm else x), (height, width)

    @nn.nowrap
    def to_levels(
        self, after: list[Float[Array, "b n c"]], grid: tuple[int, int], train: bool
    ) -> dict[str, Float[Array, "b ..."]]:
        """At least the levels that are asked for, from the tokens after each block."""
        wants_last = not {"c4", "tokens", "pooled"}.isdisjoint(self.out_levels)
        fc_norm = self.pool in ("avg", "max", "avgmax") if self.fc_norm is None else self.fc_norm
        norm = None
        if self.final_norm and not fc_norm and (wants_last or self.norm_blocks):
            norm = self.norm(name="norm")
        levels: dict[str, Array] = {}
        for i, x in enumerate(after):
            if not {f"block{i}", f"tokens{i}"}.isdisjoint(self.out_levels):
                x = norm(x, train=train) if norm is not None and self.norm_blocks else x
                levels |= {f"block{i}": self.to_map(x, grid), f"tokens{i}": x}
        if wants_last:
            x = after[-1] if norm is None else norm(after[-1], train=train)
            levels |= {"c4": self.to_map(x, grid), "tokens": x}
            if "pooled" in self.out_levels:
                pooled = x[:, :2].mean(axis=1) if self.distillation_token else POOLS[self.pool](x, self.prefix)
                own_norm = self.final_norm and fc_norm
                levels["pooled"] = self.norm(name="fc_norm")(pooled, train=train) if own_norm else pooled
        return levels

    @nn.nowrap
    def to_map(self, tokens: Float[Array, "b n c"], grid: tuple[int, int]) -> Float[Array, "b h w c"]:
        """The patch tokens as a map."""
        return tokens[:, self.prefix :].reshape(tokens.shape[0], *grid, tokens.shape[-1])

    @nn.nowrap
    def resize(self, name: str, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
        """The position embedding of a file, learned on another, square, grid, for this model; else None."""
        if not name.endswith("/pos_embed") or value.ndim != 3 or value.shape[-1] != shape[-1]:
            return None
        side = math.isqrt(max(value.shape[1] - self.positioned, 0))
        if not side or side**2 + self.positioned != value.shape[1]:
            return None
        resampled = layers.resample_position_embedding(
            jnp.asarray(value, jnp.float32),
            (side, side),
            self.grid,
            prefix=self.positioned,
            antialias=self.position_antialias,
            offset=self.position_offset,
        )
        return np.asarray(resampled, value.dtype)


class DistilledVisionTransformer(VisionTransformer):
    """DeiT with its distillation token, for `classification.distilled.DistilledClassifier`, which takes "tokens"."""

    distillation_token: bool = True
    out_levels: tuple[str, ...] = ("tokens",)


# Names of published weights, see `jaxvision/pretrained/keymaps.py`.
KEYS, IGNORED = vit_keys.KEYS, vit_keys.IGNORED
