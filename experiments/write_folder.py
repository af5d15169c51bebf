"""Writes the images of a config's source out as PNG files, a folder per class, which `image_folder` reads.

python -m experiments.write_folder --config lenet5_digits --output data/digits
"""

import argparse
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 for a mistake on the command line or in what it names."""
    from jaxvision import config as jv_config
    from jaxvision import errors
    from jaxvision.data.build import build_source
    from jaxvision.data.write_folder import write_image_folder

    parser = argparse.ArgumentParser(
        prog="write_folder", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, help="its data.source is written; --config.KEY=VALUE changes it")
    parser.add_argument("--output", required=True, metavar="DIR", help="an empty folder, or a new one")
    try:
        rest, overrides = jv_config.split_overrides(sys.argv[1:] if argv is None else argv)
        options = parser.parse_args(rest)
        config = jv_config.load(options.config, overrides)
        jv_config.import_extensions(config.imports)
        sources = {split: build_source(config.data, split) for split in ("train", "validation")}
        counts = write_image_folder(sources, options.output)
    except errors.EXPECTED as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {counts['train']:,} training and {counts['validation']:,} validation images to {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
