"""Draws what fine-tuning on digits 5 to 9 reached, beside training from scratch: curves, and the same images before.

python experiments/results/finetune_digits/draw.py RUNS

RUNS holds the workdirs `resnet18_digits_pretrain` and `KIND0`, `KIND1`, ... of each seed, for the kinds below.
"""

import json
import sys
from pathlib import Path

import numpy as np

import jaxvision as jv
from jaxvision import config as configs
from jaxvision.data.build import build_source
from jaxvision.engine.writers import read_records
from jaxvision.visualization.canvas import new_figure, save_figure, save_picture
from jaxvision.visualization.sheets import contact_sheet

KINDS = {
    "scratch": "from scratch",
    "warm": "pretrained, every layer at the same rate",
    "finetune": "pretrained, stem and stage 1 frozen, layer decay 0.75",
}
SHOWN = 12
FOLDER = Path(__file__).parent


def curve(workdir: Path) -> dict[str, list[float]]:
    records = [record for record in read_records(workdir / "metrics.jsonl") if record["kind"] == "eval"]
    return {
        "epoch": [round(record["epoch"], 2) for record in records],
        "top1": [round(record["values"]["top1"], 4) for record in records],
        "loss": [round(record["values"]["loss"], 4) for record in records],
    }


def main(runs: Path) -> None:
    found = {kind: {d.name: curve(d) for d in sorted(runs.glob(f"{kind}[0-9]")) if finished(d)} for kind in KINDS}
    found = {kind: curves for kind, curves in found.items() if curves}
    summary = {
        kind: round(float(np.mean([c["top1"][-1] for c in curves.values()])), 4) for kind, curves in found.items()
    }
    (FOLDER / "curves.json").write_text(json.dumps({"mean_last_top1": summary, "runs": found}, indent=1) + "\n")
    print(summary)

    figure = new_figure(900, 420)
    figure.set_layout_engine("constrained")
    axes = figure.add_subplot()
    for number, (kind, curves) in enumerate(found.items()):
        for place, one in enumerate(curves.values()):
            label = f"{KINDS[kind]} ({len(curves)} seeds)" if place == 0 else None
            axes.plot(one["epoch"], 100 * np.asarray(one["top1"]), color=f"C{number}", label=label)
    axes.set(xlabel="epoch (25 training images)", ylabel="top-1, 179 validation images (%)", ylim=(0, 101))
    axes.legend(loc="lower right")
    save_figure(figure, FOLDER / "curves.png")

    config = configs.load(str(runs / "finetune0"))
    source = build_source(config.data, "validation")
    rows = np.linspace(0, len(source) - 1, SHOWN).astype(int)
    samples = [source.sample(int(i)) for i in rows]
    images = [sample["image"] for sample in samples]
    titles, pictures = [], []
    for when, workdir in (("before", "resnet18_digits_pretrain"), ("after", "finetune0")):
        for sample, result in zip(samples, list(jv.Inferencer(runs / workdir).iterate(images)), strict=True):
            right = result.json["class"] == source.class_names[sample["label"]]
            mark = "✓" if right else "✗"
            titles.append(f"{when}: {mark} {result.json['class']}")
            pictures.append(sample["image"])
    save_picture(contact_sheet(pictures, titles, SHOWN // 2), FOLDER / "before_after.png")


def finished(workdir: Path) -> bool:
    steps = configs.load(str(workdir)).schedule.epochs if (workdir / "config.json").exists() else 0
    return bool(steps) and bool(curve(workdir)["epoch"]) and curve(workdir)["epoch"][-1] >= steps


if __name__ == "__main__":
    main(Path(sys.argv[1]))
