"""Detectors beside torchvision's in one run: seconds of one image, post-processing included, and of a training step.

    JAXVISION_TEST_DATA=... python -m tests.parity.detector_speed [MODEL ...] [--threads 2] [--no-train] [--table]

One image of 800 x 1344 pixels, ResNet-50 FPN, the same weights on both sides: random, made sharp, so that both have
thousands of boxes to suppress. Ours is one compiled program, from the uint8 canvas and the traced size of its picture
to detections in pixels of the original; torchvision's is its model as it is, on float pixels, with its compiled
operators (`torchvision_kernels`). The training step is forward, losses with ten objects, backward and SGD with
momentum; the stem, the first stage and every norm of the backbone are frozen on both sides. Rounds time both in turn;
medians are taken. Rows are added to `experiments/results/detector_speed.json`; `--table` prints it as Markdown.
"""

import argparse
import gc
import json
import re
import statistics
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

from jaxvision.config import build
from jaxvision.detection.task import DetectionTask
from jaxvision.engine.task import Context
from jaxvision.model_speed import timed
from jaxvision.structures import Instances
from jaxvision.trees import flatten, nest
from tests.parity import torchvision_kernels
from tests.parity.torch_weights import load_tool
from tests.parity.two_stage import load, randomize

TABLE = Path(__file__).parent.parent.parent / "experiments" / "results" / "detector_speed.json"
SIZE = (800, 1344)
OBJECTS = 10
MODELS = {
    "torchvision/faster_rcnn": ("fasterrcnn_resnet50_fpn", 90),
    "torchvision/mask_rcnn": ("maskrcnn_resnet50_fpn", 90),
    "torchvision/retinanet": ("retinanet_resnet50_fpn", 91),
    "torchvision/fcos": ("fcos_resnet50_fpn", 91),
}
"""The reference's constructor, and our number of classes: two-stage detectors of torchvision count the background."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def make_reference(name):
    """torchvision's model with sharp random weights, its backbone as for fine-tuning."""
    torchvision = torchvision_kernels.load()
    constructor, classes = MODELS[name]
    two_stage = hasattr(torchvision.models.detection, constructor) and "rcnn" in constructor
    torch.manual_seed(0)
    theirs = getattr(torchvision.models.detection, constructor)(
        weights=None,
        weights_backbone=None,
        num_classes=classes + two_stage,
        min_size=SIZE[0],
        max_size=SIZE[1],
    )
    load_tool("calibrate").calibrate(theirs, torch.rand(4, 3, 128, 160))
    if two_stage:
        randomize(theirs)
    else:
        _randomize_dense(theirs.head)
    _freeze_norms(theirs, torchvision.ops.FrozenBatchNorm2d)
    for key, parameter in theirs.backbone.body.named_parameters():
        parameter.requires_grad_(key.startswith(("layer2", "layer3", "layer4")))
    return theirs


@torch.no_grad()
def _randomize_dense(head):
    for name, parameter in head.named_parameters():
        if parameter.ndim == 4:
            parameter.normal_(0, ((0.2 if "bbox" in name else 1.5) / parameter[0].numel()) ** 0.5)
            parameter -= parameter.mean(dim=(1, 2, 3), keepdim=True)
        elif name.endswith("bias"):
            parameter.normal_(-4.0 if "cls_logits" in name else 1.0 if "bbox_reg" in name else 0.0, 0.2)


def _freeze_norms(module, frozen):
    for name, child in module.named_children():
        if isinstance(child, torch.nn.BatchNorm2d):
            norm = frozen(child.num_features, eps=child.eps)
            norm.load_state_dict({k: v for k, v in child.state_dict().items() if not k.startswith("num_")})
            setattr(module, name, norm)
        else:
            _freeze_norms(child, frozen)


def scene():
    """A uint8 image of blobs, and the boxes and labels of objects."""
    import cv2

    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (25, 42, 3)).astype(np.uint8)
    image = cv2.resize(coarse, SIZE[::-1], interpolation=cv2.INTER_CUBIC)
    low = rng.uniform(0, 1, (OBJECTS, 2)) * (1000, 500)
    boxes = np.concatenate([low, low + rng.uniform(40, 300, (OBJECTS, 2))], axis=1).astype(np.float32)
    return image, boxes, rng.integers(0, 80, OBJECTS)


