"""MLP-Mixer: the names of OpenMMLab, and a training step."""

import pytest

from jaxvision.backbones.mlp_mixer import MlpMixer
from jaxvision.classification.classifier import Classifier
from tests.parity import zoo
from tests.parity.names import check_every_parameter_tells, check_written_names
from tests.parity.references.tempers import enliven
from tests.parity.training import check_training_step

pytestmark = pytest.mark.parity

OURS = MlpMixer(64, patch_size=16, width=32, depth=2)


def make():
    return zoo.timm.models.MlpMixer(img_size=64, patch_size=16, num_blocks=2, embed_dim=32)


REFERENCE = zoo.Reference(make, "mlp_mixer", {}, temper=enliven)


def test_names_are_those_of_openmmlab():
    """As mmpretrain/models/backbones/mlp_mixer.py builds them on mmcv's `FFN` and `PatchEmbed`."""
    shapes = {"patch_embed.projection.weight": (32, 3, 16, 16), "ln1.weight": (32,)}
    for i in range(2):
        for mix, size, hidden in (("token_mix", 16, 16), ("channel_mix", 32, 128)):
            shapes[f"layers.{i}.{mix}.layers.0.0.weight"] = (hidden, size)
            shapes[f"layers.{i}.{mix}.layers.1.weight"] = (size, hidden)
        shapes |= {f"layers.{i}.ln{j}.weight": (32,) for j in (1, 2)}
    shapes = {f"backbone.{name}": shape for name, shape in shapes.items()} | {"head.fc.weight": (1000, 32)}
    shapes |= {name.replace("weight", "bias"): shape[:1] for name, shape in shapes.items()}
    check_written_names(Classifier(OURS, 1000), zoo.Reference(None, "", {}, "openmmlab"), shapes)


def test_names_and_shapes_are_written_as_timm_has_them():
    check_written_names(Classifier(OURS, 1000), REFERENCE, make().state_dict())


def test_small_parameters_tell():
    model, x = zoo.calibrated(REFERENCE)
    paths = [f"params/backbone/blocks_1/{part}" for part in ("norm1/scale", "norm2/bias", "mlp_tokens/fc1/bias")]
    check_every_parameter_tells(Classifier(OURS, 1000), REFERENCE, model, x, paths)


def test_a_training_step_equals_torch(monkeypatch):
    print(f"worst gradient {check_training_step(OURS, REFERENCE, monkeypatch):.1e}")
