"""Compiles a config's train step for a TPU pod that need not be there, and says what it needs and how it scales.

python -m experiments.plan --config classification/resnet50_imagenet --topology v5e:16x16 --batch-per-chip 128
python -m experiments.plan --config detection/faster_rcnn_r50_fpn_coco --topology v5p:4x4x4 --batch-per-chip 2 --try

Memory, operations and collectives are those of the compiled program; times are a model of it and no measurement. Needs
the TPU compiler, no TPU: pip install 'jaxvision[tpu]'. No data set is read.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxvision import config as jv_config
from jaxvision import errors


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, 1 where the step does not fit, 2 for a mistake on the command line."""
    rest, overrides = jv_config.split_overrides(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="plan", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", required=True, metavar="CONFIG", help="file.py[:arg], a name or a workdir")
    parser.add_argument(
        "--topology", required=True, metavar="SLICE", help="v5e:16x16, v6e:4x4, v4:4x4x4, v5p:2x2x1, ..."
    )
    parser.add_argument(
        "--batch-per-chip", type=int, metavar="N", help="images; default: data.batch_size over the chips"
    )
    parser.add_argument("--try", dest="attempt", action="store_true", help="compile what would make it fit, too")
    parser.add_argument("--json", metavar="FILE", help="also write the plan as JSON")
    options = parser.parse_args(rest)
    try:
        config = jv_config.load(options.config, overrides)
        from jaxvision.deploy import report
        from jaxvision.deploy.plan import make_plan

        plan = make_plan(
            config,
            options.topology,
            batch_per_chip=options.batch_per_chip,
            try_changes=options.attempt,
            say=lambda line: print(line, file=sys.stderr),
        )
        print("\n".join([f"the train step of {options.config}", *report.lines(plan)]))
        if options.json:
            Path(options.json).write_text(
                json.dumps({"config": options.config, **report.to_json(plan)}, indent=1) + "\n"
            )
    except (ValueError, *errors.EXPECTED) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0 if plan.memory.fits else 1


if __name__ == "__main__":
    sys.exit(main())
