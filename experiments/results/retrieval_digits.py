"""Makes `retrieval_digits.png`: LeNet-5's features of the digits, each validation image against all training images.

python -m experiments.run --config configs/classification/lenet5_digits.py
python -m experiments.results.retrieval_digits runs/lenet5_digits
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from experiments import retrieve
from jaxvision.data.sources import Digits
from jaxvision.retrieval import normalized, retrieval_scores


def export(folder):
    """Both parts as PNG files, a folder for each class; returns pixels and labels of each part."""
    parts = {}
    for split in ("train", "validation"):
        source = Digits(split=split, image_size=(32, 32), channels=1)
        samples = source.gather(np.arange(len(source)))
        for i, (image, label) in enumerate(zip(samples["image"], samples["label"], strict=True)):
            path = Path(folder) / split / str(label) / f"{i:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[..., 0]).save(path)
        parts[split] = normalized(samples["image"] - np.float32(samples["image"].mean())), samples["label"]
    return parts


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        parts = export(folder)
        arguments = ["--config", sys.argv[1], "--index", f"{folder}/train", "--query", f"{folder}/validation"]
        retrieve.main([*arguments, "--batch-size", "256", "--rows", "10", "--output", f"{folder}/found"])
        sheet = Image.open(f"{folder}/found/sheet.png").quantize(64)
        sheet.save(Path(__file__).with_suffix(".png"), optimize=True)
    print("pixels:", retrieval_scores(*parts["validation"], *parts["train"]))
