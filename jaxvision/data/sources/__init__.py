"""Where samples come from: data sets with random access, gathered a batch at a time.

A source is any object with the attributes of `Source`. Its constructor takes its own hyperparameters, which a config
shows, and three keyword arguments that `jaxvision.data.build.build_data` supplies: `split` ("train" or "validation"),
`image_size` (height, width) and `channels`.
"""

from jaxvision.data.sources.digits import Digits
from jaxvision.data.sources.idx import Idx
from jaxvision.data.sources.memory import InMemory, Source
from jaxvision.data.sources.npz import Npz
from jaxvision.data.sources.synthetic import Synthetic
from jaxvision.data.sources.tfds import Tfds

__all__ = ["Digits", "Idx", "InMemory", "Npz", "Source", "Synthetic", "Tfds"]
