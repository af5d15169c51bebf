"""MiT: the golden SegFormer, the names of every source, odd images, and a training step."""

import functools

import jax
import numpy as np
import pytest

import jaxvision as jv
from jaxvision.backbones.mit import KEYS, LEVELS, MixVisionTransformer
from jaxvision.classification.classifier import Classifier
from jaxvision.pretrained import keymaps
from jaxvision.trees import flatten
from tests.conftest import strict
from tests.parity import zoo
from tests.parity.names import check_every_parameter_tells, check_written_names
from tests.parity.references import mit as references
from tests.parity.references.tempers import enliven
from tests.parity.torch_weights import load_golden, nchw, nhwc
from tests.parity.training import check_training_step

pytestmark = pytest.mark.parity

WIDTHS, DEPTHS = (8, 16, 20, 32), (1, 1, 2, 1)
OURS = MixVisionTransformer(widths=WIDTHS, depths=DEPTHS)


def smp():
    from segmentation_models_pytorch.encoders import mix_transformer

    norm = functools.partial(mix_transformer.LayerNorm, eps=1e-6)
    return references.Net(
        mix_transformer.MixVisionTransformerEncoder(
            [3, 0, *WIDTHS], embed_dims=WIDTHS, depths=DEPTHS, num_heads=[1, 2, 5, 8], qkv_bias=True, norm_layer=norm
        )
    )


def huggingface():
    import transformers

    config = transformers.SegformerConfig(hidden_sizes=WIDTHS, depths=DEPTHS, num_labels=1000)
    return transformers.SegformerForImageClassification(config)


REFERENCE = zoo.Reference(smp, "mit", references.LEVELS, "smp", temper=enliven, outputs=references.outputs_of)


def test_the_golden_segformer_of_openmmlab_is_reproduced():
    golden, fixture = load_golden("mmseg_segformer_mit-b0")
    backbone = jv.create_model("mit-b0", num_classes=1000).backbone
    weights = {k: v for k, v in golden.state_dict(fixture).items() if k.startswith("backbone.")}
    head = {"head.fc.weight": np.zeros((1000, 256), np.float32), "head.fc.bias": np.zeros(1000, np.float32)}
    table = zoo.Reference(None, "mit", source="openmmlab")
    model = Classifier(backbone, 1000)
    check_written_names(model, table, weights | head)
    variables = zoo.variables_of(model, table, weights | head)["params"]["backbone"]
    with strict():
        levels = jax.jit(lambda v, x: backbone.apply({"params": v}, x, train=False))(
            variables, nhwc(golden.inputs(fixture))
        )
    for i, level in enumerate(LEVELS):
        name = f"backbone/{i}"
        difference = golden.compare(fixture, name, nchw(levels[level]))
        print(name, f"{difference:.1e}", f"allowed {golden.tolerance(fixture, name):.1e}")
        assert difference <= golden.tolerance(fixture, name)


def test_odd_images_equal_the_reference():
    model, _ = zoo.calibrated(REFERENCE)
    x = zoo.torch.randn(2, 3, 61, 83)
    errors = zoo.compare(model, REFERENCE, Classifier(OURS, 1000), x)
    assert max(errors.values()) <= 1e-4, errors


def test_names_and_shapes_are_written_as_the_references_have_them():
    model = smp()
    check_written_names(Classifier(OURS, 1000), REFERENCE, model.state_dict())
    theirs = model.encoder.state_dict() | {"head.weight": (1000, 32), "head.bias": (1000,)}
    check_written_names(Classifier(OURS, 1000), zoo.Reference(None, "", source="smp/encoder"), theirs)
    check_written_names(
        Classifier(OURS, 1000), zoo.Reference(None, "", source="huggingface/5"), huggingface().state_dict()
    )


def test_files_of_hugging_face_load(tmp_path):
    model = huggingface()
    model.save_pretrained(tmp_path)
    ours = Classifier(OURS, 1000)
    loaded = flatten(jv.load_pretrained(ours, tmp_path / "model.safetensors"))
    by_modules = flatten(zoo.variables_of(ours, zoo.Reference(None, "", source="huggingface/5"), model.state_dict()))
    assert set(loaded) == set(by_modules)
    for name, value in loaded.items():
        np.testing.assert_array_equal(value, by_modules[name])


@pytest.mark.parametrize("source", ["openmmlab/encoder", "huggingface"])
def test_published_names(source):
    """Of the first stage, as OpenMMLab's and Hugging Face's files have them (transformers 4, mmsegmentation 1)."""
    rules = KEYS[source]
    attention = "params/backbone/block1_0/attn"
    of = lambda name: keymaps.reference_names(name, rules)  # noqa: E731
    if source == "huggingface":
        assert of(f"{attention}/qkv/kernel") == tuple(
            f"segformer.encoder.block.0.0.attention.self.{part}.weight" for part in ("query", "key", "value")
        )
        assert of(f"{attention}/norm/bias") == ("segformer.encoder.block.0.0.attention.self.layer_norm.bias",)
        assert of("params/backbone/patch_embed1/norm/scale") == (
            "segformer.encoder.patch_embeddings.0.layer_norm.weight",
        )
        assert of("params/backbone/block1_0/norm2/scale") == ("segformer.encoder.block.0.0.layer_norm_2.weight",)
        assert of("params/backbone/norm4/scale") == ("segformer.encoder.layer_norm.3.weight",)
        assert of("params/backbone/block4_1/mlp/dwconv/kernel") == (
            "segformer.encoder.block.3.1.mlp.dwconv.dwconv.weight",
        )
    else:
        assert of(f"{attention}/qkv/bias") == ("layers.0.1.0.attn.attn.in_proj_bias",)
        assert of("params/backbone/norm4/scale") == ("layers.3.2.weight",)


def test_small_parameters_tell():
    model, x = zoo.calibrated(REFERENCE)
    paths = [f"params/backbone/block2_0/{part}" for part in ("attn/sr/kernel", "attn/norm/scale", "mlp/dwconv/bias")]
    check_every_parameter_tells(Classifier(OURS, 1000), REFERENCE, model, x, paths)


def test_a_training_step_equals_torch(monkeypatch):
    print(f"worst gradient {check_training_step(OURS, REFERENCE, monkeypatch):.1e}")
