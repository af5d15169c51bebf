"""`--data FOLDER`: what is chosen follows the data, the config is readable and runs by itself, names come back."""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import jaxvision as jv
from experiments import run as command
from jaxvision import config as configs
from jaxvision import registry, starter
from jaxvision.data.check import check
from jaxvision.data.presence import presence
from jaxvision.data.table import Ragged, Table
from jaxvision.errors import SetupError
from tests.folders import write_folder

NAMES = ["Käse", "grüner Apfel", 'say "hi"', "日本"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_folder(tmp_path / "my photos, 2026", NAMES, count=8)


def test_names_of_classes_come_back_at_prediction(folder, capsys):
    tiny = [
        "--config.model",
        "dict(name='linear', num_classes=4)",
        "--config.schedule.epochs=1",
        "--config.parallel.devices=1",
    ]
    assert command.main(["--data", str(folder.name), *tiny, "--config.log.tensorboard=False"]) == 0
    out = capsys.readouterr().out
    workdir = Path("runs") / "my_photos_2026"
    path = workdir / "my_photos_2026.py"
    assert f"wrote {path}: edit it, and run it again with --config {path}" in out
    assert "grüner Apfel" in out and "The check of the data found" in out
    meta = json.loads((workdir / "meta.json").read_text())
    assert meta["class_names"] == sorted(NAMES)
    results = jv.Inferencer(workdir)(str(folder / "val"))
    assert len(results) == 16 and {result.json["class"] for result in results} <= set(NAMES)
    assert {row["class"] for row in results[0].json["top5"]} == set(NAMES)


def test_the_written_config_is_readable_and_runs_by_itself_from_any_folder(folder, tmp_path, monkeypatch):
    lines = []
    path, workdir = starter.start(folder.name, "w", lines.append)
    assert workdir == "w" and path == os.path.join("w", "my_photos_2026.py")
    text = Path(path).read_text(encoding="utf-8")
    assert all(len(line) <= 120 for line in text.splitlines() if "path=" not in line)
    once = starter._python({"name": "x", "source": {"name": "y" * 50, "path": "z" * 60}}, 8, 7)
    assert once == (
        'dict(\n            name="x",\n            source=dict(\n                name="' + "y" * 50 + '",\n'
        '                path="' + "z" * 60 + '",\n            ),\n        )'
    )
    assert '# Classes: 0 Käse, 1 grüner Apfel, 2 say "hi", 3 日本' in text
    assert "32 training and 16 validation images" in text and 'config.task = "classification"' in text
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    config = configs.load(str(tmp_path / path))
    assert config.model.name == "resnet18" and config.model.num_classes == 4 and config.model.backbone.stem == "cifar"
    assert config.data.source.path == str(folder) and config.data.image_size == (32, 32) and config.data.channels == 3
    assert config.checkpoint.best_metric == "top1"
    assert configs.load(f"{tmp_path / path}").schedule.epochs == 100


def test_a_config_that_is_there_is_kept(folder):
    path, _ = starter.start(str(folder), "w", lambda line: None)
    edited = Path(path).read_text(encoding="utf-8").replace("epochs=100", "epochs=7")
    Path(path).write_text(edited, encoding="utf-8")
    lines = []
    assert starter.start(str(folder), "w", lines.append)[0] == path
    assert Path(path).read_text(encoding="utf-8") == edited and "is used as it is" in lines[-1]


def test_errors_of_the_data_stop_before_a_config_is_written(folder, capsys):
    (folder / "train" / "Käse" / "0 ö.png").write_bytes(b"no image")
    assert command.main(["--data", str(folder), "--workdir", "w"]) == 2
    err = capsys.readouterr().err
    assert "train/Käse/0 ö.png (not an image" in err and "experiments.check --data" in err
    assert not Path("w").exists()
    assert command.main(["--data", str(folder), "--mode", "eval"]) == 2
    assert "--data trains" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("size", "side"),
    [((8, 8), 32), ((40, 48), 32), ((60, 90), 64), ((100, 130), 96), ((300, 200), 160), ((480, 640), 224)],
)
def test_the_size_of_images_follows_the_files(size, side):
    assert starter.image_side(np.array([size, size, (0, 0)])) == side


def test_without_known_sizes_images_have_224_pixels():
    assert starter.image_side(np.zeros((5, 2), int)) == 224


@pytest.mark.parametrize(("images", "batch"), [(1, 1), (5, 4), (20, 8), (100, 8), (200, 16), (512, 64), (100_000, 64)])
def test_the_batch_follows_the_number_of_images(images, batch):
    assert starter.batch_size(images, 64) == batch and starter.batch_size(images, 224) == min(batch, 32)


def table(folder, count=6, mode="RGB", **columns):
    folder.mkdir(exist_ok=True)
    files = []
    for i in range(count):
        files.append(str(folder / f"{i}.png"))
        pixels = np.random.default_rng(i).integers(0, 255, (90, 100, 3), np.uint8)
        Image.fromarray(pixels).convert(mode).save(files[-1])
    return Table("made", ("a", "b c", "ü"), {"file": np.array(files, object), **columns})


