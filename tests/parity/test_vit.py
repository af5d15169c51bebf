"""Forms of the vision transformer in small: resampled positions, every source of names, a training step."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxvision as jv
from jaxvision import layers
from jaxvision.backbones.vit import KEYS, DistilledVisionTransformer, VisionTransformer
from jaxvision.classification.classifier import Classifier
from jaxvision.classification.distilled import DistilledClassifier
from jaxvision.pretrained import keymaps
from jaxvision.trees import flatten
from tests.conftest import strict
from tests.parity import zoo
from tests.parity.references.vit import levels_of, sharpen, timm_outputs
from tests.parity.torch_weights import error, load_golden, nchw, nhwc
from tests.parity.training import check_training_step

pytestmark = pytest.mark.parity

TimmViT = zoo.timm.models.vision_transformer.VisionTransformer
resample = zoo.timm.layers.resample_abs_pos_embed
OURS = {"image_size": 64, "patch_size": 16, "width": 32, "depth": 2, "heads": 2}
THEIRS = {"img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2, "qkv_bias": True}
LEVELS = ("block1", "c4", "tokens", "pooled")


def reference(source="timm", size=64, **fields):
    """A row for a small network; `fields` of timm's."""
    make = lambda: TimmViT(**{**THEIRS, "dynamic_img_size": True, **fields})  # noqa: E731
    return zoo.Reference(make, "vit", levels_of(2), source, size=size, temper=sharpen, outputs=timm_outputs)


def sharp(model):
    """Telling weights, in evaluation mode."""
    torch.manual_seed(0)
    sharpen(model)
    return model.eval()


FORMS = {
    "swiglu": (
        {"mlp": "swiglu", "mlp_ratio": 2.66667 * 2, "layer_scale": 1e-5},
        {
            "mlp_ratio": 2.66667 * 2,
            "mlp_layer": zoo.timm.layers.SwiGLUPacked,
            "act_layer": torch.nn.SiLU,
            "init_values": 1e-5,
        },
    ),
    "maximum without class token": (
        {"class_token": False, "pool": "max"},
        {"class_token": False, "global_pool": "max"},
    ),
    "mean and maximum": ({"pool": "avgmax", "registers": 2}, {"global_pool": "avgmax", "reg_tokens": 2}),
    "no final norm": ({"final_norm": False, "pre_norm": True}, {"final_norm": False, "pre_norm": True}),
    "norm behind the token": ({"fc_norm": True}, {"fc_norm": True}),
    "not square": ({"image_size": (64, 128)}, {"img_size": (64, 128)}),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [(64, 64), (96, 48)], ids=["square", "not square"])
def test_forms_without_a_row_equal_timm_at_any_size(form, size):
    ours, theirs = FORMS[form]
    row = reference(**theirs)
    model = sharp(row.make())
    mine = Classifier(VisionTransformer(**{**OURS, **ours}, out_levels=LEVELS), 1000)
    errors = zoo.compare(model, row, mine, torch.randn(2, 3, *size))
    assert max(errors.values()) <= 1e-5, errors


def test_the_comparison_sees_every_token_position_and_layer_scale():
    row = reference(reg_tokens=2, init_values=1e-5)
    model, x = sharp(row.make()), torch.randn(2, 3, 64, 64)
    ours = Classifier(VisionTransformer(**OURS, registers=2, layer_scale=1e-5, out_levels=LEVELS), 1000)
    assert max(zoo.compare(model, row, ours, x).values()) <= 1e-5
    variables = zoo.variables_of(ours, row, model.state_dict())
    theirs = zoo.run_reference(model, row, x)["logits"]
    for name in ("cls_token", "reg_token", "pos_embed", "blocks_0/ls1/gamma", "blocks_1/ls2/gamma"):
        tree = jax.tree.map(lambda leaf: leaf, variables)
        *path, leaf = name.split("/")
        node = tree["params"]["backbone"]
        for part in path:
            node = node[part]
        node[leaf] = node[leaf] * 1.05
        assert error(zoo.run_ours(ours, tree, nhwc(x))["logits"], theirs) > 5e-4, name


