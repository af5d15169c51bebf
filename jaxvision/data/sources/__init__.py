"""Where samples come from: data sets with random access, gathered a batch at a time.

A source is any object with the attributes of `Source`. Its constructor takes its own hyperparameters, which a config
shows, and three keyword arguments that `jaxvision.data.build.build_data` supplies: `split` ("train" or "validation"),
`image_size` (height, width) and `channels`.

The readers of files (`coco`, `coco_panoptic`, `image_csv`, `image_folder`, `image_mask`, `tfds_records`, `voc`,
`yolo`) are functions, each in a module of its name, that take `split` only and return a `data.table.Table` of images
of any size.
"""

from jaxvision.data.sources.digit_attributes import DigitAttributes
from jaxvision.data.sources.digit_scenes import DigitClips, DigitScenes
from jaxvision.data.sources.digits import Digits
from jaxvision.data.sources.idx import Idx
from jaxvision.data.sources.memory import InMemory, Source
from jaxvision.data.sources.npz import Npz
from jaxvision.data.sources.synthetic import Synthetic
from jaxvision.data.sources.tfds import Tfds

__all__ = [
    "DigitAttributes",
    "DigitClips",
    "DigitScenes",
    "Digits",
    "Idx",
    "InMemory",
    "Npz",
    "Source",
    "Synthetic",
    "Tfds",
]
