"""Completing a config: defaults, types, slots, alternatives, and one clear line for each mistake."""

import pytest
from ml_collections import config_dict

from jaxvision.config import (
    apply_overrides,
    blank,
    complete,
    notes,
    to_json,
    to_plain,
)
from tests.config.toys import completed, fails


def test_complete_writes_the_defaults_of_sections_and_constructors():
    config = completed()
    assert to_plain(config.schedule.optimizer)["name"] == "sgd"
    assert config.model.width == 4 and config.model.rate == 0.5 and config.model.part.size == 3
    assert config.data.batch_size == 128 and config.log.every_steps == 50 and config.precision == "float32"
    assert config.is_locked and config.model.is_locked


def test_complete_is_idempotent():
    config = completed()
    assert complete(config) == config and to_json(complete(config)) == to_json(config)


def test_a_section_replaced_by_a_partial_dict_is_filled_with_its_defaults():
    config = completed(data={"source": "digits", "batch_size": 7})
    assert config.data.batch_size == 7 and config.data.prefetch == 2 and config.data.image_size == (32, 32)


def test_sequences_become_tuples_and_integers_floats_where_floats_are_meant():
    config = completed(model={"name": "net", "sizes": [3, 4], "pair": [1, 2], "rate": 1}, data__image_size=[8, 8])
    assert config.model.sizes == (3, 4) and config.data.image_size == (8, 8)
    assert isinstance(config.model.rate, float) and isinstance(config.model.pair[1], float)


def test_none_is_a_typed_placeholder():
    config = completed()
    for owner, key, kind in (
        (config.schedule, "steps", int),
        (config.model, "limit", float),
        (config.log, "profile_steps", tuple),
    ):
        reference = owner._fields[key]
        assert isinstance(reference, config_dict.FieldReference) and reference.get_type() is kind and owner[key] is None


def test_a_slot_is_completed_and_takes_a_name_a_dict_or_a_name_with_its_first_argument():
    for spec in ("block:5", {"name": "block", "depth": 5}, {"name": "block:5"}):
        config = completed(model={"name": "net", "backbone": spec})
        backbone = to_plain(config.model.backbone)
        assert backbone["depth"] == 5 and backbone["keep"] == 1.0 and backbone["norm"]["name"] == "bn"
        assert "kind" not in backbone["norm"]  # stands for the name


def test_a_partial_dict_in_a_preset_slot_keeps_the_rest_of_the_preset():
    config = completed(model={"name": "deep_net", "backbone": {"keep": 0.5}})
    assert config.model.backbone.name == "block" and config.model.backbone.depth == 9


def test_another_constructor_in_a_preset_slot_takes_nothing_from_the_preset():
    config = completed(model={"name": "deep_net", "backbone": {"name": "open", "x": 1}})
    assert to_plain(config.model.backbone) == {"name": "open", "x": 1}


def test_a_tuple_of_slots_takes_names_and_dicts():
    config = completed(data__augment=["random_flip", {"name": "random_crop_pad", "padding": 2}])
    assert [element.name for element in config.data.augment] == ["random_flip", "random_crop_pad"]
    assert config.data.augment[1].padding == 2
    fails(
        r"data.augment .*: expected tuple of augment .*put it into a tuple",
        completed,
        data__augment={"name": "random_flip"},
    )


def test_the_later_one_of_two_alternatives_empties_the_other():
    config = completed()
    assert (config.schedule.epochs, config.schedule.steps) == (3, None)
    config.schedule.steps = 10
    config = complete(config)
    assert (config.schedule.epochs, config.schedule.steps) == (None, 10)
    config = completed(evaluation__every_steps=5)
    assert (config.evaluation.every_epochs, config.evaluation.every_steps) == (None, 5)


def test_two_alternatives_in_one_dict_are_an_error():
    schedule = {"epochs": 1, "steps": 2, "learning_rate": "constant:0.1"}
    fails(r"schedule: give epochs or steps, not both .*: epochs=1, steps=2", completed, schedule=schedule)


def test_a_reference_follows_what_it_refers_to():
    config = completed()
    config.checkpoint.max_to_keep = config.data.get_ref("prefetch") + 1
    config = apply_overrides(complete(config), [("data.prefetch", "7")])
    assert config.checkpoint.max_to_keep == 8