@pytest.mark.parametrize("prefix", [0, 1, 2, 4])
@pytest.mark.parametrize(("old", "new"), [((14, 14), (24, 24)), ((14, 14), (7, 10)), ((4, 7), (5, 3))])
def test_resampled_positions_equal_timm(prefix, old, new):
    embedding = torch.randn(1, prefix + old[0] * old[1], 8)
    theirs = resample(embedding, new, old, num_prefix_tokens=prefix)
    with strict():
        ours = layers.resample_position_embedding(jnp.asarray(embedding.numpy()), old, new, prefix=prefix)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("offset", [0.0, 0.1])
def test_resampled_positions_equal_the_rule_of_dinov2(offset):
    old, new = (37, 37), (16, 21)
    embedding = torch.randn(1, 1 + 37 * 37, 4)
    grid = embedding[:, 1:].reshape(1, *old, 4).permute(0, 3, 1, 2)
    where = {"scale_factor": [(n + offset) / o for n, o in zip(new, old, strict=True)]} if offset else {"size": new}
    theirs = torch.nn.functional.interpolate(grid, mode="bicubic", **where).permute(0, 2, 3, 1).reshape(1, -1, 4)
    options = {"prefix": 1, "antialias": False, "offset": offset}
    ours = layers.resample_position_embedding(jnp.asarray(embedding.numpy()), old, new, **options)
    np.testing.assert_allclose(ours[:, 1:], theirs, atol=5e-5)  # torch places the samples in float32
    np.testing.assert_array_equal(ours[:, :1], embedding[:, :1])


@pytest.mark.parametrize("size", [(96, 64), (32, 32)], ids=["not square", "smaller"])
def test_a_checkpoint_of_another_image_size_is_resampled_as_by_timm(tmp_path, size):
    model = sharp(TimmViT(**THEIRS, num_classes=10))
    torch.save(model.state_dict(), tmp_path / "vit.pth")
    ours = Classifier(VisionTransformer(**{**OURS, "image_size": size}, out_levels=("pooled",)), 10)
    variables = jv.load_pretrained(ours, tmp_path / "vit.pth", source="timm")
    model.set_input_size(size)
    np.testing.assert_allclose(variables["params"]["backbone"]["pos_embed"], model.pos_embed.detach(), atol=1e-5)
    x = torch.randn(2, 3, *size)
    with torch.no_grad(), strict():
        assert error(jax.jit(ours.apply)(variables, nhwc(x)), model(x)) <= 1e-5


def test_the_norm_of_inner_blocks_equals_timm():
    row, x = reference(), torch.randn(2, 3, 64, 64)
    model = sharp(row.make())
    backbone = VisionTransformer(**OURS, norm_blocks=True, out_levels=("block0", "tokens0", "pooled"))
    variables = zoo.variables_of(Classifier(backbone, 1000), row, model.state_dict())
    levels = jax.jit(lambda v, x: backbone.apply(v, x, train=False))(
        {"params": variables["params"]["backbone"]}, nhwc(x)
    )
    with torch.no_grad():
        inner = model.forward_intermediates(
            x, indices=[0], norm=True, return_prefix_tokens=True, intermediates_only=True
        )
    ((spatial, prefix),) = inner
    assert error(nchw(levels["block0"]), spatial) <= 1e-5
    assert error(levels["tokens0"][:, 1:], spatial.flatten(2).transpose(1, 2)) <= 1e-5
    np.testing.assert_allclose(levels["tokens0"][:, :1], prefix, atol=1e-4)


def torchvision_vit():
    model = zoo.torchvision.models.VisionTransformer(64, 16, 2, 2, 32, 128, num_classes=10)
    return sharp(model), Classifier(VisionTransformer(**OURS, out_levels=("pooled",)), 10)


