"""Predicts for images and draws the predictions.

python -m experiments.predict --config runs/lenet5_digits --input seven.png --output predictions
python -m experiments.predict --config lenet5_digits --checkpoint runs/a --input folder '*.png' --output predictions

Prints file, class and score, and writes `predictions.json`, one picture per image and, for several, a contact sheet.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxvision import errors

SHEET = 36  # pictures on the contact sheet at most


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 for a mistake on the command line or in what it names."""
    arguments = _parser().parse_args(argv)
    from jaxvision.inference import Inferencer, expand

    try:
        files, _ = expand(arguments.input)
        infer = Inferencer(arguments.config, arguments.checkpoint, batch_size=arguments.batch_size, tta=arguments.tta)
        print(f"weights: {infer.model.origin}", flush=True)
        _predict(infer, files, Path(arguments.output))
    except errors.EXPECTED as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", required=True, help="workdir of a run, config (name or file) or name of a model")
    parser.add_argument(
        "--checkpoint",
        help="step, 'best' (of a workdir; default: the newest), or path of a workdir, step or .safetensors file",
    )
    parser.add_argument("--input", required=True, nargs="+", help="image files, folders or glob patterns")
    parser.add_argument("--output", required=True, help="folder for predictions.json and pictures")
    parser.add_argument("--batch-size", type=int, default=16, help="images per call (default: %(default)s)")
    parser.add_argument("--tta", default="config", help="test-time augmentation: hflip, d4, dict(name=...), ...")
    return parser


def _predict(infer: Any, files: Sequence[Any], output: Path) -> None:
    from rich.console import Console
    from rich.progress import track

    from jaxvision.visualization.canvas import save_picture
    from jaxvision.visualization.sheets import contact_sheet

    output.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    pictures: list[Any] = []
    used: set[str] = set()
    console = Console(stderr=True)
    progress = track(infer.iterate(files), "predicting", len(files), console=console, disable=not console.is_terminal)
    width = min(60, max(len(str(file)) for file in files))
    for result in progress:
        picture, name = result.picture(), _free_name(Path(result.path).stem, used)
        save_picture(picture, output / name)
        if len(pictures) < SHEET:
            pictures.append(picture)
        rows.append({"file": result.path, **result.json, "picture": name})
        print(f"{result.path:<{width}}  {_told(result.json)}", flush=True)
    (output / "predictions.json").write_text(json.dumps(rows, indent=1) + "\n")
    written = ["predictions.json", f"{len(rows)} picture{'s' if len(rows) > 1 else ''}"]
    if len(pictures) > 1:
        titles = [Path(row["file"]).name for row in rows[: len(pictures)]]
        save_picture(contact_sheet(pictures, titles, largest=900), output / "contact_sheet.png")
        written.append(f"contact_sheet.png of {len(pictures)}")
    print(f"wrote {', '.join(written)} to {output}")


def _free_name(stem: str, used: set[str]) -> str:
    """A file name that no other image of this call has, and that differs from the image's own."""
    name, number = f"{stem}_prediction.png", 1
    while name in used:
        number += 1
        name = f"{stem}_prediction_{number}.png"
    used.add(name)
    return name


def _told(prediction: dict[str, Any]) -> str:
    """Class and score where the direction has them, else the JSON on one line."""
    told = "class" in prediction and "score" in prediction
    return f"{prediction['class']:<16} {prediction['score']:.4f}" if told else json.dumps(prediction)


if __name__ == "__main__":
    sys.exit(main())
