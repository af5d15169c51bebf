"""The model index: what every config is, what it costs, what is published of it, and what of it was measured here.

    rows = read()                                           # configs/model_index.json
    row = describe("detection/fcos_r50_fpn_coco", records)  # without its costs
    costs("detection/fcos_r50_fpn_coco")                    # parameters, FLOPs

Rows are made from the configs and the modules of their models, the weight cards, and the recorded measurements in
`experiments/results`. A parity that was not measured is "not measured", never implied.
"""

import ast
import functools
import hashlib
import importlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxvision import config as configs
from jaxvision.config.files import config_roots
from jaxvision.pretrained.cards import weight_cards
from jaxvision.pretrained.keymaps import family_of
from jaxvision.structures import Proposals

Row = dict[str, Any]
NAME = "model_index.json"
PUBLISHED = (
    ("top-1", r"([\d.]+)% top-1|\(([\d.]+)%\)"),
    ("box AP", r"([\d.]+) (?:box )?AP\b"),
    ("mask AP", r"([\d.]+) mask AP"),
    ("PQ", r"panoptic quality of ([\d.]+)"),
    ("AR1000", r"AR1000 of ([\d.]+)"),
    ("mIoU", r"([\d.]+) mIoU"),
    ("mDice", r"([\d.]+) (?:m?Dice)"),
)
"""How the description of a recipe tells what it reached where it was published."""
PAPER = re.compile(r"(?:[A-Z][a-z]\w*, )*[A-Z][a-z]\w*(?: et al\.|,? (?:and|&) [A-Z][a-z]\w*)*,? (?:19|20)\d\d")
ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")
PROPOSALS = 1000
"""Regions of an image for a detector that is given them."""
RECORDS = ("zoo_parity", "parity", "overfit_detectors", "overfit_segmentors")
COSTS = ("parameters", "flops", "canvas", "made_of", "standard")
MEASURED, NOT_MEASURED = "measured", "not measured"
OF_SEGMENTATION_MODELS = (
    *("unet", "unetplusplus", "manet", "linknet", "fpn", "pan"),
    *("smp/deeplabv3", "smp/deeplabv3plus", "smp/pspnet"),
)
OF_SMALL_FORMS = ("fcn32s", "fcn16s", "fcn8s", "deeplab_v1", "deeplab_v2", "deeplab_v2_vgg16")
PARITY = {
    "lenet5": r"test_lenet\.py",
    **dict.fromkeys(("faster_rcnn_c4", "faster_rcnn_dc5", "mask_rcnn_c4", "rpn_c4"), r"test_one_level\.py"),
    "rpn": r"test_faster_rcnn\.py",
    **dict.fromkeys(("ssd300", "ssd512"), r"test_ssd\.py"),
    "yolox_s": r"test_yolox\.py",
    "detr": r"test_detr\.py.*\[detr\]",
    "deformable_detr": r"test_detr\.py.*\[(deformable_detr|refined)\]",
    "openmmlab/unet": r"test_unet\.py",
    **{name: rf"test_fcn_deeplab\.py.*\[{name}\]" for name in OF_SMALL_FORMS},
    **{name: rf"test_segmentation_models\.py.*\[{name.removeprefix('smp/')}[\]_]" for name in OF_SEGMENTATION_MODELS},
}
"""Where recorded errors are, for models after which no test is named."""


def read(path: Path | None = None) -> list[Row]:
    """All rows of the table, in the order of the configs' names.

    Raises:
      FileNotFoundError: no table lies beside the configs.
    """
    return list(json.loads((path or location()).read_text()))


def location() -> Path:
    """Where the table is: beside the configs.

    Raises:
      FileNotFoundError: it is not there.
    """
    for root in config_roots():
        if (root / NAME).is_file():
            return root / NAME
    raise FileNotFoundError(f"{NAME} is in none of {', '.join(map(str, config_roots()))}")


def describe(name: str, records: Mapping[str, Any]) -> Row:
    """A row but for its costs; `parity` is that of the registered model.

    Args:
      name: of a config.
      records: what `experiments/results` holds, by the files' names: `zoo_parity`, `parity`, `overfit_detectors`,
        `overfit_segmentors`; what is not among them counts as not measured.
    """
    config = configs.load(name)
    model, cards = configs.build("model", config.model), weight_cards()
    text = text_of(name)
    return {
        "config": name,
        "title": re.split(r" \([A-Z]|[;:]\s|\.\s|\.$", text)[0],
        "task": config.task.name,
        "model": config.model.name,
        "paper": paper_of(text, model),
        "published": published_in(text),
        "parity": parity_of(config.model.name, records),
        "learned": learned(name, records),
        "cards": [card.name for card in cards if card.config == name],
        "model_cards": [
            card.name for card in weight_cards() if not card.config and card.registered == config.model.name
        ],
        "sources": sorted({key.split("/")[0] for key in family_of(model).keys if "/backbone" not in key}),
    }


