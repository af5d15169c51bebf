"""Records finished classification runs: their results in one small JSON file, and a picture of the first.

python -m experiments.record --config runs/lenet5_digits --output lenet5_digits
python -m experiments.record --config runs/seed0 runs/seed1 --output experiments/results/lenet5_digits

The picture has the training curves, and predictions for validation images: those that the run gets wrong come first,
then right ones, from the start of the validation part.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 for a mistake on the command line or in what it names."""
    parser = argparse.ArgumentParser(
        prog="record", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", required=True, nargs="+", metavar="WORKDIR", help="of finished runs")
    parser.add_argument("--output", required=True, metavar="NAME", help="NAME.json and NAME.png are written")
    options = parser.parse_args(argv)
    from jaxvision import recording
    from jaxvision.visualization.canvas import save_picture

    try:
        runs = [recording.result(Path(workdir)) for workdir in options.config]
        picture = recording.picture(options.config[0])
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    save_picture(picture, f"{options.output}.png")
    mean = statistics.mean(run["top1"] for run in runs)
    lines = ",\n ".join(json.dumps(run) for run in runs)  # a line for each run
    Path(f"{options.output}.json").write_text(f'{{"mean_top1": {mean:.5f}, "runs": [\n {lines}\n]}}\n')
    for run in runs:
        print(f"seed {run['seed']}: top-1 {100 * run['top1']:.2f}%, {run['seconds']:.0f} s")
    print(f"mean top-1 {100 * mean:.2f}%; wrote {options.output}.json and .png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
