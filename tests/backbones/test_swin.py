"""Windows, tables and options of both Swin Transformers."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.backbones.swin import SwinTransformer, from_unfold, to_unfold
from jaxvision.backbones.swin_v2 import SwinTransformerV2
from jaxvision.layers import windows
from jaxvision.pretrained import keymaps
from jaxvision.trees import flatten
from tests.backbones.fill import fill
from tests.conftest import strict

KEY = jax.random.key(0, impl="rbg")
TINY = {"width": 8, "depths": (2, 1, 1, 1), "heads": (1, 2, 2, 4), "window_size": (4, 4, 2, 2)}
BOTH = [SwinTransformer(**TINY), SwinTransformerV2(**TINY)]
EVERY = ("c2", "c3", "c4", "c5", "pooled")


def images(n=2, height=32, width=32):
    return jnp.asarray(np.random.default_rng(0).standard_normal((n, height, width, 3), np.float32))


@pytest.mark.parametrize("model", BOTH, ids=["v1", "v2"])
@pytest.mark.parametrize(("height", "width"), [(64, 96), (61, 35)])
def test_levels_have_the_promised_channels_and_strides_at_any_image_size(model, height, width):
    model = model.clone(out_levels=EVERY, level_norms=True)
    x = jax.ShapeDtypeStruct((2, height, width, 3), jnp.float32)
    with strict():
        levels = jax.eval_shape(lambda x: model.init_with_output(KEY, x, train=False), x)[0]
    assert list(levels) == list(model.channels) == list(model.strides) == list(EVERY)
    assert levels.pop("pooled").shape == (2, 64)
    for level, y in levels.items():
        stride = model.strides[level]
        assert y.shape == (2, -(-height // stride), -(-width // stride), model.channels[level])


@pytest.mark.parametrize("model", BOTH, ids=["v1", "v2"])
def test_no_parameter_depends_on_the_image_size(model):
    shapes = [jax.eval_shape(lambda x: model.init(KEY, x, train=False), images(1, s, s)) for s in (64, 36)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("model", BOTH, ids=["v1", "v2"])
def test_stages_and_norms_that_no_level_needs_are_not_built(model):
    def parts(**fields):
        return set(jax.eval_shape(lambda x: model.clone(**fields).init(KEY, x, train=False), images())["params"])

    stem = {"patch_embed", "layers_0", "layers_1"}
    assert parts(out_levels=("c3",)) == stem
    assert parts(out_levels=("c2", "c3"), level_norms=True) == stem | {"norm0", "norm1"}
    assert parts(out_levels=("pooled",)) == stem | {"layers_2", "layers_3", "norm"}
    assert parts(out_levels=("c4", "c5"), level_norms=True) == stem | {"layers_2", "layers_3", "norm2", "norm"}


@pytest.mark.parametrize("model", BOTH, ids=["v1", "v2"])
def test_frozen_stages_pass_no_gradient_and_are_named_by_frozen_paths(model, unoptimized):
    x = images()
    model = model.clone(frozen_stages=2, out_levels=EVERY)
    params = fill(model, x, train=False)["params"]

    def loss(params):
        return sum(jnp.mean(jnp.square(y)) for y in model.apply({"params": params}, x, train=True).values())

    for path, gradient in flatten(jax.jit(jax.grad(loss))(params)).items():
        named = any(re.fullmatch(pattern, path) for pattern in model.frozen_paths)
        assert named == (not np.any(gradient)) == path.startswith(("patch_embed", "layers_0", "layers_1")), path


@pytest.mark.parametrize("model", BOTH, ids=["v1", "v2"])
def test_recomputed_blocks_have_the_same_names_levels_and_gradients(model, unoptimized):
    x = images()
    plain = model.clone(out_levels=("c3",), drop_path_rate=0.5)
    params = fill(plain, x, train=False)["params"]

    def run(model):
        def loss(params):
            levels = model.apply({"params": params}, x, train=True, rngs={"dropout": KEY})
            return jnp.mean(jnp.square(levels["c3"]))

        return jax.value_and_grad(loss)

    remat = plain.clone(remat=True)
    both = jax.jit(lambda p: (run(plain)(p), run(remat)(p)))(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), *both)
    assert "remat" in str(jax.make_jaxpr(run(remat))(params))
    assert "remat" not in str(jax.make_jaxpr(run(plain))(params))


def test_a_fresh_second_version_has_finite_gradients_where_windows_are_padded(unoptimized):
    model, x = BOTH[1].clone(out_levels=("c3",)), images(1, 36, 36)
    params = jax.jit(lambda: model.init(jax.random.key(0), x, train=False))()["params"]

    def loss(params):
        return jnp.mean(jnp.square(model.apply({"params": params}, x, train=True)["c3"]))

    assert all(np.isfinite(g).all() for g in jax.tree.leaves(jax.jit(jax.grad(loss))(params)))


def test_a_window_sees_its_own_tokens_and_a_shifted_one_only_neighbours():
    """Attention that spreads each token over those it sees: a token reaches its window, or its part of one."""

    def spread(shifted, place):
        x = jnp.zeros((1, 8, 12, 1)).at[(0, *place, 0)].set(1)

        def attention(tokens, apart):
            if apart is None:
                return jnp.broadcast_to(tokens.sum(1, keepdims=True), tokens.shape)
            return jnp.einsum("wnm,wmc->wnc", (~apart).astype(jnp.float32), tokens)

        return np.asarray(windows.attend_in_windows(x, 4, shifted, attention))[0, :, :, 0]

    def box(top, bottom, left, right):
        expected = np.zeros((8, 12))
        expected[top:bottom, left:right] = 1
        return expected

    np.testing.assert_array_equal(spread(False, (1, 5)), box(0, 4, 4, 8))
    np.testing.assert_array_equal(spread(True, (3, 5)), box(2, 6, 2, 6))
    np.testing.assert_array_equal(spread(True, (0, 0)), box(0, 2, 0, 2))
    np.testing.assert_array_equal(spread(True, (7, 11)), box(6, 8, 10, 12))
    np.testing.assert_array_equal(spread(True, (7, 5)), box(6, 8, 2, 6))


def test_a_single_window_is_not_shifted():
    seen = []
    for height, width in ((3, 4), (4, 8)):
        attention = lambda tokens, apart: seen.append(apart) or tokens  # noqa: E731
        x = images(1, height, width)
        np.testing.assert_array_equal(windows.attend_in_windows(x, 4, True, attention), x)
    assert seen[0] is None and seen[1].shape == (2, 16, 16)
    assert not seen[1][0].any() and seen[1][1].any()


def test_relative_positions_are_query_minus_key_row_by_row():
    index = windows.relative_position_index(3)
    for query in range(9):
        for key in range(9):
            down, right = query // 3 - key // 3 + 2, query % 3 - key % 3 + 2
            assert index[query, key] == 5 * down + right
    table = jnp.arange(50.0).reshape(25, 2)
    np.testing.assert_array_equal(windows.pairwise_bias(table, 3)[1], np.asarray(table)[index, 1])


def test_log_spaced_positions_are_odd_and_end_at_log2_of_nine():
    positions = windows.log_spaced_positions(8, 8)
    assert positions.shape == (225, 2) and positions.dtype == np.float32
    np.testing.assert_allclose(positions, -positions[::-1])
    np.testing.assert_allclose(positions[0], -np.log2(9) / 3, rtol=1e-6)
    assert np.abs(windows.log_spaced_positions(16, 8)).max() > np.log2(9) / 3


def test_the_order_of_unfold_and_back():
    # Channel c, row r and column k of a 2x2 neighbourhood: number 4 c + 2 r + k there, (2 k + r) * channels + c here.
    theirs = np.array([100 * c + 10 * r + k for c in range(3) for r in range(2) for k in range(2)])
    ours = np.array([100 * c + 10 * r + k for k in range(2) for r in range(2) for c in range(3)])
    np.testing.assert_array_equal(from_unfold(theirs), ours)
    np.testing.assert_array_equal(to_unfold(ours), theirs)


SOURCES = [(i, source) for i, model in enumerate(BOTH) for source in keymaps.family_of(model).keys]


@pytest.mark.parametrize(("model", "source"), SOURCES)
def test_every_source_gives_back_what_was_written(model, source):
    model = BOTH[model]
    family = keymaps.family_of(model)
    flat = {
        path.replace("/", "/backbone/", 1): np.asarray(v)
        for path, v in flatten(fill(model, images(), train=False)).items()
    }
    rules = keymaps.rules_for(family, source)
    written = keymaps.to_state_dict(flat, rules)
    values = keymaps.fit(written, flat, rules).check(source)
    for name, value in flat.items():
        np.testing.assert_array_equal(values[name], value, err_msg=name)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"window_size": 7}, "window_size=7"),
        ({"depths": (2, 2)}, "four stages"),
        ({"heads": (3, 6, 12, 25)}, "25 heads"),
        ({"out_levels": ("c1",)}, "c1"),
    ],
)
def test_bad_fields_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        SwinTransformer(**fields)
    with pytest.raises(ValueError, match="pretrained_window_size"):
        SwinTransformerV2(pretrained_window_size=12)
