"""The one pass over the evaluation data: what is handed out, the worst, parts, changed images, commands."""

import dataclasses
import json
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments import analyze as command
from jaxvision.analysis import cost, views
from jaxvision.analysis.examined import Examined, Part, Seen, examine, part
from jaxvision.analysis.robustness import robustness
from jaxvision.analysis.trained import told, worst
from jaxvision.data.loader import Loader
from jaxvision.data.sources.memory import InMemory
from jaxvision.engine.analysis import Analysis, Findings, ImageScore, Settings, plain, table
from jaxvision.engine.parallel import make_parallel
from jaxvision.engine.task import Task
from jaxvision.errors import SetupError
from jaxvision.loading import Model
from tests.test_inference import write_run


@dataclasses.dataclass(frozen=True)
class Brightness(Task):
    """Predicts the mean pixel; its metric is the mean over all images."""

    ranked: bool = True

    def predict(self, variables, batch, ctx, carry=None):
        return {"mean": jnp.mean(batch["image"].astype(jnp.float32), axis=(1, 2, 3))}, carry

    def metrics(self):
        return {"brightness": Mean()}

    def draw(self, sample, prediction):
        return np.repeat(np.asarray(sample["image"])[..., :1], 3, axis=-1)

    def analyses(self, settings):
        def conclude(results, kept):
            return Findings([f"{settings.iou:g}"], {"kept": kept, "mean": results["brightness"]})

        return {"errors": Analysis(conclude, lambda sample, found: float(found["mean"]) - sample["image"].mean())}

    @property
    def image_score(self):
        return ImageScore("mean pixel", lambda sample, found: float(found["mean"])) if self.ranked else None


@dataclasses.dataclass(frozen=True)
class Mean:
    def update(self, predictions, batch):
        return {
            "sum": jnp.sum(jnp.where(batch["valid"], predictions["mean"], 0.0)),
            "count": jnp.sum(batch["valid"].astype(jnp.float32)),
        }

    def compute(self, state):
        return {"brightness": float(state["sum"] / state["count"])}


def looked_at(count=11, batch_size=8, **fields):
    values = np.arange(count, dtype=np.uint8) * 7 % 60
    images = np.broadcast_to(values[:, None, None], (count, 8, 8)).copy()
    source = InMemory(images, np.zeros(count, int), ("a", "b"), name="greys", image_size=(8, 8), channels=1)
    model = Model(Brightness(**fields), {"params": {"w": np.zeros(1, np.float32)}}, (8, 8), 1, lambda b, key: b)
    return Examined(model, Loader(source, batch_size), make_parallel(), None), values


def test_every_sample_is_looked_at_once_in_the_order_of_the_data():
    examined, values = looked_at()
    seen = []
    results = examined.run(lambda row, prediction: seen.append((row, float(prediction["mean"]))))
    assert sorted(seen) == [(i, float(v)) for i, v in enumerate(values)]
    assert results["brightness"] == pytest.approx(values.mean())
    found = told(examined, "errors", Settings(iou=0.7))
    assert found.json["kept"] == [0.0] * 11 and found.lines[-1] == "0.7"
    with pytest.raises(SetupError, match="Brightness has no view 'confusion'; it has errors"):
        told(examined, "confusion", Settings())


def test_the_worst_come_first_and_all_are_listed():
    examined, values = looked_at()
    found = worst(examined, 3)
    order = np.argsort(values, kind="stable")
    assert [row["row"] for row in found.json["worst"]] == order.tolist()
    assert found.json["score"] == "mean pixel" and found.json["images"] == 11
    rows = [line.split() for line in found.lines[-3:]]
    assert [int(row[-2]) for row in rows] == order[:3].tolist() and found.pictures["worst.png"].shape[2] == 3
    with pytest.raises(SetupError, match="no score of single images"):
        worst(looked_at(ranked=False)[0])


