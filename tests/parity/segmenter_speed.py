"""Segmenters beside torchvision's and segmentation-models' in one run: seconds from one picture to its label map.

    JAXVISION_TEST_DATA=... python -m tests.parity.segmenter_speed [MODEL ...] [--threads 2] [--table]

One image of 512 x 1024 pixels, 19 classes, ResNet-50, the same weights on both sides: random, made sharp. Ours is one
compiled program, from uint8 pixels to the label map; the other one is its network as it is, on float pixels, and an
arg-max. Rounds time both in turn; medians are taken. Rows, with the share of pixels on which both agree, are added to
`experiments/results/segmenter_speed.json`; `--table` prints it as Markdown.
"""

import argparse
import functools
import gc
import json
import statistics
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch

from jaxvision.config import build
from jaxvision.engine.task import Context
from jaxvision.model_speed import timed
from jaxvision.segmentation.task import SemanticSegmentationTask
from tests.parity import torchvision_kernels
from tests.parity.torch_weights import load, load_tool

TABLE = Path(__file__).parent.parent.parent / "experiments" / "results" / "segmenter_speed.json"
SIZE, CLASSES = (512, 1024), 19
MODELS = {
    "smp/pspnet": "PSPNet",
    "smp/deeplabv3plus": "DeepLabV3Plus",
    "torchvision/deeplabv3": "deeplabv3_resnet50",
    "torchvision/fcn": "fcn_resnet50",
}
"""Our row -> the constructor of the source that its name begins with."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def make_reference(name):
    """Their network with sharp random weights."""
    torch.manual_seed(0)
    torchvision_kernels.load()
    if name.startswith("smp/"):
        import segmentation_models_pytorch as smp

        theirs = getattr(smp, MODELS[name])("resnet50", encoder_weights=None, classes=CLASSES)
    else:
        from torchvision.models import segmentation

        theirs = getattr(segmentation, MODELS[name])(weights=None, weights_backbone=None, num_classes=CLASSES)
    return load_tool("calibrate").calibrate(theirs, torch.randn(2, 3, 128, 160))


def picture():
    """A uint8 image of blobs."""
    import cv2

    coarse = np.random.default_rng(0).integers(0, 256, (16, 32, 3)).astype(np.uint8)
    return cv2.resize(coarse, SIZE[::-1], interpolation=cv2.INTER_CUBIC)


def our_call(name, state, image):
    """(call, which returns the label map, and seconds to compile)."""
    fields = {"auxiliary": None} if name.startswith("torchvision/") else {"backbone": {"name": "resnet50"}}
    if name.startswith("smp/"):
        kept = build("model", {"name": name, "num_classes": CLASSES}).backbone
        parts = ("out_levels", "output_stride", "contract_dilation")
        fields["backbone"] |= {part: getattr(kept, part) for part in parts}
    model = build("model", {"name": name, "num_classes": CLASSES, **fields})
    with tempfile.TemporaryDirectory() as folder:
        variables = load(model, state, Path(folder) / "weights.pth", source=name.partition("/")[0])
    task = SemanticSegmentationTask(model)
    mean, std = jnp.asarray(MEAN, jnp.float32), jnp.asarray(STD, jnp.float32)
    batch = {
        "image": jnp.asarray(image)[None],
        "to_original": jnp.eye(3, dtype=jnp.float32)[None],
        "original_size": jnp.asarray([SIZE], jnp.int32),
    }

    def predict(variables, batch):
        image = (batch["image"].astype(jnp.float32) / 255.0 - mean) / std
        return task.predict(variables, {**batch, "image": image}, Context())[0]["labels"]

    start = time.perf_counter()
    compiled = jax.jit(predict).lower(variables, batch).compile()
    seconds = time.perf_counter() - start
    return lambda: np.asarray(compiled(variables, batch))[0], seconds


def torch_call(theirs, image):
    """The same of theirs."""
    x = torch.from_numpy((image.astype(np.float32) / 255 - MEAN) / STD).float().permute(2, 0, 1)[None]

    @torch.inference_mode()
    def call():
        outputs = theirs(x)
        return (outputs["out"] if isinstance(outputs, dict) else outputs).argmax(1)[0].numpy()

    return call


def measure(name, options):
    """One row."""
    theirs, image = make_reference(name).eval(), picture()
    state = {key: value.detach().numpy().copy() for key, value in theirs.state_dict().items()}
    ours, seconds = our_call(name, state, image)
    calls = (ours, torch_call(theirs, image))
    agreed = float(np.mean(functools.reduce(np.equal, (call() for call in calls))))
    rounds = [timed(calls) for _ in range(options.rounds + 1)][1:]
    own, other = (statistics.median(column) for column in zip(*rounds, strict=True))
    print(f"{name:22} {own:.2f} s, theirs {other:.2f} s, ratio {other / own:.2f}, agreed {agreed:.4f}", flush=True)
    return {
        "device": jax.devices()[0].device_kind,
        "threads": options.threads,
        "size": list(SIZE),
        "jaxvision": round(own, 3),
        "reference": round(other, 3),
        "ratio": round(other / own, 3),
        "agreed": round(agreed, 5),
        "compile_seconds": round(seconds, 1),
    }


def markdown(rows):
    """The table of `experiments/README.md`."""
    lines = ["| model | ours | theirs | ratio | pixels that agree |", "|---|---|---|---|---|"]
    for name, row in rows.items():
        cells = (
            f"{row['jaxvision']:.2f} s",
            f"{row['reference']:.2f} s",
            f"{row['ratio']:.2f}",
            f"{row['agreed']:.4f}",
        )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=[])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2, help="of torch; XLA takes the cores that it may run on")
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
