"""Every row imports and fits its constructor; names and targets that do not are told clearly."""

import dataclasses
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import jaxvision
from jaxvision import backbones, registry
from jaxvision.config import schema


@pytest.fixture
def rows():
    """The tables, restored after the test."""
    before, aliases = dict(registry.table._ROWS), dict(registry.table._ALIASES)
    yield registry
    registry.table._ROWS.clear()
    registry.table._ROWS.update(before)
    registry.table._ALIASES.clear()
    registry.table._ALIASES.update(aliases)


def toy(a: int = 1, b: float = 2.0):
    return a, b


def other_toy(a: int = 1):
    return a


@pytest.mark.parametrize("entry", registry.entries(), ids=lambda entry: f"{entry.kind}-{entry.name}")
def test_every_row_imports_and_its_constructor_accepts_what_the_row_says(entry):
    signature = schema.parameters(entry.load())
    given = {*entry.preset, *entry.fixed, *entry.smoke} - {"name"}
    assert signature.open or given <= set(signature.fields)
    for name, field in schema.constructor(entry).fields.items():
        if field.default is not schema.REQUIRED:
            assert schema.default_tree(field, entry.name) is not None, name
    if "name" in entry.smoke:
        registry.lookup(entry.kind, entry.smoke["name"])


def test_an_unknown_name_is_answered_with_the_nearest_one():
    with pytest.raises(registry.RegistryError, match=r"^unknown model 'resnet5O': did you mean 'resnet50'\?$"):
        registry.lookup("model", "resnet5O")


def test_an_unknown_name_that_resembles_nothing_lists_what_there_is():
    with pytest.raises(registry.RegistryError, match="expected one of bn, frozen_bn, gn, ln, sync_bn"):
        registry.lookup("norm", "zzzz")


def test_an_unknown_kind_is_answered_with_the_nearest_one():
    with pytest.raises(registry.RegistryError, match="unknown kind 'modle': did you mean 'model'"):
        registry.names("modle")


def test_the_same_name_for_another_target_is_an_error_and_the_same_row_twice_is_not(rows):
    rows.register("model", "toy", toy, a=3)
    rows.register("model", "toy", toy, a=3)
    assert dict(rows.lookup("model", "toy").preset) == {"a": 3}
    with pytest.raises(
        registry.RegistryError, match=r"model 'toy' is registered already, as .*:toy: register .*:other_toy"
    ):
        rows.register("model", "toy", other_toy)
    with pytest.raises(registry.RegistryError, match="registered already"):
        rows.register("model", "toy", toy, a=4)


def test_a_target_that_cannot_be_imported_names_the_row_and_the_cause(rows):
    rows.register("model", "lost", "no_such_package.models:Net")
    rows.register("model", "renamed", "jaxvision.registry:Nothing")
    with pytest.raises(
        registry.RegistryError, match=r"model 'lost' \(no_such_package.models:Net\) cannot be imported: ModuleN"
    ):
        rows.lookup("model", "lost").load()
    with pytest.raises(registry.RegistryError, match=r"model 'renamed' .*Nothing"):
        rows.lookup("model", "renamed").load()


def test_names_are_sorted_and_filtered_by_a_shell_pattern():
    assert registry.names("model", "resnet??") == ("resnet18", "resnet26", "resnet34", "resnet50")
    assert set(jaxvision.list_models()) >= {"linear", "lenet5", "resnet50"}


@pytest.mark.parametrize("module", sorted(path.stem for path in Path(backbones.__path__[0]).glob("*.py")))
def test_every_size_of_a_family_is_registered_as_backbone_and_as_model(module):
    sizes = getattr(importlib.import_module(f"jaxvision.backbones.{module}"), "SIZES", {})
    target = f"jaxvision.backbones.{module}:"
    rows = {e.name: e for e in registry.entries() if e.kind == "backbone" and e.address.startswith(target)}
    assert {name for name, row in rows.items() if row.preset or name in sizes} == set(sizes)
    for name, fields in sizes.items():
        assert dict(rows[name].preset) == fields
        backbone = {"name": name}
        known = ({"backbone": backbone}, {"backbone": backbone | {"out_levels": ("pooled",)}})
        assert registry.lookup("model", name).preset in known


def test_an_alias_stands_for_a_row_and_is_not_listed(rows):
    assert registry.lookup("model", "resnetv1d50") is registry.lookup("model", "resnet50d")
    assert jaxvision.create_model("resnetv1d50", num_classes=3) == jaxvision.create_model("resnet50d", num_classes=3)
    assert "resnetv1d50" not in jaxvision.list_models()
    with pytest.raises(registry.RegistryError, match="did you mean 'resnetv1d101'"):
        registry.lookup("model", "resnetv1d_101")
    with pytest.raises(registry.RegistryError, match="unknown model 'nothing'"):
        rows.register_alias("model", "other", "nothing")
    with pytest.raises(registry.RegistryError, match="'resnet18' is registered already: it cannot stand for"):
        rows.register_alias("model", "resnet18", "resnet50")
    with pytest.raises(registry.RegistryError, match="'resnetv1d50' stands for 'resnet50d' already"):
        rows.register("model", "resnetv1d50", toy)


def test_create_model_builds_a_hashable_module_with_parts_replaced_by_name():
    one, two = (jaxvision.create_model("resnet18", num_classes=7, backbone={"norm": "gn"}) for _ in range(2))
    assert (one, hash(one)) == (two, hash(two))
    assert (one.num_classes, one.backbone.depth, one.backbone.norm.kind) == (7, 18, "gn")


def test_create_model_tells_a_misspelt_argument():
    with pytest.raises(
        ValueError, match=r"unknown key model.num_clases.* 'lenet5' does not take it; did you mean 'num_classes'"
    ):
        jaxvision.create_model("lenet5", num_clases=7)


def test_importing_the_package_is_light():
    code = """
import sys, jaxvision, jaxvision.registry, jaxvision.config
jaxvision.list_models("*")
print([name for name in ("jax", "flax", "optax", "tensorflow", "matplotlib") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_attribute_of_the_package_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        jaxvision.nothing  # noqa: B018


def test_entries_say_where_their_constructor_lives(rows):
    rows.register("model", "toy", toy)
    assert rows.lookup("model", "toy").address.endswith("test_registry:toy")
    assert dataclasses.is_dataclass(rows.lookup("model", "toy"))
