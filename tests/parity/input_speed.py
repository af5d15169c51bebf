"""Images per second of `TfLoader` beside a PyTorch DataLoader, on the same cores, in turn.

JAXVISION_TEST_DATA=... python -m tests.parity.input_speed [--seconds 2] [--rounds 5] [--workers 2] [--memory 10000]

The files are COCO JPEGs of about 640 x 480 in memory. Both sides decode, crop, resize and batch the same pixels; the
DataLoader uses torchvision v2 transforms of PIL images, as torchvision's own training scripts do. `uint8` ends with
uint8 tensors, which is the least work; `float` adds the scripts' conversion to normalised float32, which this library
does on the device. A ratio is the median over rounds, each of which measures both sides one after the other.
"""

import argparse
import dataclasses
import functools
import importlib
import io
import itertools
import json
import multiprocessing
import os
import statistics
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from jaxvision.data.table import Ragged, Table
from jaxvision.data.tf_loader import TfLoader
from jaxvision.data.transforms import RandomCrop, RandomResizedCrop, RandomShortSide, Resize

CASES = ("classification", "detection", "segmentation")
BATCH = {"classification": 32, "detection": 4, "segmentation": 8}
SHORTS = tuple(range(260, 1041))  # torchvision's segmentation script


def tables(root: Path) -> dict[str, Table]:
    annotations = json.loads((root / "annotations/instances_train2017.json").read_text())
    objects: dict[int, list] = {image["id"]: [] for image in annotations["images"]}
    classes = {category["id"]: i for i, category in enumerate(annotations["categories"])}
    for value in annotations["annotations"]:
        left, top, width, height = value["bbox"]
        objects[value["image_id"]].append(
            ((left, top, left + width, top + height), classes[value["category_id"]], value["iscrowd"])
        )
    files = [str(root / "images/train2017" / image["file_name"]) for image in annotations["images"]]
    encoded = [Path(file).read_bytes() for file in files]
    rows = list(objects.values())
    columns = {
        "classification": {"label": np.arange(len(files), dtype=np.int32)},
        "detection": {
            "boxes": Ragged.of([[box for box, _, _ in row] for row in rows], np.float32, (4,)),
            "labels": Ragged.of([[label for _, label, _ in row] for row in rows], np.int32),
            "crowd": Ragged.of([[crowd for _, _, crowd in row] for row in rows], bool),
        },
        "segmentation": {
            "semantic_file": np.array(
                [file.replace("/images/", "/semantic_masks/").replace(".jpg", ".png") for file in files], object
            )
        },
    }
    return {
        case: Table(case, ("thing",), {"file": np.array(files, object), **columns[case]}, read=encoded.__getitem__)
        for case in CASES
    }


def our_loader(case: str, table: Table, workers: int) -> TfLoader:
    make = functools.partial(TfLoader, table, BATCH[case], workers=workers)
    if case == "classification":
        return make(transforms=(RandomResizedCrop(),), image_size=(224, 224))
    if case == "detection":
        return make(transforms=(Resize(mode="fit"),), image_size=(800, 1333))
    return make(transforms=(RandomShortSide(SHORTS, None), RandomCrop()), image_size=(512, 512))


