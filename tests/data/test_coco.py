"""COCO JSON: equal to pycocotools on real files; bad input is told by name."""

import contextlib
import io
import json
import warnings
from pathlib import Path

import numpy as np
import pytest

from jaxvision.data import maps
from jaxvision.data.faults import DataError, DataWarning
from jaxvision.data.sources.coco import coco
from jaxvision.data.sources.coco_panoptic import coco_panoptic
from tests.data import writers


def read(folder, document=None, images=2, split="train", **options):
    """Both parts are the same file."""
    pictures, file = writers.coco(folder, document, images)
    return coco(pictures, file, None, file, split=split, **options)


def official(path):
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(path)


def official_mask(tool, annotation):
    with warnings.catch_warnings():  # pycocotools uses numpy in a deprecated way
        warnings.simplefilter("ignore", DeprecationWarning)
        return tool.annToMask(annotation) > 0


def official_boxes(annotations):
    boxes = np.array([a["bbox"] for a in annotations], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes.astype(np.float32)


# What is read


def test_boxes_labels_and_what_belongs_to_them_are_grouped_by_image(tmp_path):
    table = read(tmp_path)
    assert table.class_names == ("cat", "dog") and table.annotations == ("boxes", "labels", "crowd", "area")
    first, second = table.sample(0), table.sample(1)
    assert (first["id"], second["id"]) == (1, 2) and first["image"].shape == (20, 30, 3)
    np.testing.assert_array_equal(first["boxes"], [[1.5, 2, 11.5, 10.25]])
    np.testing.assert_array_equal(second["labels"], [0, 1])
    np.testing.assert_array_equal(second["area"], [50, 51])
    assert not second["crowd"].any() and second["boxes"].dtype == np.float32 and second["labels"].dtype == np.int32
    np.testing.assert_array_equal(table.columns["size"], [[20, 30]] * 2)


def test_the_order_of_annotations_within_an_image_is_kept_and_images_may_be_empty(tmp_path):
    document = writers.coco_document(3)
    document["annotations"] = [a for a in reversed(document["annotations"]) if a["image_id"] != 2]
    table = read(tmp_path, document, images=3)
    assert [len(table.row(i)["labels"]) for i in range(3)] == [1, 0, 3]
    np.testing.assert_array_equal(table.row(2)["boxes"][:, 0], [3.5, 2.5, 1.5])


def test_without_a_validation_file_a_fixed_fifth_is_held_out(tmp_path):
    pictures, file = writers.coco(tmp_path, images=10)
    parts = [coco(pictures, file, split=split).columns["id"] for split in ("train", "validation")]
    assert [len(part) for part in parts] == [8, 2] and set(parts[0]) | set(parts[1]) == set(range(1, 11))
    np.testing.assert_array_equal(parts[1], coco(pictures, file, split="validation").columns["id"])


def test_classes_are_those_of_the_training_file_matched_by_name(tmp_path):
    pictures, file = writers.coco(tmp_path)
    other = writers.coco_document(categories=[{"id": 3, "name": "dog"}, {"id": 7, "name": "cow"}])
    (tmp_path / "val.json").write_text(json.dumps(other))
    with pytest.warns(
        DataWarning, match=r"1 object\(s\) left out of an unknown category id \(annotation 11 of '1.png'"
    ):
        table = coco(pictures, file, None, str(tmp_path / "val.json"), split="validation")
    assert table.class_names == ("cat", "dog") and table.columns["labels"].values.tolist() == [1, 1]


def test_the_group_that_roboflow_lists_as_a_category_is_no_class(tmp_path):
    categories = [{"id": 0, "name": "pets", "supercategory": "none"}]
    categories += [{"id": i, "name": name, "supercategory": "pets"} for i, name in ((3, "cat"), (7, "dog"))]
    assert read(tmp_path, writers.coco_document(categories=categories)).class_names == ("cat", "dog")


def test_run_lengths_plain_and_compressed_are_masks(tmp_path):
    from pycocotools import mask as tool

    rng = np.random.default_rng(0)
    truth = rng.random((20, 30)) < 0.4
    compressed = tool.encode(np.asfortranarray(truth.astype(np.uint8)))
    column = truth.T.reshape(-1)
    changes = np.flatnonzero(np.diff(np.concatenate([[False], column]).astype(int))).tolist()
    counts = np.diff([0, *changes, column.size]).tolist()
    document = writers.coco_document(1)
    base = document["annotations"][0]
    texts = [{"size": [20, 30], "counts": compressed["counts"].decode()}, {"size": [20, 30], "counts": counts}]
    document["annotations"] = [base | {"id": i, "segmentation": text} for i, text in enumerate(texts)]
    masks = read(tmp_path, document, images=1, masks=True).sample(0)["masks"]
    assert (masks == truth).all() and masks.dtype == bool


@pytest.mark.parametrize("shape", [(1, 1), (7, 400), (300, 5)])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_compressed_run_lengths_expand_to_what_was_encoded(shape, share):
    from pycocotools import mask as tool

    truth = np.random.default_rng(1).random(shape) < share
    text = tool.encode(np.asfortranarray(truth.astype(np.uint8)))
    assert (maps.instance_masks([text], shape)[0] == truth).all()


@pytest.mark.parametrize("name", ["instances_train2017", "instances_val2017"])
def test_boxes_and_masks_of_real_files_equal_the_official_tool(test_data, name):
    root = test_data / "data" / "coco_mini"
    file, part = str(root / "annotations" / f"{name}.json"), name.partition("_")[2]
    table = coco(str(root / "images" / part), file, None, file, masks=True, split="train")
    tool = official(file)
    assert table.class_names == tuple(c["name"] for c in tool.loadCats(sorted(tool.getCatIds())))
    labels = {number: label for label, number in enumerate(sorted(tool.getCatIds()))}
    objects = 0
    for i in range(len(table)):
        annotations = tool.loadAnns(tool.getAnnIds([int(table.columns["id"][i])]))
        row = table.row(i)
        np.testing.assert_array_equal(row["boxes"], official_boxes(annotations))
        np.testing.assert_array_equal(row["labels"], [labels[a["category_id"]] for a in annotations])
        np.testing.assert_array_equal(row["crowd"], [bool(a["iscrowd"]) for a in annotations])
        np.testing.assert_array_equal(row["area"], np.array([a["area"] for a in annotations], np.float32))
        masks = maps.instance_masks(row["segmentation"], tuple(row["size"].tolist()))
        for mask, annotation in zip(masks, annotations, strict=True):
            assert (mask == official_mask(tool, annotation)).all()
            objects += 1
    assert len(table) == 100 and objects == {"train2017": 747, "val2017": 712}[part]


@pytest.mark.filterwarnings("ignore::jaxvision.data.faults.DataWarning")
def test_keypoints_of_a_real_file_equal_the_official_tool(test_data):
    root = test_data / "data" / "pose" / "coco"
    file = str(root / "test_coco.json")
    table = coco(str(root), file, None, file, keypoints=True, split="train")
    tool = official(file)
    assert len(table) == 4 and len(table.keypoint_names) == 17 and table.keypoint_names[0] == "nose"
    for i in range(4):
        sample = table.sample(i)
        annotations = tool.loadAnns(tool.getAnnIds([int(sample["id"])]))
        np.testing.assert_array_equal(sample["boxes"], official_boxes(annotations))
        wanted = np.array([a["keypoints"] for a in annotations], np.float32).reshape(-1, 17, 3)
        np.testing.assert_array_equal(sample["keypoints"], wanted)


def test_panoptic_maps_of_real_files_hold_the_listed_segments(test_data):
    root = test_data / "data" / "coco_mini"
    file = root / "panoptic" / "panoptic_val2017.json"
    table = coco_panoptic(str(root / "images" / "val2017"), str(file), None, str(file), split="train")
    listed = {a["image_id"]: a["segments_info"] for a in json.loads(file.read_text())["annotations"]}
    assert len(table) == 100 and table.num_classes == 133 and sum(table.things) == 80
    for i in range(0, 100, 9):
        sample = table.annotation(i, tuple(table.columns["size"][i].tolist()))
        areas = np.bincount(sample["panoptic"].reshape(-1))[1:]
        assert areas.tolist() == [segment["area"] for segment in listed[sample["id"]]]
        assert len(sample["segment_labels"]) == len(areas)


# Single faults are left out and told


BAD_OBJECTS = {
    "whose `bbox` is not four finite numbers": [
        {"bbox": [float("nan"), 0, 5, 5]},
        {"bbox": [0, 0, float("inf"), 5]},
        {"bbox": [0, 0, 5]},
        {"bbox": ["a", 0, 5, 5]},
        {"bbox": None},
        {"bbox": {"x": 1}},
        {"bbox": [1e30, 0, 5, 5]},
        {"bbox": [10**400, 0, 5, 5]},
    ],
    "whose box has no width or height": [{"bbox": [5, 5, 0, 3]}, {"bbox": [5, 5, -3, 3]}],
    "whose box is outside of its image": [{"bbox": [40, 2, 5, 5]}, {"bbox": [-9, 2, 5, 5]}],
    "of an unknown category id": [{"category_id": 99}, {"category_id": [3]}, {"category_id": None}],
    "of an image id that the file does not list": [{"image_id": 55}, {"image_id": {}}],
}
CASES = [(what, change) for what, changes in BAD_OBJECTS.items() for change in changes]


@pytest.mark.parametrize("what,change", CASES, ids=[str(change)[:40] for _, change in CASES])
def test_a_bad_object_is_left_out_and_named(tmp_path, what, change):
    document = writers.coco_document()
    document["annotations"][1] |= change
    with pytest.warns(DataWarning) as caught:
        table = read(tmp_path, document)
    (fault,) = caught[0].message.faults
    assert fault.what == f"object(s) left out {what}" and fault.count == 1
    assert fault.examples[0].startswith("annotation 10")
    assert [len(table.row(i)["labels"]) for i in range(2)] == [1, 1] and np.isfinite(
        table.columns["boxes"].values
    ).all()


BAD_MASKS = [
    None,
    [],
    [[1, 2, 3, 4]],
    [[1, 2, 3, 4, 5]],
    [[0, 0, float("nan"), 5, 5, 5]],
    [[0, 0, 1e12, 5, 5, 5]],
    ["a"],
    {"size": [20, 30], "counts": [1, 2]},
    {"size": [20, 30], "counts": "!!"},
    {"size": [20, 30], "counts": "oooo"},
    {"size": [30, 20], "counts": [600]},
    {"size": [10**9, 10**9], "counts": [10**18]},
    {"counts": [600]},
]


@pytest.mark.parametrize("segmentation", BAD_MASKS, ids=str)
def test_an_object_whose_mask_cannot_be_drawn_is_left_out_and_named(tmp_path, segmentation):
    document = writers.coco_document()
    document["annotations"][0]["segmentation"] = segmentation
    with pytest.warns(
        DataWarning, match=r"1 object\(s\) left out without a usable `segmentation` \(annotation 0 of '0"
    ):
        table = read(tmp_path, document, masks=True)
    assert table.sample(0)["masks"].shape == (0, 20, 30) and table.sample(1)["masks"].any((1, 2)).all()


def test_missing_images_are_left_out_and_named(tmp_path):
    pictures, file = writers.coco(tmp_path, images=3)
    (tmp_path / "images" / "1.png").unlink()
    with pytest.warns(DataWarning, match=r"1 image\(s\) left out, not found in '.*images' \('1.png'\)"):
        table = coco(pictures, file, None, file, split="train")
    assert table.columns["id"].tolist() == [1, 3] and [len(table.row(i)["labels"]) for i in range(2)] == [1, 3]


def test_images_that_the_file_does_not_name_are_counted(tmp_path):
    pictures, file = writers.coco(tmp_path, images=7)
    (tmp_path / "instances.json").write_text(json.dumps(writers.coco_document(5)))
    with pytest.warns(
        DataWarning, match=r"2 image\(s\) in the folder that the file does not name \('5.png', '6.png'\)"
    ):
        coco(pictures, file, split="train")


def test_three_examples_are_told_of_many_faults(tmp_path):
    document = writers.coco_document(5)
    for annotation in document["annotations"][1:]:
        annotation["bbox"] = [0, 0, float("nan"), 1]
    with pytest.warns(
        DataWarning, match=r"14 object\(s\).*annotation 10 .*, annotation 11 .*, annotation 20 .*, \.\.\."
    ):
        assert len(read(tmp_path, document, images=5)) == 5


# Faults of the whole are errors


def without(key):
    return {k: v for k, v in writers.coco_document().items() if k != key}


def doubled():
    document = writers.coco_document()
    document["images"][1]["id"] = 1
    return document


def all_bad():
    document = writers.coco_document()
    for annotation in document["annotations"]:
        annotation["bbox"] = [1, 1, 0, 0]
    return document


BAD_FILES = {
    "empty": (" \n", "is empty"),
    "cut": (json.dumps(writers.coco_document())[:-40], "is not valid JSON .*line 1, column"),
    "lines": ('{\n "images": [\n  oops]}', "in line 3, column 3"),
    "text": ("hello", "is not valid JSON"),
    "nested": ("[" * 100_000, "nests too deeply|not valid JSON"),
    "digits": ('{"images": ' + "1" * 5000 + "}", "not valid JSON"),
    "results": ("[]", "holds a list; expected COCO annotations, which is an object"),
    "no images": (json.dumps(without("images")), "has no 'images' but 'annotations', 'categories'"),
    "no annotations": (json.dumps(without("annotations")), "has no 'annotations'"),
    "dict": (json.dumps(writers.coco_document(images={})), "'images' must be a list of objects"),
    "numbers": (json.dumps(writers.coco_document(images=[1])), "'images' must be a list of objects"),
    "none listed": (json.dumps(writers.coco_document(images=[])), "lists no image"),
    "no categories": (json.dumps(writers.coco_document(categories=[])), "lists no category"),
    "category": (json.dumps(writers.coco_document(categories=[{"id": "a"}])), r"categories\[0\] needs a whole `id`"),
    "two names": (json.dumps(writers.coco_document(categories=[{"id": i, "name": "a"} for i in (1, 2)])), "name 'a'"),
    "two ids": (json.dumps(writers.coco_document(categories=[{"id": 1, "name": n} for n in "ab"])), "the id 1"),
    "same image": (json.dumps(doubled()), "two images have the id 1: '0.png' .* and '1.png'"),
    "no name": (json.dumps(writers.coco_document(images=[{"id": 1}])), r"images\[0\] needs a `file_name`"),
    "no id": (json.dumps(writers.coco_document(images=[{"file_name": "a"}])), r"images\[0\] needs an `id`"),
    "nothing usable": (json.dumps(all_bad()), "none of its 3 objects can be used: 3 .* no width or height"),
}


@pytest.mark.parametrize("content,message", BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_is_an_error_that_names_it(tmp_path, content, message):
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, content)
    assert "instances.json" in str(caught.value)


def test_missing_files_and_folders_are_named_with_what_is_near(tmp_path):
    pictures, file = writers.coco(tmp_path)
    with pytest.raises(DataError, match="no file .*instance.json.*did you mean 'instances.json'"):
        coco(pictures, file.replace("instances", "instance"), split="train")
    with pytest.raises(DataError, match="is a directory; expected a file with COCO annotations"):
        coco(pictures, pictures, split="train")
    with pytest.raises(DataError, match="no folder .*imagse.*did you mean 'images'"):
        coco(pictures.replace("images", "imagse"), file, split="train")
    with pytest.raises(DataError, match="is a file; expected a folder with the images"):
        coco(file, file, split="train")
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="none of its 2 images can be used: 2 .* not found in .*none"):
        coco(str(tmp_path / "none"), file, split="train")
    with pytest.raises(DataError, match="0.png' is not text in UTF-8"):
        coco(pictures, f"{pictures}/0.png", split="train")
    (tmp_path / "latin.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(DataError, match="is not text in UTF-8"):
        coco(pictures, str(tmp_path / "latin.json"), split="train")


def test_a_file_without_keypoints_says_so(tmp_path):
    with pytest.raises(DataError, match="no category lists `keypoints`; set keypoints=False"):
        read(tmp_path, keypoints=True)


def panoptic(folder, segments, ids=((1, 1), (2, 2))):
    pictures, _ = writers.coco(folder)
    document = writers.coco_document()
    document["annotations"] = [
        {"image_id": i + 1, "file_name": f"{i}.png", "segments_info": segments} for i in range(2)
    ]
    for i in range(2):
        colors = np.zeros((20, 30, 3), np.uint8)
        colors[:, :10, 0], colors[:, 20:, 1] = 5, 1
        writers.label_map(folder / "instances" / f"{i}.png", colors)
    (folder / "instances.json").write_text(json.dumps(document))
    return pictures, str(folder / "instances.json")


def test_panoptic_maps_are_numbered_as_their_segments_are_listed(tmp_path):
    segments = [{"id": 256, "category_id": 7, "iscrowd": 1}, {"id": 5, "category_id": 3}]
    pictures, file = panoptic(tmp_path, segments)
    sample = coco_panoptic(pictures, file, None, file, split="train").sample(0)
    assert sample["panoptic"][0, [0, 15, 25]].tolist() == [2, 0, 1]
    assert sample["segment_labels"].tolist() == [1, 0] and sample["segment_crowd"].tolist() == [True, False]


def test_classes_of_things_come_before_those_of_stuff(tmp_path):
    pictures, file = panoptic(tmp_path, [{"id": 256, "category_id": 7}, {"id": 5, "category_id": 3}])
    document = json.loads(Path(file).read_text())
    before = coco_panoptic(pictures, file, None, file, split="train").class_names
    for category in document["categories"]:
        category["isthing"] = int(category["id"] == 7)
    Path(file).write_text(json.dumps(document))
    table = coco_panoptic(pictures, file, None, file, split="train")
    assert table.class_names == before[::-1] and table.things == (True, False)
    assert table.sample(0)["segment_labels"].tolist() == [0, 1]


def test_bad_segments_and_missing_maps_are_left_out_and_named(tmp_path):
    pictures, file = panoptic(tmp_path, [{"id": 5, "category_id": 3}, {"id": 0, "category_id": 3}, {"id": 6}])
    (tmp_path / "instances" / "1.png").unlink()
    with pytest.warns(DataWarning) as caught:
        table = coco_panoptic(pictures, file, None, file, split="train")
    assert len(table) == 1 and table.sample(0)["segment_labels"].tolist() == [0]
    assert [fault.count for fault in caught[0].message.faults] == [1, 1, 1]
    boxes = writers.coco(tmp_path / "boxes")
    (tmp_path / "boxes" / "instances").mkdir()
    with pytest.raises(DataError, match="expected COCO panoptic annotations .*take the source 'coco'"):
        coco_panoptic(*boxes, split="train")
