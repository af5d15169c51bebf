"""Recipes of segmenters: what each config for a published data set says equals the published one."""

import dataclasses

import numpy as np
import pytest

from configs.common import semantic_segmentation as common
from jaxvision import config as configs

MMSEG = "github.com/open-mmlab/mmsegmentation configs/"


@dataclasses.dataclass(frozen=True)
class Published:
    """A row of the table.

    Attributes:
      source: file that its facts are from, with `_base_/schedules` and `_base_/datasets` of its name.
      classes, steps, batch, crop: of the run.
      learning_rate: at its start; it falls to 1e-4 with the power 0.9.
    """

    source: str
    classes: int
    steps: int
    batch: int
    crop: tuple[int, int]
    learning_rate: float = 0.01


RECIPES = {
    "fcn_r50_d8_cityscapes": Published(
        MMSEG + "fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py", 19, 40_000, 8, (512, 1024)
    ),
    "fcn_r50_d8_ade20k": Published(MMSEG + "fcn/fcn_r50-d8_4xb4-160k_ade20k-512x512.py", 150, 160_000, 16, (512, 512)),
    "fcn_r50_d8_voc12aug": Published(MMSEG + "fcn/fcn_r50-d8_4xb4-40k_voc12aug-512x512.py", 21, 40_000, 16, (512, 512)),
}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_is_the_published_one(name):
    published, config = RECIPES[name], configs.load(f"segmentation/{name}")
    data, schedule, model = config.data, config.schedule, config.model
    assert (schedule.steps, data.batch_size, schedule.base_batch_size) == (
        published.steps,
        published.batch,
        published.batch,
    )
    assert model.num_classes == len(data.source.class_names) == published.classes
    assert tuple(data.buckets) == (published.crop,)
    assert dict(schedule.optimizer) | {"momentum": 0.9, "weight_decay": 5e-4} == dict(schedule.optimizer)
    assert schedule.learning_rate.name == "polynomial"
    assert (schedule.learning_rate.value, schedule.learning_rate.power, schedule.learning_rate.end) == (
        published.learning_rate,
        0.9,
        1e-4,
    )
    scale, crop = data.host_transforms
    assert (scale["name"], tuple(scale["factors"]), crop["name"]) == ("random_scale", (0.5, 2.0), "random_crop")
    assert [one["name"] for one in data.augment] == ["random_flip", "photo_metric_distortion"]
    assert model.norm["name"] == model.backbone.norm["name"] == "sync_bn" and model.backbone.output_stride == 8
    (loss,) = model.losses
    assert loss["name"] == "cross_entropy" and loss["count_ignored"]
    assert model.auxiliary.weight == 0.4 and config.pretrained["backbone"] == "openmmlab:resnet50c"


@pytest.mark.parametrize(
    ("name", "like", "model", "differing"),
    [
        ("fcn16s_vgg16_voc12aug", "fcn8s_vgg16_voc12aug", "fcn16s", {}),
        ("fcn32s_vgg16_voc12aug", "fcn8s_vgg16_voc12aug", "fcn32s", {}),
        (
            *("deeplab_v2_vgg16_voc12aug", "deeplab_v2_r101_voc12aug", "deeplab_v2_vgg16"),
            {"schedule.learning_rate.value": "0.001"},
        ),
    ],
)
def test_a_recipe_is_another_one_with_another_network(name, like, model, differing):
    """Long et al. 2015 train all strides alike; Chen et al. 2016, section 4.1.1."""
    own, other = (configs.load(f"segmentation/{one}") for one in (name, like))
    values, others = configs.facts(own), configs.facts(other)
    found = {key: value for key, value in values.items() if others.get(key) != value}
    assert {key: value for key, value in found.items() if not key.startswith(("model.", "pretrained"))} == differing
    assert own.model.name == model and own.pretrained["backbone"] == "torchvision:vgg16"


def test_values_of_published_maps_become_classes():
    cityscapes, stuff = common.SOURCES["cityscapes"]["values"], common.SOURCES["coco_stuff"]["values"]
    assert cityscapes["7"] == 0 and cityscapes["33"] == 18 and cityscapes["0"] == 255 and len(cityscapes) == 35
    assert stuff["0"] == 0 and stuff["181"] == 170 and "11" not in stuff
    assert sorted(stuff.values()) == list(range(171))
    counts = {name: len(source["class_names"]) for name, source in common.SOURCES.items()}
    assert counts == {"cityscapes": 19, "ade20k": 150, "voc12": 21, "voc12aug": 21, "coco_stuff": 171, "camvid": 11}
    # COCO's categories count from 1, and 11 of the first 91 numbers have none: toothbrush is 90, banner 92.
    assert common.COCO_STUFF[stuff["89"]] == "toothbrush" and common.COCO_STUFF[stuff["91"]] == "banner"


@pytest.mark.parametrize("name", sorted(common.SOURCES))
def test_every_data_set_gives_a_config(name):
    config = common.get_config("", dataset=name, crop=(64, 96))
    config.model = dict(name="fcn", num_classes=len(common.SOURCES[name]["class_names"]))
    config.schedule = common.schedule(100, batch_size=8)
    config = common.complete(config)
    canvases = np.array(config.data.eval_buckets)
    assert (canvases % 8 == 0).all() and config.data.source.name == "image_mask"


def test_camvid_is_read_as_its_folder_says(test_data, monkeypatch, tmp_path):
    (tmp_path / "data").symlink_to(test_data / "data")
    monkeypatch.chdir(tmp_path)
    table = {split: configs.build("source", {"name": "image_mask", **common.SOURCES["camvid"]}, split=split)
             for split in ("train", "validation")}  # fmt: skip
    assert {split: len(part) for split, part in table.items()} == {"train": 367, "validation": 101}
    labels = np.unique(table["validation"].sample(0)["semantic"])
    assert set(labels.tolist()) <= {*range(11), 255}
