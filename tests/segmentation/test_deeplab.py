"""DeepLab v1 and v2: sizes of their maps, the fusion of scales, the losses of each scale."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision import config as configs
from jaxvision.backbones.deeplab_vgg import DeepLabVGG
from jaxvision.ops.interpolate import interpolate
from jaxvision.segmentation.deeplab_v1 import DeepLabV1
from jaxvision.segmentation.deeplab_v2 import DeepLabV2
from tests.backbones.fill import fill
from tests.conftest import strict

VGG = DeepLabVGG(depth=11, width=2)


@pytest.mark.parametrize("side,expected", [(321, 41), (64, 8), (65, 9), (513, 65)])
def test_maps_have_the_published_sizes(side, expected):
    for model in (DeepLabV1(VGG, 3, width=4), DeepLabV2(VGG, 3, width=4, scales=(1.0,))):
        images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
        shape = jax.eval_shape(lambda x, m=model: m.init_with_output(jax.random.key(0), x)[0]["logits"], images)
        assert shape.shape == (1, expected, expected, 3)


def test_the_largest_logits_of_all_scales_count_and_each_scale_is_trained(unoptimized):
    model = DeepLabV2(VGG, 3, dilations=(1, 2), scales=(1.0, 0.5))
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(1, 33, 41, 3)), jnp.float32)
    variables = fill(model, images)
    batch = {"semantic": jnp.asarray(rng.integers(0, 3, (1, 33, 41)), jnp.uint8), "valid": jnp.ones(1, bool)}

    @jax.jit
    def run(variables):
        outputs = model.apply(variables, images, train=True, rngs={"dropout": jax.random.key(0)})
        one = model.clone(scales=(1.0,))
        half = interpolate(images, (17, 21), align_corners=True)
        return outputs, [one.apply(variables, x)["logits"] for x in (images, half)], model.loss(outputs, batch)

    with strict():
        outputs, (whole, half), terms = run(variables)
    expected = jnp.maximum(whole, interpolate(half, whole.shape[1:3], align_corners=True))
    np.testing.assert_allclose(outputs["logits"], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(outputs["auxiliary"][1], half, rtol=1e-5, atol=1e-5)
    assert set(terms) == {"cross_entropy", "auxiliary_cross_entropy", "auxiliary_1_cross_entropy"}


def test_wrong_fields_are_named():
    with pytest.raises(ValueError, match="scales"):
        DeepLabV2(VGG, 3, scales=(0.5, 1.0))
    with pytest.raises(ValueError, match="branch"):
        DeepLabV2(VGG, 3, dilations=())


@pytest.mark.parametrize(
    "name,steps,batch,rate,last",
    [
        ("deeplab_v1_vgg16_voc12aug", 6000, 20, 1e-3, (10.0, 20.0)),
        ("deeplab_v2_r101_voc12aug", 20_000, 10, 2.5e-4, (10.0, 20.0)),
    ],
)
def test_a_recipe_is_the_published_one(name, steps, batch, rate, last):
    config = configs.load(f"segmentation/{name}")
    schedule = config.schedule
    assert (schedule.steps, config.data.batch_size, schedule.learning_rate.value) == (steps, batch, rate)
    assert (schedule.optimizer.momentum, schedule.optimizer.weight_decay) == (0.9, 5e-4)
    assert tuple(rule["learning_rate"] for rule in schedule.rules) == last
    assert tuple(config.data.buckets) == ((321, 321),) and config.task.crf.iterations == 10
    assert configs.build("learning_rate", schedule.learning_rate)
