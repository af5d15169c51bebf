"""The record of finished classification runs: what they reached in one small mapping, and a picture of one of them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from jaxvision import config as configs
from jaxvision.data.build import build_data
from jaxvision.engine.writers import read_records
from jaxvision.inference import Inferencer
from jaxvision.visualization.canvas import render
from jaxvision.visualization.classification import percent
from jaxvision.visualization.curves import curves_figure
from jaxvision.visualization.sheets import contact_sheet

COLUMNS, ROWS = 6, 5
PANELS = ("loss", "top1")


def picture(workdir: str) -> UInt8[np.ndarray, "h w 3"]:
    """The training curves, and predictions for validation images beside them: wrong ones first, then right ones."""
    return _beside([_curves(Path(workdir)), _predictions(workdir)])


def result(workdir: Path) -> dict[str, Any]:
    """What a run reached, epoch by epoch; `seconds` is the time between its first and its last record."""
    records = read_records(workdir / "metrics.jsonl")
    config = configs.load(str(workdir))
    meta = json.loads((workdir / "meta.json").read_text())
    evaluations = [record for record in records if record["kind"] == "eval"]
    if not evaluations:
        raise ValueError(f"{workdir} has no evaluation yet")
    values = {name: [round(e["values"][name], 5) for e in evaluations] for name in ("loss", "top1")}
    return {
        "seed": config.seed,
        "top1": values["top1"][-1],
        "seconds": round(records[-1]["time"] - records[0]["time"], 1),
        "epochs": [round(e["epoch"], 3) for e in evaluations],
        "evaluation_loss": values["loss"],
        "evaluation_top1": values["top1"],
        "versions": {name: meta[name] for name in ("jaxvision", "python", "jax", "flax", "optax")},
    }


def _curves(workdir: Path) -> UInt8[np.ndarray, "h w 3"]:
    """The panels of `PANELS`, one below the other."""
    records = read_records(workdir / "metrics.jsonl")
    pictures = []
    for name in PANELS:
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


def _beside(parts: Sequence[UInt8[np.ndarray, "h w 3"]]) -> UInt8[np.ndarray, "h w 3"]:
    """Pictures in a row, each in the middle of the common height."""
    height = max(part.shape[0] for part in parts)
    padded = []
    for part in parts:
        above = (height - part.shape[0]) // 2
        rows = (above, height - part.shape[0] - above)
        padded.append(np.pad(part, (rows, (0, 0), (0, 0)), constant_values=255))
    return np.concatenate(padded, axis=1)
