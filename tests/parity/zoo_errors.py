"""Measures levels and logits of every registered size against its reference and writes the table of errors.

    python -m tests.parity.zoo_errors [PATTERN ...] [--again]

Sizes that the table holds already are skipped unless `--again`; small ones come first. The errors are those of
`zoo.compare`, in float32.
"""

import argparse
import fnmatch
import json
import time
from pathlib import Path

import jax

from tests.parity import zoo

ROOT = Path(__file__).parent.parent.parent
TABLE = ROOT / "experiments" / "results" / "zoo_parity.json"
COUNTS = ROOT / "tests" / "backbones" / "parameters.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patterns", nargs="*", default=["*"], help="shell patterns of sizes")
    parser.add_argument("--again", action="store_true", help="measure what the table holds already, too")
    parser.add_argument("--most", type=float, default=1e6, help="skip models of more million parameters")
    arguments = parser.parse_args()

    counts = json.loads(COUNTS.read_text())
    names = [n for n in zoo.references() if any(fnmatch.fnmatchcase(n, p) for p in arguments.patterns)]
    for name in sorted(names, key=lambda name: counts[zoo.our_name(name)]):
        if counts[zoo.our_name(name)] > arguments.most * 1e6:
            break
        if name in read_table() and not arguments.again:
            continue
        start = time.perf_counter()
        reference, errors = zoo.references()[name], zoo.errors(name)
        row = {"image": reference.size, "agrees": zoo.agree(name, errors)}
        table = read_table() | {name: row | {output: float(f"{error:.2g}") for output, error in errors.items()}}
        lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(table[key])}" for key in sorted(table))
        TABLE.write_text(f"{{\n{lines}\n}}\n")
        print(f"{name:32} {max(errors.values()):.1e} {time.perf_counter() - start:.0f} s", flush=True)
        jax.clear_caches()


def read_table() -> dict[str, dict]:
    return json.loads(TABLE.read_text()) if TABLE.exists() else {}


if __name__ == "__main__":
    main()