def test_parts_and_changed_images_keep_their_rows():
    examined, values = looked_at()
    some = part(examined.source, 4)
    assert isinstance(some, Part) and len(some) == 4 and some.class_names == ("a", "b")
    few = dataclasses.replace(examined, loader=dataclasses.replace(examined.loader, source=some))
    found = told(few, "errors", Settings())
    assert found.json["kept"] == [0.0] * 4 and found.json["mean"] == pytest.approx(values[list(some.rows)].mean())
    rows = []

    def brighter(image, row):
        rows.append(row)
        return image + np.uint8(100)

    assert few.run(change=brighter)["brightness"] == pytest.approx(values[list(some.rows)].mean() + 100)
    assert set(rows) == set(range(4))
    seen = Seen(SimpleNamespace(sample=lambda row: {"image": np.zeros((2, 2, 1), np.uint8), "label": row}), brighter)
    assert seen.sample(1)["label"] == 1 and (seen.sample(1)["image"] == 100).all()
    assert not hasattr(seen, "gather") and seen.sample(0)["image"].shape == (2, 2, 1)
    with pytest.raises(SetupError, match="at least 1"):
        part(examined.source, 0)


def test_robustness_tells_the_metric_by_corruption_and_severity():
    examined, values = looked_at()
    found = robustness(examined, only=("brightness",))
    told_ = found.json["corruptions"]
    assert found.json["clean"] == pytest.approx(values.mean()) and found.json["metric"] == "brightness"
    added = np.array(told_["brightness"]["severities"]) - values.mean()
    np.testing.assert_allclose(added, [25.5, 51, 76.5, 102, 127.5], atol=0.6)
    assert found.json["mean"] == pytest.approx(np.mean([own["severities"] for own in told_.values()]))
    assert {"robustness.png", "corruptions.png"} == set(found.pictures)
    assert found.lines[1].split()[-2:] == ["of", "clean"] and len(found.lines) == 4
    for wrong, message in ((("fogg",), "did you mean 'fog'"), (("frost",), "unknown corruption")):
        with pytest.raises(SetupError, match=message):
            robustness(examined, only=wrong)
    with pytest.raises(SetupError, match="unknown metric 'top1'"):
        robustness(examined, "top1", ("fog",))


def test_views_of_a_run_from_the_command_line(tmp_path, capsys):
    write_run(tmp_path / "run")
    for view, options in (("errors", ()), ("worst", ("--count", 2)), ("classes", ("--count", 16))):
        arguments = [tmp_path / "run", "--view", view, "--output", tmp_path / "out", *options]
        assert command.main([str(argument) for argument in arguments]) == 0
        assert json.loads((tmp_path / "out" / f"{view}.json").read_text())
    said = capsys.readouterr().out
    assert "images are wrong" in said and "score of what is true" in said and "16 samples" in said
    with Image.open(tmp_path / "out" / "worst.png") as picture:
        assert picture.width > 400
    listed = json.loads((tmp_path / "out" / "worst.json").read_text())["worst"]
    assert len(listed) == 20 and listed[0]["score"] <= listed[-1]["score"]  # as many as the smoke form has


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("lenet5", "--view", "errors"), "is a model and has no data"),
        (("lenet5_digits", "--view", "worst"), "no checkpoint"),
        (("nothing",), "metrics.jsonl"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, arguments, message):
    assert command.main([*arguments, "--output", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and message in err and err.count("\n") == 1


def test_the_cost_of_configs_is_counted(monkeypatch):
    monkeypatch.setattr(cost, "ROUNDS", 1)
    found = cost.costs(["linear_digits", "linear_digits:smoke"])
    first = found.json["configs"][0]
    size, channels = (8, 8), 1
    assert first["parameters"] == 10 * (np.prod(size) * channels + 1) == sum(first["parts"].values())
    assert first["flops"] >= 2 * 10 * np.prod(size) and first["latency"] > 0
    assert [one["name"] for one in found.json["configs"]] == ["linear_digits", "linear_digits_smoke"]
    assert {"parameters.png", "latency.png"} == set(found.pictures)


def test_tables_align_text_to_the_left_and_numbers_to_the_right():
    assert table(["name", "of", "n"], [["a", "bc", 1000], ["long", "d", 0.5], ["x", "-", float("nan")]]) == [
        "name  of      n", "a     bc  1,000", "long  d   0.500", "x     -       -",
    ]  # fmt: skip
    assert plain({"a": np.float32(np.nan), "b": (np.int64(2), np.array([1.5, np.inf]))}) == {
        "a": None,
        "b": [2, [1.5, None]],
    }


def test_a_run_is_examined_with_its_own_data(tmp_path):
    write_run(tmp_path / "run")
    examined = examine(str(tmp_path / "run"), count=9)
    assert len(examined.source) == 9 and examined.metric == "top1"
    assert set(command.VIEWS) == set(views.VIEWS) | set(views.TOGETHER)
