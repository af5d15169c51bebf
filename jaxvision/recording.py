"""The record of finished runs: what they reached in one small mapping, and a picture of one of them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from jaxvision import config as configs
from jaxvision.data.build import build_data
from jaxvision.engine.writers import read_records
from jaxvision.inference import Inferencer
from jaxvision.training import EXAMPLES_FILE
from jaxvision.visualization.canvas import render
from jaxvision.visualization.classification import percent
from jaxvision.visualization.curves import curves_figure
from jaxvision.visualization.sheets import contact_sheet

COLUMNS, ROWS = 6, 5
SCORES = ("top1", "miou", "pq", "mask_ap50", "mask_ap", "ap50", "ap")
"""What is told of a run; the first that it has is its headline."""
CURVES = 2
"""Scores whose curves are drawn below that of the loss."""
WIDTH = 1000
"""Pixels of a sheet of predictions that lies in the workdir already."""


def picture(workdir: str) -> UInt8[np.ndarray, "h w 3"]:
    """The training curves, and predictions for validation images beside them.

    Classes: wrong ones first, then right ones; everything else: what the run has drawn at its end.
    """
    folder = Path(workdir)
    names = ("loss", *scores_of(result(folder))[:CURVES])
    drawn = _predictions(workdir) if "top1" in names else _drawn(folder)
    return _beside([_curves(folder, names), drawn])


def scores_of(told: dict[str, Any]) -> list[str]:
    """Those of `SCORES` that a run has, its headline first."""
    return [name for name in SCORES if name in told]


def result(workdir: Path) -> dict[str, Any]:
    """What a run reached, epoch by epoch; `seconds` is the time between its first and its last record."""
    records = read_records(workdir / "metrics.jsonl")
    config = configs.load(str(workdir))
    meta = json.loads((workdir / "meta.json").read_text())
    evaluations = [record for record in records if record["kind"] == "eval"]
    if not evaluations:
        raise ValueError(f"{workdir} has no evaluation yet")
    last = evaluations[-1]["values"]
    values = {name: [round(e["values"][name], 5) for e in evaluations] for name in ("loss", *SCORES) if name in last}
    if not scores_of(values):
        raise ValueError(f"{workdir} has none of the scores {', '.join(SCORES)}, but {', '.join(sorted(last))}")
    return {
        "seed": config.seed,
        **{name: history[-1] for name, history in values.items() if name != "loss"},
        "seconds": round(records[-1]["time"] - records[0]["time"], 1),
        "epochs": [round(e["epoch"], 3) for e in evaluations],
        **{f"evaluation_{name}": history for name, history in values.items()},
        "versions": {name: meta[name] for name in ("jaxvision", "python", "jax", "flax", "optax")},
    }


def _curves(workdir: Path, names: Sequence[str]) -> UInt8[np.ndarray, "h w 3"]:
    """A panel for each metric, one below the other."""
    records = read_records(workdir / "metrics.jsonl")
    pictures = []
    for name in names:
        own = [{**r, "values": {name: r["values"][name]}} for r in records if name in r["values"]]
        pictures.append(render(curves_figure(own)))
    return np.concatenate(pictures)


def _predictions(workdir: str) -> UInt8[np.ndarray, "h w 3"]:
    """A contact sheet of validation images under what the run takes them for."""
    config = configs.load(workdir)
    source: Any = build_data(config.data, config.seed).evaluation.source
    samples = [source.sample(i) for i in range(min(len(source), 1000))]
    images, labels = [sample["image"] for sample in samples], np.asarray([sample["label"] for sample in samples])
    results: list[Any] = list(Inferencer(workdir).iterate(images))
    wrong = np.asarray([r.json["label"] for r in results]) != labels
    chosen = np.argsort(~wrong, kind="stable")[: COLUMNS * ROWS]
    titles = []
    for i in chosen:
        told, truth = results[i].json, source.class_names[labels[i]]
        score = percent(told["score"])
        titles.append(f"✗ {told['class']}, not {truth}" if wrong[i] else f"✓ {told['class']} ({score})")
    return contact_sheet([images[i] for i in chosen], titles, COLUMNS)


def _drawn(workdir: Path) -> UInt8[np.ndarray, "h w 3"]:
    """The sheet of predictions that a run leaves in its workdir, at most `WIDTH` pixels wide."""
    with Image.open(workdir / EXAMPLES_FILE) as sheet:
        picture = sheet.convert("RGB")
    if picture.width > WIDTH:
        picture = picture.resize((WIDTH, round(picture.height * WIDTH / picture.width)), Image.Resampling.LANCZOS)
    return np.asarray(picture)


def _beside(parts: Sequence[UInt8[np.ndarray, "h w 3"]]) -> UInt8[np.ndarray, "h w 3"]:
    """Pictures in a row, each in the middle of the common height."""
    height = max(part.shape[0] for part in parts)
    padded = []
    for part in parts:
        above = (height - part.shape[0]) // 2
        rows = (above, height - part.shape[0] - above)
        padded.append(np.pad(part, (rows, (0, 0), (0, 0)), constant_values=255))
    return np.concatenate(padded, axis=1)
