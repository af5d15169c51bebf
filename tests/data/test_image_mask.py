"""Folders of images and label maps."""

import numpy as np
import pytest

from jaxvision.data.faults import DataError, DataWarning
from jaxvision.data.images import ImageError
from jaxvision.data.sources.image_mask import image_mask
from tests.data import writers

VALUES = np.array([[0, 1, 1], [2, 255, 0]])


def make(folder, names=("a", "b"), values=VALUES, image_end="", mask_end=""):
    for i, name in enumerate(names):
        writers.image(folder / "images" / f"{name}{image_end}.jpg", (2, 3), seed=i)
        writers.label_map(folder / "masks" / f"{name}{mask_end}.png", values)
    return {"images": str(folder / "images"), "masks": str(folder / "masks")}


def both(folders):
    """The same folders for validation, so that nothing is held out."""
    return folders | {"eval_images": folders["images"], "eval_masks": folders["masks"]}


def test_values_are_classes_and_one_is_ignored(tmp_path):
    table = image_mask(**both(make(tmp_path)), class_names=("x", "y", "z"), split="train")
    assert table.annotations == ("semantic",) and table.class_names == ("x", "y", "z") and len(table) == 2
    sample = table.sample(1)
    np.testing.assert_array_equal(sample["semantic"], VALUES)
    assert sample["semantic"].dtype == np.uint8 and sample["id"] == "b"


def test_without_names_the_values_that_occur_are_the_classes(tmp_path):
    folders = make(tmp_path, values=VALUES * 7 % 256)
    table = image_mask(**both(folders), ignore=249, split="validation")
    assert table.class_names == ("0", "7", "14")
    np.testing.assert_array_equal(table.sample(0)["semantic"], VALUES)


def test_values_are_mapped(tmp_path):
    folders = both(make(tmp_path))
    table = image_mask(**folders, values={"0": 255, "1": 1, "2": 0, "255": 1}, class_names=("p", "q"), split="train")
    assert table.sample(0)["semantic"].tolist() == [[255, 1, 1], [0, 1, 255]]


def test_names_may_end_differently_and_lie_deeper(tmp_path):
    folders = make(tmp_path, ["aachen/1", "bonn/1"], image_end="_leftImg8bit", mask_end="_gtFine_labelIds")
    table = image_mask(**both(folders), image_suffix="_leftImg8bit", mask_suffix="_gtFine_labelIds", split="train")
    assert table.columns["id"].tolist() == ["aachen/1", "bonn/1"]
    with pytest.raises(DataError, match="no image .* has a label map of its name .*set image_suffix and mask_suffix"):
        image_mask(**both(folders), split="train")


def test_lists_and_held_out_parts(tmp_path):
    folders = make(tmp_path, [str(i) for i in range(10)])
    assert [len(image_mask(**folders, split=split)) for split in ("train", "validation")] == [8, 2]
    (tmp_path / "train.txt").write_text("3\n1\n")
    (tmp_path / "val.txt").write_text("2\nnone\n")
    lists = {"train_list": str(tmp_path / "train.txt"), "eval_list": str(tmp_path / "val.txt")}
    assert image_mask(**folders, **lists, split="train").columns["id"].tolist() == ["3", "1"]
    with pytest.warns(DataWarning, match=r"1 image\(s\) of '.*val.txt' left out, not found .* \('none'\)"):
        assert len(image_mask(**folders, **lists, split="validation")) == 1
    with pytest.raises(DataError, match="give both train_list and eval_list"):
        image_mask(**folders, train_list=lists["train_list"], split="train")


def test_values_without_a_class_are_told_and_ignored(tmp_path):
    with pytest.warns(DataWarning, match=r"2 label map\(s\) with the value 2, which is no class"):
        table = image_mask(**both(make(tmp_path)), class_names=("x", "y"), split="train")
    assert table.sample(0)["semantic"].tolist() == [[0, 1, 1], [255, 255, 0]]
    with pytest.raises(DataError, match=r"50% of the pixels|67% of the pixels .*\[1, 2\]"):
        image_mask(**both(make(tmp_path, values=[[0, 1, 1], [2, 2, 0]])), class_names=("x",), split="train")


def test_maps_of_0_and_255_are_not_guessed(tmp_path):
    folders = both(make(tmp_path, values=[[0, 255, 0], [0, 0, 0]]))
    with pytest.raises(
        DataError, match=r"only the values \[0, 255\], and 255 is ignored; .*values=\{'0': 0, '255': 1\}"
    ):
        image_mask(**folders, split="train")
    options = {"class_names": ("background", "foreground"), "values": {"0": 0, "255": 1}}
    assert image_mask(**folders, **options, split="train").sample(0)["semantic"].tolist() == [[0, 1, 0], [0, 0, 0]]


def test_images_without_map_and_the_reverse_and_unreadable_maps_are_named(tmp_path):
    folders = both(make(tmp_path, ["a", "b", "c", "d"]))
    (tmp_path / "images" / "a.jpg").unlink()
    (tmp_path / "masks" / "b.png").unlink()
    (tmp_path / "masks" / "c.png").write_bytes(b"\x89PNG\r\n")
    with pytest.warns(DataWarning) as caught:
        table = image_mask(**folders, class_names=("x", "y", "z"), split="train")
    found = {fault.what.split(",")[0]: fault.examples[0].rpartition("/")[2] for fault in caught[0].message.faults}
    assert found == {
        "image(s) left out without label map": "b.jpg'",
        "label map(s) not used": "a.png'",
        "label map(s) left out": "c.png'",
    }
    assert table.columns["id"].tolist() == ["d"]


