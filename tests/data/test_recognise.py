"""Which format a folder is in; the proposed source is built and read in every case."""

import json
import shutil

import numpy as np
import pytest

from jaxvision import config
from jaxvision.data.faults import DataError, DataWarning
from jaxvision.data.recognise import recognise
from tests.data import writers

XML = writers.voc_xml([("dog", 1, 2, 10, 20, 0)])
BOX = "0 0.5 0.5 0.2 0.5"


def tables(found):
    """Both parts of the proposed source."""
    return [config.build("source", found.source, split=split) for split in ("train", "validation")]


def lengths(found):
    return [len(table) for table in tables(found)]


def coco_parts(root, images, annotations):
    """`images`, `annotations`: places of the parts."""
    for place, file in zip(images, annotations, strict=True):
        for i in range(2):
            writers.image(root / place / f"{i}.png", seed=i)
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(json.dumps(writers.coco_document()))


@pytest.mark.parametrize(
    "images,annotations",
    [
        (
            ("train2017", "val2017"),
            ("annotations/instances_train2017.json", "annotations/instances_val2017.json"),
        ),
        (("images/train", "images/val"), ("annotations/train.json", "annotations/val.json")),
        (("train", "valid"), ("train/_annotations.coco.json", "valid/_annotations.coco.json")),
        (("images", "images"), ("train.json", "test.json")),
    ],
    ids=["official", "images below", "roboflow", "beside"],
)
def test_coco(tmp_path, images, annotations):
    coco_parts(tmp_path, images, annotations)
    found = recognise(tmp_path)
    assert found.format == "coco" and lengths(found) == [2, 2] and "validation on" in found.note
    assert found.source["images"] == str(tmp_path / images[0])


def test_coco_without_a_validation_file(tmp_path):
    coco_parts(tmp_path, ["images"], ["annotations/stuff.json"])
    found = recognise(tmp_path)
    assert found.format == "coco" and "eval_annotations" not in found.source and "fixed fifth" in found.note


def test_other_annotation_files_are_mentioned(tmp_path):
    names = [f"annotations/instances_{part}.json" for part in ("train", "val", "minitrain")]
    coco_parts(tmp_path, ["train", "val", "train"], names)
    (tmp_path / "annotations" / "captions_train.json").write_text('{"images": [], "annotations": [{"caption": "x"}]}')
    found = recognise(tmp_path)
    assert found.source["annotations"].endswith("instances_train.json")
    assert "Not used: instances_minitrain.json" in found.note


@pytest.mark.parametrize("place", ["", "VOCdevkit/VOC2007", "VOC2012"])
def test_voc(tmp_path, place):
    writers.voc(tmp_path / place, {"0": XML, "1": XML}, {"train": "0", "val": "1", "dog_train": "0 1"})
    found = recognise(tmp_path)
    assert found.format == "voc" and lengths(found) == [1, 1] and "one_based" not in found.source


def test_voc_that_counts_from_zero_and_has_no_lists(tmp_path):
    zero = writers.voc_xml([("dog", 0, 2, 10, 20, 0)])
    writers.voc(tmp_path, {str(i): zero if i == 3 else XML for i in range(5)})
    found = recognise(tmp_path)
    assert found.source["one_based"] is False and "count from 0" in found.note and lengths(found) == [4, 1]


def test_voc_lists_that_overlap_are_not_taken_as_two_parts(tmp_path):
    writers.voc(tmp_path, {"0": XML}, {"trainval": "0", "val": "0"})
    with pytest.raises(DataError, match="needs train.txt and val.txt; its lists are: trainval, val"):
        recognise(tmp_path)


def test_several_years_of_voc_are_mentioned(tmp_path):
    for year in ("VOC2007", "VOC2012"):
        writers.voc(tmp_path / "VOCdevkit" / year, {"0": XML}, {"train": "0", "val": "0"})
    found = recognise(tmp_path)
    assert found.source["path"].endswith("VOC2012") and "VOC2007 can be joined" in found.note