def our_calls(name, state, image, boxes, labels):
    """(predict, train step, detections, seconds to compile)."""
    norm = {"backbone": {"norm": {"epsilon": 1e-5}, "frozen_stages": 1}}
    model = build("model", {"name": name, "num_classes": MODELS[name][1], **norm})
    with tempfile.TemporaryDirectory() as folder:
        variables = load(model, state, Path(folder) / "weights.pth", source="torchvision")
    sides = boxes[:, 2:] - boxes[:, :2]
    masks = jnp.zeros((1, OBJECTS, SIZE[0], SIZE[1] // 8), jnp.uint8).at[:, :, 100:300, 20:40].set(255)
    targets = Instances(
        *(
            jnp.asarray(x)[None]
            for x in (boxes, labels.astype(np.int32), np.ones(OBJECTS, bool), np.zeros(OBJECTS, bool))
        ),
        jnp.asarray(sides.prod(-1))[None],
        masks=masks if "mask" in name else None,
    )
    batch = {
        "image": jnp.asarray(image)[None],
        "size": jnp.asarray([SIZE], jnp.float32),
        "original_size": jnp.asarray([SIZE], jnp.int32),
        "to_original": jnp.eye(3, dtype=jnp.float32)[None],
        "valid": jnp.ones(1, bool),
        "targets": targets,
    }
    task, mean, std = DetectionTask(model), jnp.asarray(MEAN, jnp.float32), jnp.asarray(STD, jnp.float32)

    def prepared(batch):
        return {**batch, "image": (batch["image"].astype(jnp.float32) / 255.0 - mean) / std}

    def predict(variables, batch):
        return task.predict(variables, prepared(batch), Context())[0]

    held = tuple(f"backbone/{pattern}" for pattern in model.backbone.frozen_paths)
    flat = flatten(variables["params"])
    moved = {key: value for key, value in flat.items() if not any(re.search(p, key) for p in held)}
    fixed = {key: value for key, value in flat.items() if key not in moved}
    collections = {key: value for key, value in variables.items() if key != "params"}
    optimizer = optax.sgd(1e-4, momentum=0.9)

    def step(state, batch, key):
        moved, opt_state = state

        def loss(moved):
            ctx = Context(rng=key, train=True)
            return task.loss(nest({**fixed, **moved}), collections, prepared(batch), ctx)[0]

        slopes = jax.grad(loss)(moved)
        updates, opt_state = optimizer.update(slopes, opt_state)
        return optax.apply_updates(moved, updates), opt_state

    start = time.perf_counter()
    predictor = jax.jit(predict).lower(variables, batch).compile()
    seconds = time.perf_counter() - start
    found = predictor(variables, batch)
    learned = {"state": (moved, optimizer.init(moved))}

    def run():
        jax.block_until_ready(predictor(variables, batch))

    def make_train():
        compiled = jax.jit(step, donate_argnums=0).lower(learned["state"], batch, jax.random.key(0)).compile()

        def train():
            learned["state"] = jax.block_until_ready(compiled(learned["state"], batch, jax.random.key(0)))

        return train

    return run, make_train, int(found.valid.sum()), seconds


def torch_calls(theirs, image, boxes, labels, two_stage):
    """(predict, train step, detections)."""
    x = torch.from_numpy(image).permute(2, 0, 1).float() / 255
    target = {"boxes": torch.from_numpy(boxes), "labels": torch.from_numpy(labels.astype(np.int64)) + two_stage}
    masks = torch.zeros(OBJECTS, *SIZE, dtype=torch.uint8)
    masks[:, 100:300, 160:320] = 1
    target["masks"] = masks
    optimizer = torch.optim.SGD([p for p in theirs.parameters() if p.requires_grad], lr=1e-4, momentum=0.9)

    def run():
        theirs.eval()
        with torch.inference_mode():
            return theirs([x])

    def train():
        theirs.train()
        optimizer.zero_grad(set_to_none=True)
        sum(theirs([x], [target]).values()).backward()
        optimizer.step()

    return run, train, len(run()[0]["scores"])


def measure(name, options):
    """One row."""
    theirs = make_reference(name)
    image, boxes, labels = scene()
    state = {key: value.detach().numpy().copy() for key, value in theirs.state_dict().items()}
    predict, make_train, found, seconds = our_calls(name, state, image, boxes, labels)
    reference = torch_calls(theirs, image, boxes, labels, "rcnn" in name)
    row = {"device": jax.devices()[0].device_kind, "threads": options.threads, "size": list(SIZE)}
    row |= {"detections": {"jaxvision": found, "torchvision": reference[2]}, "compile_seconds": round(seconds, 1)}
    pairs = {"predict": (predict, reference[0])}
    if options.train:
        pairs["train"] = (make_train(), reference[1])
    for what, calls in pairs.items():
        rounds = [timed(calls) for _ in range(options.rounds + 1)][1:]
        ours, other = (statistics.median(column) for column in zip(*rounds, strict=True))
        row[what] = {"jaxvision": round(ours, 3), "torchvision": round(other, 3), "ratio": round(other / ours, 3)}
        print(f"{name:26} {what:8} {ours:.2f} s, torchvision {other:.2f} s, ratio {other / ours:.2f}", flush=True)
    return row


def markdown(rows):
    """The table of `experiments/README.md`."""
    lines = [
        "| model | one image: ours, torchvision | ratio | train step: ours, torchvision | ratio | detections |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        cells = [name]
        for what in ("predict", "train"):
            own = row.get(what)
            pair = f"{own['jaxvision']:.2f}, {own['torchvision']:.2f} s" if own else ""
            cells += [pair, f"{own['ratio']:.2f}" if own else ""]
        cells.append("{jaxvision}, {torchvision}".format(**row["detections"]))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=[])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2, help="of torch; XLA takes the cores that it may run on")
    parser.add_argument("--no-train", dest="train", action="store_false")
    parser.add_argument("--table", action="store_true", help="print the table")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = json.loads(TABLE.read_text()) if TABLE.exists() else {}
    for name in options.models or ([] if options.table else MODELS):
        rows[name] = measure(name, options)
        lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(rows[key])}" for key in sorted(rows))
        TABLE.write_text(f"{{\n{lines}\n}}\n")
        jax.clear_caches()
        gc.collect()
    if options.table:
        print(markdown(rows))


if __name__ == "__main__":
    main()
