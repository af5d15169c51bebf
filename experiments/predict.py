"""Predicts for images, videos and cameras, and draws the predictions.

python -m experiments.predict --config runs/lenet5_digits --input seven.png --output predictions
python -m experiments.predict --config lenet5_digits --checkpoint runs/a --input folder '*.png' a.mp4 --output out
python -m experiments.predict --config runs/retinanet --input 0 --max-frames 300 --output predictions      # a camera

Prints what was found, and writes `predictions.json`, the direction's usual files (`classes.csv`, `coco_results.json`,
`panoptic.json`, PNG label maps), a picture of each image, for several a contact sheet, and annotated videos.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from jaxvision import errors


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, 2 for a mistake on the command line or in what it names, 130 when interrupted."""
    arguments = _parser().parse_args(argv)
    from jaxvision.inference import Inferencer, Saver
    from jaxvision.inference.inputs import Camera, listed

    left: list[tuple[str, Exception]] = []
    given = arguments.input
    try:
        sources, total = listed(given, left, skip=arguments.skip_unreadable, limit=arguments.max_frames)
        live = all(isinstance(source, Camera) for source in sources)
        names = ("tta", "score_threshold", "top_k", "device")
        options = {name: getattr(arguments, name) for name in names}
        batch_size = (1 if live else 16) if arguments.batch_size is None else arguments.batch_size
        infer = Inferencer(arguments.config, arguments.checkpoint, batch_size=batch_size, **options)
        print(f"weights: {infer.model.origin}", flush=True)
        files = {"palette": arguments.palette, "annotations": arguments.annotations}
        saver = Saver(arguments.output, infer.model.task, pictures=not arguments.no_pictures, **files)
        status = _predict(infer, saver, sources, total, left if arguments.skip_unreadable else None)
    except errors.EXPECTED as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {', '.join(saver.written)} to {arguments.output}")
    for name, why in left:
        print(f"left out: {name}: {why}", file=sys.stderr)
    return 0 if live else status  # a camera ends by Ctrl-C


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--config", required=True, help="workdir of a run, config (name or file) or name of a model")
    add("--checkpoint", help="step, 'best' (of a workdir; default: the newest), or path of a workdir, step or weights")
    inputs = "images, videos, folders, glob patterns, or the number of a camera"
    add("--input", required=True, nargs="+", help=inputs)
    add("--output", required=True, help="folder for everything that is written")
    add("--batch-size", type=int, help="images per call of the program (default: 16, for cameras 1)")
    add("--tta", default="config", help="test-time augmentation: hflip, d4, dict(name=...), ...")
    add("--score-threshold", type=float, help="show detections that score more")
    add("--top-k", type=int, help="classes that are listed for an image (default: 5)")
    add("--max-frames", type=int, help="of each video and camera")
    add("--annotations", help="COCO file whose ids of images and categories coco_results.json takes")
    add("--palette", action="store_true", help="colours in PNG label maps; their values stay the labels")
    add("--no-pictures", action="store_true", help="no pictures and annotated videos")
    add(
        "--skip-unreadable",
        action="store_true",
        help="go on without what cannot be read, and list it at the end",
    )
    add("--device", help="cpu, gpu, tpu, gpu:1 (default: the first that JAX has)")
    return parser


def _predict(infer: Any, saver: Any, sources: Sequence[Any], total: int | None, left: Any) -> int:
    from rich.console import Console
    from rich.progress import track

    from jaxvision.inference.saving import told

    width = min(60, max(len(str(source)) for source in sources))
    console = Console(stderr=True)
    on_error = "raise" if left is None else lambda name, error: left.append((name, error))
    results = infer.iterate(sources, on_error=on_error)
    try:
        with saver:
            for result in track(results, "predicting", total, console=console, disable=not console.is_terminal):
                saver.add(result)
                if result.frame is None:
                    print(f"{result.source:<{width}}  {told(result)}", flush=True)
                elif not result.frame:
                    print(f"{result.source}: {result.rate:g} frames per second", flush=True)
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