def torch_loader(case: str, table: Table, workers: int, floats: bool):
    import torch
    from torchvision import tv_tensors
    from torchvision.transforms import InterpolationMode, v2
    from torchvision.transforms.v2 import functional

    tail = [v2.PILToTensor()]
    if floats:
        tail += [v2.ToDtype(torch.float32, scale=True), v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    tail = v2.Compose(tail)
    crop = v2.RandomResizedCrop(224, antialias=True)
    cut = v2.RandomCrop(512, pad_if_needed=True, fill={Image.Image: 0, tv_tensors.Mask: 255})

    def decoded(index):
        return Image.open(io.BytesIO(table.encoded(index))).convert("RGB")

    def classification(index):
        return tail(crop(decoded(index))), int(table.columns["label"][index])

    def detection(index):
        image = decoded(index)
        scale = min(800 / image.height, 1333 / image.width)
        size = [round(image.height * scale), round(image.width * scale)]
        boxes = tv_tensors.BoundingBoxes(
            torch.from_numpy(table.columns["boxes"].row(index).copy()), format="XYXY", canvas_size=image.size[::-1]
        )
        labels = torch.from_numpy(table.columns["labels"].row(index).copy())
        return tail(functional.resize(image, size)), functional.resize(boxes, size), labels

    def segmentation(index):
        image = decoded(index)
        mask = tv_tensors.Mask(v2.functional.pil_to_tensor(Image.open(table.columns["semantic_file"][index])))
        short = SHORTS[int(torch.randint(len(SHORTS), ()))]
        image = functional.resize(image, short, InterpolationMode.BILINEAR)
        mask = functional.resize(mask, short, InterpolationMode.NEAREST)
        image, mask = cut(image, mask)
        return tail(image), mask

    def padded(samples):
        images = torch.zeros(len(samples), 3, 800, 1333, dtype=samples[0][0].dtype)
        boxes, labels = torch.zeros(len(samples), 100, 4), torch.zeros(len(samples), 100, dtype=torch.int32)
        for i, (image, box, label) in enumerate(samples):
            images[i, :, : image.shape[1], : image.shape[2]] = image
            boxes[i, : len(box)], labels[i, : len(label)] = box[:100], label[:100]
        return images, boxes, labels

    class Dataset(torch.utils.data.Dataset):
        def __len__(self):
            return len(table)

        __getitem__ = staticmethod({"classification": classification, "detection": detection}.get(case, segmentation))

    return torch.utils.data.DataLoader(
        Dataset(),
        BATCH[case],
        sampler=torch.utils.data.RandomSampler(range(len(table)), num_samples=10**7),
        num_workers=workers,
        collate_fn=padded if case == "detection" else None,
        multiprocessing_context="fork",
    )


def import_torchvision() -> None:
    try:
        import torchvision  # noqa: F401
    except RuntimeError:  # beside the CPU build of torch it lacks its compiled operators
        sys.path.append(os.path.join(os.environ["JAXVISION_TEST_DATA"], "parity"))
        importlib.import_module("torchvision_cpu")


def processor_seconds() -> float:
    """Of this process and of its children."""
    ticks = 0
    for process in (os.getpid(), *(child.pid for child in multiprocessing.active_children())):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def rate(batches, size: int, seconds: float) -> tuple[float, float]:
    """Images per second, and milliseconds of processor time per image, after the buffers that filled meanwhile."""
    for _ in itertools.repeat(None, 8):
        next(batches)
    start, busy, count = time.perf_counter(), processor_seconds(), 0
    while time.perf_counter() - start < seconds:
        next(batches)
        count += size
    return count / (time.perf_counter() - start), 1000 * (processor_seconds() - busy) / count


def memory(loader: TfLoader, count: int) -> None:
    """Prints how much of it the process holds, ten times on the way."""
    held = []
    for number, _ in zip(range(count), loader.train(), strict=False):
        if number % (count // 10) == count // 10 - 1:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            held.append(pages * os.sysconf("SC_PAGE_SIZE") // 2**20)
    print(f"{loader.source.name}: {count} batches, MiB held after each tenth of them: {held}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cases", nargs="+", default=CASES, choices=CASES)
    parser.add_argument(
        "--memory", type=int, default=0, help="run this many of our batches, print the memory; no torch"
    )
    parser.add_argument("--kinds", nargs="+", default=("uint8", "float"), choices=("uint8", "float"))
    options = parser.parse_args()
    sources = tables(Path(os.environ["JAXVISION_TEST_DATA"]) / "data" / "coco_mini")
    if options.memory:
        for case in options.cases:
            memory(dataclasses.replace(our_loader(case, sources[case], options.workers), batch_size=2), options.memory)
        return
    import_torchvision()
    # The DataLoader forks before TensorFlow has threads.
    theirs = {
        (case, kind): iter(torch_loader(case, sources[case], options.workers, kind == "float"))
        for case in options.cases
        for kind in options.kinds
    }
    for loader in theirs.values():
        next(loader)
    for (case, kind), reference in theirs.items():
        ours, size, measured = our_loader(case, sources[case], options.workers).train(), BATCH[case], []
        next(ours)
        for _ in range(options.rounds):
            measured.append((rate(ours, size, options.seconds), rate(reference, size, options.seconds)))
        ours.close()
        ratios = [a[0] / b[0] for a, b in measured]
        busy = [b[1] / a[1] for a, b in measured]
        first, second = (statistics.median(pair[i][0] for pair in measured) for i in (0, 1))
        cost, other = (statistics.median(pair[i][1] for pair in measured) for i in (0, 1))
        print(
            f"{case} ({kind}): {first:,.0f} against {second:,.0f} images/s, ratio {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f}); {cost:.2f} against {other:.2f} ms of processor per image, "
            f"ratio {statistics.median(busy):.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
