"""TFDS sets of any image size with random access; a process of its own, because TensorFlow takes seconds to import."""

import subprocess
import sys

SCRIPT = """
import io, os, pickle, sys, threading, warnings
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from jaxvision.data.faults import DataError, DataWarning
from jaxvision.data.sources.tfds_records import RecordIndex, record_offsets, tfds_records

SIZES = [(5 + i, 9 + 2 * i) for i in range(11)]

def encoded(i):
    stream = io.BytesIO()
    pixels = np.random.default_rng(i).integers(0, 256, (*SIZES[i], 3), np.uint8)
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()

class Parts(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version("1.0.0")
    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(self.features()))
    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(), "test": self._generate_examples()}

class Kinds(Parts):
    def features(self):
        label = tfds.features.ClassLabel(names=["a", "b", "c"])
        return {"image": tfds.features.Image(), "label": label, "id": tfds.features.Text()}
    def _generate_examples(self):
        for i in range(11):
            yield i, {"image": io.BytesIO(encoded(i)), "label": i % 3, "id": str(i)}

BOX = tfds.features.BBox(ymin=0.2, xmin=0.25, ymax=0.6, xmax=1.0)

class Boxes(Parts):
    def features(self):
        label = tfds.features.ClassLabel(names=["cat", "dog"])
        objects = tfds.features.Sequence({"bbox": tfds.features.BBoxFeature(), "label": label, "is_crowd": np.bool_})
        return {"image": tfds.features.Image(), "image/id": np.int64, "objects": objects}
    def _generate_examples(self):
        for i in range(11):
            objects = [{"bbox": BOX, "label": k % 2, "is_crowd": k == 2} for k in range(i % 4)]
            yield i, {"image": io.BytesIO(encoded(i)), "image/id": 100 + i, "objects": objects}

folder = sys.argv[1]
for form in ("tfrecord", "array_record"):
    where = os.path.join(folder, form)
    for builder in (Kinds, Boxes):
        builder(data_dir=where, file_format=form).download_and_prepare()

    table = tfds_records("kinds", where, split="train")
    assert len(table) == 11 and table.class_names == ("a", "b", "c") and table.annotations == ("label",)
    for row in range(11):
        i = int(table.columns["id"][row])
        sample = table.sample(row)
        assert sample["label"] == i % 3 and sample["image"].shape[:2] == SIZES[i] == tuple(table.columns["size"][row])
        assert (sample["image"] == np.asarray(Image.open(io.BytesIO(encoded(i))))).all()
        assert table.encoded(row) == encoded(i)
    part = table.take(np.array([7, 7, 0]))
    assert part.sample(1)["id"] == table.sample(7)["id"] and (part.sample(2)["image"] == table.sample(0)["image"]).all()
    sliced = tfds_records("kinds", where, train_split="train[30%:80%]", split="train")
    whole = [table.columns["id"][row] for row in range(11)]
    assert [sliced.columns["id"][r] for r in range(len(sliced))] == whole[3:9]

    table = tfds_records("boxes", where, split="validation")
    assert table.annotations == ("boxes", "labels", "crowd") and table.class_names == ("cat", "dog")
    for row in range(11):
        sample = table.sample(row)
        i = sample["id"] - 100
        assert sample["labels"].tolist() == [k % 2 for k in range(i % 4)]
        assert sample["crowd"].tolist() == [k == 2 for k in range(i % 4)]
        height, width = SIZES[i]
        wanted = np.array([[0.25 * width, 0.2 * height, width, 0.6 * height]] * (i % 4)).reshape(-1, 4)
        np.testing.assert_allclose(sample["boxes"], wanted, rtol=1e-5)

# Any thread, after pickling, and what is wrong with a file.
info = tfds.builder("kinds", data_dir=os.path.join(folder, "tfrecord")).info.splits["train"].file_instructions
index = pickle.loads(pickle.dumps(RecordIndex([(one.filename, one.skip, one.take) for one in info])))
records = [index.read(i) for i in range(11)]
def again(i):
    for _ in range(200):
        if index.read(i) != records[i]:
            os._exit(9)
threads = [threading.Thread(target=again, args=(i,)) for i in range(11)]
[t.start() for t in threads], [t.join() for t in threads]
path = info[0].filename
content = open(path, "rb").read()
for bad in (content[:-3], content[:10], b"x" * 100):
    open(path, "wb").write(bad)
    try:
        record_offsets(path)
    except DataError as error:
        assert os.path.basename(path) in str(error)
    else:
        raise AssertionError("no error")

# Mocked sets have no files.
with tfds.testing.mock_data(num_examples=4):
    table = tfds_records("mnist", split="train")
    assert len(table) == 4 and table.sample(3)["image"].shape == (28, 28, 3) and table.num_classes == 10

def examples(self, split, decoders=None, read_config=None, shuffle_files=False):
    import tensorflow as tf
    box = {"bbox": [[[0.0, 0.5, 1.0, 1.0]]], "label": [[17]], "is_crowd": [[False]]}
    example = {"image": [encoded(3)], "image/id": tf.constant([5], tf.int64), "objects": box}
    return tf.data.Dataset.from_tensor_slices(example)

with tfds.testing.mock_data(as_dataset_fn=examples):
    table = tfds_records("coco/2017", split="train")
    sample = table.sample(0)
    assert table.num_classes == 80 and sample["id"] == 5 and sample["labels"].tolist() == [17]
    np.testing.assert_allclose(sample["boxes"], [[7.5, 0, 15, 8]])

def refused(part, *arguments, **options):
    try:
        tfds_records(*arguments, **dict(split="train") | options)
    except ValueError as error:
        assert part in str(error), (part, str(error))
    else:
        raise AssertionError("no error")

refused("did you mean 'mnist'?", "mnits")
refused("its splits are: ", "kinds", os.path.join(folder, "array_record"), train_split="nope")
"""


def test_tfds_sets_are_read_at_random_in_both_formats_and_mocked(tmp_path):
    result = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, timeout=180)
    assert result.returncode == 0, result.stderr[-3000:]