BOXES = {
    "boxes": Ragged.of([[(1, 2, 9, 9)], [], [(1, 2, 9, 9)] * 3, [], [], []], np.float32, (4,)),
    "labels": Ragged.of([[2], [], [0, 0, 1], [], [], []], np.int32),
}


def test_presence_says_which_classes_an_image_holds(tmp_path):
    data = table(tmp_path / "a", **BOXES, id=np.arange(6), size=np.tile([[90, 100]], (6, 1)))
    held = presence(data)
    wanted = np.zeros((6, 3), np.float32)
    wanted[0, 2] = wanted[2, 0] = wanted[2, 1] = 1
    np.testing.assert_array_equal(held.columns["label"], wanted)
    assert held.columns["label"].dtype == np.float32 and held.annotations == ("label",)
    assert set(held.columns) == {"file", "id", "size", "label"} and held.class_names == data.class_names
    assert "labels" in data.columns  # the given table is not changed
    np.testing.assert_array_equal(held.sample(2)["label"], wanted[2])


def test_presence_reads_label_maps(tmp_path):
    data = table(tmp_path / "a", 2)
    for i, values in enumerate(([0, 2, 255], [7])):
        row = np.resize(np.array(values, np.uint8), 100)
        Image.fromarray(np.tile(row, (90, 1))).save(tmp_path / f"{i}.png")
    maps = np.array([str(tmp_path / f"{i}.png") for i in range(2)], object)
    data = dataclasses.replace(data, columns={**data.columns, "semantic_file": maps})
    np.testing.assert_array_equal(presence(data).columns["label"], [[1, 0, 1], [0, 0, 0]])
    mapped = dataclasses.replace(data, semantic_values=np.where(np.arange(256) == 7, 1, 255).astype(np.uint8))
    np.testing.assert_array_equal(presence(mapped).columns["label"], [[0, 0, 0], [0, 1, 0]])


def test_presence_needs_annotations_that_say_it(tmp_path):
    with pytest.raises(SetupError, match="neither objects nor maps, but label"):
        presence(table(tmp_path / "a", label=np.zeros(6, int)))
    wrong = table(tmp_path / "b", labels=Ragged.of([[3]] * 6, np.int32))
    with pytest.raises(SetupError, match=r"labels of made lie in 3..3; expected 0..2"):
        presence(wrong)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_boxes_get_a_detector_whose_anchors_begin_at_the_smaller_objects(tmp_path, mode):
    data = table(tmp_path / "a", mode=mode, **BOXES)
    plan = starter.choose({"name": "toy", "path": "x"}, data)
    assert plan.task == {"name": "detection"} and plan.metric == "ap"
    text = starter.config_text(plan, check(data, data, full=False), data, note="a folder of boxes")
    assert text.startswith('"""A detector for 6 training and 6 validation images') and "# a folder of boxes" in text
    path = tmp_path / "own.py"
    path.write_text(text.replace('dict(name="toy", path="x")', '"digit_scenes"'), encoding="utf-8")
    config = configs.load(str(path))
    assert config.task.name == "detection" and config.model.name == "retinanet" and config.model.num_classes == 3
    # Boxes of 8 x 7 pixels in images of 100, on a canvas of 96: anchors of 7 pixels would be less than a cell.
    assert config.model.anchors.scales == (1.0, 1.26, 1.59)
    assert config.data.image_size == (96, 96) and config.data.host_transforms[0]["name"] == "letterbox"
    channels = 3 if mode == "RGB" else 1
    assert config.data.channels == channels and len(config.data.eval_transforms[0]["mean"]) == channels
    mirrored = [transform["name"] for transform in config.data.augment] == ["random_flip"]
    assert mirrored == (mode == "RGB") and config.checkpoint.best_metric == "ap"


def test_anchors_of_large_objects_are_the_usual_ones(tmp_path):
    large = {**BOXES, "boxes": Ragged.of([[(1, 2, 90, 85)], [], [(1, 2, 70, 60)] * 3, [], [], []], np.float32, (4,))}
    assert starter.anchor_scale(table(tmp_path / "a", **large), 96) == 4.0
    nothing = Ragged.of([[]] * 6, np.float32, (4,)), Ragged.of([[]] * 6, np.int32)
    bare = table(tmp_path / "b", boxes=nothing[0], labels=nothing[1])
    assert starter.anchor_scale(bare, 96) == 4.0


def test_masks_get_a_detector_that_outlines_objects(tmp_path):
    masks = np.empty(len(BOXES["labels"].values), object)
    masks[:] = [[np.array([1.0, 2, 9, 2, 9, 9, 1, 9])]] * len(masks)
    data = table(tmp_path / "a", **BOXES, segmentation=Ragged(masks, BOXES["labels"].splits))
    plan = starter.choose({"name": "toy", "path": "x"}, data)
    assert plan.task == {"name": "instance_segmentation"} and plan.metric == "mask_ap"
    text = starter.config_text(plan, check(data, data, full=False), data)
    assert text.startswith('"""A detector with masks for 6 training')
    path = tmp_path / "own.py"
    path.write_text(text.replace('dict(name="toy", path="x")', '"digit_scenes"'), encoding="utf-8")
    config = configs.load(str(path))
    assert config.task.name == "instance_segmentation" and config.model.name == "mask_rcnn"
    assert config.model.proposals.anchors.scales == (2.0, 2.83) and config.checkpoint.best_metric == "mask_ap"
    assert config.model.proposals.training.iou_threshold == 0.7  # what is not written is as published


