"""Every registered size against its reference: nothing left out without a reason, exact names and shapes, and levels
and logits of the smallest size of each structure (`zoo_errors.py` measured all others once)."""

import functools
import json
import re

import jax
import jax.numpy as jnp
import pytest
import torch

import jaxvision as jv
from jaxvision.trees import flatten
from tests.parity import zoo, zoo_errors

pytestmark = pytest.mark.parity

REFERENCES = zoo.references()
COUNTS = json.loads(zoo_errors.COUNTS.read_text())

FAMILIES = {"resnet": ("resnet", "senet"), "senet": ("senet",), "resnest": ("resnest",)}
"""Module of timm -> our families that hold its models."""

TORCHVISION = r"(resnet|resnext|wide_resnet)\d+(_\d+x\d+d|_2)?"
"""torchvision's names of classifiers of these families."""


@pytest.mark.parametrize("module", FAMILIES)
def test_every_model_of_timm_is_registered_or_excluded_with_a_reason(module):
    excluded = zoo.EXCLUDED.get(module, {})
    ours = {name for name, reference in REFERENCES.items() if reference.family in FAMILIES[module]}
    theirs = zoo.timm.list_models(module=module)
    for name in theirs:
        reasons = [reason for pattern, reason in excluded.items() if re.fullmatch(pattern, name)]
        assert (name in ours) != bool(reasons), name
    unused = [pattern for pattern in excluded if not any(re.fullmatch(pattern, name) for name in theirs)]
    assert not unused, "these exclude nothing"


def test_every_model_of_torchvision_is_registered():
    theirs = {name for name in zoo.torchvision.models.list_models() if re.fullmatch(TORCHVISION, name)}
    assert theirs and theirs <= set(jv.list_models())


@functools.cache
def meta_state_dict(name):
    with torch.device("meta"):
        return REFERENCES[name].make().state_dict()


@pytest.mark.parametrize("name", REFERENCES)
def test_names_shapes_and_counts_are_those_of_the_reference(name):
    theirs = zoo.shape_tree(REFERENCES[name], meta_state_dict(name))
    model = jv.create_model(name, num_classes=1000)
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    ours = flatten(jax.eval_shape(lambda x: model.init(jax.random.key(0), x), images))
    assert {path: leaf.shape for path, leaf in ours.items()} == theirs
    assert COUNTS[name] == sum(leaf.size for path, leaf in ours.items() if path.startswith("params/"))


@pytest.mark.parametrize("name", sorted({*REFERENCES} & {*zoo.torchvision.models.list_models()}))
def test_torchvision_has_the_same_names_and_shapes(name):
    with torch.device("meta"):
        theirs = zoo.torchvision.models.get_model(name, weights=None).state_dict()
    assert {k: v.shape for k, v in theirs.items()} == {k: v.shape for k, v in meta_state_dict(name).items()}


SMALLEST = (
    *("resnet10t", "resnet14t", "resnet18d", "resnet26", "resnet18_cifar", "resnet50c", "resnet50s", "resnet50_caffe"),
    *("resnet50_gn", "wide_resnet50_2", "resnext50_32x4d", "resnext50d_32x4d"),
    *("seresnet18", "seresnet50t", "seresnext26d_32x4d", "legacy_seresnet18", "legacy_seresnet50"),
    *("legacy_seresnext26_32x4d", "resnest14d", "resnest50d_4s2x40d", "resnest50d_1s4x24d"),
)
"""The smallest size of each structural variant; the SENets are too large and follow in shallow forms."""


@pytest.mark.parametrize("name", SMALLEST)
def test_levels_and_logits_equal_the_reference(name):
    errors = zoo.errors(name)
    print({output: f"{error:.1e}" for output, error in errors.items()})
    assert max(errors.values()) <= zoo.TOLERANCE, errors


def test_the_table_of_errors_holds_every_size_and_all_agree():
    table = json.loads(zoo_errors.TABLE.read_text())
    assert set(table) == set(REFERENCES), "run tests/parity/zoo_errors.py"
    assert all(row["agrees"] for row in table.values())
