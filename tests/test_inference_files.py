"""Typed views and the files of each direction's usual format, read back by the official tools and by our sources."""

import csv
import json

import flax.linen as nn
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from jaxvision.classification.multi_task import MultiTaskClassification
from jaxvision.classification.task import ClassificationTask
from jaxvision.data.json_list import JsonList
from jaxvision.data.maps import instance_masks, read_panoptic, read_semantic
from jaxvision.data.sources.coco_panoptic import coco_panoptic
from jaxvision.detection.panoptic_task import PanopticTask
from jaxvision.detection.task import DetectionTask
from jaxvision.engine.tta import TTA, TTATask
from jaxvision.errors import SetupError
from jaxvision.inference import Result, Saver
from jaxvision.inference.saving import told
from jaxvision.segmentation.task import SemanticSegmentationTask
from jaxvision.structures import Detections, PanopticSegments
from tests.detection.made import tiny
from tests.detection.test_panoptic_fpn import MODEL
from tests.segmentation.test_task import Eyes, Plain

HEIGHT, WIDTH = 40, 60
GEOMETRY = {
    "size": np.float32([20, 30]),
    "original_size": np.int32([HEIGHT, WIDTH]),
    "to_original": np.diag(np.float32([2, 2, 1])),
}
IMAGE = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)


class Logits(nn.Module):
    num_classes: int = 4


def result_of(task, prediction, name="street.jpg"):
    return Result(name, prediction, task, IMAGE, GEOMETRY, source=name)


def save(folder, task, predictions, **options):
    """The rows of `predictions.json` for images a.jpg, b.jpg, ..., and what was written."""
    with Saver(folder, task, pictures=False, **options) as saver:
        for name, prediction in zip("abc", predictions, strict=False):
            saver.add(result_of(task, prediction, f"photos/{name}.jpg"))
    return json.loads((folder / "predictions.json").read_text()), saver.written


def detections(masks=True):
    """Three objects, the last of a low score, and a row of padding."""
    boxes = np.float32([[4, 6, 24, 26], [30, 10, 50, 30], [0, 0, 8, 8], [0, 0, 0, 0]])
    return Detections(
        boxes,
        np.float32([0.9, 0.5, 0.1, 0]),
        np.int32([2, 0, 1, 0]),
        np.array([True, True, True, False]),
        np.ones((4, 7, 7), np.float32) if masks else None,
    )


def test_lists_are_whole_whatever_their_length(tmp_path):
    for count in (0, 1, 3):
        for head in (None, {"categories": ["é"], "info": {}}):
            with JsonList(tmp_path / "list.json", head, "rows") as rows:
                for i in range(count):
                    rows.add({"i": i})
            rows.close()
            read = json.loads((tmp_path / "list.json").read_text())
            expected = [{"i": i} for i in range(count)]
            assert read == (expected if head is None else {**head, "rows": expected})


def test_found_objects_are_the_valid_rows_in_original_pixels():
    task = DetectionTask(tiny(), class_names=("car", "dog", "cat"))
    result = result_of(task, detections())
    found = result.found
    assert len(found) == 3 and found.names == ("cat", "car", "dog") and found.boxes.dtype == np.float32
    assert found.masks.shape == (3, HEIGHT, WIDTH) and found.masks[0, 7:25, 5:23].all()
    assert found.masks[0].sum() == 396, "a mask of ones fades at the corners of its box"
    assert (
        found.above(0.5).names == ("cat",) and len(found.above(0.95)) == 0 and found.above(0.95).segmentations() == []
    )
    assert told(result) == "2 found: cat 0.90, car 0.50"
    assert [one["class"] for one in result.json["detections"]] == ["cat", "car"]
    more = result_of(task.telling(score_threshold=0.05), detections())
    assert len(more.json["detections"]) == 3 and "segmentation" in more.json["detections"][0]
    assert result_of(task, detections(masks=False)).found.masks is None


def test_coco_takes_the_results_of_detectors(tmp_path):
    task = DetectionTask(tiny(), class_names=("car", "dog", "cat"))
    rows, written = save(tmp_path, task, [detections()] * 2)
    assert written == ["predictions.json", "coco_results.json", "coco_images.json"]
    assert [row["image_id"] for row in rows] == [1, 2] and len(rows[0]["detections"]) == 2
    truth = COCO(tmp_path / "coco_images.json")
    results = truth.loadRes(str(tmp_path / "coco_results.json"))
    assert truth.imgs[2] == {"id": 2, "file_name": "photos/b.jpg", "height": HEIGHT, "width": WIDTH}
    assert [truth.cats[one["category_id"]]["name"] for one in results.anns.values()] == ["cat", "car", "dog"] * 2
    first = results.anns[1]
    assert first["bbox"] == [4, 6, 20, 20] and first["score"] == 0.9 and first["area"] == 400
    assert instance_masks([first["segmentation"]], (HEIGHT, WIDTH))[0, 7:25, 5:23].all()


