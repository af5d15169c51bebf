"""Where values came from, and configs as JSON."""

import copy
import json
import pickle
import sys

import pytest
from ml_collections import config_dict

from jaxvision.config import (
    apply_overrides,
    complete,
    complete_saved,
    config_hash,
    describe,
    from_json,
    origins,
    to_json,
)
from tests.config.toys import completed, fails, overridden


def test_each_value_knows_where_it_came_from():
    config = overridden("seed=3")
    where = origins(config)
    assert where["seed"] == "command line"
    assert where["model.width"] == "default of net" and where["model.norm" if "model.norm" in where else "model.rate"]
    assert where["data.prefetch"] == "default of data" and where["precision"] == "default of jaxvision"
    assert where["schedule.epochs"].startswith("tests/config/toys.py:")


def test_describe_aligns_values_and_origins():
    lines = describe(overridden("seed=3")).splitlines()
    assert lines[0] == "task" and any(
        line.startswith("seed = 3 ") and line.endswith("# command line") for line in lines
    )
    assert len({line.index("  # ") for line in lines if "  # " in line}) == 1


def test_json_round_trip_is_exact():
    config = overridden(
        "data.augment=random_flip,random_crop_pad",
        "model.extra={'a': {'b': (1, 2.5)}, 'c': None}",
        "schedule.early_stopping.metric=top1",
        "model.backbone=block:3",
        "schedule.rules=(dict(pattern='x'),)",
        "imports=json",
        data__image_size=(9, 8),
    )
    again = from_json(to_json(config))
    assert again == config and to_json(again) == to_json(config) and config_hash(again) == config_hash(config)
    assert again.is_locked and again.data.image_size == (9, 8) and again.model.extra.a.b == (1, 2.5)
    assert isinstance(again.schedule._fields["steps"], config_dict.FieldReference)
    assert origins(again) == origins(config)
    fails("^schedule.epochs .*expected int or None", setattr, again.schedule, "epochs", "x")


def test_a_saved_config_can_be_overridden_and_completed():
    config = overridden("seed=3", data__augment=["random_flip"], model={"name": "net", "extra": {}})
    saved = from_json(to_json(config))
    assert complete(saved) == saved == config
    again = apply_overrides(saved, [("schedule.optimizer", "adamw"), ("data.batch_size", "4")])
    assert again.schedule.optimizer.name == "adamw" and again.data.batch_size == 4 and again.seed == 3
    assert again.data.augment == config.data.augment and again.model.extra == config.model.extra


def test_a_saved_config_keeps_its_values_where_a_default_has_changed_since():
    document = json.loads(to_json(overridden("seed=3", data__augment=["random_flip"])))
    assert document["origins"]["data.prefetch"].startswith("default")
    document["config"]["data"]["prefetch"] = 7
    del document["config"]["evaluation"]["tta"], document["config"]["data"]["repeats"]
    again = complete_saved(from_json(json.dumps(document)))
    assert (again.data.prefetch, again.seed, again.data.repeats, again.evaluation.tta) == (7, 3, 1, None)
    assert origins(again)["data.prefetch"] == document["origins"]["data.prefetch"]
    document["config"]["data"]["unheard_of"] = 1
    fails("unknown key data.unheard_of", complete_saved, from_json(json.dumps(document)))


def test_reading_json_imports_nothing(tmp_path, monkeypatch):
    (tmp_path / "side_effect_module.py").write_text("import json\n")
    monkeypatch.syspath_prepend(tmp_path)
    text = to_json(completed(imports=["side_effect_module"]))
    sys.modules.pop("side_effect_module")
    assert from_json(text).imports == ("side_effect_module",) and "side_effect_module" not in sys.modules


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", '{"format": 99}', '{"format": 1, "config": 3, "origins": {}, "types": {}}']
)
def test_text_that_is_no_saved_config_is_refused(text):
    fails("saved config", from_json, text)


def test_the_hash_depends_on_values_alone():
    assert config_hash(overridden("seed=0")) == config_hash(completed())
    assert config_hash(overridden("seed=1")) != config_hash(completed())
    assert len(config_hash(completed())) == 12


def test_configs_copy_and_pickle():
    config = overridden("data.augment=random_flip")
    for again in (copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert again == config and to_json(again) == to_json(config)
