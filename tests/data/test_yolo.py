"""YOLO text files: boxes, polygons, keypoints, the forms of data.yaml; bad lines are told by name."""

import numpy as np
import pytest
from PIL import Image

from jaxvision.data.faults import DataError, DataWarning
from jaxvision.data.sources.yolo import yolo
from tests.data import writers

BOX = "1 0.5 0.5 0.2 0.5"
YAML = "path: .\ntrain: images/train\nval: images/val\nnames: [cat, dog]\n"
LABELS = {"train/0": f"{BOX}\n0 0.25 0.5 0.5 1\n", "train/1": "", "val/0": BOX}


def test_shares_of_the_image_become_pixels(tmp_path):
    table = yolo(writers.yolo(tmp_path, LABELS, YAML), split="train")
    assert table.class_names == ("cat", "dog") and table.annotations == ("boxes", "labels") and len(table) == 2
    np.testing.assert_allclose(table.sample(0)["boxes"], [[12, 5, 18, 15], [0, 0, 15, 20]], atol=1e-5)
    assert table.sample(0)["labels"].tolist() == [1, 0] and table.sample(1)["boxes"].shape == (0, 4)


def test_the_size_is_that_of_the_upright_image(tmp_path):
    path = writers.yolo(tmp_path, LABELS, YAML)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "images" / "val" / "0.png", exif=exif)
    table = yolo(path, split="validation")
    assert table.sample(0)["image"].shape == (30, 20, 3) and table.columns["size"].tolist() == [[30, 20]]
    np.testing.assert_allclose(table.sample(0)["boxes"], [[8, 7.5, 12, 22.5]], atol=1e-5)


@pytest.mark.parametrize(
    "yaml,names",
    [
        ("train: images/train\nval: images/val\nnames: {1: dog, 0: cat}\n", ("cat", "dog")),
        ("train: ../images/train\nval: ../images/val\nnc: 2\nnames: ['cat', 'dog']", ("cat", "dog")),
        ("path: images\ntrain: train\nval: [val]\nnc: 3", ("0", "1", "2")),
        ("train: train.txt\nval: images/val\nnames:\n  - cat\n  - 5\n", ("cat", "5")),
    ],
    ids=["mapping", "roboflow", "path and count", "list file"],
)
def test_every_form_of_data_yaml_is_understood(tmp_path, yaml, names):
    path = writers.yolo(tmp_path, LABELS, yaml)
    (tmp_path / "train.txt").write_text("./images/train/0.png\n./images/train/1.png\n")
    for table in (yolo(path, split="train"), yolo(f"{path}/data.yaml", split="train")):
        assert table.class_names == names and len(table) == 2 and len(table.columns["labels"].values) == 2
    assert len(yolo(path, split="validation")) == 1


def test_folders_alone_do_with_numbered_or_listed_classes(tmp_path):
    path = writers.yolo(tmp_path, LABELS)
    assert yolo(path, split="validation").class_names == ("0", "1")
    (tmp_path / "classes.txt").write_text("cat\ndog\nbird\n")
    assert yolo(path, split="train").class_names == ("cat", "dog", "bird")
    flat = writers.yolo(tmp_path / "flat", {str(i): BOX for i in range(10)})
    assert [len(yolo(flat, split=split)) for split in ("train", "validation")] == [8, 2]
    around = tmp_path / "around"
    for part in ("train", "valid"):
        writers.yolo(around / part, {"0": BOX})
    assert len(yolo(str(around), split="validation")) == 1


def test_a_relative_path_works(tmp_path, monkeypatch):
    writers.yolo(tmp_path / "set", LABELS, YAML)
    monkeypatch.chdir(tmp_path)
    assert len(yolo("set", split="train").columns["labels"].values) == 2
    monkeypatch.chdir(tmp_path / "set")
    assert len(yolo(".", split="train").columns["labels"].values) == 2
    assert len(yolo("data.yaml", split="validation").columns["labels"].values) == 1


def test_polygons_become_masks_and_boxes_around_them(tmp_path):
    path = writers.yolo(tmp_path, {"train/0": "1 0.1 0.2 0.5 0.2 0.5 0.8 0.1 0.8", "val/0": BOX}, YAML)
    np.testing.assert_allclose(yolo(path, split="train").sample(0)["boxes"], [[3, 4, 15, 16]], atol=1e-5)
    sample = yolo(path, masks=True, split="train").sample(0)
    expected = np.zeros((20, 30), bool)
    expected[4:16, 3:15] = True
    assert (sample["masks"][0] == expected).mean() > 0.97
    with pytest.raises(DataError, match=r"none of its 1 objects can be used: .*wrong number of fields \(expected 7, 9"):
        yolo(path, masks=True, split="validation")


@pytest.mark.parametrize("width,fields,visible", [(3, "0.1 0.5 2 0 0 0", [2, 0]), (2, "0.1 0.5 0 0", [2, 0])])
def test_keypoints_follow_the_box(tmp_path, width, fields, visible):
    yaml = f"{YAML}kpt_shape: [2, {width}]\n"
    path = writers.yolo(tmp_path, {"train/0": f"{BOX} {fields}", "val/0": f"{BOX} {fields}"}, yaml)
    table = yolo(path, keypoints=True, split="train")
    assert table.keypoint_names == ("0", "1")
    np.testing.assert_allclose(table.sample(0)["keypoints"], [[[3, 10, visible[0]], [0, 0, visible[1]]]], atol=1e-5)
    assert "keypoints" not in yolo(path, split="train").annotations


