"""Mixup and CutMix: pairs of images become two mixtures of both, and so do their labels.

The neighbours a and b become `w a + (1 - w) b` and `w b + (1 - w) a`, where w is one number (Zhang et al. 2018,
arXiv:1710.09412), or 0 in a rectangle of the picture and 1 outside (Yun et al. 2019, arXiv:1905.04899). Labels become
float32 rows `[classes]` with the same shares; integers are taken as one-hot rows, and rows that are mixed already are
mixed again; `mixed` (bool) says which samples are mixtures. One share per pair (timm's "pair" mode), where the papers'
code draws one per batch. uint8 images are rounded.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from jaxvision.augment import warp
from jaxvision.augment.geometry import from_float, picture_size
from jaxvision.augment.pipeline import Sample, sample_at


@dataclasses.dataclass(frozen=True)
class Mixup:
    """Blends two images and their labels. For images with one label, or several (0 and 1 per class).

    Attributes:
      num_classes: length of the label rows.
      alpha: the share is drawn from Beta(alpha, alpha) (paper, sec. 3: 0.1 to 0.4 for ImageNet).
      probability: with which a pair is mixed at all.
    """

    num_classes: int
    alpha: float = 0.2
    probability: float = 1.0
    group = 2

    def __post_init__(self):
        _check(self)

    def mix(self, samples: Sample, key: PRNGKeyArray) -> dict[str, Any]:
        share_key, coin = jax.random.split(key)
        share = random_share(share_key, self.alpha)
        share = jnp.where(jax.random.bernoulli(coin, self.probability), share, 1.0)
        return _mixed("mixup", samples, share, None, self.num_classes)


@dataclasses.dataclass(frozen=True)
class CutMix:
    """Puts a rectangle of one image into the other, and of its label and semantic map the share of that area.

    Attributes:
      num_classes: length of the label rows; segmentation without image labels ignores it.
      alpha: the area is a share drawn from Beta(alpha, alpha) (paper, sec. 3.2: 1).
      probability: with which a pair is mixed at all (paper's code: 1 for ImageNet, 0.5 for CIFAR).
    """

    num_classes: int
    alpha: float = 1.0
    probability: float = 1.0
    group = 2

    def __post_init__(self):
        _check(self)

    def mix(self, samples: Sample, key: PRNGKeyArray) -> dict[str, Any]:
        share_key, place_key, coin = jax.random.split(key, 3)
        share = random_share(share_key, self.alpha)
        cut = _random_cut(place_key, share, samples)
        cut &= jax.random.bernoulli(coin, self.probability)
        return _mixed("cutmix", samples, None, cut, self.num_classes)


@dataclasses.dataclass(frozen=True)
class MixupCutMix:
    """Either of the two for each pair, as recipes for vision transformers have it (Touvron et al. 2021, table 9).

    Attributes:
      num_classes: length of the label rows.
      mixup_alpha: see `Mixup`.
      cutmix_alpha: see `CutMix`.
      switch_probability: with which it is CutMix.
      probability: with which a pair is mixed at all.
    """

    num_classes: int
    mixup_alpha: float = 0.8
    cutmix_alpha: float = 1.0
    switch_probability: float = 0.5
    probability: float = 1.0
    group = 2

    def __post_init__(self):
        _check(self)
        if not 0 <= self.switch_probability <= 1:
            raise ValueError(f"MixupCutMix: switch_probability is {self.switch_probability}, expected 0..1")

    def mix(self, samples: Sample, key: PRNGKeyArray) -> dict[str, Any]:
        share_key, cut_key, place_key, coins = jax.random.split(key, 4)
        used, cutting = jax.random.uniform(coins, (2,), jnp.float32) < np.asarray(
            [self.probability, self.switch_probability], np.float32
        )
        share = random_share(share_key, self.mixup_alpha)
        cut_share = random_share(cut_key, self.cutmix_alpha)
        cut = _random_cut(place_key, cut_share, samples)
        share = jnp.where(used & ~cutting, share, 1.0)
        return _mixed("mixup_cutmix", samples, share, cut & used & cutting, self.num_classes)


def random_share(key: PRNGKeyArray, alpha: float) -> Float[Array, ""]:
    """From Beta(alpha, alpha), which for 1 is uniform and then drawn without the loops of the general case."""
    if alpha == 1:
        return jax.random.uniform(key, (), jnp.float32)
    return jax.random.beta(key, alpha, alpha, dtype=jnp.float32)


def random_rectangle(
    key: PRNGKeyArray, share: Float[Array, ""], size: warp.Size, height: int, width: int
) -> Bool[Array, "h w"]:
    """A rectangle that leaves `share` of a picture, in its shape, around a random centre and cut at its edges."""
    extent = jnp.stack(size).astype(jnp.float32)
    sides = jnp.floor(jnp.sqrt(1.0 - share) * extent)
    centre = jnp.floor(jax.random.uniform(key, (2,), jnp.float32) * extent)
    start = centre - jnp.floor(sides / 2.0)
    end = jnp.minimum(start + sides, extent)
    rows, columns = (jnp.arange(n, dtype=jnp.float32) for n in (height, width))
    return ((rows >= start[0]) & (rows < end[0]))[:, None] & ((columns >= start[1]) & (columns < end[1]))[None, :]


def mixed_labels(labels: Array, share: Float[Array, " 2"], num_classes: int) -> Float[Array, "2 classes"]:
    """Rows of both samples, each with its `share` of its own label and the rest of the other's."""
    if labels.ndim == 1:
        labels = jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)
    elif labels.shape[1:] != (num_classes,):
        raise ValueError(f"labels of {labels.shape[1]} classes for num_classes={num_classes}")
    labels, share = labels.astype(jnp.float32), share[:, None]
    return share * labels + (1.0 - share) * labels[::-1]


