"""Every registered size against its reference: nothing left out without a reason, exact names and shapes, and levels
and logits of the smallest size of each structure (`zoo_errors.py` measured all others once)."""

import functools
import json
import re

import pytest
import torch

import jaxvision as jv
from jaxvision import registry
from jaxvision.pretrained import keymaps
from tests.parity import zoo, zoo_errors

pytestmark = pytest.mark.parity

REFERENCES = zoo.references()
COUNTS = json.loads(zoo_errors.COUNTS.read_text())
FAMILIES, EXCLUDED = zoo.gather("FAMILIES"), zoo.gather("EXCLUDED")
TORCHVISION = "|".join(module.TORCHVISION for module in zoo.MODULES if hasattr(module, "TORCHVISION"))
SMALLEST = [name for module in zoo.MODULES for name in getattr(module, "SMALLEST", ())]


def unexplained(names, ours, excluded):
    """Names that are neither ours nor excluded, or both; and patterns that exclude nothing."""
    wrong = [name for name in names if (name in ours) == any(re.fullmatch(pattern, name) for pattern in excluded)]
    return wrong + [pattern for pattern in excluded if not any(re.fullmatch(pattern, name) for name in names)]


@pytest.mark.parametrize("module", FAMILIES)
def test_every_model_of_timm_is_registered_or_excluded_with_a_reason(module):
    ours = {name for name, reference in REFERENCES.items() if reference.family in FAMILIES[module]}
    assert not unexplained(zoo.timm.list_models(module=module), ours, EXCLUDED.get(module, {}))


def test_every_model_of_torchvision_is_registered_or_excluded_with_a_reason():
    theirs = [name for name in zoo.torchvision.models.list_models() if re.fullmatch(TORCHVISION, name)]
    ours = {name for name in theirs if is_registered(name)}
    assert theirs and not unexplained(theirs, ours, EXCLUDED.get("torchvision", {}))


def is_registered(name):
    try:
        return bool(registry.lookup("model", name))
    except registry.RegistryError:
        return False


def test_every_size_has_a_reference():
    plain = {"linear", "lenet5", "multi_head"}  # LeNet-5 has a file of its own
    # Their parity is that of their own folders.
    folders = (".detection.", ".segmentation.")
    others = {name for name in jv.list_models() if any(f in registry.lookup("model", name).address for f in folders)}
    assert {zoo.our_name(name) for name in REFERENCES} == {*jv.list_models()} - plain - others


@functools.cache
def state_dict(name):
    with torch.device("meta"):
        return zoo.abstract(REFERENCES[name].make().state_dict())


@pytest.mark.parametrize("name", REFERENCES)
def test_names_shapes_and_counts_are_those_of_the_reference(name):
    model = jv.create_model(zoo.our_name(name), num_classes=1000)
    ours = zoo.shapes(model, REFERENCES[name])
    family = keymaps.family_of(model)
    rules = keymaps.rules_for(family, REFERENCES[name].source)
    keymaps.fit(state_dict(name), ours, rules, ignored=family.ignored).check(name)
    assert COUNTS[zoo.our_name(name)] == sum(leaf.size for path, leaf in ours.items() if path.startswith("params/"))


@pytest.mark.parametrize("name", SMALLEST)
def test_levels_and_logits_equal_the_reference(name):
    errors = zoo.errors(name)
    print({output: f"{error:.1e}" for output, error in errors.items()})
    assert zoo.agree(name, errors), errors


def test_the_table_of_errors_holds_every_size_and_all_agree():
    table = json.loads(zoo_errors.TABLE.read_text())
    assert set(table) == set(REFERENCES), "run tests/parity/zoo_errors.py"
    assert all(row["agrees"] for row in table.values())
