"""U-Net with a ResNet-18 encoder on CamVid, trained here and by segmentation-models from the same weights.

The other side is segmentation-models' `Unet` as it initialises itself; our run starts from the file of these weights.
Its batches are those of our loader after our augmentation, its learning rates those of our schedule; model, automatic
differentiation, cross-entropy and `torch.optim.Adam` are its own. Both are scored on the 101 images of the validation
part at the size of the canvas: the mean over the 11 classes of the IoU of all pixels. Not collected as a test:

python -m tests.parity.camvid_unet --framework jax|torch --seed S --out DIR   a run; its record in DIR
python -m tests.parity.camvid_unet --beside NAME --seed S --out DIR           a run of another config on CamVid
python -m tests.parity.camvid_unet --compare --out DIR                        camvid_unet.json and .png in DIR

`JAXVISION_TEST_DATA` names the folder with `data/camvid` and `parity/torchvision_cpu.py`. More arguments override the
config: `--config.schedule.epochs=2`.

The compared runs are the config `unet_r18_camvid` as it is with the seeds 0, 1 and 2. Both sides must reach a mean IoU
of `FLOOR`, and their means differ by at most 2 points. Both average a loss over the batch's pixels that have a class.
Runs of other configs on the same data and schedule are recorded beside them. Before the settings were fixed both sides
ran for three epochs with seed 0 (segmentation-models: a mean IoU of 0.31).
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path

import jax
import numpy as np

from jaxvision import config as configs
from jaxvision import experiment, training
from tests.parity import torchvision_kernels
from tests.parity.torch_weights import nchw

CONFIG = "unet_r18_camvid"
FLOOR, ALLOWED = 0.35, 0.02
FRAMEWORKS = ("jax", "torch")
SCORES = ("miou", "aacc")
IGNORED = 255


def load(name, seed, *more):
    """A completed config on the images of `JAXVISION_TEST_DATA`."""
    data = Path(os.environ["JAXVISION_TEST_DATA"]) / "data" / "camvid"
    folders = {"images": "train", "masks": "trainannot", "eval_images": "val", "eval_masks": "valannot"}
    own = [f"--config.data.source.{name}={data / folder}" for name, folder in folders.items()]
    own += [f"--config.seed={seed}", "--config.log.every_steps=1"]
    _, overrides = configs.split_overrides([*own, *more])
    return configs.load(f"segmentation/{name}", overrides)


def make_reference(seed):
    """segmentation-models' U-Net as it initialises itself."""
    import torch

    torchvision_kernels.load()
    import segmentation_models_pytorch as smp

    torch.manual_seed(seed)
    return smp.Unet("resnet18", encoder_weights=None, classes=11)


def train_jax(config, workdir):
    """Our run: losses of all steps, the scores of all evaluations, seconds of the whole."""
    start = time.perf_counter()
    training.train(config, workdir)
    records = [json.loads(line) for line in (Path(workdir) / "metrics.jsonl").read_text().splitlines()]
    losses = [record["values"]["loss"] for record in records if record["kind"] == "train"]
    evaluated = [record for record in records if record["kind"] == "eval"]
    scores = [{"epoch": r["epoch"], **{name: r["values"][name] for name in SCORES}} for r in evaluated]
    return {"losses": losses, "evaluations": scores, "seconds": time.perf_counter() - start}


class TorchRun:
    """segmentation-models' side of a config."""

    def __init__(self, config, model):
        import torch

        self.torch, self.run, self.model = torch, experiment.build(config), model
        if config.schedule.optimizer.weight_decay:
            raise ValueError("the other side has no weight decay: leave config.schedule.optimizer.weight_decay at 0")
        self.optimizer = torch.optim.Adam(model.parameters(), lr=0.0)
        self.clip = config.schedule.clip_norm
        self.every = int(config.evaluation.every_epochs)
        self.rate = jax.jit(self.run.bundle.learning_rate)
        key = self.run.create().rng
        augment, prepare = (experiment.build_preprocess(config, train=train) for train in (True, False))
        self.augment = jax.jit(lambda batch: augment(batch, key))
        self.prepare = jax.jit(lambda batch: prepare(batch, key))

    def images(self, batch):
        return self.torch.from_numpy(nchw(batch["image"]).copy())

    def labels(self, batch):
        return self.torch.from_numpy(np.asarray(batch["semantic"]).astype(np.int64))

    def step(self, number, batch):
        """Update `number` (from 0); returns its loss."""
        self.model.train()
        self.optimizer.param_groups[0]["lr"] = float(self.rate(number))
        logits = self.model(self.images(batch))
        loss = self.torch.nn.functional.cross_entropy(logits, self.labels(batch), ignore_index=IGNORED)
        self.optimizer.zero_grad()
        loss.backward()
        self.torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        return loss.item()

    def evaluate(self):
        """Mean IoU and accuracy of the pixels of the validation part."""
        matrix = np.zeros((11, 11), np.int64)
        self.model.eval()
        with self.torch.no_grad():
            for batch in self.run.data.evaluation.evaluate():
                ready = self.prepare(batch)
                found = self.model(self.images(ready)).argmax(1).numpy()
                truth, valid = np.asarray(ready["semantic"]), np.asarray(batch["valid"])
                known = (truth < 11) & valid[:, None, None]
                cells = truth[known].astype(np.int64) * 11 + found[known]
                matrix += np.bincount(cells, minlength=121).reshape(11, 11)
        hits = np.diagonal(matrix)
        union = matrix.sum(0) + matrix.sum(1) - hits
        return {"miou": float(np.mean(hits[union > 0] / union[union > 0])), "aacc": float(hits.sum() / matrix.sum())}

    def train(self):
        """The whole run, recorded as by `train_jax`."""
        start, losses, evaluations = time.perf_counter(), [], []
        batches = self.run.data.train.train(0)
        for number in range(self.run.total_steps):
            losses.append(self.step(number, self.augment(next(batches))))
            epoch, rest = divmod(number + 1, self.run.steps_per_epoch)
            if rest == 0 and (epoch % self.every == 0 or number + 1 == self.run.total_steps):
                evaluations.append({"epoch": epoch, **self.evaluate()})
                print(number + 1, losses[-1], evaluations[-1], flush=True)
        return {"losses": losses, "evaluations": evaluations, "seconds": time.perf_counter() - start}


