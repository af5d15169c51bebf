"""Every config file: its full-size train step as a program, and its smoke form trained, evaluated and used."""

import importlib
import json
import math
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import configs
import jaxvision as jv
from jaxvision import config as jv_config
from jaxvision import experiment, training
from jaxvision.config.smoke import DEVICES, SCENES
from jaxvision.engine.writers import read_records
from tests.conftest import strict

NAMES = jv_config.config_names()


def test_no_config_file_is_left_out():
    modules = [module.name for module in pkgutil.walk_packages(configs.__path__, "configs.") if not module.ispkg]
    with_config = {name for name in modules if hasattr(importlib.import_module(name), "get_config")}
    common = {name for name in with_config if name.startswith("configs.common.")}
    assert with_config - common == {f"configs.{name.replace('/', '.')}" for name in NAMES}


def full_size(name):
    """The config, with images made from a seed in place of a data set whose files are not here."""
    config = jv_config.load(name)
    if config.data.source.name in ("digits", "digit_attributes"):
        return config
    if config.task.name in SCENES:
        count = 50 * config.data.batch_size  # a warm-up of 500 steps needs some; scenes are made when they are read
        scenes = f"dict(name='digit_scenes', num_examples={count}, annotations={SCENES[config.task.name]})"
        if "proposals" in config.data.source.name:
            scenes = f"dict(name='random_proposals', source={scenes})"
        ground = config.task.name in ("panoptic_segmentation", "semantic_segmentation")
        classes = [("model.num_classes", "11" if ground else "10")]
        if config.task.name == "panoptic_segmentation":
            classes.append(("model.num_stuff", "1"))
        devices = [("parallel.devices", str(math.gcd(config.data.batch_size, DEVICES)))]  # published batches of 10, 20
        return jv_config.load(name, [("data.source", scenes), *classes, *devices])
    changes = {"": "synthetic", ".num_examples": config.data.batch_size, ".num_classes": config.model.num_classes}
    if "multi_label" in config.task:
        changes[".multi_label"] = config.task.multi_label
    return jv_config.load(name, [(f"data.source{key}", str(value)) for key, value in changes.items()])


QUICK = ("alexnet", "deit_small_patch16_224", "efficientnet_b0", "resnet50_rsb_a2")
"""One of each school of recipes for ImageNet, which differ in values and in the parts of the step."""
QUICK_DETECTORS = ("retinanet_r18_fpn_digit_scenes", "mask_rcnn_r18_fpn_digit_scenes")
"""A dense one, which the README shows, and one with all parts of two stages."""
QUICK_SEGMENTERS = ("fcn_r18_d8_digit_scenes", "unet_r18_digit_scenes", "segformer_b0_digit_scenes")
"""A dilated one, one that goes all the way up, and a transformer."""
REPEATED = (
    *("lenet5_mnist", "lenet5_mnist_idx", "resnet18_cifar100", "resnet18_cifar10_subset", "resnet50_image_folder"),
    *("resnet18_class_balanced_image_folder", "resnet18_finetune_digits", "resnet50_synthetic"),
)
"""Classifiers whose tiny form is another's on other data, or whose run is a test of its own."""
QUICK_OF = {"detection": QUICK_DETECTORS, "segmentation": QUICK_SEGMENTERS}


OTHER_DATA = {
    "segmentation/fcn_r50_d8_voc12aug": "segmentation/fcn_r50_d8_cityscapes",
    "segmentation/pspnet_r50_d8_ade20k": "segmentation/pspnet_r50_d8_cityscapes",
    "segmentation/pspnet_r50_d8_coco_stuff": "segmentation/pspnet_r50_d8_cityscapes",
    "segmentation/pspnet_r50_d8_voc12aug": "segmentation/pspnet_r50_d8_cityscapes",
    "segmentation/deeplabv3_r50_d8_voc12aug": "segmentation/deeplabv3_r50_d8_cityscapes",
    "segmentation/deeplabv3plus_r50_d8_voc12aug": "segmentation/deeplabv3plus_r50_d8_cityscapes",
}
"""Tiny forms that are not trained: they have the network of this one, and the data of `fcn_r50_d8_ade20k`."""


def of_the_same(name):
    """Whether a recipe for ImageNet has another of its school in `QUICK`, a detector or segmenter one in its list, or a
    classifier is among `REPEATED`.
    """
    direction, own = name.split("/")
    if direction in QUICK_OF:
        return own not in QUICK_OF[direction]
    return own in REPEATED or (own.endswith("_imagenet") and own.removesuffix("_imagenet") not in QUICK)


