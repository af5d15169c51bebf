"""Recipes of PSPNet, DeepLabv3, DeepLabv3+, UPerNet, SegFormer, LR-ASPP, OCRNet: what each config resolves to.

Facts are those of github.com/open-mmlab/mmsegmentation `configs/`, of the file that the config names.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from jaxvision import config as jv_config
from jaxvision.engine.optimizers import make_optimizer
from tests.recipes import ADAMW, SGD, holds

SYNC = {"norm": {"name": "sync_bn", "epsilon": 1e-5}}
RESNET = SYNC | {"name": "resnet50c", "output_stride": 8, "contract_dilation": True}
PHOTOGRAPHS: Mapping[str, Any] = {"crop": (512, 512), "batch": 16}
HELP = {"level": "c4", "width": 256, "depth": 1, "concat_input": False, "weight": 0.4, "dropout": 0.1}
OF_PYRAMID = SYNC | {"backbone": RESNET, "auxiliary": HELP, "dropout": 0.1, "width": 512, "align_corners": False}
MOBILE = {"name": "mobilenet_v3_large", "output_stride": 8, "padding": "same", "contract_dilation": False}
SLOW_MOMENTS = {"norm": {"name": "sync_bn", "epsilon": 1e-3}}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A row of the table.

    Attributes:
      classes, crop, batch, steps, optimizer: as in the config.
      model: fields.
      rates: step -> learning rate.
      pretrained: card of the backbone.
    """

    model: Mapping[str, Any]
    steps: int
    classes: int = 19
    crop: tuple[int, int] = (512, 1024)
    batch: int = 8
    optimizer: Mapping[str, Any] = dataclasses.field(default_factory=lambda: SGD | {"weight_decay": 5e-4})
    rates: Mapping[int, float] = dataclasses.field(default_factory=dict)
    pretrained: str | None = "openmmlab:resnet50c"


PSPNET = OF_PYRAMID | {"name": "pspnet", "scales": (1, 2, 3, 6)}
DEEPLABV3 = OF_PYRAMID | {"name": "deeplabv3", "dilations": (1, 12, 24, 36), "project": False}
DEEPLABV3PLUS = OF_PYRAMID | {
    "name": "deeplabv3plus",
    "dilations": (1, 12, 24, 36),
    "low_width": 48,
    "low_level": "c2",
}
SEGFORMER = SYNC | {"name": "segformer", "width": 256, "linear": False, "dropout": 0.1, "auxiliary": None}
OF_SEGFORMER: Mapping[str, Any] = {
    **PHOTOGRAPHS,
    "classes": 150,
    "optimizer": ADAMW | {"weight_decay": 0.01},
    "rates": {0: 6e-11, 1500: 6e-5, 80_750: 3e-5},
}
OCRNET = SYNC | {
    "name": "ocrnet",
    "width": 512,
    "key_width": 256,
    "dropout": 0.0,
    "coarse_weight": 0.4,
    "auxiliary": None,
}

