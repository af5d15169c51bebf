"""Names of published weights of detectors, see `pretrained/keymaps.py`: a detector's own, and those of its backbone.

A backbone that stands in a detector is also filled from the file of a classifier, whose names its own family knows.
"""

import sys
from collections.abc import Mapping
from typing import Any

from jaxvision.pretrained.keymaps import Rules


def with_backbone(backbone: Any, own: Mapping[str, Rules]) -> dict[str, Rules]:
    """The tables of a detector, and as "source/backbone" those of its backbone; files tell which one fits.

    From the file of a classifier, too, comes a stage of the backbone that is run on regions (`shared_head`).
    """
    module = sys.modules[type(backbone).__module__]
    inner = module.keys(backbone) if hasattr(module, "keys") else getattr(module, "KEYS", {})
    beside = {}
    for name, rules in inner.items():
        source, _, variant = name.partition("/")
        beside["/".join(filter(None, (source, "backbone", variant)))] = ((r"^shared_head\.", "backbone."), *rules)
    return {**own, **beside}


def fpn_keys(neck: Any) -> dict[str, Rules]:
    """Names of an FPN in torchvision's published files ("torchvision"), its module and OpenMMLab's files; of a PAFPN in
    the latter.

    The prefix "backbone." of the backbone itself is torchvision's business here, too: its detectors call the network
    "backbone.body".
    """
    lateral = len(neck.in_levels)
    extra = range(2)
    torchvision: Rules = (
        (r"^backbone\.", "backbone.body."),
        *((rf"^neck\.extra_blocks\.{i}\.", f"backbone.fpn.extra_blocks.p{6 + i}.") for i in extra),
    )
    return {
        "openmmlab": (
            (r"^neck\.inner_blocks\.(\d)\.", r"neck.lateral_convs.\1.conv."),
            (r"^neck\.layer_blocks\.(\d)\.", r"neck.fpn_convs.\1.conv."),
            *((rf"^neck\.extra_blocks\.{i}\.", f"neck.fpn_convs.{lateral + i}.conv.") for i in extra),
            (r"^neck\.(downsample|pafpn)_convs\.(\d)\.", r"neck.\1_convs.\2.conv."),
        ),
        "torchvision": (*torchvision, (r"^neck\.(inner|layer)_blocks\.", r"backbone.fpn.\1_blocks.")),
        "torchvision/module": (
            *torchvision,
            (r"^neck\.(inner|layer)_blocks\.(\d)\.", r"backbone.fpn.\1_blocks.\2.0."),
        ),
    }
