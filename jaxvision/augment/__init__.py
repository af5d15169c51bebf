"""Device transforms in JAX: pure functions `(sample, key) -> sample` of static shape, one sample at a time.

A sample is a mapping with `image` `[h, w, c]` and whatever else the batch holds; a transform is a frozen dataclass, so
its settings are visible in a config, and `pipeline` runs a tuple of them over a batch.
"""

from jaxvision.augment.color import ColorJitter, Normalize
from jaxvision.augment.geometry import RandomCropPad, RandomFlip
from jaxvision.augment.pipeline import Transform, pipeline

__all__ = ["ColorJitter", "Normalize", "RandomCropPad", "RandomFlip", "Transform", "pipeline"]
