"""Features of any layer: the same preparation as prediction, every kind of source, one compilation, clear errors."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxvision as jv
from jaxvision.backbones.resnet import ResNet
from jaxvision.classification.classifier import Classifier
from jaxvision.errors import SetupError
from jaxvision.features import FeatureExtractor, outputs
from jaxvision.inference import Inferencer
from tests.conftest import strict
from tests.test_inference import scores_of, some_images, write_image, write_run

SMALL = ResNet(depth=14, width=8, stem="cifar", out_levels=("c2", "c3"))


@pytest.fixture(scope="module")
def small():
    model = Classifier(SMALL, 5)
    return model, jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))


def test_pooled_features_of_a_run_give_its_predictions(tmp_path):
    write_run(tmp_path / "run", name="lenet5_digits:smoke")
    images = some_images(5)
    extract = jv.FeatureExtractor(tmp_path / "run", batch_size=2)
    features = extract(images)
    assert features.shape == (5, 84) and features.dtype == np.float32
    head = extract.model.variables["params"]["head"]
    logits = features @ np.asarray(head["kernel"]) + np.asarray(head["bias"])
    expected = scores_of(Inferencer(tmp_path / "run")(images))
    np.testing.assert_allclose(jax.nn.softmax(logits), expected, atol=1e-5)
    file = write_image(tmp_path / "a.png", 90)
    assert extract(file).shape == (84,) and extract(tmp_path).shape == (1, 84)
    assert extract.about.startswith("pooled of LeNet5 at 32x32 (step 2 of ")


@pytest.mark.parametrize(
    ("layer", "shape"),
    [("pooled", (64,)), ("c1", (16, 16, 8)), ("c3", (8, 8, 64)), ("backbone/layer1_0", (16, 16, 32)), ("head", (5,))],
)
def test_every_layer_of_a_classifier_is_that_of_a_plain_pass(small, layer, shape):
    model, variables = small
    image = some_images(1)[0]
    found = FeatureExtractor(model, variables=variables, image_size=(16, 16), layer=layer)(image)
    assert found.shape == shape


def test_layers_equal_those_of_the_backbone(small):
    model, variables = small
    x = jax.random.normal(jax.random.key(1), (2, 16, 16, 3))
    own = {name: value["backbone"] for name, value in variables.items() if "backbone" in value}
    with strict():
        logits, found = outputs(model, variables, x, ("c2", "c3", "backbone/layer1_0", "pooled"))
        levels = SMALL.apply(own, x, train=False)
    np.testing.assert_allclose(found["c2"], levels["c2"], atol=1e-6)
    np.testing.assert_allclose(found["c3"], levels["c3"], atol=1e-6)
    np.testing.assert_allclose(found["backbone/layer1_0"], levels["c2"], atol=1e-6)
    np.testing.assert_allclose(found["pooled"], levels["c3"].mean((1, 2)), atol=1e-6)
    np.testing.assert_allclose(logits, model.apply(variables, x), atol=1e-6)
    _, bare = outputs(SMALL, own, x, ("c3", "pooled", "layer1_0"))
    np.testing.assert_allclose(bare["pooled"], levels["c3"].mean((1, 2)), atol=1e-6)


def test_a_bare_backbone_and_a_frozen_checkpointed_one_give_the_same(small):
    _, variables = small
    own = {name: value["backbone"] for name, value in variables.items() if "backbone" in value}
    image = some_images(1)[0]
    options = {"variables": own, "image_size": (16, 16)}
    plain = FeatureExtractor(SMALL, **options)(image)
    held = FeatureExtractor(SMALL.clone(frozen_stages=1, remat=True), **options)(image)
    assert plain.shape == (64,)
    np.testing.assert_allclose(held, plain, atol=1e-6)


def test_what_is_missing_is_named(small):
    model, variables = small
    options = {"variables": variables, "image_size": (16, 16)}
    with pytest.raises(SetupError, match="no layer 'c9' that returns an array: "):
        FeatureExtractor(model, layer="c9", **options)
    with pytest.raises(SetupError, match="did you mean 'backbone/layer1_0'"):
        FeatureExtractor(model, layer="backbone/layer1_O", **options)
    with pytest.raises(SetupError, match="without its variables"):
        FeatureExtractor(model)
    with pytest.raises(SetupError, match="neither `features` nor a backbone"):
        dense = nn.Dense(3)
        FeatureExtractor(_Flat(dense), variables={"params": {}}, image_size=(4, 4))


class _Flat(nn.Module):
    """A model that is no classifier."""

    inner: nn.Module

    def __call__(self, x, train=False):
        return x.sum((1, 2))
