"""MLP-Mixer: timm's, and with OpenMMLab's norms."""

import functools

import torch

from jaxvision.backbones import mlp_mixer
from tests.parity.references.reference import Reference, from_timm
from tests.parity.references.tempers import enliven


def _outputs(model, x):
    tokens = model.forward_features(x)
    level, side = ("c5", 7) if tokens.shape[1] == 49 else ("c4", 14)
    maps = tokens.transpose(1, 2).unflatten(2, (side, side))
    return {level: maps, "logits": model.forward_head(tokens)}


def _reference(name):
    bare = name.removeprefix("openmmlab/")
    options = {} if bare == name else {"norm_layer": functools.partial(torch.nn.LayerNorm, eps=1e-5)}
    levels = {"c5" if "32_" in name else "c4": ""}
    make = from_timm(bare, **options)
    return Reference(make, "mlp_mixer", levels, size=224, temper=enliven, outputs=_outputs)


REFERENCES = {name: _reference(name) for name in mlp_mixer.SIZES}

FAMILIES = {"mlp_mixer": ("mlp_mixer",)}

EXCLUDED = {
    "mlp_mixer": {
        r"gmixer_.*": "gated perceptrons are another structure",
        r"resmlp_.*": "ResMLP (one linear layer over tokens, affine maps for norms) is another family",
        r"gmlp_.*": "gMLP (spatial gating) is another family",
    },
}

SMALLEST = ("mixer_s32_224",)