def test_results_take_the_ids_of_an_annotation_file(tmp_path):
    task = DetectionTask(tiny(), class_names=("car", "N/A", "cat"))
    document = {
        "images": [{"id": 139, "file_name": "b.jpg"}, {"id": 785, "file_name": "train/a.jpg"}],
        "categories": [{"id": 17, "name": "cat"}, {"id": 3, "name": "car"}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(document))
    given = {"annotations": str(tmp_path / "instances.json")}
    rows, written = save(tmp_path / "out", task, [detections(masks=False)] * 2, **given)
    assert [row["image_id"] for row in rows] == [785, 139]
    results = json.loads((tmp_path / "out" / "coco_results.json").read_text())
    assert [(one["image_id"], one["category_id"]) for one in results] == [(785, 17), (785, 3), (139, 17), (139, 3)]
    assert "segmentation" not in results[0] and not (tmp_path / "out" / "coco_images.json").exists()
    assert written[1].startswith("coco_results.json (without 2 of classes that")
    with pytest.raises(SetupError, match=r"image 'photos/c\.jpg' is not among the `images` of .*instances\.json"):
        save(tmp_path / "out", task, [detections()] * 3, **given)
    with pytest.raises(SetupError, match=r"have none of the model's classes \(0, 1, 2, ...\) but cat, car"):
        save(tmp_path / "out", DetectionTask(tiny()), [], **given)
    (tmp_path / "instances.json").write_text("[1]")
    with pytest.raises(SetupError, match="expected JSON with `images`"):
        save(tmp_path / "out", task, [], **given)


def test_panoptic_files_are_those_of_coco(tmp_path):
    task = PanopticTask(MODEL, class_names=("car", "dog", "grass"))
    panoptic = np.zeros((20, 30), np.int32)
    panoptic[2:12, 2:12], panoptic[4:14, 14:24], panoptic[16:] = 1, 2, 5
    things = detections()
    things = things.replace(labels=np.int32([1, 0, 1, 0]))
    labels, valid = np.int32([1, 0, 1, 0, 2]), np.array([True, True, False, False, True])
    prediction = PanopticSegments(things, panoptic, labels, valid, GEOMETRY["to_original"], GEOMETRY["original_size"])
    found = result_of(task, prediction).found
    assert found.ids.tolist() == [1, 2, 5] and found.names == ("dog", "car", "grass") and len(found.objects) == 3
    assert found.things.tolist() == [True, True, False] and np.isnan(found.scores).tolist() == [False, False, True]
    assert found.mask(0).sum() == 400 and str(found) == "3 segments: 1 dog, 1 car, 1 grass"
    rows, written = save(tmp_path, task, [prediction] * 2)
    assert written[1:] == ["panoptic.json", "panoptic/ (2 PNG)", "coco_results.json", "coco_images.json"]
    assert rows[1]["panoptic"] == "panoptic/b.png" and rows[1]["image_id"] == 2
    annotations = json.loads((tmp_path / "panoptic.json").read_text())["annotations"]
    segments = annotations[1]["segments_info"]
    assert [(s["id"], s["category_id"], s["isthing"], s["area"]) for s in segments] == [
        (1, 2, 1, 400), (2, 1, 1, 400), (5, 3, 0, 480)
    ]  # fmt: skip
    read = read_panoptic(tmp_path / "panoptic" / "b.png", (HEIGHT, WIDTH), np.array([s["id"] for s in segments]))
    np.testing.assert_array_equal(np.array([0, 1, 2, 5])[read], found.panoptic)
    images = json.loads((tmp_path / "coco_images.json").read_text())
    (tmp_path / "whole.json").write_text(json.dumps({**images, "annotations": annotations}))
    for name in "ab":
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(IMAGE).save(tmp_path / "photos" / f"{name}.jpg")
    whole = {"images": str(tmp_path), "annotations": str(tmp_path / "whole.json"), "split": "train"}
    source = coco_panoptic(**whole, segments=str(tmp_path / "panoptic"), eval_annotations=whole["annotations"])
    assert len(source) == 2 and source.class_names == task.class_names and source.things == (True, True, False)


@pytest.mark.parametrize("palette", [False, True])
def test_label_maps_are_png_files_whose_values_are_labels(tmp_path, palette):
    task = SemanticSegmentationTask(Plain(Eyes(), 3), class_names=("background", "road", "sky"))
    labels = np.zeros((20, 30), np.uint8)
    labels[10:], labels[15:] = 2, 1
    prediction = {"labels": labels, "to_original": GEOMETRY["to_original"], "original_size": GEOMETRY["original_size"]}
    result = result_of(task, prediction)
    assert result.found.present == ("background", "road", "sky") and result.found.mask("road").sum() == 600
    assert told(result) == "background 50.0%, road 25.0%, sky 25.0%"
    with pytest.raises(KeyError, match="no class 'rood': did you mean 'road'"):
        result.found.mask("rood")
    rows, written = save(tmp_path, task, [prediction], palette=palette)
    assert rows[0]["label_map"] == "labels/a.png" and written[1] == "labels/ (1 PNG)"
    path = tmp_path / "labels" / "a.png"
    np.testing.assert_array_equal(read_semantic(path, (HEIGHT, WIDTH)), result.found.labels)
    assert json.loads((tmp_path / "labels" / "classes.json").read_text()) == ["background", "road", "sky"]
    with Image.open(path) as picture:
        assert picture.mode == ("P" if palette else "L")
        colors = np.asarray(picture.convert("RGB"))
    assert not palette or ((colors[0, 0] == 0).all() and (colors[-1, 0] != colors[25, 0]).any())


def classified(scores):
    scores = np.float32(scores)
    return {"scores": scores, "label": np.int32(scores.argmax()), "logits": scores}


def test_class_tables_list_the_best_of_each_image(tmp_path):
    task = TTATask(ClassificationTask(Logits(), class_names=("a", "b", "c", "d")), TTA()).telling(top_k=2)
    rows, written = save(tmp_path, task, [classified([0.1, 0.2, 0.6, 0.1]), classified([0.7, 0.1, 0.1, 0.1])])
    assert written == ["predictions.json", "classes.csv"] and len(rows[0]["top2"]) == 2 and rows[0]["class"] == "c"
    with (tmp_path / "classes.csv").open() as stream:
        table = list(csv.DictReader(stream))
    assert [(line["file"], line["rank"], line["class"], line["score"]) for line in table] == [
        ("photos/a.jpg", "1", "c", "0.6"),
        ("photos/a.jpg", "2", "b", "0.2"),
        ("photos/b.jpg", "1", "a", "0.7"),
        ("photos/b.jpg", "2", "b", "0.1"),
    ]


def test_heads_and_several_labels_have_their_words(tmp_path):
    class Heads(nn.Module):
        heads: tuple = ()

    class Head:
        def __init__(self, name, num_classes):
            self.name, self.num_classes = name, num_classes

    task = MultiTaskClassification(Heads((Head("color", 2), Head("form", 3)))).telling(top_k=1)
    prediction = {"color": classified([0.2, 0.8]), "form": classified([0.5, 0.3, 0.2])}
    rows, _ = save(tmp_path, task, [prediction])
    assert rows[0]["color"]["top1"][0]["label"] == 1
    lines = (tmp_path / "classes.csv").read_text().splitlines()
    assert lines[1:] == ["photos/a.jpg,,color,1,1,1,0.8", "photos/a.jpg,,form,1,0,0,0.5"]
    assert told(result_of(task, prediction)) == "color: 1 0.8000, form: 0 0.5000"
    several = ClassificationTask(Logits(), "binary_cross_entropy", multi_label=True, class_names=("a", "b", "c", "d"))
    prediction = classified([0.9, 0.6, 0.2, 0.1])
    assert result_of(several, prediction).json["classes"] == ["a", "b"]
    assert result_of(several.telling(score_threshold=0.7), prediction).json["classes"] == ["a"]


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        (ClassificationTask(Logits()), {"score_threshold": 0.5}, "one label is told of each image"),
        (ClassificationTask(Logits()), {"top_k": 0}, "expected at least one class"),
        (DetectionTask(tiny()), {"top_k": 3}, "top_k=3: DetectionTask has nothing"),
        (DetectionTask(tiny()), {"score_threshold": 50.0}, r"score_threshold=50.0: scores are in \[0, 1\]"),
        (SemanticSegmentationTask(Plain(Eyes(), 3)), {"score_threshold": 0.5}, "has nothing that it could choose"),
    ],
)
def test_options_without_a_meaning_are_refused(task, options, message):
    with pytest.raises(SetupError, match=message):
        task.telling(**options)


def test_files_that_a_direction_does_not_write_are_refused(tmp_path):
    with pytest.raises(SetupError, match="palette has no meaning for ClassificationTask"):
        Saver(tmp_path, ClassificationTask(Logits()), palette=True)
    with pytest.raises(SetupError, match="annotations has no meaning for SemanticSegmentationTask"):
        Saver(tmp_path, SemanticSegmentationTask(Plain(Eyes(), 3)), annotations="a.json")
