"""RetinaNet with a narrow ResNet-18 on BCCD (blood cells), trained here and by torchvision from the same weights.

The other side is torchvision's `RetinaNet` (its anchors, matcher, losses, decoding and suppression) on its own ResNet
with half the channels, initialised by torchvision; our run starts from the file of these weights. Its batches are those
of our loader after our augmentation, its learning rates those of our schedule; model, automatic differentiation and
`torch.optim.Adam` are its own. Both are scored by pycocotools on the 87 images of the validation part. Not collected as
a test:

python -m tests.parity.bccd_retinanet --framework jax|torch --seed S --out DIR   a run; its record in DIR
python -m tests.parity.bccd_retinanet --compare --out DIR                        bccd_retinanet.json and .png in DIR

`JAXVISION_TEST_DATA` names the folder with `data/bccd` and `parity/torchvision_cpu.py`.

Fixed before the compared runs: the config `retinanet_r18_fpn_bccd` as it is, seeds 0, 1 and 2. Both sides must reach an
AP50 of 0.5 and their means differ by at most 2 points. One thing differs by design: ours divides a batch's loss by its
number of positives, torchvision averages the quotients of the images. Seen before the settings were fixed: half a
torchvision pilot of another seed, planned for 24 epochs (AP50 0.05, 0.32 and 0.58 after 4, 8 and 12 of them).
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

CONFIG = "configs/detection/retinanet_r18_fpn_bccd.py"
FLOOR, ALLOWED = 0.5, 0.02
FRAMEWORKS = ("jax", "torch")
SCORES = ("ap", "ap50", "ap75")


def load(seed, weights, *more):
    """The completed config of the comparison."""
    data = Path(os.environ["JAXVISION_TEST_DATA"]) / "data" / "bccd"
    files = {"images": "JPEGImages", "annotations": "coco_train.json", "eval_annotations": "coco_val.json"}
    own = [f"--config.data.source.{name}={data / file}" for name, file in files.items()]
    own += [f"--config.seed={seed}", "--config.log.every_steps=1", f"--config.pretrained=dict(model='{weights}')"]
    _, overrides = configs.split_overrides([*own, *more])
    return configs.load(CONFIG, overrides)


def make_reference(seed):
    """torchvision's RetinaNet on a ResNet-18 of half the width; images are neither scaled nor normalised in it."""
    import torch

    torchvision = torchvision_kernels.load()
    from torchvision.models import resnet
    from torchvision.models.detection import retinanet
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7

    class Narrow(resnet.ResNet):
        def _make_layer(self, block, planes, blocks, stride=1, dilate=False):
            self.inplanes = 32 if planes == 64 else self.inplanes
            return super()._make_layer(block, planes // 2, blocks, stride, dilate)

    torch.manual_seed(seed)
    body = Narrow(resnet.BasicBlock, [2, 2, 2, 2])
    body.conv1, body.bn1 = torch.nn.Conv2d(3, 32, 7, 2, 3, bias=False), torch.nn.BatchNorm2d(32)
    torch.nn.init.kaiming_normal_(body.conv1.weight, mode="fan_out", nonlinearity="relu")
    levels = {f"layer{i}": str(i - 2) for i in (2, 3, 4)}
    pyramid = BackboneWithFPN(body, levels, [64, 128, 256], 64, LastLevelP6P7(64, 64))
    sides = tuple(tuple(int(x * 2 ** (i / 3)) for i in range(3)) for x in (16, 32, 64, 128, 256))
    return torchvision.models.detection.RetinaNet(
        pyramid,
        num_classes=3,
        min_size=192,
        max_size=256,
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
        anchor_generator=AnchorGenerator(sides, ((0.5, 1.0, 2.0),) * 5),
        head=retinanet.RetinaNetHead(64, 9, 3),
    )


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
    """The torchvision side of a config."""

    def __init__(self, config, model):
        import torch

        self.torch, self.run, self.model = torch, experiment.build(config), model
        self.optimizer = torch.optim.Adam(model.parameters(), lr=0.0)
        self.clip = config.schedule.clip_norm
        self.every = int(config.evaluation.every_epochs)
        self.rate = jax.jit(self.run.bundle.learning_rate)
        key = self.run.create().rng
        augment, prepare = (experiment.build_preprocess(config, train=train) for train in (True, False))
        self.augment = jax.jit(lambda batch: augment(batch, key))
        self.prepare = jax.jit(lambda batch: prepare(batch, key))

    def images(self, batch):
        return list(self.torch.from_numpy(nchw(batch["image"]).copy()))

    def targets(self, batch):
        """Boxes and labels of each image."""
        truth = jax.tree.map(np.asarray, batch["targets"])
        rows = [truth.valid[i] for i in range(len(truth.valid))]
        return [
            {
                "boxes": self.torch.from_numpy(truth.boxes[i][own].copy()),
                "labels": self.torch.from_numpy(truth.labels[i][own].astype(np.int64)),
            }
            for i, own in enumerate(rows)
        ]

    def step(self, number, batch):
        """Update `number` (from 0); returns its loss."""
        self.model.train()
        self.optimizer.param_groups[0]["lr"] = float(self.rate(number))
        loss = sum(self.model(self.images(batch), self.targets(batch)).values())
        self.optimizer.zero_grad()
        loss.backward()
        self.torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        return loss.item()

    def evaluate(self):
        """The scores of the validation part by pycocotools, from its own file."""
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        truth = COCO(self.run.config.data.source.eval_annotations)
        names = {row["name"]: row["id"] for row in truth.loadCats(truth.getCatIds())}
        of_label = [names[name] for name in self.run.data.class_names]
        image_ids = list(truth.imgs)
        self.model.eval()
        found = []
        with self.torch.no_grad():
            for batch in self.run.data.evaluation.evaluate():
                predictions = self.model(self.images(self.prepare(batch)))
                for i in np.flatnonzero(batch["valid"]):
                    own = {name: value.numpy() for name, value in predictions[i].items()}
                    factor = np.asarray(batch["original_size"][i])[::-1] / np.asarray(batch["size"][i])[::-1]
                    boxes = own["boxes"] * np.tile(factor, 2)
                    for box, score, label in zip(boxes, own["scores"], own["labels"], strict=True):
                        bbox = [float(x) for x in (*box[:2], *(box[2:] - box[:2]))]
                        image = image_ids[int(batch["index"][i])]
                        told = {"image_id": image, "category_id": of_label[label], "score": float(score), "bbox": bbox}
                        found.append(told)
        if not found:
            return dict.fromkeys(SCORES, 0.0)
        scored = COCOeval(truth, truth.loadRes(found), "bbox")
        scored.evaluate(), scored.accumulate(), scored.summarize()
        return dict(zip(SCORES, map(float, scored.stats[:3]), strict=True))

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
    """Joins the records of a folder: `bccd_retinanet.json`, and the curves of all runs in `bccd_retinanet.png`."""
    runs = {name: [json.loads(p.read_text()) for p in sorted(folder.glob(f"{name}_*.json"))] for name in FRAMEWORKS}
    summary = {"floor_ap50": FLOOR, "seeds": [run["seed"] for run in runs["jax"]]}
    for name in FRAMEWORKS:
        summary[name] = [
            {
                "seed": run["seed"],
                "evaluations": [{k: round(v, 4) for k, v in row.items()} for row in run["evaluations"]],
                "first_losses": [round(loss, 6) for loss in run["losses"][:3]],
                "last_losses_mean": round(statistics.mean(run["losses"][-20:]), 5),
            }
            for run in runs[name]
        ]
    for score in SCORES:
        means = {n: statistics.mean(run["evaluations"][-1][score] for run in runs[n]) for n in FRAMEWORKS}
        summary[f"mean_{score}"] = {**means, "difference": means["jax"] - means["torch"]}
    lines = (f"{json.dumps(name)}: {json.dumps(value)}" for name, value in summary.items())
    (folder / "bccd_retinanet.json").write_text("{\n " + ",\n ".join(lines) + "\n}\n")
    _plot(runs, folder / "bccd_retinanet.png")
    return summary


def _plot(runs, path):
    from matplotlib.figure import Figure

    from jaxvision.visualization import palette

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    loss, score = figure.subplots(1, 2)
    for name, label, color, line in (
        ("jax", "jaxvision", palette.BLUE, "-"),
        ("torch", "torchvision", palette.ORANGE, "--"),
    ):
        for i, run in enumerate(runs[name]):
            smooth = np.convolve(run["losses"], np.ones(20) / 20, "valid")
            told = {"color": color, "linestyle": line, "linewidth": 1.2, "label": label if i == 0 else None}
            loss.plot(np.arange(len(smooth)) + 20, smooth, **told)
            score.plot(
                *zip(*((r["epoch"], r["ap50"]) for r in run["evaluations"]), strict=True),
                marker="o",
                markersize=3.5,
                **told,
            )
    loss.set(xlabel="step", ylabel="loss (mean of 20 steps)", yscale="log")
    score.set(xlabel="epoch", ylabel="AP50 on 87 held-out images", ylim=(0, 1))
    score.axhline(FLOOR, color=palette.FAINT, linewidth=1, linestyle=":")
    for axes in (loss, score):
        axes.grid(color=palette.GRID, linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    score.legend()
    figure.savefig(path, dpi=110)


def main():
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--framework", choices=FRAMEWORKS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--compare", action="store_true")
    options, more = parser.parse_known_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.compare:
        print(json.dumps(compare(options.out), indent=1))
        return
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = make_reference(options.seed)
    weights = options.out.absolute() / f"initial_{options.seed}.pth"
    torch.save(model.state_dict(), weights)
    config = load(options.seed, weights, *more)
    if options.framework == "torch":
        record = TorchRun(config, model).train()
    else:
        record = train_jax(config, options.out / f"jax_{options.seed}")
    (options.out / f"{options.framework}_{options.seed}.json").write_text(json.dumps({"seed": options.seed, **record}))


if __name__ == "__main__":
    main()
