"""Looks into a run, a config or a model: what it sees, how it tells classes apart, how it was to be trained.

python -m experiments.analyze runs/resnet18 --view gradcam --input cat.png --output analysis
python -m experiments.analyze runs/lenet5_digits --view features
python -m experiments.analyze resnet50_image_folder --view learning_rate --examples 1281167
python -m experiments.analyze resnet18 --view receptive_field --size 512 512
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxvision import errors

VIEWS = {
    "gradcam": "where a layer speaks for a class, over the images of --input",
    "features": "PCA and t-SNE of features, coloured by class",
    "learning_rate": "the rate of every parameter group over the run",
    "receptive_field": "theoretical and effective, of each level",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 for a mistake on the command line or in what it names."""
    options = _parser().parse_args(argv)
    from jaxvision.analysis import views
    from jaxvision.visualization.canvas import save_picture

    chosen = views.Options(
        checkpoint=options.checkpoint,
        inputs=tuple(options.input or ()),
        layer=options.layer,
        method=options.method,
        target=options.target,
        count=options.count,
        size=tuple(options.size) if options.size else None,
        examples=options.examples,
    )
    try:
        for source in options.source:
            output = Path(options.output)
            output = output / Path(source).name if len(options.source) > 1 else output
            found = views.VIEWS[options.view](source, chosen)
            print("\n".join(found.lines))
            for name, picture in found.pictures.items():
                save_picture(picture, output / name)
            print(f"wrote {', '.join(found.pictures)} to {output}", flush=True)
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
    add("--view", required=True, choices=tuple(VIEWS), help=told)
    add("--output", default="analysis", metavar="DIR", help="for pictures (default: %(default)s)")
    add("--checkpoint", help="as in predict")
    add("--input", nargs="+", help="image files, folders or patterns; for features a folder for each class")
    add("--layer", help="pooled, a level (c4) or a module (backbone/layer3_0); receptive_field: several, with commas")
    add("--method", default="gradcam", choices=("gradcam", "gradcam++", "eigencam"), help="of gradcam")
    add("--target", type=int, help="gradcam: the class; default: the one that is predicted")
    add("--count", type=int, help="features: images at most (1000); receptive_field: random images (16)")
    add("--size", type=int, nargs=2, metavar=("H", "W"), help="receptive_field: of the images")
    add("--examples", type=int, help="learning_rate: training images, where the data are not here")
    return parser


if __name__ == "__main__":
    sys.exit(main())
