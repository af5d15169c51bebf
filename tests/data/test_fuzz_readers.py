"""Annotation files with random damage: every reader ends soon, with a table or with `DataError`, never otherwise.

Two kinds of damage: bytes of a valid file replaced, removed, doubled or swapped; and, for JSON, values of a valid
document replaced by what nobody expects there.
"""

import contextlib
import copy
import json
import time
import warnings

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxvision.data import maps
from jaxvision.data.faults import DataError, DataWarning
from jaxvision.data.images import ImageError
from jaxvision.data.sources.coco import coco
from jaxvision.data.sources.coco_panoptic import coco_panoptic
from jaxvision.data.sources.voc import parse_voc, voc
from jaxvision.data.sources.yolo import yolo
from tests.data import writers

MUTATIONS = 2000
"""Of each reader."""
LONGEST = 2.0  # seconds for one file


def mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """One to four changes of bytes."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        at, length = int(rng.integers(len(data) + 1)), int(rng.integers(1, 12))
        kind = rng.integers(6)
        if kind == 0 and data:
            data[min(at, len(data) - 1)] = rng.integers(256)
        elif kind == 1:
            del data[at : at + length]
        elif kind == 2:
            data[at:at] = data[at : at + length]
        elif kind == 3:
            data[at:at] = bytes(rng.choice(list(b'0123456789.-eE{}[]",:<>&/ \n'), length).tolist())
        elif kind == 4:
            other = int(rng.integers(len(data) + 1))
            data[at : at + length], data[other : other + length] = data[other : other + length], data[at : at + length]
        elif rng.random() < 0.2:
            del data[at:]
    return bytes(data)


VALUES = (
    None,
    True,
    False,
    0,
    -1,
    10**30,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "..",
    "\0",
    [],
    {},
    [[]],
    [None],
)


def mutate_document(document, rng):
    """One to three values, keys or elements of a JSON document replaced, removed or doubled."""
    document = copy.deepcopy(document)
    for _ in range(rng.integers(1, 4)):
        parent, key = None, None
        node = document
        while isinstance(node, (dict, list)) and node and (parent is None or rng.random() < 0.8):
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            parent, key = node, keys[rng.integers(len(keys))]
            node = parent[key]
        if parent is None:
            continue
        if rng.random() < 0.2:
            del parent[key]
        else:
            parent[key] = copy.deepcopy(VALUES[rng.integers(len(VALUES))])
    return document


def survives(read, content):
    """Reads; returns whether that gave a table whose annotations are sound."""
    start = time.monotonic()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DataWarning)
            table = read()
        for i in range(len(table)):
            check(table, i)
    except (DataError, ImageError):
        table = None
    except BaseException as error:
        raise AssertionError(f"{type(error).__name__}: {error} for {content!r:.3000}") from error
    assert time.monotonic() - start < LONGEST, content
    return table is not None


def check(table, i):
    row = table.row(i)
    if "boxes" in row:
        assert np.isfinite(row["boxes"]).all() and (row["boxes"][:, 2:] >= row["boxes"][:, :2]).all()
        assert ((row["labels"] >= 0) & (row["labels"] < table.num_classes)).all()
    for key in ("segmentation", "panoptic_file"):
        if key in row:
            table.annotation(i, (20, 30))


KEYPOINTS = [{"id": 3, "name": "cat", "keypoints": ["a", "b"]}, {"id": 7, "name": "dog", "keypoints": ["a", "b"]}]


def coco_document():
    document = writers.coco_document(3, categories=KEYPOINTS)
    for annotation in document["annotations"]:
        annotation["keypoints"] = [1, 2, 2, 0, 0, 0]
    document["annotations"][1]["segmentation"] = {"size": [20, 30], "counts": [100, 50, 450]}
    document["annotations"][2]["segmentation"] = {"size": [20, 30], "counts": "T35c0N1OlB"}
    return document


@pytest.fixture
def coco_reader(tmp_path):
    pictures, file = writers.coco(tmp_path, coco_document(), images=3)

    def read(content):
        (tmp_path / "instances.json").write_bytes(content)
        return coco(pictures, file, None, file, masks=True, keypoints=True, split="train")

    return read


def test_coco_files_with_damaged_bytes(coco_reader):
    rng = np.random.default_rng(0)
    content = json.dumps(coco_document()).encode()
    contents = [mutate(content, rng) for _ in range(MUTATIONS // 2)]
    assert 10 < sum(survives(lambda c=c: coco_reader(c), c) for c in contents) < MUTATIONS // 2


def test_coco_documents_with_strange_values(coco_reader):
    rng = np.random.default_rng(1)
    contents = [json.dumps(mutate_document(coco_document(), rng)).encode() for _ in range(MUTATIONS // 2)]
    assert 100 < sum(survives(lambda c=c: coco_reader(c), c) for c in contents) < MUTATIONS // 2


def test_panoptic_documents_with_strange_values(tmp_path):
    pictures, file = writers.coco(tmp_path)
    document = writers.coco_document()
    segments = [
        {"id": 5, "category_id": 3, "iscrowd": 0, "area": 20, "bbox": [0, 0, 3, 3]},
        {"id": 9, "category_id": 7},
    ]
    document["annotations"] = [
        {"image_id": i + 1, "file_name": f"{i}.png", "segments_info": segments} for i in range(2)
    ]
    for i in range(2):
        writers.label_map(tmp_path / "instances" / f"{i}.png", np.full((20, 30, 3), (5, 0, 0)))
    rng = np.random.default_rng(2)
    read = 0
    for number in range(MUTATIONS):
        changed = mutate_document(document, rng)
        content = json.dumps(changed).encode()
        content = mutate(content, rng) if number % 2 else content
        (tmp_path / "instances.json").write_bytes(content)
        read += survives(lambda: coco_panoptic(pictures, file, None, file, split="train"), content)
    assert 100 < read < MUTATIONS


def test_voc_files_with_damaged_bytes(tmp_path):
    objects = [("dog", 1, 2, 10, 20, 0), ("cat", 5, 5, 30, 9, 1)]
    content = writers.voc_xml(objects).encode()
    path = writers.voc(tmp_path, {"0": content.decode(), "1": content.decode()}, {"train": "0\n1", "val": "1"})
    rng = np.random.default_rng(3)
    contents = [mutate(content, rng) for _ in range(MUTATIONS)]
    for changed in contents:
        with contextlib.suppress(DataError):
            assert len(parse_voc(changed)["objects"]) < 10
    for changed in contents[:300]:
        (tmp_path / "Annotations" / "0.xml").write_bytes(changed)
        assert survives(lambda: voc(path, split="train"), changed)  # the other file is always fine


def test_voc_lists_with_damaged_bytes(tmp_path):
    text = writers.voc_xml([("dog", 1, 2, 10, 20, 0)])
    path = writers.voc(tmp_path, {"0": text, "1": text}, {"train": "0\n1\n", "val": "1\n"})
    rng = np.random.default_rng(4)
    for _ in range(200):
        changed = mutate(b"0\n1\n", rng)
        (tmp_path / "ImageSets" / "Main" / "train.txt").write_bytes(changed)
        survives(lambda: voc(path, split="train"), changed)


YAML = "path: .\ntrain: images/train\nval: images/val\nnc: 2\nnames: {0: cat, 1: dog}\nkpt_shape: [2, 3]\n"
LINES = "1 0.5 0.5 0.2 0.5\n0 0.1 0.1 0.2 0.2 0.3 0.1\n1 0.5 0.5 0.2 0.5 0.1 0.5 2 0 0 0\n"


def test_yolo_lines_with_damaged_bytes(tmp_path):
    path = writers.yolo(tmp_path, {"train/0": LINES, "train/1": LINES, "val/0": LINES}, YAML)
    rng = np.random.default_rng(5)
    for number in range(MUTATIONS * 2 // 3):
        changed = mutate(LINES.encode(), rng)
        (tmp_path / "labels" / "train" / "0.txt").write_bytes(changed)
        masks, keypoints = number % 3 == 1, number % 3 == 2
        assert survives(lambda masks=masks, keypoints=keypoints: yolo(path, masks, keypoints, split="train"), changed)


def test_yolo_data_yaml_with_damaged_bytes(tmp_path):
    path = writers.yolo(tmp_path, {"train/0": LINES, "val/0": LINES}, YAML)
    rng = np.random.default_rng(6)
    document = yaml.safe_load(YAML)
    read = 0
    for number in range(MUTATIONS // 3):
        changed = mutate(YAML.encode(), rng)
        if number % 4 == 0:
            changed = yaml.safe_dump(mutate_document(document, rng)).encode()
        (tmp_path / "data.yaml").write_bytes(changed)
        read += survives(lambda: yolo(path, split="train"), changed)
    assert 50 < read < MUTATIONS // 3


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_as_xml(content):
    with contextlib.suppress(DataError):
        parse_voc(content)


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=12),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.sampled_from(["size", "counts"]), inner),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(ANY, st.sampled_from([(0, 0), (4, 5)]))
def test_any_value_as_a_segmentation_is_refused_or_drawn(value, size):
    parsed = maps.parse_segmentation(value, size)
    if isinstance(parsed, dict):
        assert parsed["counts"].sum() == parsed["size"][0] * parsed["size"][1]
        assert maps.instance_masks([parsed], parsed["size"]).shape == (1, *parsed["size"])
    elif parsed is not None:
        assert maps.instance_masks([parsed], (4, 5)).shape == (1, 4, 5)


@settings(max_examples=500, deadline=None)
@given(st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=40))
def test_any_text_as_run_lengths_is_refused_or_fits(text):
    parsed = maps.parse_segmentation({"size": [4, 5], "counts": text}, (4, 5))
    assert parsed is None or parsed["counts"].sum() == 20
