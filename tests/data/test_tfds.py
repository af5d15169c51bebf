"""TensorFlow Datasets by name, in a process of its own: TensorFlow takes seconds to import and logs as it likes."""

import subprocess
import sys

import pytest

PRELUDE = """
import io, pathlib, sys
import numpy as np
from jaxvision.data.sources import Tfds
assert "tensorflow" not in sys.modules
SIZE = dict(image_size=(8, 8), channels=1)

def refused(dataset, *parts, **options):
    try:
        Tfds(dataset, **dict(split="train", **SIZE) | options)
    except ValueError as error:
        for part in parts:
            assert part in str(error), (part, str(error))
    else:
        raise AssertionError("no error")
"""

LOCAL = """
import tensorflow_datasets as tfds
from PIL import Image

TRUTH = np.random.default_rng(0).integers(0, 256, (5, 8, 8), np.uint8)

class Parts(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version("1.0.0")

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(), "test": self._generate_examples()}

    def _encoded(self, i):
        stream = io.BytesIO()
        Image.fromarray(TRUTH[i]).save(stream, "PNG")
        return stream.getvalue()

class Shapes(Parts):
    def _info(self):
        features = dict(
            photo=tfds.features.Image(shape=(None, None, 1)),
            mask=tfds.features.LabeledImage(labels=2, shape=(None, None, 1)),
            kind=tfds.features.ClassLabel(names=["disc", "bar", "ring"]),
            id=tfds.features.Text(),
        )
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _generate_examples(self):
        for i in range(5):
            yield i, dict(photo=io.BytesIO(self._encoded(i)), mask=TRUTH[i, ..., None] % 2, kind=i % 3, id=str(i))

class Tags(Parts):
    def _info(self):
        features = dict(
            image=tfds.features.Image(),
            tags=tfds.features.Sequence(tfds.features.ClassLabel(names=["red", "round"])),
        )
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _generate_examples(self):
        for i, tags in enumerate(([], ["red"], ["red", "round"])):
            stream = io.BytesIO()
            Image.new("RGB", (9, 7), "red").save(stream, "PNG")
            yield i, dict(image=io.BytesIO(stream.getvalue()), tags=tags)

folder = sys.argv[1]
Shapes(data_dir=folder).download_and_prepare()
Tags(data_dir=folder).download_and_prepare()

source = Tfds("shapes", folder, split="train", **SIZE)
assert len(source) == 5 and source.class_names == ("disc", "bar", "ring") and source.name == "tfds:shapes"
samples = source.gather(np.arange(5))
kind_of = {TRUTH[i].tobytes(): i % 3 for i in range(5)}
assert {image.tobytes() for image in samples["image"]} == kind_of.keys()
assert [kind_of[image.tobytes()] for image in samples["image"]] == samples["label"].tolist()
again = Tfds("shapes", folder, split="train", **SIZE).gather(np.arange(5))
assert (again["image"] == samples["image"]).all()

assert len(Tfds("shapes", folder, split="validation", **SIZE)) == 5
assert len(Tfds("shapes", folder, train_split="train[:40%]", split="train", **SIZE)) == 2
refused("shapes", "no split 'nope'", "its splits are: ", "train", data_dir=folder, train_split="nope")
limit = "5 images of 'shapes' [train] at 8 x 8 x 1 take 0.0 GiB"
refused("shapes", limit, "train_split='train[:10%]'", data_dir=folder, max_gib=1e-7)

tags = Tfds("tags", folder, split="train", image_size=(7, 9), channels=3)
samples = tags.gather(np.arange(3))
assert tags.multi_label and (samples["image"][..., 0] == 255).all()
assert sorted(samples["label"].tolist()) == [[0, 0], [1, 0], [1, 1]]
"""

MOCKED = """
with tfds.testing.mock_data(num_examples=7):
    for split in ("train", "validation"):
        source = Tfds("mnist", split=split, **SIZE)
        assert len(source) == 7 and source.image_shape == (8, 8, 1) and source.num_classes == 10
    fine = Tfds("cifar100", split="train", image_size=(32, 32), channels=3)
    assert fine.num_classes == 100
    refused("coco/2017", "needs a class label", "objects: Sequence")
refused("mnits", "did you mean 'mnist'?")
"""

MISSING = """
sys.modules["tensorflow"] = None
import jaxvision.data.build, jaxvision.augment
try:
    Tfds("mnist", split="train", **SIZE)
except ImportError as error:
    assert "pip install" in str(error) and "digits" in str(error)
else:
    raise AssertionError("no error")
"""


@pytest.mark.parametrize("script", [LOCAL + MOCKED, MISSING], ids=["prepared and mocked sets", "no TensorFlow"])
def test_tfds(script, tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", PRELUDE + script, str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr[-3000:]
