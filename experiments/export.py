"""Exports a trained model as one program that needs none of its code, pre- and post-processing included.

python -m experiments.export --config runs/lenet5_digits --output lenet5.stablehlo
python -m experiments.export --config torchvision:resnet50 --output resnet50 --format saved_model
python -m experiments.export --config runs/unet --output unet.tflite --format tflite --batch 1

Beside the program lies a JSON that says what goes in and comes out. `jaxvision.deploy.load` runs a StableHLO program,
and so do ten lines of plain jax (they stand in `jaxvision/deploy/exported.py`); `tf.saved_model.load` a SavedModel.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxvision import errors

FORMATS = ("stablehlo", "saved_model", "tflite")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 for a mistake on the command line or in what it names."""
    options = _parser().parse_args(argv)
    from jaxvision.deploy.export import export_model
    from jaxvision.loading import load_model

    try:
        model = load_model(options.config, options.checkpoint)
        print(f"weights: {model.origin}", flush=True)
        written = export_model(
            model,
            options.output,
            format=options.format,
            batch=options.batch,
            weights_beside=options.weights == "beside",
            platforms=options.platforms,
        )
    except errors.EXPECTED as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name in written:
        path = Path(name)
        files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
        print(f"wrote {name} ({sum(file.stat().st_size for file in files) / 1e6:.2f} MB)")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--config", required=True, help="workdir of a run, config (name or file), name of a model, or weight card"
    )
    parser.add_argument(
        "--checkpoint",
        help="step, 'best' (of a workdir; default: the newest), or path of a workdir, step or .safetensors file",
    )
    parser.add_argument("--output", required=True, help="the program's file; a folder with saved_model")
    parser.add_argument("--format", choices=FORMATS, default="stablehlo", help="default: %(default)s")
    parser.add_argument(
        "--batch",
        type=_batch,
        metavar="N|symbolic",
        help="images per call (default: any number; tflite: 1)",
    )
    parser.add_argument(
        "--weights", choices=("inside", "beside"), default="inside", help="beside: in FILE.safetensors (stablehlo)"
    )
    parser.add_argument(
        "--platforms",
        type=lambda text: tuple(text.split(",")),
        default=("cpu", "cuda", "tpu"),
        help="for which the program is lowered (default: cpu,cuda,tpu)",
    )
    return parser


def _batch(text: str) -> int | None:
    if text == "symbolic":
        return None
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of images or 'symbolic', and got {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