def test_things_and_stuff_get_a_panoptic_network(tmp_path):
    data = table(tmp_path / "a")
    maps = []
    for i in range(6):
        maps.append(str(tmp_path / f"{i}.png"))
        Image.fromarray(np.full((90, 100, 3), (1 + i % 2, 0, 0), np.uint8)).save(maps[-1])
    columns = {
        "panoptic_file": np.array(maps, object),
        "segment_ids": Ragged.of([[1, 2]] * 6, np.int64),
        "segment_labels": Ragged.of([[0, 2]] * 6, np.int32),
        "segment_crowd": Ragged.of([[False, False]] * 6, bool),
    }
    data = dataclasses.replace(data, columns={**data.columns, **columns}, things=(True, True, False))
    plan = starter.choose({"name": "toy", "path": "x"}, data)
    assert plan.task == {"name": "panoptic_segmentation"} and plan.metric == "pq"
    text = starter.config_text(plan, check(data, data, full=False), data)
    path = tmp_path / "own.py"
    scenes = 'dict(name="digit_scenes", annotations=("panoptic",))'
    path.write_text(text.replace('dict(name="toy", path="x")', scenes), encoding="utf-8")
    config = configs.load(str(path))
    assert config.model.name == "panoptic_fpn" and config.model.num_classes == 3 and config.model.num_stuff == 1
    only_things = dataclasses.replace(data, things=(True, True, True))
    assert starter.choose({"name": "toy", "path": "x"}, only_things).task["name"] == "classification"


def coco_file(path, segmentations):
    objects = [{"id": i, "segmentation": value} if value else {"id": i} for i, value in enumerate(segmentations)]
    path.write_text(json.dumps({"images": [{"id": 1}], "annotations": objects, "categories": []}))
    return str(path)


def test_masks_are_read_where_the_objects_of_both_parts_have_them(tmp_path):
    polygon = [[0, 0, 8, 0, 8, 8]]
    full, part = coco_file(tmp_path / "a.json", [polygon] * 3), coco_file(tmp_path / "b.json", [polygon, [], None])
    for train, validation, masks in ((full, full, True), (full, None, True), (full, part, False), (part, full, False)):
        source = {"name": "coco", "annotations": train, "eval_annotations": validation}
        assert starter.with_masks(source).get("masks", False) == masks
    (tmp_path / "c.json").write_text("{")
    for source in ({"name": "coco", "annotations": str(tmp_path / "c.json")}, {"name": "voc"}):
        assert starter.with_masks(source) == source


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_label_maps_get_a_segmenter(tmp_path, mode):
    data = table(tmp_path / "a", mode=mode)
    maps = []
    for i in range(6):
        maps.append(str(tmp_path / f"{i}.png"))
        Image.fromarray(np.full((90, 100), i % 3, np.uint8)).save(maps[-1])
    data = dataclasses.replace(data, columns={**data.columns, "semantic_file": np.array(maps, object)})
    plan = starter.choose({"name": "toy", "path": "x"}, data)
    assert plan.task == {"name": "semantic_segmentation"} and plan.metric == "miou"
    text = starter.config_text(plan, check(data, data, full=False), data, note="a folder of maps")
    assert "# a folder of maps" in text and text.startswith('"""A segmenter for 6 training')
    path = tmp_path / "own.py"
    scenes = 'dict(name="digit_scenes", annotations=("semantic",))'
    path.write_text(text.replace('dict(name="toy", path="x")', scenes), encoding="utf-8")
    config = configs.load(str(path))
    assert config.model.name == "fcn" and config.model.num_classes == 3
    assert config.model.backbone.output_stride == 8 and config.checkpoint.best_metric == "miou"
    channels = 3 if mode == "RGB" else 1
    normalize = config.data.eval_transforms[0]
    assert config.data.channels == channels and len(normalize["mean"]) == channels
    mirrored = [transform["name"] for transform in config.data.augment] == ["random_flip"]
    assert mirrored == (mode == "RGB") and config.data.host_transforms[0]["name"] == "random_resized_crop"
    assert config.data.eval_host_transforms[0]["name"] == "letterbox"
    assert normalize["mean"][0] == pytest.approx(0.5, abs=0.02)


def test_every_registered_task_has_a_recipe_here():
    # A direction that registers a task adds its recipe to `starter.choose`.
    # A teacher; a table with several columns.
    asks_for_more = {"distillation", "multi_task_classification"}
    recipes = {"classification", *starter.MODELS}
    assert set(registry.names("task")) <= recipes | asks_for_more
