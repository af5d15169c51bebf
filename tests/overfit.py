"""Every detector or segmenter learns four scenes by heart: the curve of its loss, its score on them, and a picture.

python -m tests.overfit --runs runs/overfit --all detection --record experiments/results/overfit_detectors
python -m tests.overfit --runs runs/overfit_seg --all segmentation --record experiments/results/overfit_segmentors

A config of digit scenes is taken as it is, but for its data (the first four scenes, unaugmented, in every batch), its
length and the average of its weights, which is not taken. All detectors must reach an AP50 of 0.95, RPN a recall of
0.95 at an IoU of 0.5, all segmenters a mIoU of 0.95.

Segmenters see digits of half a scene's height, on a larger canvas where their logits have a stride of 8 or more: such
logits cannot say thin digits. The best logits of stride 8, found by gradient descent on themselves, reach mIoU 0.82
on digits of 24 to 43 pixels and 0.99 on digits 2.7 times as large; those of stride 4 reach 0.98 on the small ones.
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
from jaxvision.segmentation.task import SemanticSegmentationTask, map_of

SCENES = 4
STEPS = 200
FLOOR = 0.95
OF_SEGMENTERS = {
    "schedule.steps": 300,
    "schedule.learning_rate.value": 1e-2,
    "data.source.scale": (0.45, 0.6),
    "data.source.objects": (3, 4),
}
"""Changes for all of them. AdamW moves a weight by little more than the sum of its rates, 0.1 in 200 steps of a cosine
from 0.001: too little for narrow heads on few channels. Digits are 43 to 58 pixels high."""
COARSE, LARGE = 8, {"data.image_size": (160, 160)}
"""Stride of the logits from which on digits are 72 to 96 pixels high."""
OWN = {
    "detection/yolox_s_digit_scenes": {"schedule.steps": 400},
    "segmentation/deeplab_v1_vgg11_digit_scenes": {"schedule.steps": 600},
    "segmentation/deeplab_v2_r18_digit_scenes": {"data.image_size": (256, 256)},  # it also sees them at half the size
    "segmentation/deeplab_v2_vgg11_digit_scenes": {"schedule.steps": 600},
    "segmentation/fcn16s_vgg11_digit_scenes": LARGE,  # scores of stride 16, enlarged inside
    "segmentation/fcn32s_vgg11_digit_scenes": LARGE,
    # Statistics that keep 0.99 in a step, as published, still remember the first steps after 800.
    "segmentation/lraspp_mobilenet_v3_large_digit_scenes": {"model.backbone.norm.momentum": 0.9},
    "segmentation/segformer_b0_digit_scenes": {"schedule.learning_rate.value": 3e-3, "schedule.steps": 600},
    "segmentation/unet_s5_d16_digit_scenes": {"schedule.steps": 800},
}
SCORES = ("ap50", "proposal_recall50", "miou")
"""The first one that a task has is told."""


def names(direction):
    """All configs for digit scenes of a folder of `configs`."""
    return [name for name in configs.config_names() if name.startswith(f"{direction}/") and "_digit_scenes" in name]


def overfit(name, steps=None):
    """Trains a config on four scenes.

    Returns:
      The losses of all steps, the metrics on the same scenes, (scene, picture) of each, and the side of the canvas.
    """
    shared = OF_SEGMENTERS if name.startswith("segmentation/") else {}
    own = shared | OWN.get(name, {}) | ({} if steps is None else {"schedule.steps": steps})
    run = build(name, own)
    if stride_of(run) >= COARSE:
        run = build(name, LARGE | own)
    state, batch = run.create(), run.parallel.place(next(run.data.train.train(0)))
    step = run.train_step()
    losses = []
    for _ in range(run.total_steps):
        state, metrics = step(state, batch)
        losses.append(metrics)
    losses = [float(m["loss"][0] / m["loss"][1]) for m in jax.device_get(losses)]
    evaluator = run.evaluator()
    results = evaluator(state.variables(), [batch])
    pictures = []
    for index, prediction in sorted(evaluator.examples, key=lambda example: example[0]):
        sample = read_sample(run.data.train.source, index)
        pictures.append((index, found(run.task, sample, prediction)))
    return losses, results, pictures, run.config.data.image_size[0]


def build(name, own):
    """The experiment of a config on the first four scenes, with its own changes."""
    scenes = "data.source.source" if "source" in configs.load(name).data.source else "data.source"
    changes = {
        "data.batch_size": SCENES,
        "data.eval_batch_size": SCENES,
        f"{scenes}.num_examples": SCENES,
        f"{scenes}.validation_examples": SCENES,
        "data.augment": "()",
        "schedule.epochs": None,
        "schedule.steps": STEPS,
        "schedule.closing_epochs": 0.0,
        "schedule.ema": None,
        "schedule.ema_ramp": 0.0,
        "parallel.devices": 1,
        **own,
    }
    return experiment.build(configs.load(name, [(key, str(value)) for key, value in changes.items()]))


def stride_of(run):
    """Pixels of the canvas for each of a segmenter's logits; 0 for other tasks."""
    if not isinstance(run.task, SemanticSegmentationTask):
        return 0
    model, (height, width) = run.task.model, run.config.data.image_size
    image = jax.ShapeDtypeStruct((1, height, width, run.config.data.channels), np.float32)
    outputs, _ = jax.eval_shape(lambda key, x: model.init_with_output(key, x, train=False), jax.random.key(0), image)
    return height // outputs["logits"].shape[1]


