"""Every detector learns four scenes by heart: the curve of its loss, its AP50 on them, and a picture.

python -m tests.detection.overfit --runs runs/overfit --all --record experiments/results/overfit_detectors

A config of digit scenes is taken as it is, but for its data (the first four scenes, unaugmented, in every batch), its
length and the average of its weights, which is not taken. All detectors must reach an AP50 of 0.95, RPN a recall of
0.95 at an IoU of 0.5.
"""

import argparse
import json
import time
from pathlib import Path

import jax
import numpy as np

from jaxvision import config as configs
from jaxvision import experiment
from jaxvision.checking import read_sample

SCENES = 4
STEPS = 200
FLOOR = 0.95
OWN_STEPS = {"detection/yolox_s_digit_scenes": 400}
"""Of those that need more than `STEPS`."""


def names():
    """All configs of detectors for digit scenes."""
    return [name for name in configs.config_names() if name.startswith("detection/") and "_digit_scenes" in name]


def overfit(name, steps=None):
    """Trains a config on four scenes.

    Returns:
      The losses of all steps, the metrics on the same scenes, and (scene, picture) of each.
    """
    steps = steps or OWN_STEPS.get(name, STEPS)
    scenes = "data.source.source" if "source" in configs.load(name).data.source else "data.source"
    changes = {
        "data.batch_size": SCENES,
        "data.eval_batch_size": SCENES,
        f"{scenes}.num_examples": SCENES,
        f"{scenes}.validation_examples": SCENES,
        "data.augment": "()",
        "schedule.epochs": None,
        "schedule.steps": steps,
        "schedule.closing_epochs": 0.0,
        "schedule.ema": None,
        "schedule.ema_ramp": 0.0,
        "parallel.devices": 1,
    }
    config = configs.load(name, [(key, str(value)) for key, value in changes.items()])
    run = experiment.build(config)
    state, batch = run.create(), run.parallel.place(next(run.data.train.train(0)))
    step = run.train_step()
    losses = []
    for _ in range(steps):
        state, metrics = step(state, batch)
        losses.append(metrics)
    losses = [float(m["loss"][0] / m["loss"][1]) for m in jax.device_get(losses)]
    evaluator = run.evaluator()
    results = evaluator(state.variables(), [batch])
    pictures = []
    for index, prediction in sorted(evaluator.examples, key=lambda example: example[0]):
        sample = read_sample(run.data.train.source, index)
        pictures.append((index, run.task.draw(sample, prediction)))
    return losses, results, pictures


def record(folder, output):
    """Joins the runs of a folder: OUTPUT.json, a line for each detector, and OUTPUT.png."""
    files = sorted(folder.glob("*.json"))
    runs = {file.stem.removesuffix("_digit_scenes"): json.loads(file.read_text()) for file in files}
    pictures = {name: np.load(file.with_suffix(".npz")) for name, file in zip(runs, files, strict=True)}
    draw(runs, {name: [own[key] for key in own.files] for name, own in pictures.items()}, f"{output}.png")
    lines = []
    for name, run in runs.items():
        losses = [float(f"{loss:.4g}") for loss in run["losses"][:: max(1, len(run["losses"]) // 30)]]
        lines.append(f"{json.dumps(name)}: {json.dumps({**run, 'losses': losses, 'steps': len(run['losses'])})}")
    Path(f"{output}.json").write_text("{\n " + ",\n ".join(lines) + "\n}\n")


def draw(runs, pictures, path):
    """The loss of each detector and what it finds in the scenes, without the truth; two detectors in a row."""
    from matplotlib.figure import Figure
    from PIL import Image

    from jaxvision.visualization import palette
    from jaxvision.visualization.canvas import render

    rows, columns = -(-len(runs) // 2), 2 * (SCENES + 1)
    figure = Figure(figsize=(1.3 * columns, 1.55 * rows), dpi=100)
    grid = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(left=0.03, right=0.995, top=1 - 0.35 / (1.55 * rows), bottom=0.01, wspace=0.08, hspace=0.35)
    for places in grid.reshape(2 * rows, SCENES + 1)[len(runs) :]:
        for place in places:
            place.axis("off")
    for (name, run), (curve, *places) in zip(runs.items(), grid.reshape(2 * rows, SCENES + 1), strict=False):
        curve.plot(run["losses"], color=palette.BLUE, linewidth=1)
        curve.set(yscale="log", box_aspect=0.8)
        curve.tick_params(labelsize=5, which="both")
        curve.yaxis.set_minor_formatter("")
        curve.spines[["top", "right"]].set_visible(False)
        score = run["score"].removeprefix("proposal_")
        curve.set_title(f"{name}\n{score} {run['value']:.2f}, {len(run['losses'])} steps", fontsize=6.5, loc="left")
        for place in places:
            place.axis("off")
        for place, picture in zip(places, pictures[name], strict=False):
            place.imshow(picture[:, : picture.shape[1] // 2])
    picture = Image.fromarray(render(figure))
    picture.quantize(256, kmeans=3, dither=Image.Dither.NONE).save(path, optimize=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="*", help="names such as detection/fcos_r18_fpn_digit_scenes")
    parser.add_argument("--all", action="store_true", help="of all detectors")
    parser.add_argument("--runs", type=Path, required=True, help="folder of what is run")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--record", help="NAME: NAME.json and NAME.png are written of the folder")
    options = parser.parse_args()
    options.runs.mkdir(parents=True, exist_ok=True)
    for name in names() if options.all else options.configs:
        start = time.perf_counter()
        losses, results, pictures = overfit(name, options.steps)
        headline = next(key for key in ("ap50", "proposal_recall50") if key in results)
        scores = {key: round(float(value), 4) for key, value in results.items() if np.ndim(value) == 0}
        run = {"score": headline, "value": scores[headline], "scores": scores, "losses": losses}
        file = options.runs / name.rpartition("/")[2]
        file.with_suffix(".json").write_text(json.dumps(run))
        np.savez_compressed(file.with_suffix(".npz"), *[picture for _, picture in pictures])
        seconds = time.perf_counter() - start
        print(f"{name}: {headline} {scores[headline]:.3f} after {len(losses)} steps, {seconds:.0f} s", flush=True)
        jax.clear_caches()
    if options.record:
        record(options.runs, options.record)


if __name__ == "__main__":
    main()
