"""Objects made of configs."""

import copy

from jaxvision import registry
from jaxvision.config import (
    Schedule,
    build,
    section,
    to_plain,
)
from tests.config.toys import Job, Part, completed, fails, overridden


def test_build_makes_slots_structs_and_hashable_arguments():
    spec = completed(model={"name": "net", "norm": "gn", "extra": {"a": [1, {"b": 2}]}, "backbone": "block:3"}).model
    one, two = build("model", spec), build("model", to_plain(spec))
    assert one == two and hash(one.extra) == hash(two.extra) and one.extra["a"][0] == 1
    assert one.part == Part() and one.norm.kind == "gn" and one.backbone[:2] == ("block", 3)
    assert one.backbone[2].kind == "bn"


def test_build_passes_supplied_arguments_where_they_are_taken():
    assert build("task", "job", model="m", class_names=("a",)) == Job("m")
    fails(r"^task: task 'job' takes no modell; did you mean 'model'", build, "task", "job", modell="m")
    fails(r"^task: task 'job' needs model$", build, "task", "job")


def test_build_names_the_path_of_what_failed():
    def refuses(a: int = 1):
        raise ValueError("a must be even")

    registry.register("backbone", "refuses", refuses)
    config = completed(model={"name": "net", "backbone": "refuses"})
    fails(r"^model.backbone: backbone 'refuses' cannot be built: a must be even$", build, "model", config.model)
    fails(r"^unknown key data.source.nmu .*", build, "source", {"name": "synthetic", "nmu": 3}, path="data.source")


def test_a_section_is_a_hashable_dataclass():
    schedule = section(
        overridden("schedule.early_stopping.metric=top1", "schedule.rules=(dict(pattern='x'),)"), "schedule"
    )
    assert isinstance(schedule, Schedule) and schedule.epochs == 3 and schedule.optimizer["name"] == "sgd"
    assert hash(schedule) == hash(copy.deepcopy(schedule)) and schedule.rules[0]["weight_decay"] == 1.0
    fails("unknown section 'shedule': did you mean 'schedule'", section, completed(), "shedule")
