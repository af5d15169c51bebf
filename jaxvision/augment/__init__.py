"""Device transforms in JAX: pure functions `(sample, key) -> sample` of static shape, one sample at a time.

Those that mix samples have `group` and `mix` instead (`GroupTransform`). A sample is a mapping with `image` `[h, w, c]`
and whatever else the batch holds; a transform is a frozen dataclass, so its settings are visible in a config, and
`pipeline` runs a tuple of them over a batch.
"""

from jaxvision.augment.affine import RandomAffine, RandomPerspective, RandomRot90, RandomRotate, RandomShear
from jaxvision.augment.blur import GaussianBlur, GaussianNoise, RandomSharpness
from jaxvision.augment.color import ColorJitter, Normalize, PhotoMetricDistortion, RandomGrayscale, RandomHSV
from jaxvision.augment.copy_paste import CopyPaste
from jaxvision.augment.crop import LargeScaleJitter, RandomCropPad
from jaxvision.augment.erasing import RandomErasing
from jaxvision.augment.flip import RandomFlip
from jaxvision.augment.mixing import CutMix, Mixup, MixupCutMix
from jaxvision.augment.mosaic import DetectionMixup, Mosaic
from jaxvision.augment.pipeline import GroupTransform, Transform, changed_at, check_groups, pipeline
from jaxvision.augment.tone import RandomAutocontrast, RandomEqualize, RandomInvert, RandomPosterize, RandomSolarize

__all__ = [
    "ColorJitter",
    "CopyPaste",
    "CutMix",
    "DetectionMixup",
    "GaussianBlur",
    "GaussianNoise",
    "GroupTransform",
    "LargeScaleJitter",
    "Mixup",
    "MixupCutMix",
    "Mosaic",
    "Normalize",
    "PhotoMetricDistortion",
    "RandomAffine",
    "RandomAutocontrast",
    "RandomCropPad",
    "RandomEqualize",
    "RandomErasing",
    "RandomFlip",
    "RandomGrayscale",
    "RandomHSV",
    "RandomInvert",
    "RandomPerspective",
    "RandomPosterize",
    "RandomRot90",
    "RandomRotate",
    "RandomSharpness",
    "RandomShear",
    "RandomSolarize",
    "Transform",
    "changed_at",
    "check_groups",
    "pipeline",
]
