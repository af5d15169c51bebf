"""From a data section to loaders."""

import dataclasses

import numpy as np
import pytest

from jaxvision.config.sections import Data as Section
from jaxvision.data.build import Data, build_data
from jaxvision.data.loader import Loader
from jaxvision.data.sources import InMemory, Synthetic
from jaxvision.data.tf_loader import TfLoader
from jaxvision.errors import SetupError


def section(source, **values):
    return Section(source=source, batch_size=8, image_size=(16, 12), channels=3, **values)


def test_a_data_section_becomes_two_loaders():
    config = section({"name": "synthetic", "num_examples": 20, "num_classes": 4})
    data = build_data(config, seed=5, process_index=1, process_count=2)
    assert (data.num_classes, data.class_names, data.multi_label) == (4, ("0", "1", "2", "3"), False)
    assert (data.image_size, data.channels) == ((16, 12), 3)
    assert (data.train.seed, data.train.batch_size, data.evaluation.batch_size) == (5, 8, 8)
    batch = next(data.train.train())
    assert batch["image"].shape == (4, 16, 12, 3)
    assert (batch["image"] != next(data.evaluation.evaluate())["image"]).any()
    assert build_data(dataclasses.replace(config, eval_batch_size=4), seed=5).evaluation.batch_size == 4
    with pytest.raises(ValueError, match="larger than the 20 training samples"):
        build_data(dataclasses.replace(config, batch_size=21), seed=5)


def test_images_in_memory_pass_through_host_transforms():
    config = section({"name": "synthetic", "num_examples": 20, "num_classes": 4}, host_transforms=("center_crop",))
    config = dataclasses.replace(config, host_transforms=({"name": "center_crop", "size": (8, 10)},))
    data = build_data(config, seed=5)
    assert type(data.train) is TfLoader and type(data.evaluation) is Loader
    batch = next(data.train.train())
    source = data.train.source.gather(batch["index"])
    np.testing.assert_array_equal(batch["label"], source["label"])
    np.testing.assert_array_equal(batch["image"][:, :8, :10], source["image"][:, 4:12, 1:11])


def test_a_source_without_samples_takes_no_host_transforms(monkeypatch):
    monkeypatch.delattr(InMemory, "sample")
    config = section({"name": "synthetic", "num_examples": 20, "num_classes": 4}, host_transforms=("center_crop",))
    with pytest.raises(SetupError, match="only gathers whole batches of one size, which host transforms and buckets"):
        build_data(config, seed=5)


def test_scenes_come_from_memory_or_through_host_transforms():
    config = section({"name": "digit_scenes", "num_examples": 16, "validation_examples": 8})
    config = dataclasses.replace(config, image_size=(48, 64))
    assert type(build_data(config, seed=5).train) is Loader
    changed = dataclasses.replace(config, host_transforms=({"name": "random_resized_crop", "size": (32, 40)},))
    data = build_data(changed, seed=5)
    assert type(data.evaluation) is Loader and type(data.train) is TfLoader
    batch = next(data.train.train())
    assert batch["image"].shape == (8, 48, 64, 3) and (batch["size"] == (32, 40)).all()


def test_training_and_validation_must_agree():
    def part(**options):
        names = options.pop("names", ("a", "b"))
        settings = {"name": "x", "image_size": (4, 4), "channels": 1} | options
        return Loader(InMemory(np.zeros((2, 4, 4), np.uint8), np.array([0, 1]), names, **settings), 2)

    Data(part(), part(), (4, 4), 1)
    with pytest.raises(ValueError, match="differ in class_names"):
        Data(part(), part(names=("b", "a")), (4, 4), 1)
    with pytest.raises(ValueError, match="differ in image_shape"):
        Data(part(), part(channels=3), (4, 4), 1)
    several = Synthetic(4, 2, True, split="train", image_size=(16, 16), channels=1)
    single = Synthetic(4, 2, split="train", image_size=(16, 16), channels=1)
    with pytest.raises(ValueError, match="differ in multi_label"):
        Data(Loader(several, 2), Loader(single, 2), (16, 16), 1)
