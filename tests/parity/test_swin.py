"""Swin Transformers in shallow form against timm, torchvision, OpenMMLab's layout and Hugging Face."""

import dataclasses
import re

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxvision.backbones.swin import SwinTransformer, resize
from jaxvision.backbones.swin_v2 import SwinTransformerV2
from jaxvision.classification.classifier import Classifier
from jaxvision.pretrained import keymaps
from jaxvision.pretrained.safetensors import read_safetensors
from jaxvision.trees import nest
from tests.parity import zoo
from tests.parity.references.swin import TIMM_LEVELS, TOLERANCE, TORCHVISION_LEVELS, channels_last, temper
from tests.parity.torch_weights import error, nhwc
from tests.parity.training import check_training_step

pytestmark = pytest.mark.parity

SHALLOW = {"depths": (2, 2, 2, 1), "width": 32, "heads": (1, 2, 4, 8)}
LEVELS = ("c2", "c3", "c4", "c5", "pooled")
V1 = SwinTransformer(**SHALLOW, window_size=(4, 4, 4, 4), out_levels=LEVELS)
V2 = SwinTransformerV2(**SHALLOW, window_size=(4, 4, 4, 4), out_levels=LEVELS)


def timm_model(name, size=64, **options):
    options = {"embed_dim": 32, "depths": (2, 2, 2, 1), "num_heads": (1, 2, 4, 8), "num_classes": 1000, **options}
    return lambda: zoo.timm.create_model(name, img_size=size, drop_path_rate=0.0, **options)


def timm_reference(name, size=64, **options):
    outputs = lambda model, x: channels_last(model, x, TIMM_LEVELS)  # noqa: E731
    return zoo.Reference(
        timm_model(name, size, **options),
        "swin",
        TIMM_LEVELS,
        outputs=outputs,
        temper=temper,
        size=size,
        tolerance=TOLERANCE["swin_v2" if "v2" in name else "swin"],
    )


def torchvision_reference(v2):
    tv = zoo.torchvision.models.swin_transformer
    more = {"block": tv.SwinTransformerBlockV2, "downsample_layer": tv.PatchMergingV2} if v2 else {}

    def make():
        return tv.SwinTransformer([4, 4], 32, [2, 2, 2, 1], [1, 2, 4, 8], [4, 4], stochastic_depth_prob=0.0, **more)

    outputs = lambda model, x: channels_last(model, x, TORCHVISION_LEVELS)  # noqa: E731
    return zoo.Reference(make, "swin", TORCHVISION_LEVELS, "torchvision", outputs=outputs, temper=temper)


def huggingface_reference(v2):
    import transformers

    def make():
        kind = "Swinv2" if v2 else "Swin"
        config = getattr(transformers, f"{kind}Config")(
            image_size=128, window_size=4, embed_dim=32, depths=[2, 2, 2, 1], num_heads=[1, 2, 4, 8], num_labels=1000
        )
        return getattr(transformers, f"{kind}ForImageClassification")(config)

    outputs = lambda model, x: {"logits": model(x).logits}  # noqa: E731
    # Release 5 renames the modules of the first version and keeps the names of the files.
    source = "huggingface" if v2 else "huggingface/5"
    return zoo.Reference(make, "swin", {}, source, outputs=outputs, temper=temper, size=128)


FORMS = {
    # timm shrinks its windows on the last two maps, of 4 and 2 tokens.
    "v1, shrunk windows": (
        V1.clone(window_size=(8, 8, 4, 2)),
        timm_reference("swin_tiny_patch4_window7_224", window_size=8),
    ),
    "v1, a window for each stage": (
        V1.clone(window_size=(4, 8, 4, 2)),
        timm_reference("swin_s3_tiny_224", window_size=(4, 8, 4, 2)),
    ),
    "v2, first trained with other windows": (
        V2.clone(window_size=(8, 8, 4, 2), pretrained_window_size=(6, 6, 6, 3)),
        timm_reference("swinv2_tiny_window8_256", window_size=8, pretrained_window_sizes=(6, 6, 6, 3)),
    ),
    "v1, torchvision": (V1, torchvision_reference(False)),
    "v2, torchvision": (V2, torchvision_reference(True)),
    "v1, huggingface": (V1.clone(out_levels=("pooled",)), huggingface_reference(False)),
    "v2, huggingface": (V2.clone(out_levels=("pooled",)), huggingface_reference(True)),
}


