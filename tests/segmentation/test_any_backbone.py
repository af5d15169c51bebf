"""Any backbone with any head: shapes alone, nothing is compiled, and a backbone is traced once for all heads.

By default each family meets every fourth head, and each head three families; the slow stage has all pairs.
"""

import jax
import jax.numpy as jnp
import pytest

from jaxvision import registry
from jaxvision.config import build
from tests.conftest import strict

SIZE = (64, 96)
CLASSES = 5
KEY = jax.random.key(0)
FAMILIES = {
    "resnet": "resnet18",
    "hrnet": "hrnet_w18",
    "mobile": "mobilenetv2_100",
    "efficient": "efficientnet_b0",
    "swin": "swin_tiny_patch4_window7_224",
    "convnext": "convnext_tiny",
    "mit": "mit_b0",
    "vgg": "vgg11_bn",
    "regnet": "regnetx_002",
    "dense": "densenet121",
    "shuffle": "shufflenet_v2_x1_0",
    "dark": "darknet53",
}
"""Family -> one of its sizes, taken in its tiny form."""
SMALL = {"width": 8, "auxiliary": {"width": 8, "level": "c4"}}
HEADS = {
    "fcn": SMALL,
    "pspnet": SMALL,
    "deeplabv3": SMALL,
    "deeplabv3plus": {**SMALL, "low_width": 4},
    "upernet": SMALL,
    "segformer": {"width": 8},
    "lraspp": {"width": 8, "early_levels": ("c2", "c3"), "branches": (4, 4), "pooling": (5, 2, 2)},
    "ocrnet": {"width": 8, "key_width": 4},
    "deeplab_v2": {"scales": (1.0,)},
    "unet": {"decoder_channels": (8, 8, 4, 4, 4)},
    "linknet": {"width": 8},
    "fpn": {"pyramid_channels": 8, "branch_channels": 8, "branch_norm": {"groups": 4}},
    "smp/deeplabv3plus": {"width": 8, "low_width": 4},
}
"""Row -> fields of its narrow form."""


TURNS = 4


def backbone_of(family):
    """Its fields in the tiny form with the levels c2 to c5, itself, and its levels of two images."""
    name = FAMILIES[family]
    row = registry.lookup("backbone", name)
    fields = {"name": name, **row.smoke, "out_levels": ("c2", "c3", "c4", "c5")}
    module = build("backbone", fields)
    images = jax.ShapeDtypeStruct((2, *SIZE, 3), jnp.float32)
    levels = jax.eval_shape(lambda x: module.init_with_output(KEY, x, train=False)[0], images)
    return fields, module, images, levels


def pairs():
    for i, family in enumerate(FAMILIES):
        yield pytest.param(family, tuple(HEADS)[i % TURNS :: TURNS], id=family)
        yield pytest.param(family, tuple(HEADS), id=f"{family}-all", marks=pytest.mark.slow)


@pytest.mark.parametrize(("family", "heads"), list(pairs()))
def test_every_head_takes_its_levels(family, heads):
    fields, module, images, levels = backbone_of(family)
    assert {name: level.shape[-1] for name, level in levels.items()} == dict(module.channels)
    for head in heads:
        model = build("model", {"name": head, "num_classes": CLASSES, **HEADS[head], "backbone": fields})

        def both(images, levels, model=model):
            return model.init_with_output(KEY, images, levels, train=True, method="heads")[0]

        with strict():
            logits, auxiliary = jax.eval_shape(both, images, levels)
        stride = SIZE[0] // logits.shape[1]
        assert logits.shape == (2, SIZE[0] // stride, SIZE[1] // stride, CLASSES), head
        assert len(auxiliary) == len(model.auxiliary_weights), head
