"""From a data section to loaders."""

import dataclasses

import numpy as np
import pytest

from jaxvision.data.build import Data, build_data
from jaxvision.data.loader import Loader
from jaxvision.data.sources import InMemory, Synthetic


@dataclasses.dataclass
class Section:
    source: dict
    batch_size: int = 8
    eval_batch_size: int | None = None
    image_size: tuple[int, int] = (16, 12)
    channels: int = 3


def test_a_data_section_becomes_two_loaders():
    pytest.importorskip("jaxvision.config")
    section = Section({"name": "synthetic", "num_examples": 20, "num_classes": 4})
    data = build_data(section, seed=5, process_index=1, process_count=2)
    assert (data.num_classes, data.class_names, data.multi_label) == (4, ("0", "1", "2", "3"), False)
    assert (data.image_size, data.channels) == ((16, 12), 3)
    assert (data.train.seed, data.train.batch_size, data.evaluation.batch_size) == (5, 8, 8)
    batch = next(data.train.train())
    assert batch["image"].shape == (4, 16, 12, 3)
    assert (batch["image"] != next(data.evaluation.evaluate())["image"]).any()
    section.eval_batch_size = 4
    assert build_data(section, seed=5).evaluation.batch_size == 4
    section.batch_size = 21
    with pytest.raises(ValueError, match="larger than the 20 training samples"):
        build_data(section, seed=5)


def test_training_and_validation_must_agree():
    def part(**options):
        names = options.pop("names", ("a", "b"))
        settings = {"name": "x", "image_size": (4, 4), "channels": 1} | options
        return Loader(InMemory(np.zeros((2, 4, 4), np.uint8), np.array([0, 1]), names, **settings), 2)

    Data(part(), part())
    with pytest.raises(ValueError, match="differ in class_names"):
        Data(part(), part(names=("b", "a")))
    with pytest.raises(ValueError, match="differ in image_shape"):
        Data(part(), part(channels=3))
    several = Synthetic(4, 2, True, split="train", image_size=(16, 16), channels=1)
    single = Synthetic(4, 2, split="train", image_size=(16, 16), channels=1)
    with pytest.raises(ValueError, match="differ in multi_label"):
        Data(Loader(several, 2), Loader(single, 2))
