"""Looks into runs, configs and models: what they reached, what they see, where they err, what they cost.

python -m experiments.analyze runs/a runs/b runs/c                                   # curves and configs, compared
python -m experiments.analyze runs/retinanet --view errors --output analysis         # or classes, confusion, worst, ...
python -m experiments.analyze runs/resnet18 --view robustness --count 500
python -m experiments.analyze runs/resnet18 --view gradcam --input cat.png --output analysis
python -m experiments.analyze resnet50_image_folder --view learning_rate --examples 1281167
python -m experiments.analyze fcn_r50_d8_voc12aug deeplabv3_r50_d8_voc12aug --view cost
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxvision import errors

VIEWS = {
    "runs": "curves, best values and differing settings of several workdirs",
    "classes": "scores of each class",
    "confusion": "what is taken for what",
    "errors": "of detectors by cause and what each costs (TIDE); of segmenters by distance to boundaries",
    "precision_recall": "curves of each class",
    "worst": "a sheet of the worst images beside their truth",
    "robustness": "the metric under common corruptions",
    "cost": "parameters, operations and time of configs",
    "gradcam": "where a layer speaks for a class, over the images of --input",
    "features": "PCA and t-SNE of features, coloured by class",
    "learning_rate": "the rate of every parameter group over the run",
    "receptive_field": "theoretical and effective, of each level",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 for a mistake on the command line or in what it names."""
    options = _parser().parse_args(argv)
    from jaxvision.analysis import views

    chosen = views.Options(
        checkpoint=options.checkpoint,
        inputs=tuple(options.input or ()),
        layer=options.layer,
        method=options.method,
        target=options.target,
        count=options.count,
        size=tuple(options.size) if options.size else None,
        examples=options.examples,
        metric=options.metric,
        iou=options.iou,
        score=options.score,
        only=tuple(options.only or ()),
        seed=options.seed,
    )
    try:
        views.analyze(options.source, options.view, chosen, Path(options.output))
    except errors.EXPECTED as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="analyze", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("source", nargs="+", metavar="SOURCE", help="workdir of a run, config (name or file) or name of a model")
    told = "; ".join(f"{name}: {what}" for name, what in VIEWS.items())
    add("--view", default="runs", choices=tuple(VIEWS), help=f"(default: %(default)s) {told}")
    add("--output", default="analysis", metavar="DIR", help="for pictures and VIEW.json (default: %(default)s)")
    add("--checkpoint", help="as in predict")
    add("--input", nargs="+", help="gradcam, features: image files, folders or patterns; for features a folder a class")
    add("--layer", help="pooled, a level (c4) or a module (backbone/layer3_0); receptive_field: several, with commas")
    add("--method", default="gradcam", choices=("gradcam", "gradcam++", "eigencam"), help="of gradcam")
    add("--target", type=int, help="gradcam: the class; default: the one that is predicted")
    add("--count", type=int, help="samples at most (features: 1000); worst: images on the sheet (24)")
    add("--size", type=int, nargs=2, metavar=("H", "W"), help="receptive_field: of the images")
    add("--examples", type=int, help="learning_rate: training images, where the data are not here")
    add("--metric", help="robustness: which; runs: only those with this in their names")
    add("--iou", type=float, default=0.5, help="from which on a detection finds an object (default: %(default)s)")
    add("--score", type=float, help="confusion, errors: above which a prediction counts; default: the task's own")
    add("--only", nargs="+", metavar="CORRUPTION", help="robustness: of these, such as fog gaussian_noise")
    add("--seed", type=int, default=0, help="robustness: of the corruptions")
    return parser


if __name__ == "__main__":
    sys.exit(main())
