"""Every registered detector: none is left out, and each has as many parameters as its reference."""

import jax
import jax.numpy as jnp
import pytest

from jaxvision import config, registry

NORMS = 53_120
"""Torchvision's frozen norms of ResNet-50 have buffers in place of parameters."""
BOX, MASK = 4 * 1025, 257
"""What torchvision's two-stage detectors have for the background."""
CONVOLUTIONS, CLASSIFIER = 18_916_480, 125_740_008 - 1000 * 4097 + 81 * 4097
"""OverFeat's accurate model (table 3: 144 million parameters), its classifier here with 81 classes."""
REGRESSOR = 25 * 1024 * 4096 + 4096 + 4097 * 1024 + 1025 * 4

COUNTS = {
    "atss": (80, 32_295_322),
    "cascade_mask_rcnn": (80, 69_394_766 + 3 * 2_643_280),
    "cascade_rcnn": (80, 69_394_766),
    "deformable_detr": (80, 40_118_934),
    "detr": (80, 41_575_061),
    "fast_rcnn": (80, 41_753_056 - 593_935),
    "faster_rcnn": (80, 41_753_056),
    "faster_rcnn_c4": (80, 33_844_764),
    "faster_rcnn_dc5": (80, 165_634_588),
    "fcos": (80, 32_295_322),
    "huggingface/deformable_detr": (91, 40_118_934 + 4 * 256 + 11 * 257),
    "localizer": (80, 23_508_032 + 2049 * 80 + (9 * 2048 + 1) * 256 + 257 * 4),
    "mask_rcnn": (80, 44_396_336),
    "mask_rcnn_c4": (80, 35_962_732),
    "overfeat": (80, CONVOLUTIONS + CLASSIFIER + REGRESSOR),
    "panoptic_fpn": (133, 46_027_110),
    "retinanet": (80, 37_968_692),
    "rpn": (80, 27_446_351),
    "rpn_c4": (80, 18_058_379),
    "sliding_window": (80, 11_176_512 + 513 * 81),
    "ssd300": (80, 34_305_206),
    "ssd512": (80, 36_038_196),
    "torchvision/faster_rcnn": (90, 41_755_286 + NORMS - BOX),
    "torchvision/fcos": (91, 32_269_600 + NORMS),
    "torchvision/mask_rcnn": (90, 44_401_393 + NORMS - BOX - MASK),
    "torchvision/retinanet": (91, 34_014_999 + NORMS),
    "torchvision/ssd300": (90, 35_641_826),
    "yolov3": (80, 61_949_149),
    **{
        f"yolox_{size}": (80, count)
        for size, count in {
            "nano": 912_159,
            "tiny": 5_055_855,
            "s": 8_968_255,
            "m": 25_326_495,
            "l": 54_208_895,
            "x": 99_071_455,
        }.items()
    },
}
"""Classes without a background, and parameters as the reference counts them."""


SIDE = 300
"""Pixels of images that no detector finds too small."""


def test_no_detector_is_left_out():
    ours = {name for name in registry.names("model") if is_detector(name)}
    assert set(COUNTS) == ours


def is_detector(name):
    return registry.lookup("model", name).address.startswith("jaxvision.detection.")


@pytest.mark.parametrize("name", sorted(COUNTS))
def test_number_of_parameters(name):
    classes, expected = COUNTS[name]
    model, again = (config.build("model", {"name": name, "num_classes": classes}) for _ in range(2))
    assert model == again and hash(model) == hash(again)
    images = jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), jnp.float32)
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), images)
    assert sum(x.size for x in jax.tree.leaves(shapes["params"])) == expected
