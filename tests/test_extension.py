"""Adding an algorithm costs one file, adding a direction one folder: from a package of the user's own as well."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import jaxvision
from jaxvision.engine.writers import read_records

REPOSITORY = Path(jaxvision.__file__).resolve().parents[1]

FILES = {
    "own_vision/__init__.py": """
        from jaxvision import registry

        registry.register("model", "own_net", "own_vision.net:Net", smoke={"width": 2})
        registry.register("task", "brightness", "own_vision.brightness.task:Brightness")
    """,
    "own_vision/net.py": '''
        """A model in one file."""

        import flax.linen as nn
        from jaxvision import layers
        from jaxvision.ops import pool

        class Net(nn.Module):
            num_classes: int = 10
            width: int = 4
            norm: layers.Norm = layers.Norm()

            @nn.compact
            def __call__(self, inputs, *, train=False, targets=None):
                images = inputs["image"] if isinstance(inputs, dict) else inputs
                x = nn.relu(self.norm(name="bn1")(layers.Conv(self.width, 3, name="conv1")(images), train=train))
                return layers.Dense(self.num_classes, name="head")(pool.global_avg_pool(x))
    ''',
    "own_vision/brightness/__init__.py": "",
    "own_vision/brightness/task.py": '''
        """A direction in one folder: the mean brightness of an image, by least squares."""

        import dataclasses
        import flax.linen as nn
        import jax.numpy as jnp
        from jaxvision.engine import Aux, Task

        @dataclasses.dataclass(frozen=True)
        class MeanError:
            def update(self, predictions, batch):
                error = jnp.abs(predictions["brightness"] - batch["image"].mean((1, 2, 3)))
                return {"sum": jnp.where(batch["valid"], error, 0.0).sum(), "count": batch["valid"].sum()}

            def compute(self, state):
                return {"mae": float(state["sum"] / state["count"])}

        @dataclasses.dataclass(frozen=True)
        class Brightness(Task):
            model: nn.Module
            weight: float = 1.0

            def init(self, rng, batch):
                return dict(self.model.init(rng, batch["image"][:1]))

            def loss(self, params, collections, batch, ctx):
                variables = {"params": params, **collections}
                outputs, updated = self.model.apply(
                    variables, ctx.cast(batch["image"]), train=True, mutable=list(collections)
                )
                error = jnp.square(outputs[:, 0].astype(jnp.float32) - batch["image"].mean((1, 2, 3)))
                valid = batch["valid"].astype(jnp.float32)
                total, count = (error * valid).sum(), valid.sum()
                return self.weight * total / ctx.mean(count), Aux({"mse": (total, count)}, dict(updated))

            def predict(self, variables, batch, ctx, carry=None):
                return {"brightness": self.model.apply(variables, batch["image"])[:, 0]}, carry

            def metrics(self):
                return {"error": MeanError()}

            def summary(self, results):
                return [f"mean error of the brightness {results['mae']:.3f}"]
    ''',
    "own_direction.py": """
        from configs.common import base

        def get_config(arg=""):
            config = base.get_config(arg)
            config.imports = ("own_vision",)
            config.task = dict(name="brightness", weight=2.0)
            config.model = dict(name="own_net", width=8, norm=dict(name="gn", groups=2))
            config.data.source = dict(name="synthetic", num_examples=32)
            config.data.image_size = (16, 16)
            config.data.batch_size = 16
            config.schedule = dict(epochs=4, optimizer="adam", learning_rate=dict(name="constant", value=0.05))
            return base.complete(config)
    """,
    "own_model.py": """
        from configs.classification import lenet5_digits
        from configs.common import base

        def get_config(arg=""):
            config = lenet5_digits.get_config(arg)
            config.imports = ("own_vision",)
            config.model = dict(name="own_net", num_classes=10)
            return base.complete(config)
    """,
}


def command(folder, module, *argv):
    """Runs a command from the user's folder."""
    done = subprocess.run(
        [sys.executable, "-m", module, *argv],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_package_of_the_users_own_adds_a_model_and_a_direction(tmp_path):
    for name, text in FILES.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))

    out = command(tmp_path, "experiments.run", "--config", "own_direction.py", "--workdir", "direction")
    assert "mean error of the brightness" in out
    records = read_records(tmp_path / "direction/metrics.jsonl")
    errors = [record["values"]["mae"] for record in records if record["kind"] == "eval"]
    assert len(errors) == 4 and errors[-1] < errors[0]
    saved = json.loads((tmp_path / "direction/config.json").read_text())["config"]
    assert saved["task"] == {"name": "brightness", "weight": 2.0} and saved["model"]["norm"]["groups"] == 2
    out = command(tmp_path, "experiments.run", "--config", "direction", "--mode", "eval")
    assert f"mean error of the brightness {errors[-1]:.3f}" in out, "a workdir knows the package it needs"

    out = command(tmp_path, "experiments.run", "--config", "own_model.py:smoke", "--workdir", "model")
    assert "top-1" in out and json.loads((tmp_path / "model/config.json").read_text())["config"]["model"]["width"] == 2
