"""Values from the command line, and the tiny form of a config."""

import pytest

from jaxvision.config import (
    apply_overrides,
    complete,
    notes,
    origins,
    split_overrides,
    to_plain,
    types,
)
from tests.config.toys import completed, fails, overridden, written


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        ("schedule.epochs=12", 12),
        ("model.rate=1e-3", 1e-3),
        ("model.rate=2", 2.0),
        ("model.flag=true", True),
        ("model.flag=0", False),
        ("model.act=gelu", "gelu"),
        ("model.note=a b=c", "a b=c"),
        ("model.note='None'", "None"),
        ("model.note=None", None),
        ("model.limit=3", 3.0),
        ("model.sizes=(4,5,6)", (4, 5, 6)),
        ("model.sizes=4,5", (4, 5)),
        ("model.sizes=[4]", (4,)),
        ("model.sizes=4", (4,)),
        ("model.sizes=()", ()),
        ("model.pair=(3, 4)", (3, 4.0)),
        ("model.part.size=8", 8),
        ("schedule.freeze=backbone/conv1/.*,head", ("backbone/conv1/.*", "head")),
        ("log.profile_steps=(2,3)", (2, 3)),
        ("parallel.map=jit", "jit"),
    ],
)
def test_an_override_is_read_by_the_type_of_its_value(pair, expected):
    path = pair.partition("=")[0]
    config = overridden(pair)
    value = config
    for key in path.split("."):
        value = value[key]
    assert value == expected and type(value) is type(expected)
    assert origins(config)[path] == "command line"


@pytest.mark.parametrize(
    ("pairs", "match"),
    [
        (["schedule.epochs=ten"], r"^--config.schedule.epochs=ten: expected int or None, got 'ten'$"),
        (["schedule.epochs=1.5"], r"^--config.schedule.epochs=1.5: expected int or None, got '1.5'$"),
        (["model.flag=maybe"], r"^--config.model.flag=maybe: expected bool, got 'maybe'$"),
        (["model.sizes=1,x"], r"^--config.model.sizes=1,x: expected tuple of int, got '1,x'$"),
        (["model.act=rely"], r"expected one of 'relu', 'gelu', got 'rely'; did you mean 'relu'\?$"),
        (["schedule.epoch=1"], r"^unknown key schedule.epoch \(command line\): did you mean 'epochs'\?$"),
        (["shedule.epochs=1"], r"^unknown key shedule .*did you mean 'schedule'\?$"),
        (["seed.x=1"], r"^--config.seed.x: seed is int 0 and has no keys$"),
        (
            ["schedule=3"],
            r"^--config.schedule=3: schedule holds several values \(epochs, .*give one of them, or a dict$",
        ),
        (
            ["schedule.optimizer=adanw"],
            r"^schedule.optimizer \(command line\): unknown optimizer 'adanw': did you mean 'ada",
        ),
        (["schedule.optimizer=dict(name="], r"^--config.schedule.optimizer=dict\(name=: expected a dict"),
        (
            ["schedule.optimizer=adamw", "schedule.optimizer.momentum=0.9"],
            r"^unknown key schedule.optimizer.momentum \(command",
        ),
        (
            ["schedule.optimizer={'name': 'adamw', 'momentum': 1}"],
            r"^unknown key schedule.optimizer.momentum \(command line\)",
        ),
        (["data.augment[0].padding=1"], r"data.augment has 0 elements, counted from 0$"),
        (["imports=no_such_module_x"], r"^imports \(command line\): no module named 'no_such_module_x'"),
    ],
)
def test_a_mistaken_override_is_one_clear_line(pairs, match):
    fails(match, overridden, *pairs)


@pytest.mark.parametrize("key", ["schedule.optimizer", "schedule.optimizer.name"])
def test_another_name_brings_its_defaults_and_keeps_what_it_knows(key):
    config = overridden(f"{key}=adamw", schedule__optimizer={"name": "sgd", "momentum": 0.9, "weight_decay": 0.25})
    optimizer = to_plain(config.schedule.optimizer)
    assert optimizer["name"] == "adamw" and optimizer["weight_decay"] == 0.25 and "momentum" not in optimizer
    assert origins(config)["schedule.optimizer.b1"] == "default of adamw"
    assert "schedule.optimizer.name=adamw (command line) drops momentum=0.9 (tests/config/toys.py" in notes(config)[0]


def test_the_order_of_overrides_does_not_matter():
    pairs = ("schedule.optimizer.b2=0.95", "schedule.optimizer=adamw")
    one, two = overridden(*pairs), overridden(*reversed(pairs))
    assert to_plain(one) == to_plain(two) and one.schedule.optimizer.b2 == 0.95


