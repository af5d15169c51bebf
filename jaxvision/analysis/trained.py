"""Views of a trained model on its evaluation data: what the direction tells, and the images it does worst on."""

import heapq
from typing import Any

import numpy as np

from jaxvision import errors
from jaxvision.analysis.examined import Examined
from jaxvision.engine.analysis import Findings, Settings, table
from jaxvision.errors import SetupError
from jaxvision.training import ROW, WIDE

WORST = 24
"""Images on the sheet of the worst."""
SHEET = 640
"""Longest side of a picture on it."""
LISTED = 1000
"""Images that its JSON lists at most."""


def told(examined: Examined, view: str, settings: Settings) -> Findings:
    """A view that the task offers.

    Raises:
      SetupError: the task does not offer it, or its data or metrics lack what it needs.
    """
    task = examined.model.task
    analyses = task.analyses(settings)
    if view not in analyses:
        known = ", ".join(analyses) or "none of them"
        raise SetupError(f"{type(getattr(task, 'task', task)).__name__} has no view {view!r}; it has {known}")
    with errors.setup():
        results, kept = examined.analysed(analyses[view])
        found = analyses[view].conclude(results, kept)
    reached = task.summary(results) or getattr(task, "task", task).summary(results)
    first = [f"weights: {examined.model.origin}", f"{len(examined.source):,} samples; {'; '.join(reached[:1])}"]
    return Findings((*first, *found.lines), found.json, found.pictures)


def worst(examined: Examined, count: int = WORST) -> Findings:
    """A sheet of the images that score lowest, each beside its truth, and a list of them.

    Raises:
      SetupError: a task without a score of single images.
    """
    score = examined.model.task.image_score
    if score is None:
        raise SetupError(f"{type(examined.model.task).__name__} has no score of single images")
    heap: list[tuple[float, int, Any]] = []
    values: dict[int, float] = {}

    def on_example(row: int, prediction: Any) -> None:
        values[row] = score.of(examined.sample(row), prediction)
        if np.isfinite(values[row]):
            item = (-values[row], -row, prediction)  # rows differ, so predictions are never compared
            heapq.heappush(heap, item) if len(heap) < count else heapq.heappushpop(heap, item)

    with errors.setup():
        examined.run(on_example)
    chosen = sorted(heap, key=lambda item: (-item[0], -item[1]))
    pictures, titles, rows = [], [], []
    for value, row, prediction in chosen:
        sample = examined.sample(-row)
        pictures.append(examined.model.task.draw(sample, prediction))
        titles.append(f"{_name(sample, -row)}: score {-value:.3f}")
        rows.append([_name(sample, -row), -row, -value])
    finite = {row: value for row, value in values.items() if np.isfinite(value)}
    order = sorted(finite, key=lambda row: (finite[row], row))
    mean = float(np.sum(list(finite.values()))) / max(1, len(finite))
    lines = [
        f"weights: {examined.model.origin}",
        f"score of an image: {score.name}; mean of {len(finite):,}: {mean:.4f}",
        *table(["image", "row", "score"], rows),
    ]
    listed = [{"row": row, "file": _name(examined.sample(row), row), "score": finite[row]} for row in order[:LISTED]]
    json = {"score": score.name, "images": len(values), "not_rated": len(values) - len(finite), "worst": listed}
    return Findings(lines, json, {"worst.png": _sheet(pictures, titles)} if pictures else {})


def _sheet(pictures: list[np.ndarray], titles: list[str]) -> np.ndarray:
    from jaxvision.visualization.sheets import contact_sheet

    if min(picture.shape[1] / picture.shape[0] for picture in pictures) > ROW:
        return contact_sheet(pictures, titles, columns=1, largest=WIDE)
    return contact_sheet(pictures, titles, largest=SHEET)


def _name(sample: Any, row: int) -> str:
    name = str(sample.get("file", row)).rpartition("/")[2]
    return f"sample {name}" if name.isdigit() else name