def test_yolo(tmp_path):
    yaml = "train: images/train\nval: images/val\nnames: [cat]\n"
    writers.yolo(tmp_path / "a", {"train/0": BOX, "val/0": BOX, "val/1": BOX}, yaml)
    found = recognise(tmp_path / "a")
    assert found.format == "yolo" and lengths(found) == [1, 2] == lengths(recognise(tmp_path / "a" / "data.yaml"))
    writers.yolo(tmp_path / "b", {"train/0": BOX, "val/0": BOX})
    found = recognise(tmp_path / "b")
    assert found.format == "yolo" and lengths(found) == [1, 1] and "numbered" in found.note
    for part in ("train", "valid"):
        writers.yolo(tmp_path / "c" / part, {"0": BOX})
    assert recognise(tmp_path / "c").format == "yolo" and lengths(recognise(tmp_path / "c")) == [1, 1]


def test_image_folders(tmp_path):
    for name in ("train/cat/0.png", "train/dog/0.png", "val/cat/1.png"):
        writers.image(tmp_path / "a" / name)
    found = recognise(tmp_path / "a")
    assert found.format == "image_folder" and lengths(found) == [2, 1]
    assert found.note == "2 class folders (cat, dog): training on train, validation on val."
    for i in range(5):
        for kind in ("cat", "dog"):
            writers.image(tmp_path / "b" / kind / f"{i}.png")
    found = recognise(tmp_path / "b")
    assert found.format == "image_folder" and lengths(found) == [8, 2] and "fixed fifth" in found.note


@pytest.mark.parametrize(
    "parts",
    [
        [("train", "trainannot"), ("val", "valannot")],
        [("images/train", "masks/train"), ("images/val", "masks/val")],
        [("train/images", "train/masks"), ("valid/images", "valid/masks")],
        [("images/training", "annotations/training"), ("images/validation", "annotations/validation")],
    ],
    ids=["camvid", "outside", "inside", "ade20k"],
)
def test_images_with_masks(tmp_path, parts):
    for images, masks in parts:
        for i in range(3):
            writers.image(tmp_path / images / f"{i}.jpg", (2, 3), seed=i)
            writers.label_map(tmp_path / masks / f"{i}.png", [[0, 1, 2], [2, 1, 0]])
    found = recognise(tmp_path)
    assert found.format == "image_mask" and lengths(found) == [3, 3]
    assert tables(found)[0].class_names == ("0", "1", "2") and "set class_names" in found.note


def test_the_label_maps_of_voc_are_read_by_its_lists(tmp_path):
    writers.voc(tmp_path, {str(i): XML for i in range(6)}, {"train": "0", "val": "1"})
    for i in (2, 3):
        writers.label_map(tmp_path / "SegmentationClass" / f"{i}.png", np.full((20, 30), i))
    (tmp_path / "ImageSets" / "Segmentation").mkdir()
    for part, name in (("train", "2"), ("val", "3")):
        (tmp_path / "ImageSets" / "Segmentation" / f"{part}.txt").write_text(f"{name}\n")
    found = recognise(tmp_path)
    assert found.format == "voc" and "It could also be read as image_mask: data.source = dict(" in found.note
    shutil.rmtree(tmp_path / "Annotations")
    found = recognise(tmp_path)
    assert found.format == "image_mask" and found.source["train_list"].endswith("ImageSets/Segmentation/train.txt")
    assert len(config.build("source", found.source, split="train")) == 1


def test_names_with_other_endings_lists_and_two_valued_masks(tmp_path):
    for i in range(6):
        writers.image(tmp_path / "imgs" / f"{i}_img.jpg", (2, 3), seed=i)
        writers.label_map(tmp_path / "gts" / f"{i}_gt.png", [[0, 255, 255], [0, 0, 0]])
    found = recognise(tmp_path)
    assert (found.source["image_suffix"], found.source["mask_suffix"]) == ("_img", "_gt") and lengths(found) == [4, 2]
    assert tables(found)[0].class_names == ("background", "foreground") and "0 and 255 only" in found.note
    np.testing.assert_array_equal(tables(found)[0].sample(0)["semantic"], [[0, 1, 1], [0, 0, 0]])
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "train.txt").write_text("0\n1\n2\n3\n")
    (tmp_path / "splits" / "val.txt").write_text("4\n5\n")
    assert lengths(recognise(tmp_path)) == [4, 2]


