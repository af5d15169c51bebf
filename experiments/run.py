"""Trains or evaluates a config, or prints it; or trains on a folder of data, writing a config for it.

python -m experiments.run --config configs/classification/lenet5_digits.py
python -m experiments.run --config lenet5_digits:smoke --workdir runs/smoke --config.schedule.steps=4
python -m experiments.run --config runs/lenet5_digits --mode eval
python -m experiments.run --data flowers --workdir runs/flowers
"""

import argparse
import os
import sys
from collections.abc import Sequence

from jaxvision import config as jv_config
from jaxvision import errors


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, 2 for a mistake in the config or on the command line, 1 for a run that failed."""
    try:
        rest, overrides = jv_config.split_overrides(sys.argv[1:] if argv is None else argv)
        options = _parser().parse_args(rest)
        if options.data is not None:
            if options.mode == "eval":
                raise _Usage("--data trains; evaluate the run with --config WORKDIR --mode eval")
            from jaxvision import starter

            options.config, options.workdir = starter.start(options.data, options.workdir)
        config = jv_config.load(options.config, overrides)
        if options.mode == "print":
            print(jv_config.describe(config))
        for note in jv_config.notes(config):
            print(f"note: {note}", file=sys.stderr)
        if options.mode == "print":
            return 0
        return _run(config, options)
    except errors.EXPECTED as error:
        print(f"error: {error}", file=sys.stderr)
        return errors.exit_status(error)


def _run(config: jv_config.Config, options: argparse.Namespace) -> int:
    from jaxvision import training
    from jaxvision.engine import distributed

    workdir = options.workdir or _default_workdir(options.config)
    if options.mode == "train" and options.checkpoint is not None:
        raise _Usage("--checkpoint belongs to --mode eval; training resumes from the workdir by itself")
    with distributed.ending_alone():
        if options.mode == "train":
            training.train(config, workdir)
        else:
            training.evaluate(config, workdir, options.checkpoint)
    return 0


def _default_workdir(spec: str) -> str:
    """The run itself where `--config` is one, else runs/NAME."""
    if spec.endswith(".json"):
        return os.path.dirname(spec) or "."
    return spec if "://" in spec or os.path.isdir(spec) else os.path.join("runs", jv_config.config_name(spec))


class _Usage(errors.SetupError):
    """Options that do not go together, or an unknown one."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise _Usage(f"{message}; see --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        epilog="--config.KEY=VALUE overrides a value: --config.schedule.epochs=12 --config.schedule.optimizer=adamw",
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--config", metavar="CONFIG", help="file.py[:arg], a name (lenet5_digits[:smoke]), or a workdir")
    which.add_argument("--data", metavar="FOLDER", help="COCO, VOC, YOLO, folders of images, or images with masks")
    parser.add_argument("--workdir", metavar="DIR", help="where everything is written; default: runs/NAME")
    parser.add_argument("--mode", choices=("train", "eval", "print"), default="train", help="default: train")
    parser.add_argument("--checkpoint", metavar="PATH", help="to evaluate; default: the newest of the workdir")
    return parser


if __name__ == "__main__":
    sys.exit(main())
