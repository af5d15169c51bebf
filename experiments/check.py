"""Is my data set what I think it is? Numbers per class, and every fault as a sentence with the name of the file.

python -m experiments.check --config configs/classification/lenet5_digits.py
python -m experiments.check --data photos --output check

Every image is decoded. Exit status: 0, 1 where errors were found, 2 for a mistake on the command line.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxvision import config as jv_config
from jaxvision import errors


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    try:
        rest, overrides = jv_config.split_overrides(sys.argv[1:] if argv is None else argv)
        options = _parser().parse_args(rest)
        if options.data is not None and overrides:
            raise errors.SetupError("--config.KEY=VALUE belongs to --config, not to --data")
        build, max_instances = _of_folder(options.data) if options.data else _of_config(options.config, overrides)
    except errors.EXPECTED as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        return _check(build, max_instances, options)
    except errors.EXPECTED as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _check(build: Any, max_instances: int | None, options: argparse.Namespace) -> int:
    from jaxvision.checking import check_sources, write_report

    report, sources = check_sources(build, full=not options.fast, max_instances=max_instances)
    print("\n".join(report.lines()))
    if options.output:
        written = write_report(report, sources, Path(options.output))
        print(f"wrote {', '.join(written)} to {options.output}")
    return 1 if report.errors else 0


def _of_config(spec: str, overrides: Sequence[tuple[str, str]]) -> tuple[Any, int | None]:
    config = jv_config.load(spec, overrides)
    jv_config.import_extensions(config.imports)
    from jaxvision.data.build import build_source

    return (lambda split: build_source(config.data, split)), config.data.max_instances


def _of_folder(folder: str) -> tuple[Any, int | None]:
    from jaxvision.starter import builder, recognised

    found = recognised(folder)
    print(f"{os.fspath(folder)}: {found.note}")
    return builder(found.source), None


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise errors.SetupError(f"{message}; see --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--config", metavar="CONFIG", help="file.py[:arg], a name, or a workdir")
    which.add_argument("--data", metavar="FOLDER", help="COCO, VOC, YOLO, folders of images, or images with masks")
    parser.add_argument("--output", metavar="DIR", help="for report.json and pictures")
    parser.add_argument("--fast", action="store_true", help="only what training checks by itself: nothing is decoded")
    return parser


if __name__ == "__main__":
    sys.exit(main())
