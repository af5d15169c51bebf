"""Weight cards: what is known about each published checkpoint, found by the hash prefix in its file name.

torchvision and OpenMMLab end file names in the first eight digits of the file's SHA-256 ("resnet50-11ad3fa6.pth"). The
rows lie in `cards.json`, one per line; `python -m tests.parity.make_cards` writes them from torchvision's `Weights` and
from the metafiles and configs of checkouts of OpenMMLab's mmpretrain and mmsegmentation.
"""

import dataclasses
import functools
import hashlib
import json
import os
import re
from importlib import resources
from typing import Any

from jaxvision import registry
from jaxvision.errors import SetupError
from jaxvision.pretrained.keymaps import SOURCES
from jaxvision.registry import hint

LICENCES = {"torchvision": "BSD-3-Clause", "openmmlab": "Apache-2.0"}
"""Of the repositories that publish the files; the data that they were trained on have terms of their own."""
FEATURES = "features"
"""`task` of a file that is a backbone alone, without classes."""
_HASH = re.compile(r"-([0-9a-f]{8})[0-9a-f]*\.[a-z.]+$")


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightCard:
    """One published checkpoint.

    Attributes:
      hash: first eight hexadecimal digits of the file's SHA-256.
      source: who published it, one of `keymaps.SOURCES`.
      model: the architecture, by our name or an alias of it (torchvision's for torchvision's files).
      tag: tells several checkpoints of one architecture apart.
      url: where the file is.
      dataset: what it was trained on; its classes are `class_names`.
      num_classes: of the classifier; 0 without one.
      image_size: height and width of the network's input in evaluation; of a segmenter, of our canvas.
      resize: (height, width) or length of the short side to which images are resized before the central crop.
      interpolation: of resizing: "bilinear" or "bicubic".
      mean, std: per channel in the network's order, of pixels from 0 to 1.
      bgr: the network takes blue, green, red.
      top1, top5: published accuracy in percent, None where it is not published.
      parameters: their number as published (OpenMMLab rounds it), None where it is not.
      recipe: address of the training recipe.
      task: our name of what it does, or `FEATURES`.
      config: our config of this recipe, which has model and data in all detail; "" without one.
      miou, mdice, pixel_accuracy: published for segmenters in percent, at one scale; None where they are not.
    """

    hash: str
    source: str
    model: str
    tag: str
    url: str
    dataset: str = "imagenet1k"
    num_classes: int = 1000
    image_size: tuple[int, int] = (224, 224)
    resize: int | tuple[int, int] = 256
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    bgr: bool = False
    top1: float | None = None
    top5: float | None = None
    parameters: int | None = None
    recipe: str = ""
    task: str = "classification"
    config: str = ""
    miou: float | None = None
    mdice: float | None = None
    pixel_accuracy: float | None = None

    @property
    def name(self) -> str:
        """What configs write: "torchvision:resnet50.imagenet1k_v2", "openmmlab:resnet50_8xb32_in1k"."""
        if self.source == "openmmlab":
            return f"{self.source}:{self.tag}"
        return f"{self.source}:{self.model}.{self.tag}"

    @property
    def registered(self) -> str:
        """Our registered name of it with the publisher's numbers: "torchvision/x" where `x` has others."""
        own = f"{self.source}/{self.model}"
        return own if own in registry.names("model", own) else registry.lookup("model", self.model).name

    @property
    def file(self) -> str:
        """Name of the file."""
        return self.url.rpartition("/")[2]

    @property
    def licence(self) -> str:
        return LICENCES[self.source]

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order of the logits; empty where only their number is known."""
        return labels(self.dataset) if self.num_classes else ()


def weight_card(name: str) -> WeightCard:
    """The card of a checkpoint.

    Args:
      name: a file name, path or URL that ends in the hash ("resnet50-11ad3fa6.pth"), the hash itself, or
        a card's `name` or "source:model", which is its first card: what the recipes of dense tasks start from.

    Raises:
      SetupError: there is none; names the nearest.
    """
    card = find_card(name)
    if card is not None:
        return card
    source, colon, model = name.partition(":")
    if not colon or source not in SOURCES:
        raise SetupError(
            f"no weight card for {name!r}: expected a file name that ends in -HASH.pth as torchvision and OpenMMLab "
            f"publish it, or SOURCE:MODEL with a source of {', '.join(SOURCES[:-1])}"
        )
    known = [card.name for card in weight_cards() if card.source == source]
    same = [card for card in known if card.startswith(f"{source}:{model.partition('.')[0]}.")]
    raise SetupError(f"no weight card {name!r}: {'there are ' + ', '.join(same) if same else hint(name, known)}")


def find_card(name: str) -> WeightCard | None:
    """The card of a checkpoint as for `weight_card`, None where there is none."""
    cards = _table()
    match = _HASH.search(name)
    if match or name in cards:
        return cards.get(match.group(1) if match else name)
    return next((card for card in cards.values() if name in (card.name, f"{card.source}:{card.model}")), None)


def card_of_file(path: str | os.PathLike[str]) -> WeightCard | None:
    """The card of a file that was renamed: by its SHA-256 where its name does not say the hash; None where unknown."""
    card = find_card(os.fspath(path))
    if card is not None or not os.path.isfile(path):
        return card
    with open(path, "rb") as file:
        return _table().get(hashlib.file_digest(file, "sha256").hexdigest()[:8])


def is_card_name(name: str) -> bool:
    """Whether it reads "source:model", as opposed to a path."""
    return name.partition(":")[0] in SOURCES and ":" in name


def weight_cards() -> tuple[WeightCard, ...]:
    """All cards."""
    return tuple(_table().values())


@functools.cache
def labels(dataset: str) -> tuple[str, ...]:
    """Class names of a dataset in the order of published classifiers; empty for one that is not known."""
    file = resources.files("jaxvision.pretrained") / "labels" / f"{dataset}.txt"
    return tuple(file.read_text().splitlines()) if file.is_file() else ()


@functools.cache
def _table() -> dict[str, WeightCard]:
    lines = (resources.files("jaxvision.pretrained") / "cards.json").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    cards = [_card({k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}) for row in rows]
    return {card.hash: card for card in cards}


def _card(row: dict[str, Any]) -> WeightCard:
    return WeightCard(**row)
