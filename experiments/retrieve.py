"""Finds the nearest images of a folder: an index of features, queries, a sheet of results.

python -m experiments.retrieve --config runs/a --index photos --query cat.png --output found
python -m experiments.retrieve --config runs/a --index found/index.safetensors --query more --top 5 --output again
python -m experiments.retrieve --config runs/a --index classes --output found       # each image against all others

Writes `index.safetensors`, `results.json` and `sheet.png`. Where the images lie in a folder for each class, hits are
marked, and mean average precision, recall@k and precision@k are told.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxvision import errors


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 for a mistake on the command line or in what it names."""
    options = _parser().parse_args(argv)
    from jaxvision.features import FeatureExtractor

    try:
        extractor = FeatureExtractor(
            options.config, options.checkpoint, layer=options.layer, batch_size=options.batch_size
        )
        print(f"features: {extractor.about}", flush=True)
        _retrieve(extractor, options, Path(options.output))
    except errors.EXPECTED as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _retrieve(extractor: Any, options: argparse.Namespace, output: Path) -> None:
    from jaxvision.retrieval import Index, report
    from jaxvision.visualization.canvas import save_picture

    output.mkdir(parents=True, exist_ok=True)
    written = ["results.json", "sheet.png"]
    if len(options.index) == 1 and options.index[0].endswith(".safetensors"):
        index = Index.load(options.index[0], extractor)
    else:
        index = Index.build(extractor, options.index)
        index.save(output / "index.safetensors")
        written.insert(0, "index.safetensors")
    print(f"index: {len(index.files)} images, {index.features.shape[1]} numbers each", flush=True)
    queries = None if options.query is None else Index.build(extractor, options.query)
    found = report(index, queries, top=options.top, rows=options.rows)
    (output / "results.json").write_text(json.dumps({"metrics": found.metrics, "queries": found.queries}, indent=1))
    save_picture(found.sheet, output / "sheet.png")
    for row in found.queries[: options.rows]:
        print(f"{row['file']}: " + ", ".join(f"{n['file']} {n['cosine']:.3f}" for n in row["nearest"][:3]))
    if found.metrics:
        print(", ".join(f"{name} {value:.4g}" for name, value in found.metrics.items()))
    print(f"wrote {', '.join(written)} to {output}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="retrieve", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", required=True, help="workdir of a run, config (name or file) or name of a model")
    parser.add_argument("--checkpoint", help="as in predict")
    parser.add_argument("--index", required=True, nargs="+", help="images, folders or patterns; or an index file")
    parser.add_argument("--query", nargs="+", help="images, folders or patterns; default: the images of the index")
    parser.add_argument("--layer", default="pooled", help="pooled, a level (c4) or a module (default: %(default)s)")
    parser.add_argument("--top", type=int, default=8, help="images for each query (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=10, help="queries on the sheet (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=16, help="images per call (default: %(default)s)")
    parser.add_argument("--output", required=True, metavar="DIR")
    return parser


if __name__ == "__main__":
    sys.exit(main())
