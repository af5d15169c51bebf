"""Host transforms: what needs the undecoded image or its own size. Everything else is in `jaxvision.augment`.

There are two forms, both frozen dataclasses, numpy and Pillow only:

- geometric: `plan(view, sample, rng) -> (view, sample)` says which window of the image is shown and how large; no pixel
  is touched, so any number of them costs one decode and one resampling (see `View`);
- of pixels: `pixels(image, rng) -> image`, uint8 `[h, w, c]` of the same size, after the resampling.

All geometric ones come before those of pixels. `rng` is `data.order.sample_rng(seed, position)`, one per sample, from
which they draw in turn.
"""

from jaxvision.data.transforms.crops import CenterCrop, Expand, IouCrop, RandomCrop, RandomResizedCrop, RandomScaledCrop
from jaxvision.data.transforms.resize import Letterbox, RandomScale, RandomShortSide, Resize, ResizeSide
from jaxvision.data.transforms.view import HostTransform, View, split_forms

__all__ = [
    "CenterCrop",
    "Expand",
    "HostTransform",
    "IouCrop",
    "Letterbox",
    "RandomCrop",
    "RandomResizedCrop",
    "RandomScale",
    "RandomScaledCrop",
    "RandomShortSide",
    "Resize",
    "ResizeSide",
    "View",
    "split_forms",
]