def text_of(name: str) -> str:
    """The description that a config begins with, on one line."""
    path = next(root / f"{name}.py" for root in config_roots() if (root / f"{name}.py").is_file())
    return " ".join((ast.get_docstring(ast.parse(path.read_text())) or "").split())


def paper_of(text: str, model: Any) -> dict[str, str]:
    """Authors and year, and the number in arXiv where it is told: of the config, else of the model's module, else of
    its backbone's."""
    parts = [model, getattr(model, "backbone", None)]
    modules = [importlib.import_module(type(part).__module__) for part in parts if part is not None]
    told = [" ".join((module.__doc__ or "").split()) for module in modules]
    authors = next((found[0] for found in map(PAPER.findall, (text, *told)) if found), "")
    # The number belongs to the authors that it follows.
    for described in (text, *told):
        place = described.find(authors) if authors else -1
        if place >= 0 and (number := ARXIV.search(described[place : place + len(authors) + 40])):
            return {"authors": authors, "arxiv": number.group(1)}
    return {"authors": authors}


def published_in(text: str) -> list[dict[str, Any]]:
    """Metrics that the description of a recipe tells, each with the words in which it does."""
    found = []
    for metric, pattern in PUBLISHED:
        for clause in re.split(r";\s|\.\s|\.$", text):
            if match := re.search(pattern, clause):
                value = next(group for group in match.groups() if group)
                found.append({"metric": metric, "value": float(value), "source": clause.strip()})
                break
    return found


def parity_of(model: str, records: Mapping[str, Any]) -> dict[str, Any]:
    """The largest relative error of the outputs of a registered model beside its reference's, from the same weights."""
    row = records.get("zoo_parity", {}).get(model)
    if row is not None:
        errors = [value for key, value in row.items() if key not in ("image", "agrees")]
        return {"status": MEASURED, "error": max(errors), "record": "zoo_parity.json", "tests": [model]}
    wanted = re.compile(PARITY.get(model, rf"test_{re.escape(model.rpartition('/')[2])}\.py"))
    found = {test: error for test, error in records.get("parity", {}).items() if wanted.search(test)}
    if not found:
        return {"status": NOT_MEASURED}
    return {"status": MEASURED, "error": max(found.values()), "record": "parity.json", "tests": sorted(found)}


def learned(name: str, records: Mapping[str, Any]) -> dict[str, Any]:
    """The score on four scenes that were learned by heart; empty for what was not tried."""
    for record in ("overfit_detectors", "overfit_segmentors"):
        row = records.get(record, {}).get(name.rpartition("/")[2].removesuffix("_digit_scenes"))
        if row is not None and name.endswith("_digit_scenes"):
            return {"metric": row["score"], "value": row["value"], "steps": row["steps"], "record": f"{record}.json"}
    return {}


def costs(name: str) -> Row:
    """Parameters of the config's model, FLOPs of its network for one image of the canvas of evaluation, and whether it
    is the registered model in names and shapes (`standard`), so that this one's published weights are its own.

    FLOPs are XLA's count of the program before it is optimised; a multiply-add is two. A loop counts once.
    """
    config = configs.load(name)
    model = configs.build("model", config.model)
    canvas = canvas_of(config)
    image = jax.ShapeDtypeStruct((1, *canvas, config.data.channels), jnp.float32)
    inputs: Any = {"image": image}
    if "proposals" in config.data.source.name:
        regions = Proposals(_shape(1, PROPOSALS, 4), jax.ShapeDtypeStruct((1, PROPOSALS), jnp.bool_))
        inputs |= {"proposals": regions, "size": _shape(1, 2)}
    variables = _variables(model, inputs)
    program = jax.jit(lambda variables, inputs: model.apply(variables, inputs, train=False)).lower(variables, inputs)
    analysis = program.cost_analysis() or {}
    return {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(variables["params"])),
        "flops": round(analysis.get("flops", 0.0)),
        "canvas": list(canvas),
        "made_of": fingerprint(config),
        "standard": _is_registered_size(config, inputs, variables),
    }


def _is_registered_size(config: configs.Config, inputs: Any, variables: Any) -> bool:
    classes = {"num_classes": config.model.num_classes} if "num_classes" in config.model else {}
    try:
        plain = _variables(configs.build("model", {"name": config.model.name, **classes}), inputs)
    except ValueError:  # it has no size of its own (a part is required), or not for this canvas
        return False
    return bool(_described(plain) == _described(variables))


def canvas_of(config: configs.Config) -> tuple[int, int]:
    """Height and width on which images are evaluated; the first of several."""
    height, width = config.data.eval_buckets[0] if config.data.eval_buckets else config.data.image_size
    return int(height), int(width)


def fingerprint(config: configs.Config) -> str:
    """Changes with whatever of a config its costs depend on."""
    parts = (config.model.to_dict(), canvas_of(config), config.data.channels)
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _variables(model: Any, inputs: Any) -> Any:
    return jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), inputs)


