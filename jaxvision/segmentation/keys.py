"""Names of published weights of segmenters, see `pretrained/keymaps.py`: a segmenter's own, and its backbone's.

OpenMMLab's, segmentation-models' and transformers' segmenters name their backbone as classifiers of that source do;
torchvision's keep it apart ("backbone."). A backbone in a segmenter is also filled from the file of a classifier.
"""

import sys
from collections.abc import Mapping
from typing import Any

from jaxvision.pretrained.keymaps import Rules

APART = ("torchvision",)
"""Sources whose segmenters have other names of the backbone than classifiers."""


def with_backbone(backbone: Any, own: Mapping[str, Rules]) -> dict[str, Rules]:
    """The tables of a segmenter: `own` by source, each joined to every table that the backbone has of that source.

    And as "source/backbone" the tables of the backbone alone; files tell which one fits.

    Args:
      own: of the names beside the backbone's; "source/variant" where a source has several.
    """
    module = sys.modules[type(backbone).__module__]
    inner = module.keys(backbone) if hasattr(module, "keys") else getattr(module, "KEYS", {})
    tables: dict[str, Rules] = {}
    for name, rules in own.items():
        source, _, variant = name.partition("/")
        parts = [(other, of) for other, of in inner.items() if other.partition("/")[0] == source]
        if source in APART or not parts:
            tables[name] = rules
            continue
        for other, of in parts:
            form = other.partition("/")[2]
            tables["/".join(filter(None, (source, variant, form)))] = (*of, *rules)
    for name, rules in inner.items():
        source, _, form = name.partition("/")
        tables["/".join(filter(None, (source, "backbone", form)))] = rules
    return tables


def torchvision_heads(*own: tuple[str, str]) -> Rules:
    """Of torchvision's segmenters: FCN heads are sequences, and so is the main one after `own` rules."""
    return (
        *own,
        (r"^(decode|auxiliary)_head\.convs\.0\.conv\.", r"\1_head.0."),
        (r"^(decode|auxiliary)_head\.convs\.0\.bn\.", r"\1_head.1."),
        (r"^(decode|auxiliary)_head\.conv_seg\.", r"\1_head.4."),
        (r"^decode_head\.", "classifier."),
        (r"^auxiliary_head\.", "aux_classifier."),
    )


def torchvision_sequence(backbone: Any) -> Rules:
    """Names of a backbone that is a sequence of "features" in torchvision's classifiers and has no name but "backbone"
    in its segmenters (MobileNets); none for the others, whose parts keep their names.
    """
    module = sys.modules[type(backbone).__module__]
    inner = module.keys(backbone).get("torchvision", ()) if hasattr(module, "keys") else ()
    if not any(len(rule) == 2 and rule[1].startswith("features.") for rule in inner):
        return ()
    return (*inner, (r"^features\.", "backbone."))
