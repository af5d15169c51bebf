"""Results in a folder: JSON, the direction's usual files, pictures and annotated videos, written one by one.

`predictions.json`: a list with a row for each image or frame: `file`, of frames also `frame` and `seconds`, what
`Task.to_json` says, and where the rest lies (`picture`, ...). Beside it the files of `Task.result_files`; pictures
`NAME_prediction.png` and, of several, `contact_sheet.png`; of a video `NAME_prediction.mp4` at its rate.
"""

import inspect
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etils import epath

from jaxvision.data.json_list import JsonList
from jaxvision.engine.task import Task
from jaxvision.engine.tta import augmented
from jaxvision.errors import SetupError
from jaxvision.inference.inferencer import Result
from jaxvision.inference.videos import VideoWriter

SHEET = 36
"""Pictures on the contact sheet at most."""


class Saver:
    """Writes results to a folder as they come.

    with Saver("predictions", infer.model.task) as saver:
        for result in infer.iterate("photos"):
            saver.add(result)
    saver.written
    """

    def __init__(self, folder: str | os.PathLike[str], task: Task, *, pictures: bool = True, **options: Any) -> None:
        """Makes the folder; files of the same names in it are overwritten.

        Args:
          pictures: also pictures and videos.
          options: of the task's `result_files`: `palette` (semantic), `annotations` (detection); None and False are
            as if left out.

        Raises:
          SetupError: an option that the direction does not have.
        """
        task = augmented(task, None)
        options = {name: value for name, value in options.items() if value not in (None, False)}
        known = inspect.signature(task.result_files).parameters
        for name in options:
            if name not in known:
                raise SetupError(f"{name} has no meaning for {type(task).__name__}: leave it out")
        self.folder = epath.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.written: list[str] = []
        self._files = task.result_files(self.folder, **options)
        self._rows = JsonList(self.folder / "predictions.json")
        self._names: set[str] = set()
        self._draws, self._pictures, self._sheet = pictures, 0, dict[str, Any]()
        self._videos, self._now = 0, ("", "")
        self._writer: VideoWriter | None = None

    def add(self, result: Result) -> dict[str, Any]:
        """Writes a result; returns its row of `predictions.json`."""
        name, sample = self._name(result), dict(result.geometry)
        sample |= {"file": result.source}
        row: dict[str, Any] = {"file": result.source}
        if result.frame is not None:
            sample |= {"frame": result.frame}
            row |= {"frame": result.frame, "seconds": round(result.seconds or 0.0, 4)}
            sample |= {"name": f"{name}_{result.frame:06d}"}
        else:
            sample |= {"name": name}
        row |= result.json
        if self._files is not None:
            row |= self._files.add(sample, result.prediction)
        if self._draws:
            row |= {"picture": self._draw(result, name)}
        self._rows.add(row)
        return row

    def close(self) -> None:
        """Completes all files; `written` then says what there is. Also after an error, for what came before it."""
        self._end_video()
        self._rows.close()
        self.written = [self._rows.path.name]
        if self._files is not None:
            self.written += self._files.close()
        if self._pictures:
            self.written.append(f"{self._pictures} picture{'s' if self._pictures > 1 else ''}")
        if self._videos:
            self.written.append(f"{self._videos} video{'s' if self._videos > 1 else ''}")
        if len(self._sheet) > 1:
            from jaxvision.visualization.canvas import save_picture
            from jaxvision.visualization.sheets import contact_sheet

            sheet = contact_sheet(list(self._sheet.values()), list(self._sheet), largest=900)
            save_picture(sheet, self.folder / "contact_sheet.png")
            self.written.append(f"contact_sheet.png of {len(self._sheet)}")

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _name(self, result: Result) -> str:
        """A name that no other image or video of this folder has."""
        if result.frame and self._now[0] == result.source:  # not the first frame
            return self._now[1]
        self._end_video()
        stem = Path(result.path).stem if result.path else result.source.replace(" ", "_")
        name, number = stem, 1
        while name in self._names:
            number += 1
            name = f"{stem}_{number}"
        self._names.add(name)
        self._now = (result.source, name)
        return name

    def _draw(self, result: Result, name: str) -> str:
        from jaxvision.visualization.canvas import save_picture

        picture = result.picture()
        if result.frame is not None:
            file = f"{name}_prediction.mp4"
            if self._writer is None:
                self._writer = VideoWriter(self.folder / file, result.rate or 0.0)
                self._videos += 1
            self._writer.add(picture)
            return file
        file = f"{name}_prediction.png"
        save_picture(picture, self.folder / file)
        self._pictures += 1
        if len(self._sheet) < SHEET:
            self._sheet[f"{name}{Path(result.source).suffix}"] = picture
        return file

    def _end_video(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def told(result: Result) -> str:
    """A result on one line."""
    found = result.found
    if isinstance(found, Mapping) and found is not result.prediction:
        return ", ".join(f"{name}: {' '.join(str(one).split())}" for name, one in found.items())
    return json.dumps(result.json) if found is result.prediction else str(found)