def _picture_sizes(samples: Sample) -> warp.Size:
    """Heights and widths of both pictures."""
    sizes = [picture_size(sample_at(samples, i)) for i in (0, 1)]
    return jnp.stack([size[0] for size in sizes]), jnp.stack([size[1] for size in sizes])


def _random_cut(key: PRNGKeyArray, share: Float[Array, ""], samples: Sample) -> Bool[Array, "h w"]:
    """A rectangle of what both pictures cover."""
    heights, widths = _picture_sizes(samples)
    return random_rectangle(key, share, (jnp.min(heights), jnp.min(widths)), *samples["image"].shape[1:3])


def _mixed(
    name: str, samples: Sample, share: Array | None, cut: Bool[Array, "h w"] | None, num_classes: int
) -> dict[str, Any]:
    """Blends with `share` of the own image outside of `cut`, and the other image alone inside."""
    for key, instead in (("targets", "detection_mixup, mosaic or copy_paste"), ("panoptic", "copy_paste on instances")):
        if key in samples:
            raise ValueError(f"{name} mixes image labels, but the samples have {key}: use {instead}")
    if "semantic" in samples and share is not None:
        raise ValueError(f"{name} cannot blend semantic maps: use cutmix")
    image = samples["image"]
    own, other = image.astype(jnp.float32), image[::-1].astype(jnp.float32)
    blend = own if share is None else share * own + (1.0 - share) * other
    weight = jnp.ones((2,), jnp.float32) if share is None else jnp.full((2,), share)
    mixed = dict(samples)
    if cut is not None:
        blend = jnp.where(cut[None, :, :, None], other, blend)
        heights, widths = _picture_sizes(samples)
        pixels = jnp.maximum(heights * widths, 1).astype(jnp.float32)
        weight *= 1.0 - jnp.sum(cut, dtype=jnp.int32).astype(jnp.float32) / pixels
        if "semantic" in samples:
            mixed["semantic"] = jnp.where(cut[None], samples["semantic"][::-1], samples["semantic"])
    mixed["image"] = from_float(blend, image.dtype)
    if "label" in samples:
        mixed["label"] = mixed_labels(samples["label"], weight, num_classes)
        mixed["mixed"] = (weight < 1.0) | samples.get("mixed", jnp.zeros((2,), bool))
    return mixed


def _check(transform: Any) -> None:
    name = type(transform).__name__
    if transform.num_classes < 1:
        raise ValueError(f"{name}: num_classes is {transform.num_classes}, expected at least 1")
    if not 0 <= transform.probability <= 1:
        raise ValueError(f"{name}: probability is {transform.probability}, expected 0..1")
    for field in ("alpha", "mixup_alpha", "cutmix_alpha"):
        if getattr(transform, field, 1.0) <= 0:
            raise ValueError(f"{name}: {field} is {getattr(transform, field)}, expected more than 0")
