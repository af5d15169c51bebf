"""Image retrieval: an index of the features of a folder, the nearest images to a query, and how good the ranking is.

    index = Index.build(jv.FeatureExtractor("runs/a"), "folder")
    scores, places = index.search(extract("query.png")[None], k=8)

Features are divided by their length, so that products are cosines. The search is exact: all products, in chunks.
"""

import dataclasses
import functools
import json
import os
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped, UInt8

from jaxvision import errors
from jaxvision.data.images import read_image
from jaxvision.errors import SetupError
from jaxvision.features import FeatureExtractor
from jaxvision.inference import Input, expand
from jaxvision.pretrained.safetensors import load_safetensors, load_safetensors_metadata, save_safetensors

CHUNK = 8192
"""Rows of the index that are compared at a time."""
SAME = 5e-3
"""Largest relative difference of the probe's features between an index and the extractor that reads it."""


@dataclasses.dataclass(frozen=True, eq=False)
class Index:
    """Normalised features of files.

    Attributes:
      features: rows of length 1, float32.
      files: of each row.
      probe: features of two fixed pictures, which tell whether another extractor is the same.
      about: the extractor in one line.
    """

    features: Float[np.ndarray, "n d"]
    files: tuple[str, ...]
    probe: Float[np.ndarray, "2 d"]
    about: str = ""

    @classmethod
    def build(cls, extractor: FeatureExtractor, inputs: Input | Iterable[Input]) -> "Index":
        """Indexes image files, folders and patterns."""
        items, _ = expand(inputs)
        files = tuple(
            os.fspath(item) if isinstance(item, (str, os.PathLike)) else str(i) for i, item in enumerate(items)
        )
        return cls(normalized(extractor(items)), files, _probe(extractor), extractor.about)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes one `.safetensors` file."""
        tree = {"features": self.features, "probe": self.probe}
        save_safetensors(path, tree, {"files": json.dumps(self.files), "about": self.about})

    @classmethod
    def load(cls, path: str | os.PathLike[str], extractor: FeatureExtractor | None = None) -> "Index":
        """Reads an index; with the extractor of the queries, after a check that it is the one of the index.

        Raises:
          SetupError: no index, or one of another model.
        """
        metadata = load_safetensors_metadata(path)
        if not {"files", "about"} <= set(metadata):
            raise SetupError(f"{path} holds no index of images: write one with Index.save or --index FOLDER")
        tree = load_safetensors(path)
        index = cls(tree["features"], tuple(json.loads(metadata["files"])), tree["probe"], metadata["about"])
        if extractor is not None:
            index.check(extractor, path)
        return index

    def check(self, extractor: FeatureExtractor, path: str | os.PathLike[str] = "the index") -> None:
        """Raises SetupError unless `extractor` gives the features that the index has for the same picture."""
        own = _probe(extractor)
        same = own.shape == self.probe.shape
        difference = np.linalg.norm(own - self.probe) / np.linalg.norm(self.probe) if same else np.inf
        if not difference <= SAME:
            why = (
                f"features differ by {difference:.1%}" if same else f"{self.probe.shape[1]} and {own.shape[1]} numbers"
            )
            raise SetupError(
                f"{os.fspath(path)} was made by another model ({why}): it has the {self.about}, the queries "
                f"the {extractor.about}. Index the folder again, or query with the model of the index"
            )

    def search(self, queries: Float[np.ndarray, "q d"], k: int) -> tuple[np.ndarray, np.ndarray]:
        """The `k` nearest rows to each query: cosines [q, k], in falling order, and their places [q, k].

        Queries need not be normalised. Of equal cosines the earlier file comes first.
        """
        if not 1 <= k <= len(self.files):
            raise SetupError(f"asked for the {k} nearest images of an index of {len(self.files)}")
        scores, places = nearest(jnp.asarray(normalized(queries)), jnp.asarray(self.features), k=k)
        return np.asarray(scores), np.asarray(places)


def normalized(features: Shaped[np.ndarray, "n *d"]) -> Float[np.ndarray, "n d"]:
    """Rows flattened and divided by their length; rows of zeros stay."""
    rows = np.asarray(features, np.float32).reshape(len(features), -1)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1)


@functools.partial(jax.jit, static_argnames=("k", "chunk"))
def nearest(
    queries: Float[Array, "q d"], gallery: Float[Array, "n d"], *, k: int, chunk: int = CHUNK
) -> tuple[Float[Array, "q k"], Int[Array, "q k"]]:
    """The `k` largest products of each query with the rows of `gallery`, in falling order, and their places.

    Exact; of equal products the earlier row comes first. Memory grows with `chunk`, not with `gallery`.
    """
    count, width = gallery.shape
    chunk = min(chunk, count)
    parts = -(-count // chunk)
    padded = jnp.pad(gallery, ((0, parts * chunk - count), (0, 0))).reshape(parts, chunk, width)
    place = jnp.arange(parts * chunk, dtype=jnp.int32).reshape(parts, chunk)
    best = (jnp.full((len(queries), k), -jnp.inf, jnp.float32), jnp.zeros((len(queries), k), jnp.int32))

    def step(best: tuple[Array, Array], part: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
        rows, places = part
        products = jnp.einsum("qd,nd->qn", queries, rows, precision=jax.lax.Precision.HIGHEST)
        products = jnp.where((places < count)[None], products.astype(jnp.float32), -jnp.inf)
        # What was found before stands in front: `top_k` keeps the order of equals.
        scores = jnp.concatenate([best[0], products], axis=1)
        every = jnp.concatenate([best[1], jnp.broadcast_to(places[None], products.shape)], axis=1)
        top, chosen = jax.lax.top_k(scores, k)
        return (top, jnp.take_along_axis(every, chosen, axis=1)), None

    return jax.lax.scan(step, best, (padded, place))[0]


def retrieval_scores(
    queries: Float[np.ndarray, "q d"],
    query_labels: Shaped[np.ndarray, " q"],
    gallery: Float[np.ndarray, "n d"],
    gallery_labels: Shaped[np.ndarray, " n"],
    *,
    topk: Sequence[int] = (1, 5, 10),
    leave_one_out: bool = False,
    chunk: int = 256,
) -> dict[str, float]:
    """How well rows of the same label rank before others, as means over queries that have any such row.

    Args:
      queries, gallery: normalised features.
      topk: values of k, those larger than the gallery are left out.
      leave_one_out: the queries are the gallery's own rows, and none finds itself.
      chunk: queries ranked at a time.

    Returns:
      `map`: mean of the average precision over the whole ranking; `recall@k`: share of queries with a hit among the
      first k (as in metric learning, Jegou et al. 2011); `precision@k`: share of hits among the first k; `queries`:
      how many were counted.
    """
    if leave_one_out and len(queries) != len(gallery):
        raise ValueError(f"leave_one_out compares rows with themselves: {len(queries)} queries, {len(gallery)} rows")
    length = len(gallery) - leave_one_out
    topk = [k for k in topk if k <= length]
    sums = {"map": 0.0} | {f"{name}@{k}": 0.0 for k in topk for name in ("recall", "precision")}
    counted, rank = 0, np.arange(1, length + 1)
    for start in range(0, len(queries), chunk):
        products = queries[start : start + chunk] @ gallery.T
        if leave_one_out:
            products[np.arange(len(products)), np.arange(start, start + len(products))] = -np.inf
        order = np.argsort(-products, axis=1, kind="stable")[:, :length]
        hits = gallery_labels[order] == np.asarray(query_labels)[start : start + chunk, None]
        total = hits.sum(axis=1)
        hits, total = hits[total > 0], total[total > 0]
        counted += len(hits)
        sums["map"] += float((np.cumsum(hits, axis=1) / rank * hits).sum(axis=1) @ (1 / total))
        for k in topk:
            sums[f"recall@{k}"] += float(hits[:, :k].any(axis=1).sum())
            sums[f"precision@{k}"] += float(hits[:, :k].mean(axis=1).sum())
    return {name: total / counted if counted else float("nan") for name, total in sums.items()} | {"queries": counted}


@dataclasses.dataclass(frozen=True, eq=False)
class Report:
    """What a retrieval found.

    Attributes:
      queries: `{"file", "nearest": [{"file", "cosine"}, ...]}` of each query.
      metrics: of `retrieval_scores`; empty where classes are unknown.
      sheet: queries spread evenly over all of them, with their nearest images.
    """

    queries: list[dict[str, Any]]
    metrics: dict[str, float]
    sheet: UInt8[np.ndarray, "h w 3"]


def report(index: Index, queries: Index | None = None, *, top: int = 8, rows: int = 10) -> Report:
    """Searches for every query.

    Args:
      queries: None: every image of the index, against all others.
      top: images for each query.
      rows: queries on the sheet.

    Classes are the folders that hold the images, where the index has at least two and knows those of all queries.
    """
    if top < 1 or rows < 1:
        raise SetupError(f"asked for {top} images of each query and {rows} rows: expected at least 1")
    own = queries is None
    asked = index if queries is None else queries
    top = min(top, len(index.files) - own)
    if top < 1:
        raise SetupError("the index has a single image: there is no other to find")
    scores, places = index.search(asked.features, top + own)
    if own:
        scores, places = _without_self(scores, places)
    found = [
        {"file": file, "nearest": [{"file": index.files[p], "cosine": float(s)} for s, p in zip(*row, strict=True)]}
        for file, *row in zip(asked.files, scores, places, strict=True)
    ]
    classes, truth = folder_labels(index.files), folder_labels(asked.files)
    known = len(set(classes)) > 1 and set(truth) <= set(classes)
    metrics: dict[str, float] = {}
    if known:
        metrics = retrieval_scores(
            asked.features, np.array(truth), index.features, np.array(classes), leave_one_out=own
        )
    shown = np.unique(np.linspace(0, len(found) - 1, min(rows, len(found))).round().astype(int))
    hits = [[classes[p] == truth[i] for p in places[i]] for i in shown] if known else None
    return Report(found, metrics, _sheet([found[i] for i in shown], hits))


def _without_self(scores: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows without the query's own place; where equals have pushed it out, without the last."""
    width = places.shape[1] - 1
    keep = places != np.arange(len(places))[:, None]
    keep[keep.all(axis=1), -1] = False
    return scores[keep].reshape(-1, width), places[keep].reshape(-1, width)