def test_the_last_of_two_overrides_of_one_key_wins():
    assert overridden("seed=1", "seed=2").seed == 2


def test_a_dict_replaces_a_slot_and_a_section():
    config = overridden("schedule.optimizer=dict(name='sgd', nesterov=True)", schedule__optimizer={"momentum": 0.9})
    assert config.schedule.optimizer.nesterov and config.schedule.optimizer.momentum != 0.9
    config = overridden("evaluation={'every_steps': 4}")
    assert (config.evaluation.every_steps, config.evaluation.every_epochs) == (4, None)


def test_slots_and_structs_that_are_none_can_be_filled():
    config = overridden(
        "model.backbone=block:3", "schedule.early_stopping.metric=top1", "pretrained.backbone=timm:resnet50"
    )
    assert config.model.backbone.depth == 3 and config.model.backbone.keep == 1.0
    assert to_plain(config.schedule.early_stopping) == {
        "metric": "top1",
        "mode": "max",
        "patience": 10,
        "min_delta": 0.0,
    }
    assert to_plain(config.pretrained) == {"backbone": "timm:resnet50"}
    assert overridden("schedule.early_stopping=dict(metric='x', patience=2)").schedule.early_stopping.patience == 2
    config = apply_overrides(config, [("model.backbone", "None"), ("schedule.early_stopping", "None")])
    assert config.model.backbone is None and config.schedule.early_stopping is None


def test_tuples_of_slots_are_replaced_by_names_and_changed_by_index():
    config = overridden("data.augment=random_flip,random_crop_pad")
    assert [element.name for element in config.data.augment] == ["random_flip", "random_crop_pad"]
    config = apply_overrides(config, [("data.augment[1].padding", "2")])
    assert config.data.augment[1].padding == 2
    config = apply_overrides(config, [("data.augment", "(dict(name='random_crop_pad', padding=1),)")])
    assert config.data.augment[0].padding == 1
    config = overridden("schedule.rules=(dict(pattern='head/.*', learning_rate=2),)")
    assert to_plain(config.schedule.rules) == ({"pattern": "head/.*", "learning_rate": 2.0, "weight_decay": 1.0},)


def test_steps_on_the_command_line_replace_epochs():
    config = overridden("schedule.steps=9")
    assert (config.schedule.epochs, config.schedule.steps) == (None, 9)


def test_overrides_leave_the_config_they_start_from_alone():
    config = completed()
    apply_overrides(config, [("seed", "5"), ("model.width", "9")])
    assert config.seed == 0 and config.model.width == 4


def test_overrides_are_split_from_other_arguments():
    rest, overrides = split_overrides(["--config", "a.py", "--config.a.b=1=2", "--config.c", "-1", "--mode=print"])
    assert rest == ["--config", "a.py", "--mode=print"] and overrides == [("a.b", "1=2"), ("c", "-1")]
    for argv in (["--config.a"], ["--config.a", "--mode"]):
        fails("--config.a needs a value: --config.a=VALUE", split_overrides, argv)


def test_literals_execute_nothing():
    for text in ("__import__('os').system('x')", "open('x')", "a.b", "[x for x in y]", "dict(**a)(1)"):
        with pytest.raises((ValueError, SyntaxError)):
            types.literal(text)


def smoked(*pairs, **changes):
    config = written(**changes)
    object.__setattr__(config, "_arg", "smoke")
    return apply_overrides(complete(config), [tuple(pair.split("=", 1)) for pair in pairs])


def test_smoke_is_tiny_and_says_so():
    config = smoked(model={"name": "net", "backbone": "block:3"}, data__image_size=(224, 16), schedule__warmup=3.0)
    assert config.data.source.name == "synthetic" and config.data.source.num_examples == 20
    assert config.data.image_size == (64, 16) and config.data.batch_size == 16
    assert (config.schedule.steps, config.schedule.epochs, config.schedule.warmup) == (2, None, 0.0)
    assert config.model.width == 1 and config.model.backbone.keep == 0.5 and config.model.backbone.depth == 3
    assert config.log.every_steps == 1
    assert origins(config)["data.batch_size"] == "smoke" and origins(config)["model.width"] == "smoke"


def test_the_command_line_wins_over_smoke():
    config = smoked("data.source=digits", "schedule.steps=5", "model.width=3", "data.batch_size=16")
    assert config.data.source.name == "digits" and config.schedule.steps == 5
    assert config.model.width == 3 and config.data.batch_size == 16
    assert smoked("schedule.epochs=1").schedule.epochs == 1


def test_another_model_on_the_command_line_is_tiny_too():
    config = smoked("model=resnet50", "model.num_classes=10", model={"name": "deep_net"})
    assert (config.model.name, config.model.backbone.width) == ("resnet50", 8) and notes(config) == ()
