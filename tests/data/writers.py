"""Tiny data sets in every format, for the tests of the readers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CATEGORIES = ({"id": 7, "name": "dog"}, {"id": 3, "name": "cat"})


def image(path: Path, size: tuple[int, int] = (20, 30), seed: int = 0) -> Path:
    """A picture of noise of (height, width)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def label_map(path: Path, values: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, np.uint8)).save(path)
    return path


def coco_document(count: int = 2, **changes: Any) -> dict[str, Any]:
    """Image i + 1 has i + 1 objects in turn of both categories."""
    annotations = [
        {
            "id": 10 * i + k,
            "image_id": i + 1,
            "category_id": (3, 7)[k % 2],
            "bbox": [1.5 + k, 2, 10, 8.25],
            "area": 50 + k,
            "iscrowd": 0,
            "segmentation": [[2, 2, 10, 2, 10, 9, 2, 9]],
        }
        for i in range(count)
        for k in range(i + 1)
    ]
    records = [{"id": i + 1, "file_name": f"{i}.png", "height": 20, "width": 30} for i in range(count)]
    return {"images": records, "annotations": annotations, "categories": list(CATEGORIES)} | changes


def coco(folder: Path, document: Any = None, images: int = 2) -> tuple[str, str]:
    """(folder of images, annotation file)."""
    for i in range(images):
        image(folder / "images" / f"{i}.png", seed=i)
    file = folder / "instances.json"
    file.write_text(document if isinstance(document, str) else json.dumps(document or coco_document(images)))
    return str(folder / "images"), str(file)


def voc_xml(objects: Any, name: str = "0.png", size: tuple[int, int] = (20, 30)) -> str:
    """`objects`: (name, xmin, ymin, xmax, ymax, difficult)."""
    parts = [
        f"<object><name>{kind}</name><difficult>{difficult}</difficult><bndbox><xmin>{left}</xmin><ymin>{top}</ymin>"
        f"<xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
        for kind, left, top, right, bottom, difficult in objects
    ]
    shape = f"<size><width>{size[1]}</width><height>{size[0]}</height><depth>3</depth></size>"
    return f"<annotation><filename>{name}</filename>{shape}{''.join(parts)}</annotation>"


def voc(folder: Path, files: dict[str, str], lists: dict[str, str] | None = None) -> str:
    for i, (stem, content) in enumerate(files.items()):
        image(folder / "JPEGImages" / f"{stem}.png", seed=i)
        (folder / "Annotations").mkdir(exist_ok=True)
        (folder / "Annotations" / f"{stem}.xml").write_text(content)
    for name, content in (lists or {}).items():
        (folder / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
        (folder / "ImageSets" / "Main" / f"{name}.txt").write_text(content)
    return str(folder)


def yolo(folder: Path, labels: dict[str, str], yaml: str | None = None, size: tuple[int, int] = (20, 30)) -> str:
    """`labels`: "train/0" -> lines; images lie in `images`, label files in `labels`."""
    for i, (stem, content) in enumerate(labels.items()):
        image(folder / "images" / f"{stem}.png", size, seed=i)
        file = folder / "labels" / f"{stem}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    if yaml is not None:
        (folder / "data.yaml").write_text(yaml)
    return str(folder)
