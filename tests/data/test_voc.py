"""Pascal VOC XML: boxes, difficult objects, object masks; bad files are told by name."""

import numpy as np
import pytest

from jaxvision.data.faults import DataError, DataWarning
from jaxvision.data.sources.coco import coco
from jaxvision.data.sources.voc import parse_voc, voc
from tests.data import writers

ONE = writers.voc_xml([("dog", 1, 2, 10, 20, 0), ("cat", 5, 5, 30, 9, 1)])
TWO = writers.voc_xml([("bird", 3, 4, 8, 9, 0)], "1.png")
LISTS = {"train": "0\n", "val": "1\n"}


def test_pixels_are_counted_from_one_and_the_last_one_is_inside(tmp_path):
    table = voc(writers.voc(tmp_path, {"0": ONE, "1": TWO}, LISTS), split="train")
    assert table.class_names == ("bird", "cat", "dog") and table.annotations == ("boxes", "labels", "crowd")
    sample = table.sample(0)
    np.testing.assert_array_equal(sample["boxes"], [[0, 1, 10, 20], [4, 4, 30, 9]])
    assert sample["labels"].tolist() == [2, 1] and sample["crowd"].tolist() == [False, True]
    assert sample["id"] == "0" and table.columns["size"].tolist() == [[20, 30]]


def test_both_parts_have_the_classes_of_both(tmp_path):
    path = writers.voc(tmp_path, {"0": ONE, "1": TWO}, LISTS)
    assert voc(path, split="validation").class_names == voc(path, split="train").class_names
    assert voc(path, split="validation").columns["labels"].values.tolist() == [0]
    assert voc(path, one_based=False, split="validation").row(0)["boxes"].tolist() == [[3, 4, 8, 9]]


def test_without_lists_a_fixed_fifth_is_held_out(tmp_path):
    path = writers.voc(tmp_path, {str(i): writers.voc_xml([("a", 1, 1, 5, 5, 0)]) for i in range(10)})
    assert [len(voc(path, split=split)) for split in ("train", "validation")] == [8, 2]


def test_numbers_of_objects_in_a_png_become_masks(tmp_path):
    path = writers.voc(tmp_path, {"0": ONE})
    (tmp_path / "ImageSets" / "Segmentation").mkdir(parents=True)
    for part in ("train", "val"):
        (tmp_path / "ImageSets" / "Segmentation" / f"{part}.txt").write_text("0\n")
    values = np.zeros((20, 30), np.uint8)
    values[2:20, :10], values[4:9, 12:30], values[0] = 1, 2, 255
    writers.label_map(tmp_path / "SegmentationObject" / "0.png", values)
    masks = voc(path, masks=True, split="train").sample(0)["masks"]
    assert (masks == np.stack([values == 1, values == 2])).all()


def test_voc_and_coco_files_of_the_same_images_agree(test_data):
    root = test_data / "data" / "bccd"
    for split, part, objects in (("train", "train", 2804), ("validation", "val", 1137)):
        file = str(root / f"coco_{part}.json")
        other = coco(str(root / "JPEGImages"), file, None, file, split="train")
        with pytest.warns(DataWarning, match=r"1 object\(s\) left out whose box has no width or height"):
            table = voc(str(root), one_based=False, split=split)
        rows = {name.rpartition("/")[2]: row for row, name in enumerate(other.columns["file"])}
        total = 0
        for row in range(len(table)):
            own, twin = table.row(row), other.row(rows[table.columns["file"][row].rpartition("/")[2]])
            boxes = np.clip(own["boxes"], 0, own["size"][[1, 0, 1, 0]])
            np.testing.assert_array_equal(boxes, twin["boxes"])
            assert [table.class_names[i] for i in own["labels"]] == [other.class_names[i] for i in twin["labels"]]
            total += len(boxes)
        assert total == objects and len(table) == len(other)


def test_the_official_files_are_read(test_data):
    for year, classes in (("VOC2007", 6), ("VOC2012", 4)):
        root = test_data / "data" / "voc_mini" / "VOCdevkit" / year
        table = voc(str(root), train="trainval", validation="test", split="train")
        assert len(table) == 5 and table.num_classes == classes
        boxes, sizes = table.columns["boxes"], table.columns["size"]
        for i in range(5):
            assert (boxes.row(i)[:, :2] >= 0).all() and (boxes.row(i)[:, 2:] <= sizes[i][::-1]).all()
            assert table.sample(i)["image"].shape[:2] == tuple(sizes[i])