@pytest.mark.parametrize("source", ["torchvision", "torchvision/linear"])
def test_both_layouts_of_torchvision_load(source, tmp_path):
    model, ours = torchvision_vit()
    x = torch.randn(2, 3, 64, 64)
    weights = model.state_dict()
    if source == "torchvision/linear":  # what torchvision's published files hold, and what it renames when it loads
        rename = lambda match: f".mlp.linear_{1 + int(match[1]) // 3}."  # noqa: E731
        weights = {re.sub(r"\.mlp\.([03])\.", rename, name): value for name, value in weights.items()}
        model.load_state_dict(weights.copy())
    torch.save(weights, tmp_path / "vit.pth")
    variables = jv.load_pretrained(ours, tmp_path / "vit.pth")
    with torch.no_grad():
        assert error(jax.jit(ours.apply)(variables, nhwc(x)), model(x)) <= 1e-5


def huggingface(name):
    """A small network of transformers, ours, and the numbers of its logits."""
    import transformers

    options = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64, "num_labels": 10}
    plain = {**options, "intermediate_size": 128, "patch_size": 16, "attn_implementation": "eager"}
    dino = {**options, "mlp_ratio": 4, "patch_size": 16, "attn_implementation": "eager"}
    ours = {**OURS, "position_antialias": False}
    old = layers.Norm("ln", epsilon=1e-12)
    form = {"layer_scale": 1e-5, "pool": "token_avg", "out_levels": ("pooled",)}
    if name == "vit":
        model = transformers.ViTForImageClassification(transformers.ViTConfig(**plain))
        return model, Classifier(VisionTransformer(**ours, norm=old, out_levels=("pooled",)), 10)
    if name == "deit":
        model = transformers.DeiTForImageClassificationWithTeacher(transformers.DeiTConfig(**plain))
        return model, DistilledClassifier(DistilledVisionTransformer(**ours, norm=old), 10)
    if name == "dinov2_with_registers":
        config = transformers.Dinov2WithRegistersConfig(**dino, num_register_tokens=4)
        model = transformers.Dinov2WithRegistersForImageClassification(config)
        ours |= {"position_antialias": True}
        return model, Classifier(VisionTransformer(**ours, **form, registers=4, prefix_positions="class"), 10)
    gated = name.endswith("swiglu")
    model = transformers.Dinov2ForImageClassification(transformers.Dinov2Config(**dino, use_swiglu_ffn=gated))
    # Their hidden size is two thirds of 4 * 32, rounded up to a multiple of 8; ours counts both halves.
    return model, Classifier(
        VisionTransformer(**ours, **form, **({"mlp": "swiglu", "mlp_ratio": 5.5} if gated else {})), 10
    )


