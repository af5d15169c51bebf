"""Every registered segmenter: none is left out, and each has as many parameters as its reference."""

import jax
import jax.numpy as jnp
import pytest

from jaxvision import config, registry

KEY = jax.random.key(0, impl="rbg")
VGG, CLASSIFIER, REDUCED = 14_714_688, 102_764_544 + 16_781_312, 4_719_616 + 1_049_600
"""VGG-16's convolutions, the hidden layers of its classifier, and those of DeepLab's."""
SCORES, STEP = 4097 * 21, 16 * 21**2
"""FCN's last scores, and an enlargement by two."""

COUNTS = {
    "deeplab_v1": (21, VGG + REDUCED + 1025 * 21),
    "deeplab_v2": (21, 44_549_160 - 2049 * 1000 + 4 * (9 * 2048 + 1) * 21),
    "deeplab_v2_vgg16": (21, VGG + 4 * (REDUCED + 1025 * 21)),
    "deeplabv3": (19, 68_113_030),
    "deeplabv3plus": (19, 43_589_878),
    "fcn": (19, 49_497_734),
    "fcn16s": (21, VGG + CLASSIFIER + SCORES + 513 * 21 + STEP + 32**2 * 21**2),
    "fcn32s": (21, VGG + CLASSIFIER + SCORES + 64**2 * 21**2),
    "fcn8s": (21, VGG + CLASSIFIER + SCORES + (513 + 257) * 21 + 2 * STEP + 16**2 * 21**2),
    "fpn": (21, 23_157_973),
    "huggingface/segformer": (150, 3_752_694),
    "linknet": (21, 21_772_597),
    "lraspp": (19, 3_284_547),
    "manet": (21, 31_786_533),
    "ocrnet": (19, 12_080_036),
    "openmmlab/unet": (2, 29_060_676),
    "pan": (21, 21_481_596),
    "pspnet": (19, 48_975_494),
    "segformer": (19, 3_720_051),
    "smp/deeplabv3": (21, 26_012_245),
    "smp/deeplabv3plus": (21, 22_442_597),
    "smp/pspnet": (21, 1_593_397),  # theirs has the two further stages of its encoder, too
    "torchvision/deeplabv3": (21, 42_004_074),
    "torchvision/deeplabv3_mobilenet_v3_large": (21, 11_029_328),
    "torchvision/deeplabv3_resnet101": (21, 60_996_202),
    "torchvision/fcn": (21, 35_322_218),
    "torchvision/fcn_resnet101": (21, 54_314_346),
    "torchvision/lraspp": (21, 3_221_538),
    "unet": (21, 24_439_269),
    "unetplusplus": (21, 26_081_509),
    "upernet": (150, 66_516_108),
}
"""Classes, and parameters as the reference counts them, auxiliary heads included."""
STRIDES = {"deeplabv3": 8, "deeplabv3plus": 4, "upernet": 4, "segformer": 4, "lraspp": 2, "torchvision/lraspp": 8}
"""Of the logits, where an early level decides on it."""
SIDE = 128
"""Pixels of images that no segmenter finds too small."""
SMALLEST = 400_000
"""Parameters that a tiny form stays below."""


def ours():
    names = registry.names("model")
    return {name for name in names if registry.lookup("model", name).address.startswith("jaxvision.segmentation.")}


def test_no_segmenter_is_left_out():
    assert set(COUNTS) == ours()


@pytest.mark.parametrize("name", sorted(COUNTS))
def test_number_of_parameters_and_stride_of_logits(name):
    classes, expected = COUNTS[name]
    model, again = (config.build("model", {"name": name, "num_classes": classes}) for _ in range(2))
    assert model == again and hash(model) == hash(again)
    images = jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), jnp.float32)
    said, variables = jax.eval_shape(lambda x: model.init_with_output(KEY, x), images)
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) == expected
    side = SIDE // STRIDES[name] if name in STRIDES else said["logits"].shape[1]
    assert said["logits"].shape == (1, side, side, classes)


def tiny(name):
    """The model of the smoke form."""
    tree = config.complete(
        {
            "task": "semantic_segmentation",
            "model": {"name": name, "num_classes": 11},
            "data": {"source": {"name": "digit_scenes", "annotations": ("semantic",)}, "channels": 3},
            "schedule": {"epochs": 1, "optimizer": "sgd", "learning_rate": {"name": "constant", "value": 0.1}},
        }
    )
    object.__setattr__(tree, "_arg", "smoke")
    return config.build("model", config.complete(tree).model)


@pytest.mark.parametrize("name", sorted(COUNTS))
def test_its_tiny_form_is_tiny_and_its_helpers_speak_in_training_alone(name):
    model = tiny(name)
    images = jax.ShapeDtypeStruct((2, SIDE, SIDE, 3), jnp.bfloat16)

    def both(images):
        variables = model.init(KEY, images)
        learned = model.apply(variables, images, train=True, mutable=["batch_stats"], rngs={"dropout": KEY})[0]
        return variables, learned, model.apply(variables, images)

    variables, learned, said = jax.eval_shape(both, images)
    leaves = jax.tree.leaves(variables["params"])
    assert sum(x.size for x in leaves) < SMALLEST and {x.dtype for x in leaves} == {jnp.dtype("float32")}
    assert learned["logits"].shape == said["logits"].shape and said["logits"].shape[-1] == 11
    assert said["logits"].dtype == jnp.bfloat16 and SIDE % said["logits"].shape[1] == 0
    assert said["auxiliary"] == () and len(learned["auxiliary"]) == len(model.auxiliary_weights)