def test_idx_npz_and_archives(tmp_path, monkeypatch):
    (tmp_path / "idx").mkdir()
    (tmp_path / "idx" / "train-images-idx3-ubyte").write_bytes(b"")
    assert recognise(tmp_path / "idx").source == {"name": "idx", "directory": str(tmp_path / "idx")}
    arrays = {"train_images": np.zeros((2, 4, 4), np.uint8), "train_labels": np.zeros(2, np.int64)}
    np.savez(tmp_path / "a.npz", **arrays)
    found = recognise(tmp_path / "a.npz")
    assert found.source["image_key"] == "{split}_images" and found.format == "npz"
    np.savez(tmp_path / "b.npz", other=np.zeros(3))
    with pytest.raises(DataError, match="b.npz' holds other; expected x_train, y_train"):
        recognise(tmp_path / "b.npz")
    (tmp_path / "c.npz").write_bytes(b"PK")
    with pytest.raises(DataError, match="c.npz' is no archive of numpy.savez"):
        recognise(tmp_path / "c.npz")
    monkeypatch.setenv("JAXVISION_CACHE", str(tmp_path / "cache"))
    for name in ("train/cat/0.png", "val/cat/1.png"):
        writers.image(tmp_path / "pack" / "flowers" / name)
    shutil.make_archive(str(tmp_path / "flowers"), "zip", tmp_path / "pack")
    found = recognise(tmp_path / "flowers.zip")
    assert found.format == "image_folder" and lengths(found) == [1, 1]


def test_what_else_a_folder_could_be_is_said(tmp_path):
    writers.voc(tmp_path, {"0": XML, "1": XML}, {"train": "0", "val": "1"})
    coco_parts(tmp_path, ["JPEGImages", "JPEGImages"], ["coco_train.json", "coco_val.json"])
    found = recognise(tmp_path)
    assert found.format == "coco" and "It could also be read as voc: data.source = dict(name='voc'" in found.note


def test_one_folder_more_around_it_does_not_matter(tmp_path):
    writers.yolo(tmp_path / "outer" / "inner", {"train/0": BOX, "val/0": BOX})
    assert recognise(tmp_path).source["path"].endswith("inner")


def test_what_was_found_and_what_is_needed_is_said_where_nothing_fits(tmp_path):
    writers.image(tmp_path / "a.png")
    (tmp_path / "b.csv").write_text("x")
    (tmp_path / "stuff").mkdir()
    with pytest.raises(DataError) as caught:
        recognise(tmp_path)
    text = str(caught.value)
    assert "It holds folders: stuff; files: a.png, b.csv." in text
    for name in ("coco", "voc", "yolo", "image_folder", "image_mask", "idx", "npz"):
        assert f"\n  {name}: " in text
    with pytest.raises(DataError, match="there is no file or folder"):
        recognise(tmp_path / "none")
    with pytest.raises(DataError, match="is a file; expected a folder, an archive"):
        recognise(tmp_path / "b.csv")


@pytest.mark.filterwarnings("ignore::jaxvision.data.faults.DataWarning")
def test_real_folders_are_recognised(test_data):
    expected = {
        "coco_mini": ("coco", [100, 100]),
        "bccd": ("coco", [205, 87]),
        "voc_mini": ("voc", [5, 5]),
        "camvid": ("image_mask", [367, 101]),
        "segmentation_toy/pseudo_dataset": ("image_mask", [4, 1]),
        "coco_panoptic_sample": ("coco_panoptic", None),
        "mnist": ("idx", None),
        "cifar10_subset": ("npz", None),
    }
    for name, (kind, counts) in expected.items():
        found = recognise(test_data / "data" / name)
        assert found.format == kind, name
        assert counts is None or lengths(found) == counts, name


def test_a_warning_is_a_warning_of_its_own_kind():
    assert issubclass(DataWarning, UserWarning) and not issubclass(DataWarning, DeprecationWarning)