RECIPES = {
    "pspnet_r50_d8_cityscapes": Recipe(PSPNET, 80_000),
    "pspnet_r50_d8_voc12aug": Recipe(PSPNET, 40_000, classes=21, **PHOTOGRAPHS),
    "pspnet_r50_d8_ade20k": Recipe(PSPNET, 160_000, classes=150, **PHOTOGRAPHS),
    "pspnet_r50_d8_coco_stuff": Recipe(PSPNET, 80_000, classes=171, **PHOTOGRAPHS),
    "deeplabv3_r50_d8_cityscapes": Recipe(DEEPLABV3, 80_000),
    "deeplabv3_r50_d8_voc12aug": Recipe(DEEPLABV3, 40_000, classes=21, **PHOTOGRAPHS),
    "deeplabv3plus_r50_d8_cityscapes": Recipe(DEEPLABV3PLUS, 80_000),
    "deeplabv3plus_r50_d8_voc12aug": Recipe(DEEPLABV3PLUS, 40_000, classes=21, **PHOTOGRAPHS),
    "upernet_r50_ade20k": Recipe(
        OF_PYRAMID | {"name": "upernet", "backbone": RESNET | {"output_stride": 32}, "scales": (1, 2, 3, 6)},
        160_000,
        classes=150,
        **PHOTOGRAPHS,
    ),
    **{
        f"segformer_b{size}_ade20k": Recipe(
            SEGFORMER | {"backbone": {"name": f"openmmlab/mit_b{size}", "drop_path_rate": 0.1}},
            160_000,
            pretrained=f"openmmlab:mit_b{size}",
            **OF_SEGFORMER,
        )
        for size in (0, 5)
    },
    "lraspp_mobilenet_v3_large_cityscapes": Recipe(
        SLOW_MOMENTS
        | {"name": "lraspp", "width": 128, "branches": (32, 64), "pooling": (49, 16, 20), "auxiliary": None}
        | {"backbone": SLOW_MOMENTS | MOBILE},
        320_000,
        batch=16,
        pretrained="openmmlab:mobilenet_v3_large",
    ),
    **{
        f"ocrnet_hrnet_w{width}_cityscapes": Recipe(
            OCRNET | {"backbone": SYNC | {"name": f"hrnet_w{width}", "upsample": "bilinear"}},
            160_000,
            pretrained=f"openmmlab:hrnet_w{width}",
        )
        for width in (18, 48)
    },
}


def of(name):
    return jv_config.load(f"segmentation/{name}")


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_is_the_published_one(name):
    config, recipe = of(name), RECIPES[name]
    data, schedule = config.data, jv_config.section(config, "schedule")
    holds(config.model, {"num_classes": recipe.classes, **recipe.model})
    assert [(loss.name, loss.count_ignored, loss.weight) for loss in config.model.losses] == [
        ("cross_entropy", True, 1)
    ]
    assert (schedule.steps, data.batch_size, schedule.clip_norm, schedule.ema) == (
        recipe.steps,
        recipe.batch,
        None,
        None,
    )
    assert tuple(map(tuple, data.buckets)) == (recipe.crop,)
    holds(schedule.optimizer, recipe.optimizer)
    assert (config.pretrained or {}).get("backbone") == recipe.pretrained
    rates = recipe.rates or {0: 0.01, recipe.steps // 2: 1e-4 + 0.0099 * 0.5**0.9}
    bundle = bundle_of(config, schedule)
    for step, rate in rates.items():
        assert math.isclose(float(bundle.learning_rate(step)), rate, rel_tol=2e-4), step


def bundle_of(config, schedule, params=None):
    return make_optimizer(
        schedule if params is not None else dataclasses.replace(schedule, rules=()),
        {"w": jnp.zeros(1)} if params is None else params,
        optimizer=jv_config.build("optimizer", schedule.optimizer),
        learning_rate=jv_config.build("learning_rate", schedule.learning_rate),
        total_steps=schedule.steps,
        steps_per_epoch=400,
        batch_size=config.data.batch_size,
    )


def test_segformers_head_learns_ten_times_as_fast_and_norms_of_its_blocks_do_not_decay():
    """custom_keys: 'head' lr_mult=10; 'norm' decay_mult=0, which the last norms of stages are not called there."""
    config = of("segformer_b0_ade20k")
    model = jv_config.build("model", config.model)
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    params = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), images)["params"]
    rows = bundle_of(config, jv_config.section(config, "schedule"), params).table.rows
    for row in rows:
        assert math.isclose(row.learning_rate, 10.0 if row.path.startswith("decode_head/") else 1.0), row.path
        inner = row.path.startswith(("backbone/block", "backbone/patch_embed")) and "/norm" in row.path
        assert row.weight_decay == (0.0 if inner else 1.0), row.path
    assert sum(row.weight_decay == 0 for row in rows) == 2 * (4 + 2 * 8 + 6)
