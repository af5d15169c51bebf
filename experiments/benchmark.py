"""Measures how fast a config trains on these devices, and what the engine adds to the bare step; or models alone.

python -m experiments.benchmark --config configs/classification/resnet50_synthetic.py --config.data.batch_size=8
python -m experiments.benchmark --config configs/classification/lenet5_digits.py --input
python -m experiments.benchmark --models resnet50 'convnext_*' --batch-size 8 --dtype bfloat16
"""

import argparse
import sys
from collections.abc import Sequence

from jaxvision import config as jv_config


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 for a mistake in the config or on the command line."""
    rest, overrides = jv_config.split_overrides(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="benchmark", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--config", metavar="CONFIG", help="file.py[:arg] or a name")
    what.add_argument("--models", nargs="+", metavar="MODEL", help="registered names or patterns: forward, train step")
    parser.add_argument("--steps", type=int, default=50, help="steps per measurement; default: 50")
    parser.add_argument("--rounds", type=int, default=5, help="pairs of measurements; default: 5")
    parser.add_argument("--input", action="store_true", help="measure the input alone")
    parser.add_argument("--batch-size", type=int, default=8, help="of --models; default: 8")
    parser.add_argument("--image-size", type=int, help="side in pixels, of --models; default: the model's own")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of --models")
    options = parser.parse_args(rest)
    try:
        if options.models:
            return _measure_models(options)
        config = jv_config.load(options.config, overrides)
        from jaxvision.benchmark import Benchmark, InputSpeed, benchmark, measure_input

        result: Benchmark | InputSpeed
        if options.input:
            result = measure_input(config, rounds=options.rounds)
        else:
            result = benchmark(config, steps=options.steps, rounds=options.rounds)
        print("\n".join(result.lines()))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _measure_models(options: argparse.Namespace) -> int:
    from jaxvision import registry
    from jaxvision.model_speed import measure_models

    names = [n for pattern in options.models for n in registry.names("model", pattern) or (pattern,)]
    size, dtype = options.image_size, options.dtype
    measure_models(names, batch_size=options.batch_size, image_size=size, dtype=dtype, rounds=options.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
