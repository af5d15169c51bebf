"""Records finished runs: their results in one small JSON file, and a picture of the first.

python -m experiments.record --config runs/lenet5_digits --output lenet5_digits
python -m experiments.record --config runs/seed0 runs/seed1 --output experiments/results/lenet5_digits

The picture has the training curves, and predictions for validation images. Of classes those that the run gets wrong
come first, then right ones, from the start of the validation part.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 for a mistake on the command line or in what it names."""
    parser = argparse.ArgumentParser(
        prog="record", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", required=True, nargs="+", metavar="WORKDIR", help="of finished runs")
    parser.add_argument("--output", required=True, metavar="NAME", help="NAME.json and NAME.png are written")
    options = parser.parse_args(argv)
    from jaxvision import recording

    try:
        runs = [recording.result(Path(workdir)) for workdir in options.config]
        picture = recording.picture(options.config[0])
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    _save(picture, f"{options.output}.png")
    name = recording.scores_of(runs[0])[0]
    mean = statistics.mean(run[name] for run in runs)
    lines = ",\n ".join(json.dumps(run) for run in runs)  # a line for each run
    Path(f"{options.output}.json").write_text(f'{{"mean_{name}": {mean:.5f}, "runs": [\n {lines}\n]}}\n')
    for run in runs:
        print(f"seed {run['seed']}: {_told(name, run[name])}, {run['seconds']:.0f} s")
    print(f"mean {_told(name, mean)}; wrote {options.output}.json and .png")
    return 0


def _save(picture: UInt8[np.ndarray, "h w 3"], path: str) -> None:
    """As a PNG of few colours, which is a fifth of the size."""
    Image.fromarray(picture).quantize(256, kmeans=3, dither=Image.Dither.NONE).save(path, optimize=True)


def _told(name: str, value: float) -> str:
    return f"top-1 {100 * value:.2f}%" if name == "top1" else f"{name} {value:.3f}"


if __name__ == "__main__":
    sys.exit(main())
