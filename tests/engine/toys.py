"""Small tasks that use the whole protocol: each is what a direction would write, in a few lines."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxvision.engine import Aux, Objective, Task
from jaxvision.engine.metrics import PyTree


def batch_of(rows: int, features: int = 6, seed: int = 0, valid: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """A batch of float rows with labels, all valid unless said otherwise."""
    rng = np.random.default_rng(seed)
    return {
        "image": rng.normal(size=(rows, features)).astype(np.float32),
        "label": rng.integers(0, 3, rows).astype(np.int32),
        "valid": np.ones(rows, bool) if valid is None else valid,
        "index": np.arange(rows, dtype=np.int32),
        "position": np.arange(rows, dtype=np.uint32),
    }


@dataclasses.dataclass(frozen=True)
class CountCorrect:
    """Device metric: share of correct labels among valid rows."""

    def update(self, predictions: PyTree, batch: Any) -> dict[str, jax.Array]:
        hit = (predictions["label"] == batch["label"]) & batch["valid"]
        return {"hits": hit.sum(), "count": batch["valid"].sum()}

    def compute(self, state: dict[str, np.ndarray]) -> dict[str, float]:
        return {"accuracy": float(state["hits"] / max(state["count"], 1))}


@dataclasses.dataclass(frozen=True)
class AllLabels:
    """Host metric: keeps every predicted label and the order of the samples."""

    def select(self, predictions: PyTree, batch: Any) -> dict[str, jax.Array]:
        return {"label": predictions["label"], "index": batch["index"]}

    def compute_all(self, rows: dict[str, np.ndarray]) -> dict[str, Any]:
        return {"labels": rows["label"], "order": rows["index"]}


@dataclasses.dataclass(frozen=True)
class Softmax(Task):
    """Softmax regression on normalised rows: uneven valid rows, running statistics, optional dropout noise."""

    classes: int = 3
    noise: float = 0.0

    def init(self, rng, batch):
        features = batch["image"].shape[-1]
        kernel = 0.1 * jax.random.normal(rng, (features, self.classes))
        return {
            "params": {"head": {"kernel": kernel, "bias": jnp.zeros(self.classes)}},
            "batch_stats": {"mean": jnp.zeros(features)},
        }

    def logits(self, params, mean, images):
        return jnp.dot(images - mean, params["head"]["kernel"]) + params["head"]["bias"][None]

    def loss(self, params, collections, batch, ctx):
        valid = batch["valid"].astype(jnp.float32)
        count = valid.sum()
        mean = ctx.mean(jnp.sum(batch["image"] * valid[:, None], 0)) / ctx.mean(count)
        logits = self.logits(params, mean[None], batch["image"])
        if self.noise:
            logits = logits + self.noise * jax.random.normal(ctx.rng, logits.shape)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]) * valid
        hits = ((logits.argmax(-1) == batch["label"]) * valid).sum()
        stats = {"mean": 0.9 * collections["batch_stats"]["mean"] + 0.1 * mean}
        return losses.sum() / ctx.mean(count), Aux({"top1": (hits, count)}, {"batch_stats": stats})

    def predict(self, variables, batch, ctx, carry=None):
        logits = self.logits(variables["params"], variables["batch_stats"]["mean"][None], batch["image"])
        return {"label": logits.argmax(-1).astype(jnp.int32)}, carry

    def metrics(self):
        return {"accuracy": CountCorrect(), "all": AllLabels()}


@dataclasses.dataclass(frozen=True)
class Contrastive(Softmax):
    """Each row against all rows of the global batch: needs `all_gather`."""

    def loss(self, params, collections, batch, ctx):
        features = self.logits(params, jnp.zeros((1, 1)), batch["image"])
        features = features / jnp.linalg.norm(features, axis=-1, keepdims=True)
        everyone = ctx.all_gather(features)
        rows = features.shape[0]
        start = 0 if ctx.axis_name is None else jax.lax.axis_index(ctx.axis_name) * rows
        losses = optax.softmax_cross_entropy_with_integer_labels(features @ everyone.T, start + jnp.arange(rows))
        return losses.sum() / ctx.mean(jnp.float32(rows)), Aux(collections=dict(collections))


@dataclasses.dataclass(frozen=True)
class ToyGAN(Task):
    """Two players over one-dimensional data; the generator moves every second step."""

    def init(self, rng, batch):
        weights = jnp.zeros(2)
        return {"params": {"generator": {"weights": weights}, "critic": {"weights": weights + 0.1}}}

    def _fake(self, params, ctx, like):
        noise = jax.random.normal(ctx.rng, like.shape)
        return params["generator"]["weights"][0] + jnp.exp(params["generator"]["weights"][1]) * noise

    def _score(self, params, x):
        return params["critic"]["weights"][0] * x + params["critic"]["weights"][1] * x**2

    def critic_loss(self, params, collections, batch, ctx):
        real = batch["image"][:, 0]
        gap = self._score(params, self._fake(params, ctx, real)).mean() - self._score(params, real).mean()
        return gap + 0.1 * jnp.sum(params["critic"]["weights"] ** 2), Aux({"gap": (gap, jnp.float32(1))})

    def generator_loss(self, params, collections, batch, ctx):
        return -self._score(params, self._fake(params, ctx, batch["image"][:, 0])).mean(), Aux()

    @property
    def objectives(self):
        return (
            Objective("critic", self.critic_loss, trains="critic/.*", optimizer=optax.sgd(0.1)),
            Objective("generator", self.generator_loss, trains="generator/.*", optimizer=optax.sgd(0.05), every=2),
        )


@dataclasses.dataclass(frozen=True)
class MomentumQueue(Task):
    """A momentum encoder with a queue of keys and an integer pointer (He et al. 2020)."""

    length: int = 32
    momentum: float = 0.9

    def init(self, rng, batch):
        kernel = jax.random.normal(rng, (batch["image"].shape[-1], 4))
        queue = jax.random.normal(rng, (self.length, 4))
        return {
            "params": {"kernel": kernel},
            "teacher": {"kernel": kernel},
            "queue": {"keys": queue, "pointer": jnp.zeros((), jnp.int32)},
        }

    def loss(self, params, collections, batch, ctx):
        teacher, queue = collections["teacher"], collections["queue"]
        query = batch["image"] @ params["kernel"]
        keys = jax.lax.stop_gradient(batch["image"] @ teacher["kernel"])
        positive = jnp.sum(query * keys, -1, keepdims=True)
        logits = jnp.concatenate([positive, query @ queue["keys"].T], -1) / 10.0
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.zeros(query.shape[0], jnp.int32))
        added = ctx.all_gather(keys)
        keys = jax.lax.dynamic_update_slice(queue["keys"], added, (queue["pointer"], jnp.zeros((), jnp.int32)))
        pointer = (queue["pointer"] + added.shape[0]) % self.length
        return losses.mean(), Aux(collections={"teacher": teacher, "queue": {"keys": keys, "pointer": pointer}})

    def after_update(self, old, new, ctx):
        mixed = jax.tree.map(
            lambda t, p: self.momentum * t + (1 - self.momentum) * p, old.collections["teacher"], new.params
        )
        return new.replace(collections={**new.collections, "teacher": mixed})


@dataclasses.dataclass(frozen=True)
class FitImage(Task):
    """Optimises an image instead of weights: the parameters are the pixels (Rosenbrock's valley per pixel pair)."""

    def init(self, rng, batch):
        return {"params": {"image": jnp.zeros(batch["image"].shape[1:])}}

    def loss(self, params, collections, batch, ctx):
        a, b = params["image"][::2], params["image"][1::2]
        value = jnp.sum((1 - a) ** 2 + 100 * (b - a**2) ** 2) + 0 * batch["image"].sum()
        return value, Aux()


@dataclasses.dataclass(frozen=True)
class RunningSum(Softmax):
    """A prediction that depends on the frames before: the carry is the sum so far."""

    def init_carry(self, batch):
        return {"total": jnp.zeros(batch["image"].shape[0])}

    def predict(self, variables, batch, ctx, carry=None):
        total = carry["total"] + batch["image"][:, 0]
        return {"label": total.astype(jnp.int32)}, {"total": total}