def test_changing_a_name_in_a_derived_config_replaces_the_defaults():
    config = completed(schedule__optimizer={"name": "sgd", "momentum": 0.9, "weight_decay": 0.25})
    config.schedule.optimizer.name = "adamw"
    config = complete(config)
    assert config.schedule.optimizer.b1 == 0.9 and config.schedule.optimizer.weight_decay == 0.25
    assert "momentum" not in config.schedule.optimizer
    assert len(notes(config)) == 1 and "drops momentum=0.9" in notes(config)[0]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (
            {"schedule__epoch": 3},
            r"^unknown key schedule.epoch \(tests/config/toys.py:\d+\): did you mean 'epochs'\?$",
        ),
        ({"shedule": {"epochs": 1}}, r"^unknown key shedule \(.*did you mean 'schedule'\?$"),
        (
            {"model": {"name": "net", "widht": 3}},
            r"^unknown key model.widht .*'net' does not take it; did you mean 'width'\?$",
        ),
        ({"model": "nett"}, r"^model \(tests/config/toys.py:\d+\): unknown model 'nett': did you mean 'net'\?$"),
        ({"model": {"width": 3}}, r"^model .*: a model needs a name, one of .*net"),
        ({"model": None}, r"^model .*expected model \(a name or a dict\), got None"),
        (
            {"schedule__epochs": "ten"},
            r"^schedule.epochs \(tests/config/toys.py:\d+\): expected int or None, got str 'ten'$",
        ),
        ({"schedule__epochs": 1.5}, r"^schedule.epochs .*expected int or None, got float 1.5$"),
        ({"schedule__epochs": True}, r"^schedule.epochs .*got bool True$"),
        ({"data__image_size": (1, 2, 3)}, r"^data.image_size .*expected \(int, int\), got tuple \(1, 2, 3\)$"),
        ({"data": 3}, r"^data .*expected dict of Data, got int 3$"),
        ({"seed": {"a": 1}}, r"^seed .*expected int, got dict"),
        (
            {"precision": "bfl16"},
            r"^precision .*expected one of 'float32', 'bf16', got str 'bfl16'; did you mean 'bf16'\?$",
        ),
        ({"model": {"name": "net", "act": len}}, r"^model.act .*expected one of 'relu', 'gelu', got builtin"),
        ({"model": {"name": "net", "extra": {"f": len}}}, r"^model.extra.f .*expected"),
        ({"model": {"name": "net", "part": {"sise": 1}}}, r"^unknown key model.part.sise .*did you mean 'size'"),
        (
            {"model": {"name": "net", "backbone": "block"}},
            r"^model.backbone.depth is required \(by block\): expected .*",
        ),
        ({"model": {"name": "net", "backbone": "block:x"}}, r"^model.backbone.depth .*expected int, got 'x'$"),
        (
            {"data__source": {"name": "digits", "split": "train"}},
            r"^data.source.split .*passed by the library; leave it out$",
        ),
        (
            {"model": {"name": "net", "width": 1, "backbone": "flatten:3"}},
            r"^model.backbone .*takes no argument, but ':3'",
        ),
        (
            {"model": {"name": "net", "norm": {"name": "bn", "kind": "gn"}}},
            r"^model.norm.kind .*what its name stands for",
        ),
        ({"schedule__rules": [{"patern": "x"}]}, r"^unknown key schedule.rules\[0\].patern .*did you mean 'pattern'"),
        ({"schedule__rules": ["x"]}, r"^schedule.rules\[0\] .*expected dict of Rule, got str 'x'$"),
        ({"schedule__early_stopping": {"patience": 1}}, r"^schedule.early_stopping.metric is required"),
        (
            {"schedule": {"learning_rate": "constant:0.1"}},
            r"^schedule: the length of the run is missing: give epochs or steps$",
        ),
        ({"data__batch_size": 0}, r"^data: batch_size is 0: expected at least 1$"),
        (
            {"schedule__early_stopping": {"metric": "top1", "patience": 0}},
            r"^schedule.early_stopping: patience is 0: expected at least 1 evaluation$",
        ),
        ({"log__profile_steps": (0, 3)}, r"^log: profile_steps is \(0, 3\): expected \(first step, number of steps\)"),
        ({"imports": "no_such_module_x"}, r"^imports .*expected tuple of str, got str"),
        (
            {"imports": ["no_such_module_x"]},
            r"^imports \(tests/.*\): no module named 'no_such_module_x' on sys.path: run from",
        ),
    ],
)
def test_a_mistake_in_a_config_is_one_clear_line(changes, match):
    fails(match, completed, **changes)


def test_what_is_missing_is_named():
    fails("^task is required: a name or dict.* of one of .*classification", complete, blank())


def test_a_locked_config_checks_every_assignment():
    config = completed()
    fails(r"^unknown key schedule.epoch \(tests.*did you mean 'epochs'", setattr, config.schedule, "epoch", 3)
    fails(r"^schedule.epochs \(tests.*expected int or None, got str 'x'$", setattr, config.schedule, "epochs", "x")
    config.schedule.epochs = 5
    config.schedule.epochs = None
    config.model.rate = 2
    assert config.schedule.epochs is None and config.model.rate == 2.0
    with pytest.raises(AttributeError, match=r"unknown key schedule\.epok: did you mean 'epochs'"):
        _ = config.schedule.epok


def test_a_failing_import_names_the_line_that_failed(tmp_path, monkeypatch):
    (tmp_path / "broken_extension.py").write_text("x = 1\n1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    fails(
        r"imports .*importing 'broken_extension' failed \(.*broken_extension.py:2\): ZeroDivisionError",
        completed,
        imports=["broken_extension"],
    )