def _sheet(rows: Sequence[dict[str, Any]], hits: Sequence[Sequence[bool]] | None) -> UInt8[np.ndarray, "h w 3"]:
    from jaxvision.visualization.retrieval import retrieval_sheet

    def title(file: str) -> str:
        return os.path.basename(file) if hits is None else folder_labels([file])[0]

    return retrieval_sheet(
        [_picture(row["file"]) for row in rows],
        [[_picture(one["file"]) for one in row["nearest"]] for row in rows],
        query_titles=[title(row["file"]) for row in rows],
        titles=[[f"{title(one['file'])} ({one['cosine']:.2f})" for one in row["nearest"]] for row in rows],
        hits=hits,
    )


def _picture(file: str) -> np.ndarray:
    """The image of a file; an index may be older than its folder."""
    try:
        return read_image(file)
    except errors.EXPECTED:
        return np.full((8, 8), 200, np.uint8)


def folder_labels(files: Sequence[str]) -> tuple[str, ...]:
    """Names of the folders that hold the files: the classes of a folder of images for each class."""
    return tuple(os.path.basename(os.path.dirname(os.path.abspath(file))) for file in files)


def _probe(extractor: FeatureExtractor) -> Float[np.ndarray, "2 d"]:
    """Features of two pictures that are always the same: noise, and waves of many lengths and colours."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    y, x = np.mgrid[:64, :64] / 64
    waves = np.stack([np.sin(20 * x * x + 3 * y), np.cos(9 * y + 2 * x), np.sin(30 * x * y)], axis=-1)
    pictures = [noise, np.round(127.5 + 127.5 * waves).astype(np.uint8)]
    return np.asarray(extractor(pictures), np.float32).reshape(2, -1)
