"""Plans recipes for a pod of 256 chips into `pod_plan.json`, and draws it as `pod_plan.png`.

python -m experiments.results.pod_plan --compile classification/resnet50_imagenet ...    # needs the extra `tpu`
python -m experiments.results.pod_plan                                                   # draws what is there
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from jaxvision import config as jv_config
from jaxvision.deploy.plan import make_plan
from jaxvision.deploy.report import lines, to_json
from jaxvision.deploy.topology import GIB
from jaxvision.visualization import palette
from jaxvision.visualization.canvas import new_figure, save_figure

TABLE = Path(__file__).with_suffix(".json")
TOPOLOGY = "v5e:16x16"
RECIPES = {
    "classification/resnet50_imagenet": ("ResNet-50", 128),
    "classification/vit_base_patch16_224_imagenet": ("ViT-B/16", 16),
    "detection/faster_rcnn_r50_fpn_coco": ("Faster R-CNN R50-FPN", 2),
    "segmentation/deeplabv3plus_r50_d8_cityscapes": ("DeepLabv3+ R50-D8", 2),
}
"""Config -> what it is called, and images per chip: many, those of the recipe's own batch of 4096, two of a GPU's."""
MEMORY = (("arguments", palette.BLUE), ("temporaries", palette.SKY_BLUE), ("program", palette.ORANGE))
SIDES = (("compute", palette.BLUE), ("memory", palette.SKY_BLUE), ("interconnect", palette.ORANGE))


def main() -> None:
    parser = argparse.ArgumentParser(prog="pod_plan", description=__doc__)
    parser.add_argument("--compile", nargs="*", default=[], choices=[*RECIPES], metavar="CONFIG")
    for name in parser.parse_args().compile:
        plan = make_plan(jv_config.load(name), TOPOLOGY, batch_per_chip=RECIPES[name][1])
        print("\n".join([name, *lines(plan)]), flush=True)
        told = to_json(plan)
        del told["compile_seconds"]  # of a machine that does other work besides
        table = {**_read(), name: told}
        rows = (f"{json.dumps(key)}: {json.dumps(table[key])}" for key in RECIPES if key in table)
        TABLE.write_text("{\n" + ",\n".join(rows) + "\n}\n")
    draw(_read())


def _read() -> dict[str, Any]:
    return json.loads(TABLE.read_text()) if TABLE.exists() else {}


def draw(table: dict[str, Any]) -> None:
    """A row of bars for each model: the memory of a chip, and the time that each side of a step takes at least."""
    height = 130 + 84 * len(table)
    figure = new_figure(1120, height)
    left, right = figure.subplots(1, 2, sharey=True)
    places = np.arange(len(table))[::-1]
    names = [f"{RECIPES[name][0]}\n{row['batch_per_chip']} images per chip" for name, row in table.items()]
    for place, row in zip(places, table.values(), strict=True):
        line, start = row["roofline_model"], 0.0
        for (part, color), size in zip(MEMORY, _parts(row["memory"]), strict=True):
            left.barh(place, size, 0.5, start, color=color, label=None if place else part)
            start += size
        left.text(
            start + 0.3, place, f" {start:.2f} GiB", va="center", color=palette.TEXT, backgroundcolor=palette.PAPER
        )
        for number, (side, color) in enumerate(SIDES):
            time, row_height = 1000 * line[f"{side}_seconds"], place + 0.24 * (1 - number)
            right.barh(row_height, time, 0.22, color=color, label=None if place else side)
            bound = ", the bound" if side == line["bound"] else ""
            right.text(time, row_height, f"  {time:.3g} ms{bound}", va="center", color=palette.TEXT, fontsize=9)
    limit = next(iter(table.values()))["memory"]["limit"] / GIB
    left.axvline(limit, color=palette.VERMILLION, linestyle="--", label=f"a chip has {limit} GiB")
    longest = max(row["roofline_model"]["overlapped_seconds"] for row in table.values())
    left.set(xlim=(0, limit * 1.05), yticks=places, yticklabels=names, xlabel="GiB", ylim=(-0.5, len(table) - 0.5))
    right.set(xlim=(0, 1450 * longest), xlabel="ms at peak rates: a model, not a measurement")
    for axes, title in ((left, f"Memory of a chip ({TOPOLOGY})"), (right, "Least time of a step on 256 chips")):
        axes.set_title(title, fontsize=11, color=palette.TEXT, pad=26)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, frameon=False, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    figure.subplots_adjust(left=0.17, right=0.98, top=1 - 66 / height, bottom=52 / height, wspace=0.06)
    save_figure(figure, TABLE.with_suffix(".png"))


def _parts(memory: dict[str, Any]) -> tuple[float, float, float]:
    return memory["arguments"] / GIB, memory["temporaries"] / GIB, (memory["outputs"] + memory["program"]) / GIB


if __name__ == "__main__":
    main()