BAD_LINES = {
    "1 0.5 0.5 0.2": "with a wrong number of fields (expected 5)",
    "1 0.5 0.5 0.2 0.5 0.9": "with a wrong number of fields (expected 5)",
    "7": "with a wrong number of fields (expected 5)",
    "1 0.5 x 0.2 0.5": "with something else than numbers",
    "cat 0.5 0.5 0.2 0.5": "with something else than numbers",
    "2 0.5 0.5 0.2 0.5": "with a class outside of 0..1",
    "-1 0.5 0.5 0.2 0.5": "with a class outside of 0..1",
    "0.5 0.5 0.5 0.2 0.5": "with a class outside of 0..1",
    "nan 0.5 0.5 0.2 0.5": "with a class outside of 0..1",
    "1 nan 0.5 0.2 0.5": "with coordinates outside of 0..1",
    "1 inf 0.5 0.2 0.5": "with coordinates outside of 0..1",
    "1 320 200 20 50": "with coordinates outside of 0..1",
    "1 0.5 0.5 0 0.5": "whose box has no width or height",
    "1 0.1 0.1 0.2 0.2 0.3 nan": "with coordinates outside of 0..1",
    "1 0.1 0.1 0.1 0.5 0.1 0.9": "whose box has no width or height",
}


@pytest.mark.parametrize("line,what", BAD_LINES.items(), ids=BAD_LINES)
def test_a_bad_line_is_left_out_and_named(tmp_path, line, what):
    path = writers.yolo(tmp_path, LABELS | {"train/0": f"{BOX}\n\n{line}\n"}, YAML)
    with pytest.warns(DataWarning) as caught:
        table = yolo(path, split="train")
    (fault,) = caught[0].message.faults
    assert (fault.what, fault.count, fault.examples) == (f"line(s) left out {what}", 1, ("0.txt:3",))
    assert len(table.row(0)["labels"]) == 1


def test_images_without_labels_and_the_reverse_are_named(tmp_path):
    path = writers.yolo(tmp_path, LABELS | {"train/2": BOX, "train/3": BOX}, YAML)
    (tmp_path / "labels" / "train" / "1.txt").unlink()
    (tmp_path / "images" / "train" / "2.png").unlink()
    (tmp_path / "images" / "train" / "3.png").write_bytes(b"no image")
    with pytest.warns(DataWarning) as caught:
        table = yolo(path, split="train")
    faults = {fault.what: fault.examples[0].rpartition("/")[2] for fault in caught[0].message.faults}
    assert faults == {
        "image(s) left out, not readable": "3.png'",
        "image(s) without label file, taken as empty": "1.png'",
        "label file(s) without image, not used": "2.txt'",
    }
    assert table.columns["id"].tolist() == ["0", "1"]


BAD_YAML = {
    "empty": ("\n", "is empty"),
    "syntax": ("train: [images", "is not valid YAML .*line"),
    "list": ("- a\n- b", "has no `train`"),
    "nothing": ("val: images/val", "has no `train` but \\['val'\\]"),
    "folder": ("train: images/trian\nnames: [a]", "`train: images/trian` does not exist; looked for"),
    "keys": ("train: images/train\nnames: {1: a, 2: b}", "keys of `names` must be 0..1"),
    "names": ("train: images/train\nnames: 5", "`names` must be a list or a mapping"),
    "twice": ("train: images/train\nnames: [a, a]", "two classes are named 'a'"),
    "count": ("train: images/train\nnc: 3\nnames: [a, b]", "nc is 3, but 2 names"),
    "shape": ("train: images/train\nnames: [a]\nkpt_shape: 17", "`kpt_shape` must be"),
    "number": ("train: 5\nnames: [a]", "`train` must be a folder"),
    "date": ("train: images/train\nx: 2000-99-99", "is not the data.yaml"),
    "object": ("train: !!python/object/apply:os.system ['false']", "is not valid YAML"),
}


@pytest.mark.parametrize("yaml,message", BAD_YAML.values(), ids=BAD_YAML)
def test_a_bad_data_yaml_is_an_error_that_names_it(tmp_path, yaml, message):
    path = writers.yolo(tmp_path, LABELS, yaml)
    with pytest.raises(DataError, match=message) as caught:
        yolo(path, split="train")
    assert "data.yaml" in str(caught.value)


def test_faults_of_the_whole_are_errors(tmp_path):
    with pytest.raises(DataError, match="holds neither data.yaml nor a folder `images`"):
        yolo(str(tmp_path), split="train")
    path = writers.yolo(tmp_path / "a", {"train/0": BOX, "val/0": BOX}, YAML)
    (tmp_path / "a" / "labels" / "train" / "0.txt").unlink()
    with pytest.raises(DataError, match="none of 1 images has a label file, e.g. '.*labels/train/0.txt'"):
        yolo(path, split="train")
    with pytest.raises(DataError, match="keypoints need `kpt_shape"):
        yolo(path, keypoints=True, split="validation")