OLD_NAMES = (
    (r"^(vit|deit)\.layers\.", r"\1.encoder.layer."),
    (r"\.attention\.q_proj\.", ".attention.attention.query."),
    (r"\.attention\.k_proj\.", ".attention.attention.key."),
    (r"\.attention\.v_proj\.", ".attention.attention.value."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
    (r"^((?:vit|deit)\..*)\.mlp\.fc1\.", r"\1.intermediate.dense."),
    (r"^((?:vit|deit)\..*)\.mlp\.fc2\.", r"\1.output.dense."),
)
"""Hugging Face's names of today -> those of the files it published before."""


@pytest.mark.parametrize("name", ["vit", "deit", "dinov2", "dinov2 swiglu", "dinov2_with_registers"])
def test_hugging_face_loads_under_its_new_and_old_names(name, tmp_path):
    model, ours = huggingface(name)
    for key, p in model.named_parameters():
        assert not key.endswith("lambda1") or torch.allclose(p, torch.ones_like(p))
    torch.manual_seed(0)
    with torch.no_grad():
        for key, p in model.named_parameters():
            kind = key.rsplit(".", 1)[-1]
            p.copy_(torch.randn_like(p) * (p[0].numel() ** -0.5 if p.ndim in (2, 4) else 0.5))
            if "norm" in key or kind == "lambda1":
                p.uniform_(0.5, 1.3)
    model.eval()
    weights, size = model.state_dict(), (64, 64)
    old = {_old_name(key): value for key, value in weights.items()}
    if "swiglu" not in name:
        assert set(old) != set(weights)
    for number, given in enumerate((weights, old)):
        if number and "swiglu" in name:
            given = _join_gates(given)
        torch.save(given, tmp_path / "model.bin")
        variables = jv.load_pretrained(ours, tmp_path / "model.bin", source="huggingface")
        x = torch.randn(2, 3, *size)
        with torch.no_grad(), strict():
            assert error(jax.jit(ours.apply)(variables, nhwc(x)), model(x).logits) <= 1e-5
    if name in ("vit", "deit"):
        return
    x = torch.randn(2, 3, 96, 96)  # another grid than the stored one
    with torch.no_grad():
        assert error(jax.jit(ours.apply)(variables, nhwc(x)), model(x).logits) <= 1e-5


def _old_name(name):
    for pattern, replacement in OLD_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _join_gates(weights):
    """The first layer of gated perceptrons as one, as in files from before version 5."""
    joined = {}
    for key, value in weights.items():
        if ".gate_proj." in key:
            value = torch.cat([value, weights[key.replace("gate_proj", "up_proj")]])
            key = key.replace("gate_proj", "weights_in")
        if ".up_proj." not in key:
            joined[key.replace("down_proj", "weights_out")] = value
    return joined


def test_vitpose_of_openmmlab_is_reproduced():
    golden, fixture = load_golden("mmpose_td-hm_vitpose-small")
    backbone = VisionTransformer(
        image_size=(256, 192), width=384, heads=12, class_token=False, pool="avg", fc_norm=False, patch_padding=2
    )
    weights = {k: v for k, v in golden.state_dict(fixture).items() if k.startswith("backbone.")}
    images = nhwc(golden.inputs(fixture))
    wanted = flatten(jax.eval_shape(lambda x: backbone.init(jax.random.key(0), x, train=False), images))
    wanted = {key.replace("/", "/backbone/", 1): leaf for key, leaf in wanted.items()}
    values = keymaps.fit(weights, wanted, KEYS["openmmlab"]).check("vitpose")
    tree = jv.trees.nest({key.replace("params/backbone/", "params/", 1): jnp.asarray(v) for key, v in values.items()})
    with strict():
        output = nchw(jax.jit(lambda v, x: backbone.apply(v, x, train=False))(tree, images)["c4"])
    difference = golden.compare(fixture, "backbone/0", output)
    print(f"{difference:.1e}, allowed {golden.tolerance(fixture, 'backbone/0', base=1e-3):.1e}")
    assert difference <= golden.tolerance(fixture, "backbone/0", base=1e-3)


def fit_names(backbone, names, source):
    """Asserts that the names of the backbone's variables are exactly `names`."""
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    backbone = backbone.clone(out_levels=("pooled",))
    wanted = flatten(jax.eval_shape(lambda x: Classifier(backbone, 10).init(jax.random.key(0), x), images))
    ours = {part for name in wanted for part in keymaps.reference_names(name, KEYS[source])}
    assert ours == set(names)


def test_the_names_of_the_masked_autoencoder_of_openmmlab():
    golden, fixture = load_golden("mmpretrain_mae_vit-base-p16")
    names = {name for name in golden.state_dict(fixture) if name.startswith("backbone.")}
    backbone = VisionTransformer(image_size=64, out_levels=("pooled",))
    fit_names(backbone, names | {"head.layers.head.weight", "head.layers.head.bias"}, "openmmlab")


def test_the_names_of_other_forms_of_openmmlab():
    """mmpretrain's `VisionTransformer` (vision_transformer.py), `SwiGLUFFN` and heads, and mmsegmentation's."""
    both = lambda *names: {f"{name}.{kind}" for name in names for kind in ("weight", "bias")}  # noqa: E731
    stem = {"backbone.cls_token", "backbone.pos_embed", *both("backbone.patch_embed.projection", "backbone.ln1")}
    block = both(*(f"backbone.layers.0.{name}" for name in ("ln1", "attn.qkv", "attn.proj", "ln2")))
    ffn = both("backbone.layers.0.ffn.layers.0.0", "backbone.layers.0.ffn.layers.1")
    scales = {"backbone.layers.0.attn.gamma1.weight", "backbone.layers.0.ffn.gamma2.weight"}
    head = both("head.layers.head")
    tiny = VisionTransformer(64, width=16, depth=1, heads=2, out_levels=("pooled",))
    fit_names(tiny.clone(layer_scale=1e-5), stem | block | ffn | scales | head, "openmmlab")
    gated = tiny.clone(layer_scale=1e-5, mlp="swiglu")
    gates = both("backbone.layers.0.ffn.w12", "backbone.layers.0.ffn.w3")
    fit_names(gated, stem | block | gates | scales | head, "openmmlab/swiglu")
    averaged = stem - both("backbone.ln1") | both("backbone.ln2")
    fit_names(tiny.clone(pool="avg"), averaged | block | ffn | both("head.fc"), "openmmlab/linear head")
    before = stem - {"backbone.patch_embed.projection.bias"} | both("backbone.pre_norm")
    fit_names(tiny.clone(pre_norm=True), before | block | ffn | head, "openmmlab")
    joined = {name.replace("attn.qkv.", "attn.attn.in_proj_") for name in block}
    joined = {name.replace("attn.proj", "attn.attn.out_proj") for name in joined}
    fit_names(tiny, stem | joined | ffn | head, "openmmlab/mmseg")


def test_the_names_of_dinov2s_own_files():
    """facebookresearch/dinov2, `DinoVisionTransformer` with registers and `SwiGLUFFNFused`, without its mask token."""
    both = lambda *names: {f"{name}.{kind}" for name in names for kind in ("weight", "bias")}  # noqa: E731
    names = {"cls_token", "pos_embed", "register_tokens", "blocks.0.ls1.gamma", "blocks.0.ls2.gamma"}
    names |= both(
        "patch_embed.proj", "norm", *(f"blocks.0.{part}" for part in ("norm1", "norm2", "attn.qkv", "attn.proj"))
    )
    form = {"layer_scale": 1e-5, "registers": 4, "prefix_positions": "class"}
    small = VisionTransformer(64, width=16, depth=1, heads=2, **form)
    head = both("head")
    fit_names(small, names | both("blocks.0.mlp.fc1", "blocks.0.mlp.fc2") | head, "timm/dinov2")
    fit_names(
        small.clone(mlp="swiglu"), names | both("blocks.0.mlp.w12", "blocks.0.mlp.w3") | head, "timm/dinov2 swiglu"
    )


def test_distilled_heads_equal_timm_one_by_one():
    name = "deit_tiny_distilled_patch16_224"
    make = lambda: zoo.timm.create_model(name, img_size=64, depth=2)  # noqa: E731
    row = zoo.Reference(make, "vit", levels_of(2), temper=sharpen, outputs=timm_outputs)
    model, x = sharp(make()), torch.randn(2, 3, 64, 64)
    ours = DistilledClassifier(DistilledVisionTransformer(64, width=192, depth=2, heads=3), 1000)
    variables = zoo.variables_of(ours, row, model.state_dict())
    with torch.no_grad():
        tokens = model.forward_features(x)
        theirs = model.head(tokens[:, 0]), model.head_dist(tokens[:, 1])
        pooled = model.forward_head(tokens, pre_logits=True)
    both, features = jax.jit(lambda v, x: [ours.apply(v, x, method=m) for m in ("both", "features")])(
        variables, nhwc(x)
    )
    for mine, their in zip((*both, features), (*theirs, pooled), strict=True):
        assert error(mine, their) <= 1e-5


def test_a_training_step_equals_torch(monkeypatch):
    row = reference(reg_tokens=2, init_values=1e-5)
    backbone = VisionTransformer(**OURS, registers=2, layer_scale=1e-5, out_levels=("pooled",))
    print(f"worst gradient {check_training_step(backbone, row, monkeypatch):.1e}")