@pytest.mark.parametrize("form", FORMS)
def test_shallow_forms_equal_their_references(form):
    ours, reference = FORMS[form]
    model, x = zoo.calibrated(reference)
    errors = zoo.compare(model, reference, Classifier(ours, 1000), x)
    print(form, {output: f"{error:.1e}" for output, error in errors.items()})
    assert max(errors.values()) <= reference.tolerance, errors


@pytest.mark.parametrize(("size", "window"), [((52, 84), 4), ((68, 36), 8)])
def test_maps_that_the_window_does_not_divide_are_padded_as_in_torchvision(size, window):
    reference = torchvision_reference(False)
    tv = zoo.torchvision.models.swin_transformer
    make = lambda: tv.SwinTransformer([4, 4], 32, [2, 2, 2, 1], [1, 2, 4, 8], [window] * 2)  # noqa: E731
    reference = zoo.Reference(make, "swin", {}, "torchvision", outputs=reference.outputs, temper=temper)
    model, _ = zoo.calibrated(reference)
    ours = V1.clone(window_size=(window,) * 4)
    errors = zoo.compare(model, reference, Classifier(ours, 1000), torch.randn(2, 3, *size))
    assert max(errors.values()) <= 1e-4, errors


class Unfolded(torch.nn.Module):
    """Patch merging as OpenMMLab has it, with the parameters of timm's."""

    def __init__(self, merging, post_norm):
        super().__init__()
        self.norm, self.reduction, self.post_norm = merging.norm, merging.reduction, post_norm

    def forward(self, x):
        b, h, w, _ = x.shape
        x = torch.nn.functional.unfold(x.permute(0, 3, 1, 2), 2, stride=2).transpose(1, 2)
        x = self.norm(self.reduction(x)) if self.post_norm else self.reduction(self.norm(x))
        return x.reshape(b, h // 2, w // 2, -1)


OPENMMLAB = (
    (r"^(patch_embed|layers|norm)\.", r"backbone.\1."),
    (r"^backbone\.norm\.", "backbone.norm3."),
    (r"embed\.proj\.", "embed.projection."),
    (r"^backbone\.layers\.", "backbone.stages."),
    (r"\.attn\.", ".attn.w_msa."),
    (r"\.mlp\.fc1\.", ".ffn.layers.0.0."),
    (r"\.mlp\.fc2\.", ".ffn.layers.1."),
)
"""timm's names -> mmpretrain's, from its `swin_transformer.py`, `attention.py` and mmcv's `FFN`."""


@pytest.mark.parametrize("v2", [False, True])
def test_the_layout_of_openmmlab_gives_the_same_numbers(v2):
    reference = timm_reference("swinv2_tiny_window8_256" if v2 else "swin_tiny_patch4_window7_224", 128, window_size=4)
    model, x = zoo.calibrated(reference)
    for stage in list(model.layers)[1:]:
        stage.downsample = Unfolded(stage.downsample, v2)
    theirs = zoo.run_reference(model, reference, x)
    weights = {}
    for name, value in model.state_dict().items():
        for pattern, replacement in OPENMMLAB:
            name = re.sub(pattern, replacement, name)
        if not v2:  # there, too, a stage begins with its merging
            name = re.sub(r"stages\.(\d)\.down", lambda m: f"stages.{int(m[1]) - 1}.down", name)
        weights[name] = value
    weights["backbone.stages.0.blocks.0.attn.w_msa.relative_position_index"] = torch.zeros(16, 16)
    ours = Classifier(V2 if v2 else V1, 1000)
    openmmlab = zoo.Reference(reference.make, "swin", {}, "openmmlab", size=128)
    mine = zoo.run_ours(ours, zoo.variables_of(ours, openmmlab, weights), nhwc(x))
    errors = {name: error(mine[name], theirs[name]) for name in theirs}
    assert max(errors.values()) <= 1e-4, errors


@pytest.mark.parametrize(
    "name", ["layers.2.blocks.1.attn.relative_position_bias_table", "layers.1.blocks.0.norm1.bias"]
)
def test_a_small_change_of_one_parameter_is_seen(name):
    _, reference = FORMS["v1, shrunk windows"]
    model, x = zoo.calibrated(reference)
    before = zoo.run_reference(model, reference, x)
    with torch.no_grad():
        model.get_parameter(name).mul_(1.02)
    after = zoo.run_reference(model, reference, x)
    assert error(after["logits"], before["logits"]) > 3 * reference.tolerance


def quietly(test):
    """Without torch's warnings of how timm interpolates."""
    for message in ("Using a non-tuple sequence for multidimensional indexing", r"torch\.searchsorted"):
        test = pytest.mark.filterwarnings(f"ignore:{message}")(test)
    return test


@quietly
@pytest.mark.parametrize(("old", "new"), [(7, 12), (7, 8), (12, 7), (4, 16), (8, 7)])
def test_tables_of_another_window_are_resized_as_by_timm(old, new):
    from timm.layers import resize_rel_pos_bias_table

    table = torch.randn((2 * old - 1) ** 2, 4)
    shape = ((2 * new - 1) ** 2, 4)
    theirs = resize_rel_pos_bias_table(table, (new, new), shape)
    ours = resize("params/backbone/layers_0/blocks_0/attn/relative_position_bias_table", table.numpy(), shape)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert resize("params/backbone/norm/scale", table.numpy(), shape) is None


@quietly
def test_a_file_of_another_window_gives_the_numbers_that_timm_gives():
    from timm.models.swin_transformer import checkpoint_filter_fn

    name = "swin_tiny_patch4_window7_224"
    file, _ = zoo.calibrated(timm_reference(name, window_size=(4, 4, 4, 2)))
    reference = timm_reference(name, window_size=(8, 2, 4, 2))
    model, x = zoo.calibrated(reference)
    model.load_state_dict(checkpoint_filter_fn(file.state_dict(), model))
    ours = Classifier(V1.clone(window_size=(8, 2, 4, 2)), 1000)
    family = keymaps.family_of(ours)
    given = {name: value.numpy() for name, value in file.state_dict().items()}
    found = keymaps.fit(given, zoo.shapes(ours, reference), family.keys["timm"], resize=family.resize)
    mine = zoo.run_ours(ours, nest({name: jnp.asarray(v) for name, v in found.check("it").items()}), nhwc(x))
    theirs = zoo.run_reference(model, reference, x)
    errors = {name: error(mine[name], theirs[name]) for name in theirs}
    assert max(errors.values()) <= 1e-4, errors


@pytest.mark.parametrize("v2", [False, True])
def test_files_that_huggingface_writes_are_read(v2, tmp_path):
    """It writes the names of the files that it publishes, whatever its modules are called."""
    reference = huggingface_reference(v2)
    model, x = zoo.calibrated(reference)
    model.save_pretrained(tmp_path)
    file = read_safetensors(tmp_path / "model.safetensors")
    layer = f"swin{'v2' * v2}.encoder.layers.0.blocks.0"
    assert {f"{layer}.attention.self.query.weight", f"{layer}.intermediate.dense.bias"} <= set(file)
    ours = Classifier((V2 if v2 else V1).clone(out_levels=("pooled",)), 1000)
    named = dataclasses.replace(reference, source="huggingface")
    mine = zoo.run_ours(ours, zoo.variables_of(ours, named, file), nhwc(x))
    theirs = zoo.run_reference(model, reference, x)
    assert error(mine["logits"], theirs["logits"]) <= 1e-4


TRAINED = {
    "v1": (V1.clone(out_levels=("pooled",), window_size=(4, 4, 4, 2)), "swin_tiny_patch4_window7_224"),
    "v2": (V2.clone(out_levels=("pooled",), window_size=(4, 4, 4, 2)), "swinv2_tiny_window8_256"),
}


def temper_gently(model):
    """`temper` with cosines multiplied by 3 to 12, and by the limit of 100 in one head, whose scale gets no gradient.

    More would magnify the rounding of gradients beyond what the comparison allows.
    """
    temper(model)
    for name, parameter in model.named_parameters():
        if name.endswith("logit_scale"):
            torch.nn.init.uniform_(parameter, 1, 2.5)
            if name.startswith("layers.1.blocks.1."):
                parameter.data[0] = 5


@pytest.mark.parametrize("version", TRAINED)
def test_a_training_step_equals_torch(version, monkeypatch):
    ours, name = TRAINED[version]
    reference = dataclasses.replace(timm_reference(name, window_size=4), temper=temper_gently)
    worst = check_training_step(ours, reference, monkeypatch)
    print(version, f"worst gradient {worst:.1e}")