def test_a_map_of_another_size_is_an_error_that_names_it(tmp_path):
    folders = both(make(tmp_path))
    writers.label_map(tmp_path / "masks" / "b.png", np.zeros((3, 2)))
    table = image_mask(**folders, class_names=("x", "y", "z"), split="train")
    with pytest.raises(ImageError, match="b.png' is 3 x 2 .* its image 2 x 3"):
        table.sample(1)


def test_faults_of_the_whole_are_errors(tmp_path):
    folders = both(make(tmp_path / "a"))
    with pytest.raises(DataError, match="no folder .*maks"):
        image_mask(**folders | {"masks": str(tmp_path / "a" / "maks")}, split="train")
    writers.label_map(tmp_path / "a" / "masks" / "a.png", np.zeros((2, 3, 3)))
    with pytest.raises(DataError, match="a.png' is no label map: its mode is RGB"):
        image_mask(**folders, class_names=("x",), split="train")
    jpeg = make(tmp_path / "b")
    for name in "ab":
        (tmp_path / "b" / "masks" / f"{name}.png").rename(tmp_path / "b" / "masks" / f"{name}.jpg")
    with pytest.raises(DataError, match="JPEG changes the values of a label map"):
        image_mask(**both(jpeg), split="train")
    writers.image(tmp_path / "b" / "images" / "a.png")
    with pytest.raises(DataError, match="two files of the name 'a'"):
        image_mask(**both(jpeg), split="train")
    for options, message in (
        ({"ignore": 256}, "ignore is 256"),
        ({"values": {"x": 0}}, "values has 'x': 0"),
        ({"values": {"1": 5}, "class_names": ("a",)}, r"classes 0..0, or 255"),
        ({"class_names": tuple(map(str, range(300)))}, "300 classes"),
    ):
        with pytest.raises(DataError, match=message):
            image_mask(**folders, **options, split="train")


def test_real_road_scenes_have_the_documented_values(test_data):
    root = test_data / "data" / "camvid"
    names = ("Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car", "Pedestrian", "Bike")
    folders = {"images": "train", "masks": "trainannot", "eval_images": "val", "eval_masks": "valannot"}
    folders = {key: str(root / name) for key, name in folders.items()}
    tables = [image_mask(**folders, class_names=names, ignore=11, split=split) for split in ("train", "validation")]
    assert [len(table) for table in tables] == [367, 101]
    values = np.unique(tables[0].sample(0)["semantic"])
    assert set(values) <= {*range(11), 255}
    assert image_mask(**folders, ignore=11, split="validation").class_names == tuple(map(str, range(11)))


def test_real_palette_maps_are_read_by_their_indices(test_data):
    root = test_data / "data" / "segmentation_toy" / "pseudo_dataset"
    lists = {"train_list": str(root / "splits" / "train.txt"), "eval_list": str(root / "splits" / "val.txt")}
    options = {"image_suffix": "_img", "mask_suffix": "_gt", **lists}
    table = image_mask(str(root / "imgs"), str(root / "gts"), **options, split="train")
    assert len(table) == 4 and table.class_names == ("0", "1", "2", "3") and table.sample(0)["semantic"].max() <= 3


def test_zero_may_be_no_class(tmp_path):
    folders = both(make(tmp_path))
    table = image_mask(**folders, class_names=("x", "y"), reduce_zero_label=True, split="train")
    assert table.sample(0)["semantic"].tolist() == [[255, 0, 0], [1, 255, 255]]
    for other in ({"values": {"1": 0}}, {}):
        names = {"class_names": ("x",)} if other else {}
        with pytest.raises(DataError, match="reduce_zero_label was given with"):
            image_mask(**folders, **names, **other, reduce_zero_label=True, split="train")


@pytest.mark.parametrize(
    "values,options,hint",
    [
        ([[0, 1, 1], [0, 2, 0]], {}, "one more than the 2 class_names: if 0 means 'no class' .*reduce_zero_label=True"),
        ([[1, 1, 1], [1, 2, 1]], {}, "values 1 to 2 and no 0: they count classes from 1; set reduce_zero_label=True"),
        ([[0, 1, 1], [0, 255, 0]], {"ignore": None}, "set ignore=255"),
        ([[0, 0, 0, 0, 0, 0], [1, 0, 70, 90, 110, 130]], {}, "6 values for 2 classes look like the brightness"),
    ],
)
def test_confused_numbers_of_classes_get_a_plain_hint(tmp_path, values, options, hint):
    folders = make(tmp_path, values=np.array(values))
    with pytest.warns(DataWarning, match=hint):
        image_mask(**both(folders), class_names=("x", "y"), **options, split="train")


def test_colour_coded_maps_are_refused(tmp_path):
    folders = make(tmp_path)
    writers.image(tmp_path / "masks" / "a.png", (2, 3), seed=5)
    with pytest.raises(DataError, match="a colour-coded map must be converted first"):
        image_mask(**both(folders), class_names=("x", "y", "z"), split="train")