def found(task, sample, prediction):
    """What was found in a scene, without the truth."""
    if isinstance(task, SemanticSegmentationTask):
        from jaxvision.visualization import semantic

        labels = map_of(prediction).astype(np.int64)
        colors = semantic.colors_of(range(10))
        shown = semantic.enlarge(semantic.to_rgb(sample["image"]), semantic.SMALLEST, semantic.LARGEST)
        return semantic.tinted(
            shown, semantic.resized(labels, shown.shape[:2]), colors, dict(enumerate(task.class_names))
        )
    drawn = task.draw(sample, prediction)
    return drawn[:, : drawn.shape[1] // 2]


def record(folder, output):
    """Joins the runs of a folder: OUTPUT.json, a line for each, and OUTPUT.png."""
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
    """The loss of each and what it finds in the scenes; two of them in a row."""
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
            place.imshow(picture)
    picture = Image.fromarray(render(figure))
    picture.quantize(256, kmeans=3, dither=Image.Dither.NONE).save(path, optimize=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="*", help="names such as detection/fcos_r18_fpn_digit_scenes")
    parser.add_argument("--all", choices=("detection", "segmentation"), help="all of this folder")
    parser.add_argument("--runs", type=Path, required=True, help="folder of what is run")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--record", help="NAME: NAME.json and NAME.png are written of the folder")
    options = parser.parse_args()
    options.runs.mkdir(parents=True, exist_ok=True)
    for name in names(options.all) if options.all else options.configs:
        start = time.perf_counter()
        losses, results, pictures, side = overfit(name, options.steps)
        headline = next(key for key in SCORES if key in results)
        scores = {key: round(float(value), 4) for key, value in results.items() if np.ndim(value) == 0}
        run = {"score": headline, "value": scores[headline], "side": side, "scores": scores, "losses": losses}
        file = options.runs / name.rpartition("/")[2]
        file.with_suffix(".json").write_text(json.dumps(run))
        np.savez_compressed(file.with_suffix(".npz"), *[drawn for _, drawn in pictures])
        told = f"{headline} {scores[headline]:.3f} after {len(losses)} steps of {side} x {side} pixels"
        print(f"{name}: {told}, {time.perf_counter() - start:.0f} s", flush=True)
        jax.clear_caches()
    if options.record:
        record(options.runs, options.record)


if __name__ == "__main__":
    main()