def compare(folder):
    """Joins the records of a folder: `camvid_unet.json`, and the curves of all runs in `camvid_unet.png`."""
    runs = {name: [json.loads(p.read_text()) for p in sorted(folder.glob(f"{name}_*.json"))] for name in FRAMEWORKS}
    beside = {path.stem: [json.loads(path.read_text())] for path in sorted(folder.glob("*_camvid_*.json"))}
    summary = {"floor_miou": FLOOR, "allowed": ALLOWED, "seeds": [run["seed"] for run in runs["jax"]]}
    for name, records in (runs | beside).items():
        summary[name] = [
            {
                "seed": run["seed"],
                "evaluations": [{k: round(v, 4) for k, v in row.items()} for row in run["evaluations"]],
                "first_losses": [round(loss, 6) for loss in run["losses"][:3]],
                "last_losses_mean": round(statistics.mean(run["losses"][-20:]), 5),
                "seconds": round(run["seconds"], 1),
            }
            for run in records
        ]
    for score in SCORES:
        means = {n: statistics.mean(run["evaluations"][-1][score] for run in runs[n]) for n in FRAMEWORKS}
        summary[f"mean_{score}"] = {**means, "difference": means["jax"] - means["torch"]}
    lines = (f"{json.dumps(name)}: {json.dumps(value)}" for name, value in summary.items())
    (folder / "camvid_unet.json").write_text("{\n " + ",\n ".join(lines) + "\n}\n")
    _plot(runs, beside, folder / "camvid_unet.png")
    return summary


def _plot(runs, beside, path):
    from matplotlib.figure import Figure

    from jaxvision.visualization import palette

    figure = Figure(figsize=(9, 4), layout="constrained")
    loss, score = figure.subplots(1, 2)
    lines = [
        (runs["jax"], "U-Net, jaxvision", palette.BLUE, "-"),
        (runs["torch"], "U-Net, segmentation-models", palette.ORANGE, "--"),
    ]
    for (name, records), line in zip(beside.items(), ("-", "--", ":", "-."), strict=False):
        lines.append((records, f"{name.partition('_camvid')[0]} (loss with an auxiliary one)", palette.FAINT, line))
    for records, label, color, line in lines:
        for i, run in enumerate(records):
            smooth = np.convolve(run["losses"], np.ones(20) / 20, "valid")
            told = {"color": color, "linestyle": line, "linewidth": 1.2, "label": label if i == 0 else None}
            loss.plot(np.arange(len(smooth)) + 20, smooth, **told)
            points = zip(*((r["epoch"], r["miou"]) for r in run["evaluations"]), strict=True)
            score.plot(*points, marker="o", markersize=3.5, **told)
    loss.set(xlabel="step", ylabel="loss (mean of 20 steps)", yscale="log")
    score.set(xlabel="epoch", ylabel="mean IoU on 101 held-out images", ylim=(0.2, 0.5))
    score.axhline(FLOOR, color=palette.FAINT, linewidth=1, linestyle=":")
    for axes in (loss, score):
        axes.grid(color=palette.GRID, linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*score.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(path, dpi=110)


def main():
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--framework", choices=FRAMEWORKS)
    parser.add_argument("--beside", help="a config of configs/segmentation on CamVid")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--compare", action="store_true")
    options, more = parser.parse_known_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.compare:
        print(json.dumps(compare(options.out), indent=1))
        return
    name = f"{options.beside or options.framework}_{options.seed}"
    if options.beside:
        record = train_jax(load(options.beside, options.seed, *more), options.out / name)
    else:
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        model = make_reference(options.seed)
        weights = options.out.absolute() / f"initial_{options.seed}.pth"
        torch.save(model.state_dict(), weights)
        config = load(CONFIG, options.seed, f"--config.pretrained=dict(model='{weights}')", *more)
        record = (
            TorchRun(config, model).train() if options.framework == "torch" else train_jax(config, options.out / name)
        )
    (options.out / f"{name}.json").write_text(json.dumps({"seed": options.seed, **record}))


if __name__ == "__main__":
    main()