def _described(variables: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.shape, variables)


def _shape(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def table(rows: Sequence[Row]) -> str:
    """The index as Markdown: one table for each direction."""
    directions = dict.fromkeys(row["config"].split("/")[0] for row in rows)
    parts = []
    for direction in directions:
        own = [row for row in rows if row["config"].startswith(f"{direction}/")]
        parts.append(f"## {direction.capitalize()}\n\n" + "\n".join((HEAD, *map(line, own))) + "\n")
    return "\n".join(parts)


HEAD = (
    "| config | paper | parameters | GFLOPs | published | parity, largest error | learned here | weights |\n"
    "|---|---|---|---|---|---|---|---|"
)


def figure(value: float) -> str:
    """Three digits, and no powers of ten."""
    if value < 0.01:
        return "< 0.01"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def line(row: Row) -> str:
    """One config's line of the table."""
    name = row["config"].partition("/")[2]
    paper = row["paper"]["authors"]
    if "arxiv" in row["paper"]:
        paper = f"[{paper}](https://arxiv.org/abs/{row['paper']['arxiv']})"
    published = ", ".join(f"{found['value']:g} {found['metric']}" for found in row["published"])
    parity = row["parity"]
    told = f"{parity['error']:.0e}" if parity["status"] == MEASURED else NOT_MEASURED
    if "registered" in parity:
        told = f"{NOT_MEASURED} (`{row['model']}`: {parity['registered']['error']:.0e})"
    own = row["learned"]
    learned_here = f"{own['metric']} {own['value']:.2f}" if own else ""
    cards = row["cards"] or (row["model_cards"] if row["standard"] else [])
    weights = ", ".join(row["sources"]) if cards or row["standard"] else ""
    weights += f" ({len(cards)} card{'s' if len(cards) > 1 else ''})" if cards else ""
    size, flops = f"{row['parameters'] / 1e6:.3g} M", figure(row["flops"] / 1e9)
    cells = (f"[{name}]({row['config']}.py)", paper, size, flops, published, told, learned_here, weights)
    return f"| {' | '.join(cells)} |"


def update(root: Path, say: Callable[[str], None] = print) -> list[Row]:
    """Writes `configs/model_index.json` and `configs/README.md` of a checkout; costs are counted where they changed.

    Raises:
      FileNotFoundError: `root` is no checkout.
    """
    path = root / "configs" / NAME
    if not (root / "experiments" / "results").is_dir():
        raise FileNotFoundError(f"{root} is no checkout of jaxvision: it has no experiments/results")
    records = records_of(root)
    known = {row["config"]: row for row in read(path)} if path.is_file() else {}
    rows = []
    for name in configs.config_names():
        row, made_of = describe(name, records), fingerprint(configs.load(name))
        old = known.get(name, {})
        if old.get("made_of") != made_of:
            say(f"counting {name}")
            old = costs(name)
            jax.clear_caches()
        rows.append(joined(row, {key: old[key] for key in COSTS}))
    path.write_text(text_of_rows(rows))
    (root / "configs" / "README.md").write_text(readme(rows))
    say(f"wrote {len(rows)} rows to {path} and README.md beside it")
    return rows


def joined(row: Row, counted: Row) -> Row:
    """What is described and what is counted. What was measured of the registered model is not said of another size."""
    if not counted["standard"] and row["parity"]["status"] == MEASURED:
        row = {**row, "parity": {"status": NOT_MEASURED, "registered": row["parity"]}}
    return {**row, **counted}


def records_of(root: Path) -> dict[str, Any]:
    """The recorded measurements of a checkout that a row may tell."""
    files = ((root / "experiments" / "results" / f"{name}.json") for name in RECORDS)
    return {file.stem: json.loads(file.read_text()) for file in files if file.is_file()}


def text_of_rows(rows: Sequence[Row]) -> str:
    """The table as JSON, a row on each line."""
    return "[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n"


def readme(rows: Sequence[Row]) -> str:
    """What `configs/README.md` says."""
    return f"{INTRODUCTION}\n{table(rows)}"


INTRODUCTION = """# Configs

Every config of this folder. `python -m experiments.index` prints the same, and programs read `model_index.json`; both
are written by `python -m experiments.index --update`.

- **parameters, GFLOPs**: of the network, for one image on the canvas of evaluation; a multiply-add is two. XLA counts
  them in the program before it is optimised.
- **published**: what the publisher of the recipe reached, as the config's first lines say; it was not reached here.
- **parity**: the largest relative error of the network's outputs beside its reference, from the same weights
  (`experiments/results/zoo_parity.json` and `parity.json`). Of another size than the registered model's it is not
  measured; that of the registered model stands beside. FCN-32s to 8s and DeepLab v1 and v2, of which no framework here
  has the network, are compared with a small form written in torch.
- **learned here**: the score on four composed scenes that were learned by heart (`tests/overfit.py`).
- **weights**: whose published files are read under their own names, and how many of them have a card.
"""
