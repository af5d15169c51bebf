"""Shows what the model is really fed: batches of a config after loading and augmentation, with their annotations.

python -m experiments.browse --config configs/classification/lenet5_digits.py
python -m experiments.browse --config lenet5_digits --step 100 --count 8 --compare --output pictures

Samples and pixels are those that a run with the same seed trains on at that step. Writes contact sheets.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxvision import config as jv_config
from jaxvision import errors


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 for a mistake in the config, in the data or on the command line."""
    try:
        rest, overrides = jv_config.split_overrides(sys.argv[1:] if argv is None else argv)
        options = _parser().parse_args(rest)
        if options.seed is not None:
            overrides = [*overrides, ("seed", str(options.seed))]
        config = jv_config.load(options.config, overrides)
        if min(options.step, options.count - 1) < 0:
            raise errors.SetupError("--step starts at 0 and --count at 1")
        _browse(config, options)
    except errors.EXPECTED as error:
        print(f"error: {error}", file=sys.stderr)
        return errors.exit_status(error)
    return 0


def _browse(config: jv_config.Config, options: argparse.Namespace) -> None:
    from jaxvision import browsing, experiment
    from jaxvision.visualization.canvas import save_picture

    experiment.prepare(config)
    found, source = browsing.browse(
        config, split=options.split, step=options.step, count=options.count, original=options.compare
    )
    if not found:
        raise errors.SetupError(f"the {options.split} part ends before --step {options.step}")
    written = []
    for number, sheet in enumerate(browsing.sheets(found, source), 1):
        name = f"{options.split}_step{options.step}{f'_{number}' if number > 1 else ''}.png"
        save_picture(sheet, Path(options.output) / name)
        written.append(name)
    height, width, channels = found[0].sample["image"].shape
    shape = f"{height} x {width} pixels, {channels} channel{'s' if channels > 1 else ''}"
    print(f"{len(found)} samples of {source.name}, fed as {shape}")
    print(f"wrote {', '.join(written)} to {options.output}")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise errors.SetupError(f"{message}; see --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="browse", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", required=True, metavar="CONFIG", help="file.py[:arg], a name, or a workdir")
    parser.add_argument("--split", choices=("train", "validation"), default="train", help="default: train, augmented")
    parser.add_argument("--step", type=int, default=0, help="batches before the first that is shown; default: 0")
    parser.add_argument("--count", type=int, default=16, help="samples; default: 16")
    parser.add_argument("--seed", type=int, help="instead of the config's")
    parser.add_argument("--compare", action="store_true", help="the original beside each sample")
    parser.add_argument("--output", default="browse", metavar="DIR", help="default: browse")
    return parser


if __name__ == "__main__":
    sys.exit(main())
