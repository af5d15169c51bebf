"""Keeps what the parity tests of detectors and segmenters measure, for the model index:

    JAXVISION_PARITY_RECORD=errors.jsonl pytest -m parity tests/parity
    python -m tests.parity.recording errors.jsonl        # writes experiments/results/parity.json

The largest error of each test stays; tests of losses, gradients and parts of networks are left out.
"""

import functools
import json
import os
import re
import sys
from pathlib import Path

RESULTS = Path(__file__).parent.parent.parent / "experiments" / "results" / "parity.json"
OTHERS = re.compile(r"loss|grad|step|learns|tell")
"""In the names of tests that are not about outputs."""


def measured(function):
    """The same function of a relative error, which appends what it returns to the file of the environment variable."""

    @functools.wraps(function)
    def recorded(*arguments, **options):
        value = function(*arguments, **options)
        if path := os.environ.get("JAXVISION_PARITY_RECORD"):
            test = os.environ.get("PYTEST_CURRENT_TEST", "").split(" ")[0]
            with open(path, "a") as file:
                file.write(json.dumps({"test": test, "error": float(value)}) + "\n")
        return value

    return recorded


def worst(lines):
    """The largest error of each test of outputs, by its name without the folder."""
    found: dict[str, float] = {}
    for row in map(json.loads, lines):
        test = row["test"].removeprefix("tests/parity/")
        if not OTHERS.search(test.partition("::")[2]):
            found[test] = max(found.get(test, 0.0), row["error"])
    return {test: float(f"{error:.1e}") for test, error in sorted(found.items())}


if __name__ == "__main__":
    errors = worst(Path(sys.argv[1]).read_text().splitlines())
    RESULTS.write_text(json.dumps(errors, indent=1) + "\n")
    print(f"wrote the errors of {len(errors)} tests to {RESULTS}")
