"""The model index: every config with its paper, size, cost, published metric, measured parity and weights.

python -m experiments.index                              # a table of all
python -m experiments.index 'segmentation/*' --json
python -m experiments.index --update                     # in a checkout: writes configs/model_index.json and README.md
"""

import argparse
import fnmatch
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxvision import errors


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 for a mistake on the command line."""
    parser = argparse.ArgumentParser(
        prog="index", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("pattern", nargs="?", default="*", help="of names, as in a shell (default: all)")
    parser.add_argument("--json", action="store_true", help="rows in full instead of a table")
    parser.add_argument("--update", action="store_true", help="counts what is new or changed, and writes the files")
    options = parser.parse_args(argv)
    from jaxvision import model_index

    try:
        rows = model_index.update(Path.cwd(), print) if options.update else model_index.read()
        chosen = [row for row in rows if fnmatch.fnmatch(row["config"], options.pattern)]
        if not chosen:
            raise errors.SetupError(f"no config matches {options.pattern!r}; all of them: python -m experiments.index")
    except errors.EXPECTED as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if not options.update:
        print(json.dumps(chosen, indent=1) if options.json else model_index.table(chosen))
    return 0


if __name__ == "__main__":
    sys.exit(main())
