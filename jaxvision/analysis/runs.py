"""Several runs side by side: their curves, what they reached, and how their configs differ."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxvision import config as configs
from jaxvision.engine.analysis import Findings, plain, table
from jaxvision.engine.writers import read_records
from jaxvision.errors import SetupError
from jaxvision.visualization.curves import Series, best_point, epochs_per_step_of, series_of

PANELS = 12
"""Metrics that are drawn at most."""
UNTOLD = ("images_per_second", "input_wait", "grad_norm", "learning_rate")
"""Training metrics that are left out where another one is known."""


@dataclasses.dataclass(frozen=True)
class Run:
    """What a workdir says.

    Attributes:
      name: short, and different from those of the others.
      config: dotted keys of the resolved config.
      series: metric -> {"train" or "eval": (steps, values)}.
      epochs_per_step: None where it is not known.
      seconds: between its first and its last record.
    """

    name: str
    config: Mapping[str, Any]
    series: Mapping[str, Mapping[str, Series]]
    epochs_per_step: float | None
    seconds: float


def compare(workdirs: Sequence[str], metric: str | None = None) -> Findings:
    """Curves, a table of the best and the last values, and the keys in which the configs differ.

    Args:
      workdirs: of runs.
      metric: a regular expression's worth of one name: only metrics that contain it; None: all.

    Raises:
      SetupError: no run, or one without records.
    """
    from jaxvision.visualization.canvas import render
    from jaxvision.visualization.runs import runs_figure

    runs = read(workdirs)
    names = [name for name in metrics_of(runs) if metric is None or metric in name]
    if not names:
        known = ", ".join(metrics_of(runs))
        raise SetupError(f"no metric {metric!r} in these runs: they have {known or 'none'}")
    told = {name: {run.name: _values(run, name) for run in runs if name in run.series} for name in names}
    differences = differences_of([run.config for run in runs])
    in_epochs = all(run.epochs_per_step for run in runs)
    panels: dict[str, dict[str, Series]] = {}
    for name in names[:PANELS]:
        panels[name] = {}
        for run in runs:
            if name in run.series:
                steps, values = _told(run, name)
                panels[name][run.name] = (steps * (run.epochs_per_step or 1.0) if in_epochs else steps, values)
    lines = _lines(runs, told, differences)
    if len(names) > PANELS:
        lines.append(f"the picture has the first {PANELS} of {len(names)} metrics: choose with --metric")
    json = {
        "runs": {
            run.name: {"workdir": str(path), "seconds": run.seconds} for run, path in zip(runs, workdirs, strict=True)
        },
        "metrics": told,
        "config_differences": {key: dict(zip([r.name for r in runs], row, strict=True)) for key, row in differences},
    }
    figure = runs_figure([run.name for run in runs], panels, "epoch" if in_epochs else "step")
    return Findings(lines, json, {"runs.png": render(figure)})


def read(workdirs: Sequence[str]) -> list[Run]:
    """The records and configs of runs, in their order."""
    runs = []
    for path, name in zip(workdirs, short_names(workdirs), strict=True):
        file = Path(path) / "metrics.jsonl"
        if not file.exists():
            raise SetupError(f"{path} has no metrics.jsonl: expected the workdir of a run")
        records = list(read_records(file))
        config: dict[str, Any] = {}
        if (Path(path) / "config.json").exists():
            config = flat(configs.to_plain(configs.from_json((Path(path) / "config.json").read_text())))
        seconds = records[-1]["time"] - records[0]["time"] if records else 0.0
        runs.append(Run(name, config, series_of(records), epochs_per_step_of(records), float(seconds)))
    return runs


def short_names(paths: Sequence[str]) -> list[str]:
    """The last parts of each path, as many as tell all of them apart."""
    parts = [Path(path).resolve().parts for path in paths]
    for count in range(1, max(map(len, parts), default=1) + 1):
        names = ["/".join(own[-count:]) for own in parts]
        if len(set(names)) == len(names):
            return names
    raise SetupError("the same run is given twice")


def metrics_of(runs: Sequence[Run]) -> list[str]:
    """Evaluation metrics first, then those of training, each in the order of the curves; few others than losses."""
    found: dict[str, bool] = {}
    for run in runs:
        for name, kinds in run.series.items():
            found[name] = found.get(name, False) or "eval" in kinds
    names = [
        *(n for n, evaluated in found.items() if evaluated),
        *(n for n, evaluated in found.items() if not evaluated),
    ]
    return [name for name in names if name not in UNTOLD] or names


def differences_of(given: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Any]]]:
    """Dotted keys whose values are not the same in all configs, with the value of each ("-" for none)."""
    keys = sorted({key for config in given for key in config})
    rows = [(key, [config.get(key, "-") for config in given]) for key in keys]
    return [(key, row) for key, row in rows if any(value != row[0] for value in row[1:])]


def flat(config: Any, path: str = "") -> dict[str, Any]:
    """Nested mappings, and sequences of them -> {dotted key: value}."""
    if isinstance(config, (list, tuple)) and any(isinstance(value, Mapping) for value in config):
        config = dict(enumerate(config))
    if not isinstance(config, Mapping):
        return {path: config}
    found: dict[str, Any] = {}
    for key, value in config.items():
        found |= flat(value, f"{path}.{key}" if path else str(key))
    return found


def _told(run: Run, name: str) -> Series:
    kinds = run.series[name]
    return kinds["eval"] if "eval" in kinds else next(iter(kinds.values()))


def _values(run: Run, name: str) -> dict[str, Any]:
    steps, values = _told(run, name)
    best = best_point(name, (steps, values))
    told = {"last": float(values[-1]), "last_step": int(steps[-1])}
    if best is not None:
        told |= {"best": float(values[best]), "best_step": int(steps[best])}
    return told


def _lines(
    runs: Sequence[Run],
    told: Mapping[str, Mapping[str, Mapping[str, Any]]],
    differences: Sequence[tuple[str, list[Any]]],
) -> list[str]:
    rows = []
    for name, values in told.items():
        for run in runs:
            own = values.get(run.name)
            if own:
                best = own.get("best", float("nan"))
                rows.append(
                    [name, run.name, _number(best), own.get("best_step", ""), _number(own["last"]), own["last_step"]]
                )
    lines = table(["metric", "run", "best", "at step", "last", "at step"], rows)
    if len(runs) > 1:
        lines += ["", "differences of the configs:" if differences else "the configs are the same"]
        for key, row in differences:
            by_value: dict[str, list[str]] = {}
            for run, value in zip(runs, plain(row), strict=True):
                by_value.setdefault(str(value), []).append(run.name)
            lines += [key, *(f"    {_text(value)}: {', '.join(names)}" for value, names in by_value.items())]
    return lines


def _number(value: float) -> str:
    return f"{value:.4g}" if np.isfinite(value) else "-"


def _text(text: str, longest: int = 70) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
