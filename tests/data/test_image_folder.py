"""A folder of images per class."""

import numpy as np
import pytest

from jaxvision.data.faults import DataError, DataWarning
from jaxvision.data.sources.image_folder import image_folder
from tests.data import writers


def make(folder, names, size=(4, 5)):
    for i, name in enumerate(names):
        writers.image(folder / name, size, seed=i)
    return str(folder)


def test_classes_are_the_sorted_names_of_folders_and_images_may_lie_deeper(tmp_path):
    path = make(tmp_path, ["train/dog/b.png", "train/dog/x/a.PNG", "train/cat/a.jpg", "val/cat/c.png"])
    table = image_folder(path, split="train")
    assert table.class_names == ("cat", "dog") and table.annotations == ("label",)
    assert table.columns["id"].tolist() == ["cat/a.jpg", "dog/b.png", "dog/x/a.PNG"]
    assert table.columns["label"].tolist() == [0, 1, 1]
    sample = table.sample(2)
    assert sample["label"] == 1 and sample["image"].shape == (4, 5, 3) and sample["file"].endswith("dog/x/a.PNG")
    assert image_folder(path, split="validation").columns["id"].tolist() == ["cat/c.png"]


@pytest.mark.parametrize("name", ["val", "valid", "validation", "test"])
def test_the_validation_folder_is_found_by_its_usual_names(tmp_path, name):
    path = make(tmp_path, ["train/a/0.png", "train/b/0.png", f"{name}/a/1.png", f"{name}/a/2.png"])
    assert len(image_folder(path, split="validation")) == 2


def test_without_parts_a_fixed_fifth_of_each_class_is_held_out(tmp_path):
    path = make(tmp_path, [f"{kind}/{i}.png" for kind, count in (("a", 20), ("b", 10)) for i in range(count)])
    parts = [image_folder(path, split=split) for split in ("train", "validation")]
    assert [np.bincount(part.columns["label"]).tolist() for part in parts] == [[16, 8], [4, 2]]
    ids = [set(part.columns["id"]) for part in parts]
    assert not ids[0] & ids[1] and len(ids[0] | ids[1]) == 30
    assert set(image_folder(path, split="validation").columns["id"]) == ids[1]


def test_other_files_and_empty_classes_are_counted_and_hidden_folders_are_not_classes(tmp_path):
    names = ["train/a/0.png", "train/b/0.png", "train/stray.png", "train/.cache/0.png", "val/a/0.png"]
    path = make(tmp_path, names)
    (tmp_path / "train" / "a" / "notes.txt").write_text("x")
    (tmp_path / "train" / "c").mkdir()
    with pytest.warns(DataWarning) as caught:
        table = image_folder(path, split="train")
    assert table.class_names == ("a", "b", "c") and len(table) == 2
    found = {fault.what: fault.examples for fault in caught[0].message.faults}
    assert found == {
        "class folder(s) without an image": ("'c'",),
        "file(s) not used, which are no images by their name": ("'notes.txt'",),
        "file(s) not used, beside the class folders": ("'stray.png'",),
    }


def test_a_link_to_a_folder_above_does_not_hang(tmp_path):
    path = make(tmp_path, ["train/a/0.png", "val/a/0.png"])
    (tmp_path / "train" / "a" / "loop").symlink_to(tmp_path / "train")
    assert 1 <= len(image_folder(path, split="train")) <= 2


def test_faults_of_the_whole_are_errors(tmp_path):
    with pytest.raises(DataError, match="no folder .*nowhere"):
        image_folder(str(tmp_path / "nowhere"), split="train")
    flat = make(tmp_path / "flat", ["a.png", "b.png"])
    with pytest.raises(DataError, match="expected one folder of images for each class; 2 images lie in it directly"):
        image_folder(flat, split="train")
    with pytest.raises(DataError, match="is a file; expected a folder"):
        image_folder(f"{flat}/a.png", split="train")
    (tmp_path / "empty" / "a").mkdir(parents=True)
    with pytest.raises(DataError, match="holds no image in 1 folders"):
        image_folder(str(tmp_path / "empty"), split="train")
    path = make(tmp_path / "good", ["train/a/0.png"])
    with pytest.raises(DataError, match="no folder 'vla' in"):
        image_folder(path, validation="vla", split="train")
    with pytest.raises(ValueError, match="unknown split 'test'"):
        image_folder(path, split="test")
