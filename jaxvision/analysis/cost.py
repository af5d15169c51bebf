"""What a config costs: parameters of its parts, operations of a prediction, and its time on this device.

The program is that of `Inferencer`: images of 8 bit in, predictions out, normalisation and decoding included. Weights
are drawn at random, which changes no time but that of loops that end early (NMS finds less to do). Operations are what
XLA counts: a multiply-add is two, a loop is counted once.
"""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxvision import config as configs
from jaxvision import errors, experiment
from jaxvision.engine.analysis import Findings, table
from jaxvision.engine.task import Context
from jaxvision.errors import SetupError
from jaxvision.loading import example_batch
from jaxvision.model_speed import draw_variables, timed
from jaxvision.trees import flatten

BATCH = 8
"""Images of the larger batch."""
ROUNDS = 10


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one config.

    Attributes:
      name: of the config.
      image_size: height and width of its canvas.
      parts: parameters by the first part of their path (backbone, neck, ...).
      flops: of the prediction of one image; None where XLA does not say.
      temporary_bytes: scratch memory of one image; None likewise.
      latency: median seconds of one image.
      batch_seconds: median seconds of `BATCH` images.
    """

    name: str
    image_size: tuple[int, int]
    parts: Mapping[str, int]
    flops: float | None
    temporary_bytes: int | None
    latency: float
    batch_seconds: float

    @property
    def parameters(self) -> int:
        """Of all parts."""
        return sum(self.parts.values())


def costs(sources: Sequence[str]) -> Findings:
    """Measures configs, each a name, a file or a workdir, and tells them in one table."""
    from jaxvision.visualization.bars import bars_figure
    from jaxvision.visualization.canvas import render

    found = [measure(source) for source in sources]
    device = jax.devices()[0]
    heads = ["config", "size", "parameters", "GFLOP", "scratch MB", "ms, 1 image", f"ms, {BATCH} images", "images/s"]
    rows = [
        [
            cost.name,
            "x".join(map(str, cost.image_size)),
            cost.parameters,
            "-" if cost.flops is None else f"{cost.flops / 1e9:.3g}",
            "-" if cost.temporary_bytes is None else f"{cost.temporary_bytes / 1e6:.3g}",
            1000 * cost.latency,
            1000 * cost.batch_seconds,
            BATCH / cost.batch_seconds,
        ]
        for cost in found
    ]
    lines = [f"on {device.device_kind} ({device.platform}), medians of {ROUNDS}", *table(heads, rows, digits=2)]
    many = len(found) > 1
    parts = [(f"{cost.name}: {part}" if many else part, count) for cost in found for part, count in cost.parts.items()]
    lines += ["", *table(["part", "parameters"], parts)]
    title = "Parameters" if many else f"Parameters of {found[0].name}: {found[0].parameters:,}"
    counts = np.array([count for _, count in parts], float)
    pictures = {
        "parameters.png": render(
            bars_figure([name for name, _ in parts], counts / 1e6, title, "millions", [f"{int(n):,}" for n in counts])
        )
    }
    if many:
        times = np.array([1000 * cost.latency for cost in found])
        figure = bars_figure([cost.name for cost in found], times, f"One image on {device.device_kind}", "ms")
        pictures["latency.png"] = render(figure)
    json = [{**dataclasses.asdict(cost), "parameters": cost.parameters} for cost in found]
    return Findings(lines, {"device": device.device_kind, "batch": BATCH, "configs": json}, pictures)


def measure(source: str) -> Cost:
    """Compiles and times the prediction of a config; needs neither its data nor weights.

    Raises:
      SetupError: a config whose model does not say its number of classes.
    """
    config = configs.load(source)
    configs.import_extensions(config.imports)
    classes = config.model.get("num_classes")
    if classes is None:
        raise SetupError(f"{source}: the cost needs the number of classes: set model.num_classes in the config")
    with errors.setup():
        task = experiment.build_task(config, class_names=(), num_classes=classes).for_prediction()
    preprocess, dtype = experiment.build_preprocess(config, train=False), experiment.DTYPES[config.precision]
    size, channels = tuple(config.data.image_size), config.data.channels
    shapes = jax.eval_shape(
        lambda key, batch: dict(task.init(key, preprocess(batch, key))),
        jax.random.key(0),
        example_batch((*size, channels)),
    )
    variables = draw_variables(shapes)

    def predict(variables: Any, batch: Mapping[str, Any]) -> Any:
        prepared = preprocess(batch, jax.random.key(0))
        return task.predict(variables, prepared, Context(dtype=dtype), task.init_carry(prepared))[0]

    seconds = {}
    for count in (1, BATCH):
        batch = _batch(count, size, channels)
        program = jax.jit(predict).lower(variables, batch).compile()
        if count == 1:
            analysis, memory = program.cost_analysis() or {}, program.memory_analysis()

        def once(program: Any = program, batch: Any = batch) -> None:
            jax.block_until_ready(program(variables, batch))

        seconds[count] = statistics.median(timed([once] * (ROUNDS + 1))[1:])
    parts: dict[str, int] = {}
    for name, leaf in flatten(shapes["params"]).items():
        part = name.partition("/")[0]
        parts[part] = parts.get(part, 0) + int(np.prod(leaf.shape))
    return Cost(
        name=configs.config_name(source) if not Path(source).is_dir() else Path(source).name,
        image_size=(size[0], size[1]),
        parts=parts,
        flops=analysis.get("flops"),
        temporary_bytes=None if memory is None else memory.temp_size_in_bytes,
        latency=seconds[1],
        batch_seconds=seconds[BATCH],
    )


def _batch(count: int, size: tuple[int, ...], channels: int) -> dict[str, jax.Array]:
    """Random images that fill their canvas."""
    rng = np.random.default_rng(0)
    values = {
        "image": rng.integers(0, 256, (count, *size, channels), np.uint8),
        "valid": np.ones(count, bool),
        "index": np.arange(count, dtype=np.int32),
        "position": np.arange(count, dtype=np.uint32),
        "size": np.tile(np.array(size, np.float32), (count, 1)),
        "original_size": np.tile(np.array(size, np.int32), (count, 1)),
        "to_original": np.tile(np.eye(3, dtype=np.float32), (count, 1, 1)),
    }
    return {name: jax.device_put(value) for name, value in values.items()}
