"""What a model keeps of its accuracy under the common corruptions of `corruptions`, at five severities each."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxvision.analysis.corruptions import CORRUPTIONS, GROUPS, SEVERITIES, SIDE, corrupt
from jaxvision.analysis.examined import Examined
from jaxvision.engine.analysis import Findings, table
from jaxvision.engine.progress import Progress
from jaxvision.errors import SetupError
from jaxvision.registry import hint

HEADLINES = ("top1", "miou", "pq", "ap", "voc_ap", "voc07_ap", "map", "f1")
"""The first that a task has is told, where neither the person nor the config chooses."""
SHOWN = 3
"""Severity of the pictures of examples."""


def robustness(examined: Examined, metric: str | None = None, only: Sequence[str] = (), seed: int = 0) -> Findings:
    """A metric by corruption and severity, the mean of each corruption and of all, and the curves.

    The mean over all corruptions and severities is in the metric's own unit; the paper's mCE would divide errors by
    those of AlexNet on ImageNet.

    Args:
      examined: the model and its data.
      metric: of the task; None: the config's `checkpoint.best_metric`, else the first of `HEADLINES`.
      only: corruptions; none: all.
      seed: of the corruptions.

    Raises:
      SetupError: an unknown corruption or metric.
    """
    from jaxvision.visualization.canvas import render
    from jaxvision.visualization.runs import severities_figure

    names = [name for name in CORRUPTIONS if not only or name in only]
    for name in only:
        if name not in CORRUPTIONS:
            raise SetupError(f"unknown corruption {name!r}: {hint(name, tuple(CORRUPTIONS))}")
    passes = [(name, severity) for name in names for severity in SEVERITIES]
    steps, found = examined.loader.evaluation_steps, {}
    with Progress((1 + len(passes)) * steps, batch_size=examined.loader.batch_size) as progress:
        for number, (name, severity) in enumerate([("", 0), *passes]):

            def on_batch(count: int, before: int = number * steps) -> None:
                progress.update(before + count)

            change = _corrupting(name, severity, seed) if name else _unchanged
            found[name, severity] = examined.run(change=change, on_batch=on_batch)
    metric = _metric(found["", 0], metric, examined.metric)
    clean = float(found["", 0][metric])
    values = {name: np.array([float(found[name, s].get(metric, np.nan)) for s in SEVERITIES]) for name in names}
    every = float(np.mean(list(values.values())))
    rows = [[name, *own, own.mean(), own.mean() / clean if clean else np.nan] for name, own in values.items()]
    rows.append(["mean", *np.mean(list(values.values()), axis=0), every, every / clean if clean else np.nan])
    samples = len(examined.source)
    title = f"{metric} {clean:.4g} on clean images, {every:.4g} on corrupted ones"
    groups = {group: {n: values[n] for n in own if n in values} for group, own in GROUPS.items()}
    figure = severities_figure(title, {group: own for group, own in groups.items() if own}, clean, metric)
    json = {
        "metric": metric,
        "samples": samples,
        "seed": seed,
        "clean": clean,
        "mean": every,
        "relative": every / clean if clean else None,
        "corruptions": {name: {"severities": own, "mean": own.mean()} for name, own in values.items()},
        "left_out": {"frost": "needs photographs of frost, which are no part of this library"} if not only else {},
    }
    heads = ["corruption", *map(str, SEVERITIES), "mean", "of clean"]
    lines = [f"{title} ({samples:,} samples)", *table(heads, rows, digits=4)]
    if not only:
        lines.append("frost is left out: it needs photographs of frost, which are no part of this library")
    pictures = {"robustness.png": render(figure), "corruptions.png": examples(examined, names, seed)}
    return Findings(lines, json, pictures)


def examples(examined: Examined, names: Sequence[str], seed: int) -> np.ndarray:
    """The first image under each corruption."""
    from jaxvision.visualization.canvas import enlarge, to_rgb
    from jaxvision.visualization.sheets import contact_sheet

    image = np.asarray(examined.sample(0)["image"])
    shown = [image, *(corrupt(image, name, SHOWN, seed, 0) for name in names)]
    shown = [enlarge(to_rgb(picture), SIDE, 320) for picture in shown]
    return contact_sheet(shown, ["clean", *(f"{name.replace('_', ' ')} {SHOWN}" for name in names)], largest=320)


def _unchanged(image: np.ndarray, row: int) -> np.ndarray:
    """Clean images take the way of the corrupted ones: decoded by Pillow."""
    return image


def _corrupting(name: str, severity: int, seed: int) -> Any:
    return lambda image, row: corrupt(image, name, severity, seed, row)


def _metric(results: Mapping[str, Any], *wanted: str | None) -> str:
    scalars = [name for name, value in results.items() if np.ndim(value) == 0]
    asked = wanted[0]
    if asked is not None and asked not in scalars:
        raise SetupError(f"unknown metric {asked!r}: {hint(asked, tuple(scalars))}")
    for name in (*wanted, *HEADLINES):
        if name in scalars:
            return str(name)
    return scalars[0]
