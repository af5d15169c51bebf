"""What vision transformers promise beyond the numbers: levels, sizes of images, frozen blocks, errors."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxvision as jv
from jaxvision.backbones.vit import POOLS, DistilledVisionTransformer, VisionTransformer
from jaxvision.classification.classifier import Classifier
from jaxvision.classification.distilled import DistilledClassifier
from jaxvision.trees import flatten
from tests.backbones.fill import fill
from tests.conftest import strict

KEY = jax.random.key(0)
TINY = {"image_size": 32, "patch_size": 8, "width": 16, "depth": 3, "heads": 2}


def shapes(model, size=(32, 32), **kwargs):
    """Outputs and flat parameters, abstract."""
    x = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    with strict():
        outputs, variables = jax.eval_shape(lambda x: model.init_with_output(KEY, x, **kwargs), x)
    return outputs, flatten(variables["params"])


def images(n=2, size=32):
    return jnp.asarray(np.random.default_rng(0).standard_normal((n, size, size, 3), np.float32))


FORMS = {
    "plain": {},
    "registers": {"registers": 4, "prefix_positions": "class"},
    "no prefix": {"class_token": False, "pool": "avg"},
    "distilled": {"distillation_token": True},
    "class token and average": {"pool": "token_avg"},
    "gated": {"mlp": "swiglu", "pre_norm": True, "norm_blocks": True},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [(32, 32), (16, 40)])
def test_levels_have_the_shapes_that_the_properties_promise(form, size):
    model = VisionTransformer(**TINY, **FORMS[form])
    model = model.clone(out_levels=model.levels)
    levels, _ = shapes(model, size, train=False)
    assert sorted(levels) == sorted(model.levels)
    assert list(model.channels) == list(model.strides) == list(model.levels)
    assert set(model.strides.values()) == {8}
    rows, columns = size[0] // 8, size[1] // 8
    for level, y in levels.items():
        channels = model.channels[level]
        if level == "pooled":
            assert y.shape == (2, channels)
        elif level.startswith("tokens"):
            assert y.shape == (2, model.prefix + rows * columns, channels)
        else:
            assert y.shape == (2, rows, columns, channels)


def test_only_what_the_levels_need_is_built():
    built = lambda *levels, **kw: {  # noqa: E731
        path.split("/")[0] for path in shapes(VisionTransformer(**TINY, out_levels=levels, **kw), train=False)[1]
    }
    stem = {"patch_embed", "cls_token", "pos_embed"}
    assert built("block0", "block1") == stem | {"blocks_0", "blocks_1"}
    assert built("block0", norm_blocks=True) == stem | {"blocks_0", "norm"}
    assert built("c4") == stem | {"blocks_0", "blocks_1", "blocks_2", "norm"}
    assert built("c4", pool="avg") == built("c4") - {"norm"}
    assert built("pooled", pool="avg") == built("c4") - {"norm"} | {"fc_norm"}


def test_position_embeddings_are_stored_for_the_image_size_and_their_prefix():
    stored = lambda **kw: shapes(VisionTransformer(**{**TINY, **kw}), train=False)[1]["pos_embed"].shape[1]  # noqa: E731
    assert stored() == 1 + 16 and stored(image_size=(32, 64)) == 1 + 32
    assert stored(registers=3) == 4 + 16
    assert stored(registers=3, prefix_positions="class") == 1 + 16
    assert stored(registers=3, prefix_positions="none") == 16
    assert stored(image_size=(256, 192), patch_size=16, patch_padding=2) == 1 + 16 * 12


def test_parts_of_the_prefix_stand_in_timms_order(unoptimized):
    model = VisionTransformer(**{**TINY, "depth": 1}, distillation_token=True, registers=1, out_levels=("tokens0",))
    variables = fill(model, images(), train=False)
    same = jax.tree.map(lambda leaf: leaf, variables)
    for branch in ("attn/proj", "mlp/fc2"):  # branches that add nothing: tokens leave as they enter
        node = same["params"]["blocks_0"]
        for part in branch.split("/"):
            node = node[part]
        node.update({name: 0 * value for name, value in node.items()})
    params = same["params"]
    tokens = jax.jit(lambda v, x: model.apply(v, x, train=False))(same, images())["tokens0"]
    expected = jnp.concatenate([params["cls_token"], params["dist_token"], params["reg_token"]], 1)
    np.testing.assert_allclose(tokens[:1, :3], expected + params["pos_embed"][:, :3], rtol=1e-5)


def test_frozen_stages_pass_no_gradient_and_are_named_by_frozen_paths(unoptimized):
    model = VisionTransformer(
        **TINY, frozen_stages=2, registers=1, pre_norm=True, out_levels=("block0", "c4", "pooled")
    )
    variables = fill(model, images(), train=False)

    def loss(params):
        levels = model.apply({"params": params}, images(), train=True)
        return sum(jnp.mean(jnp.square(y)) for y in levels.values())

    grads = flatten(jax.jit(jax.grad(loss))(variables["params"]))
    for path, gradient in grads.items():
        named = any(re.fullmatch(pattern, path) for pattern in model.frozen_paths)
        assert named == (not np.any(gradient)) == (not path.startswith(("blocks_2", "norm/"))), path
    assert VisionTransformer(**TINY).frozen_paths == ()


def test_recomputed_blocks_and_stochastic_depth(unoptimized):
    x, small = images(4, 16), {**TINY, "image_size": 16, "depth": 2}
    plain = VisionTransformer(**small, drop_path_rate=0.5, layer_scale=1e-5, out_levels=("pooled",))
    variables = fill(plain, x, train=False)

    def run(model, train=True):
        def loss(params):
            y = model.apply({"params": params}, x, train=train, rngs={"dropout": KEY})["pooled"]
            return jnp.mean(jnp.square(y))

        return jax.value_and_grad(loss)

    again = plain.clone(remat=True)
    both = jax.jit(lambda p: (run(plain)(p), run(again)(p), run(plain, False)(p)))(variables["params"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *both[:2])
    assert abs(both[0][0] - both[2][0]) > 1e-4
    remats = [str(jax.make_jaxpr(run(model))(variables["params"])).count("remat") for model in (plain, again)]
    assert remats[0] == 0 < remats[1]


def test_pools():
    tokens = jnp.asarray(np.random.default_rng(0).standard_normal((2, 6, 3), np.float32))
    pooled = {name: np.asarray(pool(tokens, 2)) for name, pool in POOLS.items()}
    np.testing.assert_array_equal(pooled["token"], tokens[:, 0])
    np.testing.assert_allclose(pooled["avg"], np.mean(tokens[:, 2:], 1), rtol=1e-6)
    np.testing.assert_array_equal(pooled["max"], np.max(tokens[:, 2:], 1))
    np.testing.assert_allclose(pooled["avgmax"], (pooled["avg"] + pooled["max"]) / 2, rtol=1e-6)
    np.testing.assert_array_equal(pooled["token_avg"], np.concatenate([pooled["token"], pooled["avg"]], 1))


def test_names_of_torchvision_openmmlab_and_the_hub_are_aliases():
    for alias, name in {
        "vit_b_16": "vit_base_patch16_224",
        "vit_h_14": "vit_huge_patch14_224",
        "vit-large-p32": "vit_large_patch32_224",
        "deit-small": "deit_small_patch16_224",
        "deit-base-distilled": "deit_base_distilled_patch16_224",
        "deit3-huge-p14": "deit3_huge_patch14_224",
        "dinov2_vits14": "vit_small_patch14_dinov2",
    }.items():
        assert jv.create_model(alias, num_classes=3) == jv.create_model(name, num_classes=3)


def test_the_distilled_classifier_gives_the_mean_of_both_heads(unoptimized):
    model = DistilledClassifier(DistilledVisionTransformer(**TINY), 5, dropout=0.1)
    variables = fill(model, images())
    run = jax.jit(lambda v, x: (model.apply(v, {"image": x}), model.apply(v, x, method="both")))
    with strict():
        logits, (label, teacher) = run(variables, images())
    np.testing.assert_allclose(logits, (label + teacher) / 2, rtol=1e-6)
    assert not np.allclose(label, teacher)
    with pytest.raises(ValueError, match=r"takes out_levels=\('tokens',\), but its backbone has c4"):
        shapes(DistilledClassifier(VisionTransformer(**TINY), 5))


def test_a_file_on_a_grid_that_is_not_square_is_not_guessed():
    model = VisionTransformer(**TINY)
    resize = lambda n: model.resize("params/pos_embed", np.zeros((1, n, 16), np.float32), (1, 17, 16))  # noqa: E731
    assert resize(1 + 64).shape == (1, 17, 16)
    assert resize(1 + 15) is None and resize(1) is None
    assert model.resize("params/norm/scale", np.zeros((1, 65, 16)), (1, 17, 16)) is None


def test_errors_name_what_was_given():
    with pytest.raises(ValueError, match="pool='mean'; it knows token, avg"):
        VisionTransformer(pool="mean")
    with pytest.raises(ValueError, match="mlp='relu'; it knows gelu, swiglu"):
        VisionTransformer(mlp="relu")
    with pytest.raises(ValueError, match="image_size=225: no multiple of patch_size=16"):
        VisionTransformer(image_size=225)
    with pytest.raises(ValueError, match="heads=5, which does not divide width=768"):
        VisionTransformer(heads=5)
    with pytest.raises(ValueError, match="class_token=False with pool='token'"):
        VisionTransformer(class_token=False)
    with pytest.raises(ValueError, match="level 'block12' in out_levels: did you mean 'block2'"):
        VisionTransformer(out_levels=("block12",))
    with pytest.raises(ValueError, match="frozen_stages=13; it takes 0 to 12"):
        VisionTransformer(frozen_stages=13)
    with pytest.raises(ValueError, match=r"shape \(2, 30, 32, 3\); patches of 8 pixels take .* multiples of 8"):
        shapes(Classifier(VisionTransformer(**TINY, out_levels=("pooled",)), 5), (30, 32))
