"""Writes the proposals of a trained region proposal network for all images of a data set.

python -m experiments.propose --config runs/rpn --split train --output train.npz
python -m experiments.propose --config runs/rpn --checkpoint best --split validation --output val.npz

Fast R-CNN learns from both: data.source=dict(name="with_proposals", path="train.npz", eval_path="val.npz", source=...).
"""

import argparse
import sys
from collections.abc import Sequence

from jaxvision import config as jv_config
from jaxvision import errors


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 for a mistake on the command line or in what it names."""
    try:
        rest, overrides = jv_config.split_overrides(sys.argv[1:] if argv is None else argv)
        options = _parser().parse_args(rest)
        config = jv_config.load(options.config, overrides)
        from jaxvision.inference import Inferencer
        from jaxvision.proposing import propose

        infer = Inferencer(options.config, options.checkpoint, batch_size=options.batch_size)
        print(f"weights: {infer.model.origin}", flush=True)
        images, count = propose(infer, config, options.output, split=options.split)
    except errors.EXPECTED as error:
        print(f"error: {error}", file=sys.stderr)
        return errors.exit_status(error)
    print(f"wrote {count} proposals of {images} images to {options.output}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="propose", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", required=True, help="workdir of a run, or a config (name or file)")
    parser.add_argument("--checkpoint", help="as in predict")
    parser.add_argument("--split", choices=("train", "validation"), default="train", help="default: train")
    parser.add_argument("--output", required=True, metavar="FILE.npz")
    parser.add_argument("--batch-size", type=int, default=16, help="images per call (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
