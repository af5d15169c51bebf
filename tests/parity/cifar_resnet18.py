"""ResNet-18 (3x3 stem) on the CIFAR-10 subset, trained here and by PyTorch: the same weights, batches and schedule.

The PyTorch side is torchvision's ResNet-18 with the stem replaced, starting from our initial weights. Its batches are
those of our loader after our augmentation, its learning rates those of our schedule; model, automatic differentiation
and `torch.optim.SGD` are its own. Not collected as a test, since it takes hours:

python -m tests.parity.cifar_resnet18 --framework jax|torch --seed S --data FILE --out DIR   a run; its record in DIR
python -m tests.parity.cifar_resnet18 --time --data FILE --out DIR                           steps of both in turns
python -m tests.parity.cifar_resnet18 --compare --out DIR                     cifar_resnet18.json and .png in DIR

Fixed before the compared runs, to fit an hour of two CPU cores: seeds 0, 1 and 2; 2 epochs of batches of 32 (312
updates), the config's augmentation, momentum 0.9 and weight decay 5e-4 on every parameter; a peak learning rate of
0.005 after half an epoch of warm-up, then a cosine to 0. Both sides must reach 30% top-1 of the 1,000 test images,
their means differ by at most 1.5 points, and the loss of the first step by at most 1e-4 of it.

Seen before these settings were fixed: a one-epoch PyTorch pilot of another seed at a peak of 0.025 (29.0%), and a first
attempt at that peak, stopped when our training loss rose from step 30 on: its early losses of both sides and PyTorch's
first epoch of seed 0 (26.7%), no top-1 of ours. The peak of 0.005 was then fixed without a pilot. Our seed 0 was
started anew three times at it: once because it had resumed an older checkpoint, twice to change the number of threads.

`JAXVISION_TEST_DATA` names the folder with `parity/torchvision_cpu.py`, as for the other parity tests.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import jax
import numpy as np

from jaxvision import config as configs
from jaxvision import experiment, training
from tests.parity.torch_weights import load_tool, nchw, to_state_dict

CONFIG = "configs/classification/resnet18_cifar10_subset.py"
SETTINGS = (
    "--config.data.batch_size=32",
    "--config.schedule.epochs=2",
    "--config.schedule.learning_rate.value=0.005",
    "--config.schedule.warmup=0.5",
)
FLOOR = 0.30
FRAMEWORKS = ("jax", "torch")


def load(data, seed=0, *more):
    """The completed config of the comparison."""
    own = (f"--config.data.source.path={data}", f"--config.seed={seed}", "--config.log.every_steps=1")
    _, overrides = configs.split_overrides([*SETTINGS, *own, *more])
    return configs.load(CONFIG, overrides)


def train_jax(config, workdir):
    """Our run: losses of all steps, (epoch, top-1, loss) of all evaluations, seconds of the whole."""
    start = time.perf_counter()
    training.train(config, workdir)
    seconds = time.perf_counter() - start
    records = [json.loads(line) for line in (Path(workdir) / "metrics.jsonl").read_text().splitlines()]
    losses = [record["values"]["loss"] for record in records if record["kind"] == "train"]
    evaluated = [record for record in records if record["kind"] == "eval"]
    evaluations = [(record["epoch"], record["values"]["top1"], record["values"]["loss"]) for record in evaluated]
    return {"losses": losses, "evaluations": evaluations, "seconds": seconds}


class TorchRun:
    """The PyTorch side of a config."""

    def __init__(self, config):
        import torch

        self.torch, self.run = torch, experiment.build(config)
        torchvision = load_tool("torchvision_cpu").torchvision
        model = torchvision.models.resnet18(weights=None, num_classes=10)
        model.conv1 = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        model.maxpool = torch.nn.Identity()
        state = self.run.create()
        arrays = to_state_dict(state.variables(), model.state_dict())
        model.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()}, strict=False)
        self.model = model.to(memory_format=torch.channels_last)
        sgd = config.schedule.optimizer
        self.optimizer = torch.optim.SGD(
            model.parameters(), lr=0.0, momentum=sgd.momentum, weight_decay=sgd.weight_decay
        )
        self.rate = jax.jit(self.run.bundle.learning_rate)
        key = state.rng
        augment, prepare = (experiment.build_preprocess(config, train=train) for train in (True, False))
        self.augment = jax.jit(lambda batch: augment(batch, key))
        self.prepare = jax.jit(lambda batch: prepare(batch, key))

    def tensors(self, batch):
        """A device batch as (images NCHW, labels)."""
        images = self.torch.from_numpy(nchw(batch["image"]).copy())
        return images.contiguous(memory_format=self.torch.channels_last), self.labels(batch)

    def labels(self, batch):
        return self.torch.from_numpy(np.asarray(batch["label"]).astype(np.int64))

    def step(self, number, images, labels):
        """Update `number` (from 0); returns its loss."""
        self.model.train()
        self.optimizer.param_groups[0]["lr"] = float(self.rate(number))
        loss = self.torch.nn.functional.cross_entropy(self.model(images), labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def evaluate(self):
        """(top-1, loss) of the test part."""
        self.model.eval()
        hits = total = count = 0.0
        with self.torch.no_grad():
            for batch in self.run.data.evaluation.evaluate():
                images, labels = self.tensors(self.prepare(batch))
                valid = self.torch.from_numpy(np.asarray(batch["valid"]))
                logits, labels = self.model(images)[valid], labels[valid]
                hits += (logits.argmax(1) == labels).sum().item()
                total += self.torch.nn.functional.cross_entropy(logits, labels, reduction="sum").item()
                count += len(labels)
        return hits / count, total / count

    def train(self):
        """The whole run, recorded as by `train_jax`."""
        start, losses, evaluations = time.perf_counter(), [], []
        batches = self.run.data.train.train(0)
        for number in range(self.run.total_steps):
            losses.append(self.step(number, *self.tensors(self.augment(next(batches)))))
            if (number + 1) % self.run.steps_per_epoch == 0:
                evaluations.append((self.run.epoch(number + 1), *self.evaluate()))
                print(number + 1, losses[-1], evaluations[-1], flush=True)
        return {"losses": losses, "evaluations": evaluations, "seconds": time.perf_counter() - start}


def time_both(config, rounds, steps):
    """Seconds per step of both, in alternating blocks of `steps` steps: the compiled step against the eager one.

    Ours augments the batch in its step; PyTorch gets it augmented.
    """
    side = TorchRun(config)
    run = side.run
    batch = run.data.train.example_batch()
    images, labels = side.tensors(side.augment(batch))
    state, placed = run.create(), run.parallel.place(batch)
    step = run.train_step().lower(state, placed).compile()
    times = {"jax": [], "torch": []}
    for number in range(rounds + 1):
        for _ in range(steps):
            start = time.perf_counter()
            state, metrics = step(state, placed)
            jax.block_until_ready((state.params, metrics))
            times["jax"].append(time.perf_counter() - start)
        for _ in range(steps):
            start = time.perf_counter()
            side.step(number, images, labels)
            times["torch"].append(time.perf_counter() - start)
        if number == 0:  # warm-up
            times = {"jax": [], "torch": []}
        print({name: statistics.median(values or [0.0]) for name, values in times.items()}, flush=True)
    return times


def compare(folder):
    """Joins the records of a folder: `cifar_resnet18.json`, and the curves of all runs in `cifar_resnet18.png`."""
    runs = {name: [json.loads(p.read_text()) for p in sorted(folder.glob(f"{name}_*.json"))] for name in FRAMEWORKS}
    summary = {"floor": FLOOR, "settings": SETTINGS, "seeds": [run["seed"] for run in runs["jax"]]}
    summary |= {name: [_told(run) for run in runs[name]] for name in FRAMEWORKS}
    summary["mean_top1"] = {n: statistics.mean(r["evaluations"][-1][1] for r in runs[n]) for n in FRAMEWORKS}
    summary["difference_in_points"] = 100 * (summary["mean_top1"]["jax"] - summary["mean_top1"]["torch"])
    for steps in (1, 10):
        pairs = [zip(a["losses"][:steps], b["losses"], strict=False) for a, b in zip(*runs.values(), strict=True)]
        worst = [max(abs(ours / theirs - 1) for ours, theirs in pair) for pair in pairs]
        summary[f"largest_relative_difference_of_the_loss_in_{steps}_steps"] = worst
    if (folder / "time.json").exists():
        times = json.loads((folder / "time.json").read_text())
        summary["seconds_per_step"] = {name: statistics.median(times[name]) for name in FRAMEWORKS}
        summary["threads"] = times["threads"]
    lines = (f"{json.dumps(name)}: {json.dumps(value)}" for name, value in summary.items())
    (folder / "cifar_resnet18.json").write_text("{\n " + ",\n ".join(lines) + "\n}\n")
    _plot(runs, folder / "cifar_resnet18.png")
    return summary


def _told(run):
    epochs = [round(value, 4) for value in _by_epoch(run)]
    top1 = [top1 for _, top1, _ in run["evaluations"]]
    first = [round(loss, 7) for loss in run["losses"][:10]]
    return {"seed": run["seed"], "top1_by_epoch": top1, "training_loss_by_epoch": epochs, "first_losses": first}


def _by_epoch(run):
    return np.mean(np.reshape(run["losses"], (len(run["evaluations"]), -1)), axis=1).tolist()


def _plot(runs, path):
    from matplotlib.figure import Figure

    from jaxvision.visualization import palette

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    styles = {"jax": ("jaxvision", palette.BLUE, "-"), "torch": ("PyTorch", palette.ORANGE, "--")}
    for name, (label, color, line) in styles.items():
        losses = np.asarray([run["losses"] for run in runs[name]])
        width = 20
        smooth = np.stack([np.convolve(row, np.ones(width) / width, "valid") for row in losses])
        epochs = np.asarray([epoch for epoch, _, _ in runs[name][0]["evaluations"]])
        x = (np.arange(smooth.shape[1]) + width) * epochs[-1] / losses.shape[1]
        top1 = np.asarray([[100 * value for _, value, _ in run["evaluations"]] for run in runs[name]])
        for i, (loss, values) in enumerate(zip(smooth, top1, strict=True)):
            style = {"color": color, "linestyle": line, "linewidth": 1.2}
            left.plot(x, loss, label=label if i == 0 else None, **style)
            right.plot(epochs, values, marker="o", markersize=3.5, label=label if i == 0 else None, **style)
    left.set_title(f"training loss, mean of {width} steps", fontsize=11, fontweight="bold")
    right.set_title("test top-1, %", fontsize=11, fontweight="bold")
    right.axhline(100 * FLOOR, color=palette.FAINT, linewidth=1, linestyle=":", label="floor")
    for axes in (left, right):
        axes.set_xlabel("epoch")
        axes.grid(color=palette.GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=9)
    figure.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--framework", choices=FRAMEWORKS)
    parser.add_argument("--time", action="store_true")
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", help="cifar10_subset.npz")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch; JAX takes the cores that it may run on")
    options, more = parser.parse_known_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.compare:
        print(json.dumps(compare(options.out), indent=1))
        return
    import torch

    torch.set_num_threads(options.threads)
    config = load(options.data, options.seed, *more)
    if options.time:
        record, name = {**time_both(config, rounds=5, steps=4), "threads": options.threads}, "time"
    else:
        name = f"{options.framework}_{options.seed}"
        record = TorchRun(config).train() if options.framework == "torch" else train_jax(config, options.out / name)
        record = {"seed": options.seed, **record}
    (options.out / f"{name}.json").write_text(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