def slow_where(condition, names=NAMES):
    return [pytest.param(name, marks=pytest.mark.slow if condition(name) else ()) for name in names]


@pytest.mark.parametrize("name", slow_where(of_the_same))
def test_the_full_size_train_step_keeps_the_state(name):
    run = experiment.build(full_size(name))
    state, batch = run.abstract_state(), run.parallel.abstract_batch(run.example)
    with strict():
        new, metrics = jax.eval_shape(run.train_step(), state, batch)
    described = [jax.tree.map(lambda x: (x.shape, x.dtype), tree) for tree in (state, new)]
    assert described[0] == described[1]
    assert {x.dtype for x in jax.tree.leaves((state.params, state.collections))} == {jnp.dtype("float32")}
    assert {"loss", "grad_norm", "learning_rate", "finite"} <= set(metrics.names)
    assert metrics.sums.shape == (len(metrics.names), 2) and metrics.sums.dtype == jnp.float32
    rates = [float(run.bundle.learning_rate(step)) for step in (0, run.total_steps // 2, run.total_steps - 1)]
    assert np.isfinite(rates).all() and max(rates) > 0 and run.total_steps > 1


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHER_DATA)
def test_a_tiny_form_that_is_not_trained_is_made_of_two_that_are(name):
    own, network, data = (
        jv_config.load(f"{one}:smoke").to_dict() for one in (name, OTHER_DATA[name], "segmentation/fcn_r50_d8_ade20k")
    )
    for config in (own, network, data):
        del config["model"]["num_classes"], config["data"]["source"]
    for section in ("model", "task"):
        assert own[section] == network[section], section
    for section in ("data", "schedule", "evaluation", "precision"):
        assert own[section] == data[section], section


@pytest.mark.parametrize("name", slow_where(of_the_same, [name for name in NAMES if name not in OTHER_DATA]))
def test_the_smoke_form_trains_evaluates_and_predicts(name, tmp_path, unoptimized):
    """The first of each school also comes back from its workdir; the others' steps and files are what differs."""
    config, workdir = jv_config.load(f"{name}:smoke"), tmp_path / "run"
    reached = training.train(config, workdir)
    check_files(config, workdir)
    if of_the_same(name):
        assert any(np.isfinite(value) for value in reached.values() if np.ndim(value) == 0)
        return
    results = training.evaluate(config, workdir)
    assert {k: v for k, v in results.items() if np.ndim(v) == 0} == pytest.approx(
        {k: v for k, v in reached.items() if np.ndim(v) == 0}, nan_ok=True
    )
    assert (workdir / "evaluation.json").exists()
    check_prediction(config, workdir, tmp_path)


def check_files(config, workdir):
    """What a smoke run leaves behind."""
    files = {path.name for path in workdir.iterdir()} - {".lock"}
    assert files >= {
        *("config.json", "meta.json", "metrics.jsonl", "parameters.txt"),
        *("curves.png", "predictions.png", "checkpoints", "tensorboard"),
    }
    assert {path.name for path in (workdir / "checkpoints").iterdir()} == {"1", "2"}
    assert list((workdir / "tensorboard").glob("events.*"))
    assert jv_config.from_json((workdir / "config.json").read_text()) == config
    assert (
        len(json.loads((workdir / "meta.json").read_text())["class_names"])
        == experiment.build(config).task.model.num_classes
    )
    records = read_records(workdir / "metrics.jsonl")
    assert [(record["step"], record["kind"]) for record in records] == [
        (step, kind) for step in (1, 2) for kind in ("train", "eval")
    ]
    assert all(np.isfinite(list(record["values"].values())).all() for record in records)


def check_prediction(config, workdir, folder):
    """What a smoke run's model says of a picture from elsewhere."""
    picture = folder / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)).save(picture)
    result = jv.Inferencer(workdir, batch_size=1)(picture)
    told_of = result.json.get("detections", result.json.get("classes", result.json.values()))
    for told in [result.json] if "score" in result.json else told_of:
        assert 0 < told["share" if "share" in told else "score"] <= 1 and 0 <= told["label"] < len(
            result.task.class_names
        )
    result.save(folder / "prediction.png")
    with Image.open(folder / "prediction.png") as drawn:
        assert drawn.mode == "RGB"
