"""Class activation maps of transformers, of chosen layers and in pictures; convolutional ones are in `tests/parity`."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision import layers
from jaxvision.analysis.gradcam import _numbers, gradcam, on_grid
from jaxvision.analysis.split import split
from jaxvision.classification.classifier import Classifier
from jaxvision.classification.task import ClassificationTask
from jaxvision.errors import SetupError
from jaxvision.loading import Model
from jaxvision.visualization.heatmap import draw_heatmap, placed
from tests.conftest import strict
from tests.test_inference import some_images

SIZE = (16, 24)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        y = layers.LayerNorm(name="norm1")(x)
        weights = nn.softmax(jnp.einsum("bnc,bmc->bnm", layers.Dense(8, name="q")(y), layers.Dense(8, name="k")(y)))
        x = x + jnp.einsum("bnm,bmc->bnc", weights, y)
        return x + layers.Dense(8, name="mlp")(layers.LayerNorm(name="norm2")(x))


class Tokens(nn.Module):
    """A transformer of two blocks over 4 x 4 patches; its last layer sees the class token alone."""

    out_levels: tuple[str, ...] = ("pooled",)

    @nn.compact
    def __call__(self, images, *, train=False):
        x = layers.Conv(8, 4, 4, padding=0, name="patch_embed")(images)
        grid = x.shape[1:3]
        token = self.param("cls_token", nn.initializers.normal(1.0), (1, 1, 8))
        x = jnp.concatenate([jnp.tile(token, (len(x), 1, 1)), x.reshape(len(x), -1, 8)], axis=1)
        for i in range(2):
            x = Block(name=f"blocks_{i}")(x)
        levels = {"c2": x[:, 1:].reshape(len(x), *grid, 8), "pooled": x[:, 0]}
        return {name: levels[name] for name in levels if name in self.out_levels}

    def __post_init__(self):
        if set(self.out_levels) - {"c2", "pooled"}:
            raise ValueError(f"no such level: {self.out_levels}")
        super().__post_init__()


def transformer():
    network = Classifier(Tokens(), 5)
    variables = network.init(jax.random.key(0), jnp.zeros((1, *SIZE, 3)))
    task = ClassificationTask(network, class_names=tuple("abcde"))
    return Model(task, variables, SIZE, 3, lambda b, key: {**b, "image": b["image"].astype(jnp.float32) / 255.0})


def test_the_map_of_a_class_token_is_that_of_the_last_blocks_first_norm():
    model = transformer()
    with strict():
        infer = gradcam(model, batch_size=2)
        results = infer(some_images(3))
    assert results[0].json["layer"] == "backbone/blocks_1/norm1" and results[0].json["class"] in "abcde"
    params = model.variables["params"]
    block = params["backbone"]["blocks_1"]

    def from_norm(y, x):
        """The second block and the head, from the output of its `norm1`."""
        q, k = (layers.Dense(8).apply({"params": block[name]}, y) for name in ("q", "k"))
        x = x + jnp.einsum("bnm,bmc->bnc", nn.softmax(jnp.einsum("bnc,bmc->bnm", q, k)), y)
        z = layers.LayerNorm().apply({"params": block["norm2"]}, x)
        x = x + layers.Dense(8).apply({"params": block["mlp"]}, z)
        return layers.Dense(5).apply({"params": params["head"]}, x[:, 0])

    for image, result in zip(some_images(3), results, strict=True):
        resized = infer.batch([image])["image"][:1].astype(np.float32) / 255
        own = Tokens().apply({"params": params["backbone"]}, resized, capture_intermediates=True)[1]["intermediates"]
        x, y = own["blocks_0"]["__call__"][0], own["blocks_1"]["norm1"]["__call__"][0]
        gradient = jax.grad(lambda y, x=x, label=result.prediction["label"]: from_norm(y, x)[0, label])(y)
        expected = nn.relu((y[:, 1:] * gradient[:, 1:].mean(1, keepdims=True)).sum(-1)).reshape(4, 6)
        np.testing.assert_allclose(result.prediction["map"], expected, rtol=1e-4, atol=1e-6)
        assert result.prediction["heat"].shape == SIZE and result.prediction["heat"].max() == pytest.approx(1, abs=0.2)


def test_a_layer_that_no_gradient_reaches_and_other_mistakes_are_told():
    model = transformer()
    with pytest.raises(SetupError, match="the network's output does not depend on the layer"):
        gradcam(model, layer="c2")
    told = gradcam(model).model.task.to_json({}, {"gradient": np.float32(0), "label": 1, "score": np.float32(1)})
    assert told["silent"] and told["class"] == "b"
    with pytest.raises(SetupError, match="did you mean 'gradcam"):
        gradcam(model, method="gradcma")
    with pytest.raises(SetupError, match=r"target is class 7: the model has the classes 0 .. 4"):
        gradcam(model, target=7)
    with pytest.raises(SetupError, match="expected maps"):
        gradcam(model, layer="head")


def test_blocks_are_ordered_by_number():
    paths = [f"backbone/blocks_{i}/norm1" for i in (0, 1, 10, 11, 9)]
    assert sorted(paths, key=_numbers)[-1] == "backbone/blocks_11/norm1"


def test_tokens_lie_on_the_grid_of_square_patches():
    assert on_grid(jnp.zeros((2, 197, 3)), (224, 224)).shape == (2, 14, 14, 3)
    assert on_grid(jnp.zeros((2, 201, 3)), (224, 224)).shape == (2, 14, 14, 3)
    assert on_grid(jnp.zeros((1, 49, 3)), (224, 224)).shape == (1, 7, 7, 3)
    x = jnp.arange(25.0)[None, :, None]
    np.testing.assert_array_equal(on_grid(x, (16, 24))[0, :, :, 0], np.arange(1, 25).reshape(4, 6))


def test_a_computation_is_cut_at_a_value():
    def function(w, x):
        y = jax.nn.relu(x @ w)
        return jnp.sum(y**3 + y * x[0, 0], axis=1), y

    w, x = jnp.eye(3) + 0.1, jnp.arange(6.0).reshape(2, 3)
    middle, tail = split(function, w, x)
    np.testing.assert_allclose(tail(middle), function(w, x)[0])
    np.testing.assert_allclose(jax.grad(lambda y: tail(y).sum())(middle), 3 * middle**2 + x[0, 0], rtol=1e-6)
    with pytest.raises(SetupError, match="does not depend"):
        split(lambda x: (x * 2, x + 1), x)
    with pytest.raises(SetupError, match="computes nothing"):
        split(lambda x: (x * 2, x), x)


def test_heat_lies_on_the_part_of_the_image_that_the_canvas_shows():
    heat = np.zeros((4, 4), np.float32)
    heat[:, 2:] = 1
    # The canvas is the middle half of an image of 8 x 16: 2 pixels each, from column 4 on.
    to_original = np.array([[2.0, 0, 4], [0, 2.0, 0], [0, 0, 1]])
    found = placed(heat, (8, 16), (8, 16), to_original)
    np.testing.assert_allclose(found[:, 9:11], 1, atol=1e-5)
    assert (found[:, :7] == 0).all() and (found[:, 12:] == 0).all() and (found[:, 11] == 1).all()
    assert (placed(np.ones((3, 3)), (6, 9), (12, 18)) == 1).all()
    picture = draw_heatmap(np.zeros((8, 16, 3), np.uint8), heat, title="a")
    assert picture.shape[1] > 2 * 256 and picture.dtype == np.uint8
