"""How fast registered models run on these devices: their forward pass and a plain training step, without any input."""

import dataclasses
import statistics
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxvision import config as configs
from jaxvision import losses
from jaxvision.trees import map_with_path

CLASSES = 1000


@dataclasses.dataclass(frozen=True)
class Programs:
    """The compiled programs of one model, on one device.

    Attributes:
      forward: evaluation of a batch; returns when it is done.
      train: one step: forward, backward and SGD with momentum.
      parameters: of the model with 1000 classes.
      flops: of the forward pass of one image, as XLA counts them (a multiply-add is two); None where it does not.
      compile_seconds: of both programs.
    """

    forward: Callable[[], None]
    train: Callable[[], None]
    parameters: int
    flops: float | None
    compile_seconds: float


@dataclasses.dataclass(frozen=True)
class ModelSpeed:
    """Median times of one model; images per second follow from the batch."""

    name: str
    batch_size: int
    image_size: tuple[int, int]
    dtype: str
    parameters: int
    flops: float | None
    forward_seconds: float
    train_seconds: float
    compile_seconds: float

    def line(self) -> str:
        """One plain line for the console."""
        flops = f"{self.flops / 1e9:8.2f} GFLOP" if self.flops else ""
        forward, train = self.batch_size / self.forward_seconds, self.batch_size / self.train_seconds
        size = "x".join(map(str, self.image_size))
        return (
            f"{self.name:32} {self.parameters / 1e6:8.2f} M {flops} {size} {self.dtype} "
            f"batch {self.batch_size}: forward {forward:8.1f} images/s, train step {train:8.1f} images/s, "
            f"compile {self.compile_seconds:.0f} s"
        )


def measure_models(
    names: Sequence[str],
    *,
    batch_size: int = 8,
    image_size: int | None = None,
    dtype: Any = jnp.float32,
    rounds: int = 5,
    say: Callable[[str], None] = print,
) -> list[ModelSpeed]:
    """Measures each model in turn and says one line for each.

    Args:
      names: registered models.
      batch_size: images per call.
      image_size: side in pixels; None is the model's own.
      dtype: of images and computation.
      rounds: timed calls of each program, after one that is not counted; the median is taken.
    """
    results = []
    for name in names:
        size = (image_size, image_size) if image_size else own_image_size(name)
        programs = compile_programs(name, batch_size=batch_size, image_size=size, dtype=dtype)
        times = [timed([programs.forward, programs.train]) for _ in range(rounds + 1)][1:]
        forward, train = (statistics.median(column) for column in zip(*times, strict=True))
        facts = (programs.parameters, programs.flops)
        speed = ModelSpeed(
            name, batch_size, size, jnp.dtype(dtype).name, *facts, forward, train, programs.compile_seconds
        )
        results.append(speed)
        say(speed.line())
        del programs
        jax.clear_caches()
    return results


def timed(calls: Sequence[Callable[[], None]]) -> list[float]:
    """Seconds of each call, one after the other."""
    seconds = []
    for call in calls:
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return seconds


def own_image_size(name: str) -> tuple[int, int]:
    """Height and width that a registered model is made for: its backbone's `image_size`, else 224."""
    model = configs.build("model", {"name": name, "num_classes": CLASSES})
    size = getattr(model.backbone, "image_size", None) or 224
    return (size, size) if isinstance(size, int) else tuple(size)


def compile_programs(name: str, *, batch_size: int, image_size: tuple[int, int], dtype: Any = jnp.float32) -> Programs:
    """The programs of a registered model with 1000 classes, on the first device.

    Weights are drawn, statistics are those of a fresh model: values do not change the time.
    """
    model = configs.build("model", {"name": name, "num_classes": CLASSES})
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.standard_normal((batch_size, *image_size, 3), np.float32), dtype)
    labels = jnp.asarray(rng.integers(0, CLASSES, batch_size), jnp.int32)
    variables = draw_variables(
        jax.eval_shape(lambda key, x: model.init(key, x, train=False), jax.random.key(0), images)
    )
    params, collections = variables.pop("params"), variables
    optimizer = optax.sgd(1e-3, momentum=0.9)

    def forward(variables: Any, images: jax.Array) -> jax.Array:
        return model.apply(variables, images, train=False)

    def train(state: Any, images: jax.Array, labels: jax.Array, key: jax.Array) -> Any:
        params, collections, opt_state = state

        def loss(params: Any) -> Any:
            given = {"params": params, **collections}
            logits, updated = model.apply(given, images, train=True, mutable=list(collections), rngs={"dropout": key})
            return losses.cross_entropy(logits.astype(jnp.float32), labels).mean(), updated

        grads, updated = jax.grad(loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), {**collections, **updated}, opt_state

    start = time.perf_counter()
    given = {"params": params, **collections}
    run = jax.jit(forward).lower(given, images).compile()
    state = (params, collections, optimizer.init(params))
    key = jax.random.key(0)
    step = jax.jit(train, donate_argnums=0).lower(state, images, labels, key).compile()
    seconds = time.perf_counter() - start
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    analysis = run.cost_analysis() or {}
    holder = [jax.tree.map(jnp.copy, state)]

    def forward_once() -> None:
        jax.block_until_ready(run(given, images))

    def train_once() -> None:
        holder[0] = step(holder[0], images, labels, key)
        jax.block_until_ready(holder[0])

    flops = analysis.get("flops")
    return Programs(
        forward_once,
        train_once,
        count,
        flops / batch_size if flops else None,
        seconds,
    )


def draw_variables(shapes: Any) -> Any:
    """Kernels that keep the signal's size; compiling the initialisers would take longer than the model."""

    def draw(name: str, leaf: Any) -> jax.Array:
        kind = name.rsplit("/", 1)[-1]
        if kind in ("scale", "var"):
            return jnp.ones(leaf.shape, leaf.dtype)
        if kind != "kernel":
            return jnp.zeros(leaf.shape, leaf.dtype)
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        std = (1 / max(np.prod(leaf.shape[:-1]), 1)) ** 0.5
        return jnp.asarray(std * rng.standard_normal(leaf.shape, np.float32), leaf.dtype)

    return map_with_path(draw, shapes)