BAD_OBJECTS = {
    "whose box is not four finite numbers": [("a", "nan", 1, 5, 5, 0), ("a", "inf", 1, 5, 5, 0), ("a", "", 1, 5, 5, 0)],
    "whose box has no width or height": [("a", 5, 5, 5, 9, 0), ("a", 5, 5, 2, 9, 0)],
    "whose box is outside of its image": [("a", 40, 1, 50, 5, 0), ("a", -9, 1, -2, 5, 0)],
    "without a name": [("", 1, 1, 5, 5, 0)],
}
CASES = [(what, one) for what, objects in BAD_OBJECTS.items() for one in objects]


@pytest.mark.parametrize("what,bad", CASES, ids=[f"{what[-20:]} {one[1:4]}" for what, one in CASES])
def test_a_bad_object_is_left_out_and_named(tmp_path, what, bad):
    files = {"0": writers.voc_xml([bad, ("a", 1, 1, 9, 9, 0)]), "1": TWO}
    with pytest.warns(DataWarning) as caught:
        table = voc(writers.voc(tmp_path, files, LISTS), split="train")
    (fault,) = caught[0].message.faults
    assert (fault.what, fault.count) == (f"object(s) left out {what}", 1) and fault.examples == ("1 of 0.xml",)
    assert table.row(0)["boxes"].tolist() == [[0, 0, 9, 9]]


BOMB = (
    '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x "ha">'
    + "".join(f'<!ENTITY x{i} "&x{i - 1 if i else ""};{"&x" + (str(i - 1) if i else "") + ";"}">' for i in range(40))
    + "]><annotation><filename>&x39;</filename></annotation>"
)
EXTERNAL = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation><filename>&x;</filename></annotation>'
BAD_FILES = {
    "cut": (ONE[:100], "not valid XML: .*line 1"),
    "empty": ("", "is empty"),
    "text": ("hello", "not valid XML"),
    "json": ("{}", "not valid XML"),
    "other": ("<svg><rect/></svg>", "not a VOC annotation"),
    "bomb": (BOMB, "declares a document type"),
    "external": (EXTERNAL, "declares a document type"),
    "deep": ("<annotation>" + "<a>" * 1000, "nest deeper than 64"),
    "encoding": ('<?xml version="1.0" encoding="nope"?><annotation/>', "unknown encoding|not readable"),
}


@pytest.mark.parametrize("content,message", BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_is_left_out_and_named(tmp_path, content, message):
    lists = {"train": "0\n1\n", "val": "1\n"}
    with pytest.warns(DataWarning, match=rf"1 annotation file\(s\) left out \(0.xml: .*({message})"):
        table = voc(writers.voc(tmp_path, {"0": content, "1": TWO}, lists), split="train")
    assert table.columns["id"].tolist() == ["1"]


def test_missing_images_annotations_and_unlisted_images_are_named(tmp_path):
    path = writers.voc(tmp_path, {str(i): ONE for i in range(7)})
    (tmp_path / "JPEGImages" / "0.png").unlink()
    (tmp_path / "Annotations" / "1.xml").unlink()
    with pytest.warns(DataWarning) as caught:
        voc(path, split="train")
    found = {fault.what.partition(",")[0]: fault.examples for fault in caught[0].message.faults}
    assert found == {"image(s) left out": ("of 0.xml",), "image(s) in the folder without annotation": ("'1.png'",)}
    writers.voc(tmp_path / "b", {"0": ONE}, {"train": "0\nnone\n", "val": "0\n"})
    with pytest.warns(DataWarning, match="none.xml: no such file"):
        voc(str(tmp_path / "b"), split="train")


def test_faults_of_the_whole_are_errors(tmp_path):
    path = writers.voc(tmp_path, {"0": ONE, "1": "<x/>"}, {"train": "1\n", "val": "0\n"})
    with pytest.raises(DataError, match="none of its 1 annotation files can be used"):
        voc(path, split="train")
    with pytest.raises(DataError, match="no file .*trian.txt.*did you mean 'train.txt'"):
        voc(path, train="trian", split="train")
    with pytest.raises(DataError, match="no folder .*Annotations"):
        voc(str(tmp_path / "JPEGImages"), split="train")
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("")
    with pytest.raises(DataError, match="train.txt' is empty; expected a list of image names"):
        voc(path, split="train")


def test_entities_of_xml_itself_and_other_encodings_are_read():
    content = '<?xml version="1.0" encoding="ISO-8859-1"?><annotation><filename>a&amp;\xe9</filename></annotation>'
    assert parse_voc(content.encode("latin-1"))["filename"] == "a&\xe9"
