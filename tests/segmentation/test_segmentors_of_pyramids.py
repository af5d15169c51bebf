"""PSPNet, DeepLabv3, DeepLabv3+, UPerNet, SegFormer, LR-ASPP, OCRNet: what is particular to each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.config import build
from jaxvision.segmentation.ocrnet import OCRHead, OCRNet
from jaxvision.trees import flatten
from tests.backbones.fill import fill
from tests.conftest import strict

RESNET = {"name": "resnet18", "width": 4}


def made(name, **fields):
    return build("model", {"name": name, "num_classes": 3, **fields})


def names_of(model, side=64):
    images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    return set(flatten(jax.eval_shape(lambda x: model.init(jax.random.key(0), x), images)))


@pytest.mark.parametrize(
    ("name", "field"),
    [("pspnet", "level"), ("deeplabv3", "level"), ("deeplabv3plus", "low_level"), ("upernet", "levels")],
)
def test_a_level_that_the_backbone_lacks_is_named(name, field):
    wrong = ("c3", "c5") if field == "levels" else "c2"
    kept = ("c4",) if field == "level" else ("c4", "c5")
    if field == "level":
        wrong = "c5"
    model = made(name, backbone={**RESNET, "out_levels": kept}, width=4, auxiliary=None, **{field: wrong})
    with pytest.raises(ValueError, match=rf"{field} is .* but the backbone returns"):
        names_of(model)


def test_segformers_layers_are_linear_alone_where_transformers_has_them_so():
    plain, linear = (names_of(made(name, width=8)) for name in ("segformer", "huggingface/segformer"))
    assert "params/decode_head/convs_0/bn/scale" in plain
    assert {name for name in linear if "/convs_0/" in name} == {
        f"params/decode_head/convs_0/{leaf}" for leaf in ("kernel", "bias")
    }


def test_early_levels_of_lraspp_fit_its_branches():
    with pytest.raises(ValueError, match="a level for each branch"):
        made("lraspp", branches=(8,))
    with pytest.raises(ValueError, match="one level where there is no branch"):
        made("torchvision/lraspp", early_levels=("c2", "c3"))


def test_the_first_block_of_a_resolution_may_be_its_level():
    """torchvision reads the fifth module of MobileNetV3, of three that have stride 8."""
    fields = {"name": "mobilenet_v3_large", "width": 0.25, "out_levels": ("c3",)}
    whole, first = (build("backbone", fields | more) for more in ({}, {"first_levels": ("c3",)}))
    assert whole.channels == first.channels and whole.strides == first.strides == {"c3": 8}
    images = jnp.asarray(np.random.default_rng(0).normal(size=(1, 32, 32, 3)), jnp.float32)
    variables = fill(whole, images, train=False)

    @jax.jit
    def both(variables, images):
        options = {"train": False, "capture_intermediates": lambda module, _: module.name == "blocks_2_0"}
        _, inner = whole.apply(variables, images, **options)
        return inner["intermediates"]["blocks_2_0"]["__call__"][0], first.apply(variables, images, train=False)["c3"]

    expected, found = both(variables, images)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    with pytest.raises(ValueError, match="first_levels"):
        build("backbone", fields | {"first_levels": ("c4",)})


def test_the_first_block_of_a_width_may_be_its_level():
    """segmentation-models reads the ninth block of EfficientNet-B0, of six that have stride 16."""
    stages = build("backbone", {"name": "tf_efficientnet_b0", "first_of_width": ("c4",)}).stages
    assert [stage.level for stage in stages] == ["c1", "c2", "c3", None, None, None, "c5"]
    assert [sum(len(s.blocks) for s in stages[:i]) for i, own in enumerate(stages) if own.first_level == "c4"] == [8]


def test_a_region_of_ocrnet_is_the_mean_of_the_features_where_its_class_lies():
    """Features of one class everywhere are what attention finds: the picture's order does not matter."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 1, 12, 5)), jnp.float32)
    coarse = jnp.asarray(rng.normal(size=(2, 1, 12, 3)), jnp.float32)
    head = OCRHead(num_classes=3, width=4, key_width=4)
    variables = jax.jit(lambda x, coarse: head.init(jax.random.key(0), x, coarse, False))(x, coarse)
    kernel = np.zeros((3, 3, 5, 4), np.float32)
    kernel[1, 1] = rng.normal(size=(5, 4))  # without neighbours
    variables["params"]["bottleneck"]["conv"]["kernel"] = jnp.asarray(kernel)
    order = rng.permutation(12)
    with strict():
        apply = jax.jit(lambda x, coarse: head.apply(variables, x, coarse, False))
        straight, shuffled = apply(x, coarse), apply(x[:, :, order], coarse[:, :, order])
    np.testing.assert_allclose(straight[:, :, order], shuffled, atol=1e-6)
    assert float(jnp.abs(straight[0] - straight[1]).max()) > 1e-3


def test_the_coarse_head_of_ocrnet_learns_once_in_a_step_and_has_its_own_weight(unoptimized):
    backbone = {"name": "hrnet_w18_small", "width": 4, "first_width": 4, "blocks": (1, 1, 1, 1), "stem_width": 8}
    model = made("ocrnet", backbone=backbone, width=8, key_width=4)
    assert isinstance(model, OCRNet) and model.auxiliary_weights == (0.4,)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 32, 32, 3)), jnp.float32)
    variables = fill(model, images)
    inner = variables["params"]["coarse_head"]["convs_0"]["conv"]
    inner["kernel"] *= 1e-4  # so that the variance of what it gives is nothing
    labels = jnp.zeros((2, 32, 32), jnp.uint8).at[:, :8].set(255).at[:, 8:16].set(1)

    @jax.jit
    def step(params):
        outputs, moved = model.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])
        terms = model.loss(outputs, {"semantic": labels, "valid": jnp.ones(2, bool)})
        return sum(total / count for total, count in terms.values()), (moved["batch_stats"], terms)

    with strict():
        (_, (moved, terms)), grads = jax.value_and_grad(step, has_aux=True)(variables["params"])
    var = moved["coarse_head"]["convs_0"]["bn"]["var"]
    before = variables["batch_stats"]["coarse_head"]["convs_0"]["bn"]["var"]
    np.testing.assert_allclose(var, 0.9 * before, atol=1e-3)  # and nothing; two updates would leave 0.81
    assert set(terms) == {"cross_entropy", "auxiliary_cross_entropy"}
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(grads))
    assert float(jnp.abs(grads["coarse_head"]["conv_seg"]["kernel"]).max()) > 0
