"""Which parameters of transformers get no weight decay, against timm's `no_weight_decay` and its rule for vectors."""

import pytest
import torch

from jaxvision.backbones.swin import SwinTransformer
from jaxvision.backbones.swin_v2 import SwinTransformerV2
from jaxvision.backbones.vit import VisionTransformer
from jaxvision.classification.classifier import Classifier
from jaxvision.engine.parameter_groups import parameter_table
from jaxvision.trees import flatten
from tests.parity import zoo

pytestmark = pytest.mark.parity

VIT = {"width": 16, "depth": 2, "heads": 2}
SWIN = {"width": 16, "depths": (2, 1, 1, 1), "heads": (1, 2, 2, 4), "window_size": (4, 4, 4, 2)}
TIMM_VIT = {"img_size": 64, "embed_dim": 16, "depth": 2, "num_heads": 2}
TIMM_SWIN = {
    "img_size": 64,
    "embed_dim": 16,
    "depths": (2, 1, 1, 1),
    "num_heads": (1, 2, 2, 4),
    "window_size": 4,
}
MODELS = {
    "vit_tiny_patch16_224": (VisionTransformer(image_size=64, **VIT), TIMM_VIT, {"pos_embed", "cls_token"}),
    "vit_base_patch16_reg4_gap_256": (
        VisionTransformer(image_size=64, **VIT, class_token=False, registers=4, pool="avg", prefix_positions="none"),
        {**TIMM_VIT, "init_values": None},
        {"pos_embed", "reg_token"},
    ),
    "swin_tiny_patch4_window7_224": (SwinTransformer(**SWIN), TIMM_SWIN, {"relative_position_bias_table"}),
    "swinv2_tiny_window8_256": (SwinTransformerV2(**SWIN), TIMM_SWIN, {"logit_scale", "kernel"}),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_undecayed_parameters_are_those_of_timm(name):
    backbone, options, tensors = MODELS[name]
    model = zoo.timm.create_model(name, num_classes=1000, **options)
    exempt = model.no_weight_decay()
    undecayed = {n: p.ndim <= 1 or n.endswith(".bias") or n in exempt for n, p in model.named_parameters()}
    marks = {n: torch.full_like(p, float(undecayed[n])) for n, p in model.named_parameters()}
    ours = Classifier(backbone.clone(out_levels=("pooled",)), 1000)
    reference = zoo.Reference(lambda: model, "", {}, "timm")
    params = zoo.variables_of(ours, reference, marks, collections=("params",))["params"]
    wanted = {path for path, mark in flatten(params).items() if bool((mark == 1).all())}
    table = parameter_table(params, no_weight_decay_on_norm_and_bias=True)
    assert {row.path for row in table.rows if row.weight_decay == 0.0} == wanted
    assert {path.split("/")[-1] for path in wanted if flatten(params)[path].ndim > 1} == tensors
