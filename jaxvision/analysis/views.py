"""The views of `experiments.analyze`: each looks at one run, config or model, says a few lines and makes pictures."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from jaxvision import config as configs
from jaxvision import errors, experiment, registry
from jaxvision.analysis import cost, embedding, examined, receptive_field, robustness, runs, trained
from jaxvision.analysis.gradcam import METHODS, gradcam
from jaxvision.analysis.learning_rate import learning_rates
from jaxvision.checking import read_sample
from jaxvision.data.build import build_source
from jaxvision.engine.analysis import Findings, Settings, plain
from jaxvision.errors import SetupError
from jaxvision.features import POOLED, FeatureExtractor, network_of
from jaxvision.inference import expand
from jaxvision.loading import load_model
from jaxvision.retrieval import folder_labels

Picture = UInt8[np.ndarray, "h w 3"]
SHEET = 24
"""Maps on one contact sheet at most."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command line says; each view takes what concerns it.

    Attributes:
      checkpoint: as for `loading.load_model`.
      inputs: image files, folders and patterns.
      layer: as for `FeatureExtractor`; several with commas between them.
      method: of `gradcam`.
      target: class of the maps.
      count: images at most, of a config's validation part; random images of a receptive field.
      size: height and width of the images of a receptive field.
      examples: training images, where the data are not here.
      metric: of the comparison of runs, or of robustness.
      iou: from which on a detection finds an object.
      score: above which a prediction counts; None: the task's own.
      only: corruptions; none: all.
      seed: of the corruptions.
    """

    checkpoint: str | None = None
    inputs: tuple[str, ...] = ()
    layer: str | None = None
    method: str = METHODS[0]
    target: int | None = None
    count: int | None = None
    size: tuple[int, int] | None = None
    examples: int | None = None
    metric: str | None = None
    iou: float = 0.5
    score: float | None = None
    only: tuple[str, ...] = ()
    seed: int = 0


def view_gradcam(source: str, options: Options) -> Findings:
    """Class activation maps of images, and a contact sheet of them."""
    from jaxvision.visualization.sheets import contact_sheet

    files, _ = expand(_inputs(options, "gradcam"))
    infer = gradcam(source, options.checkpoint, layer=options.layer, method=options.method, target=options.target)
    pictures: dict[str, Picture] = {}
    lines, silent = [f"weights: {infer.model.origin}"], []
    for result in infer.iterate(files):
        silent.append(result.json["silent"])
        lines.append(f"{result.path}  {result.json['class']} {result.json['score']:.4f}, {result.json['layer']}")
        name, number = f"{Path(str(result.path)).stem}_{options.method}.png", 1
        while name in pictures:
            number += 1
            name = f"{Path(str(result.path)).stem}_{options.method}_{number}.png"
        pictures[name] = result.picture()
    if all(silent):
        raise SetupError(
            f"no gradient of the class reaches the layer {result.json['layer']!r}: choose one in front of it (in a "
            "transformer with a class token the last block's norm1)"
        )
    if len(pictures) > 1:
        shown = list(pictures.values())[:SHEET]
        pictures["gradcam.png"] = contact_sheet(shown, largest=700)
    return Findings(tuple(lines), pictures=pictures)


def view_features(source: str, options: Options) -> Findings:
    """PCA and t-SNE of features, coloured by class: of a folder for each class, or of the config's validation part."""
    from jaxvision.visualization.canvas import render
    from jaxvision.visualization.embedding import embedding_figure

    extract = FeatureExtractor(source, options.checkpoint, layer=options.layer or POOLED)
    images, labels, names = _labelled(source, options)
    features = extract(images)
    features = features.reshape(len(features), -1)
    planes = {title: points for points, title in (embedding.project(features, name) for name in embedding.METHODS)}
    agreement = embedding.neighbours_agree(features, labels)
    chance = float(np.sum((np.bincount(labels) / len(labels)) ** 2))
    lines = (
        f"features: {extract.about}",
        f"{len(images)} images of {len(set(labels))} classes, {features.shape[1]} numbers each",
        f"the nearest other image has the same class for {agreement:.1%} (by chance {chance:.1%})",
    )
    figure = embedding_figure(planes, np.asarray(labels), names, f"Features: {extract.about}")
    return Findings(lines, pictures={"features.png": render(figure)})


def view_learning_rate(source: str, options: Options) -> Findings:
    """The learning rate of every group of parameters over the run, warm-up included."""
    from jaxvision.visualization.canvas import render
    from jaxvision.visualization.learning_rate import learning_rate_figure

    config = configs.load(source)
    found = learning_rates(config, options.examples)
    groups, lines = [], []
    for name, count, rates in found.groups:
        groups.append((f"{name}\n{count:,} parameters", rates))
        start, end = f"{rates[0]:.4g} at step 0", f"{rates[-1]:.4g} at step {found.steps[-1]}"
        lines.append(f"{name}: {start}, at most {rates.max():.4g}, {end}")
    title = (
        f"Learning rate: {Path(source).name}, {config.schedule.learning_rate.name}, {config.schedule.optimizer.name}"
    )
    figure = learning_rate_figure(found.steps, groups, found.steps_per_epoch, found.warmup_steps, title)
    return Findings(tuple(lines), pictures={"learning_rate.png": render(figure)})


def view_receptive_field(source: str, options: Options) -> Findings:
    """Theoretical and effective receptive field of each level, or of the layers that are named."""
    from jaxvision.visualization.canvas import render
    from jaxvision.visualization.receptive_field import receptive_field_figure

    network, variables, size, channels, origin = _network(source, options)
    backbone = getattr(network, "backbone", network)
    levels = [level for level in getattr(backbone, "out_levels", ()) if level != POOLED]
    layers = options.layer.split(",") if options.layer else levels
    if not layers:
        raise SetupError(f"{type(backbone).__name__} has no levels: name modules with --layer a,b")
    lines, heats, titles, boxes = [origin], [], [], []
    fields = receptive_field.theoretical(network, variables, layers, size, channels)
    for layer in layers:
        heat = receptive_field.effective(
            network, variables, layer, size, channels=channels, samples=options.count or 16
        )
        side = receptive_field.extent(heat)
        told = [f"{field.size}" if field is not None else "whole image" for field in fields[layer]]
        text = told[0] if told[0] == told[1] else f"{told[0]} x {told[1]}"
        stride = fields[layer][0].stride if fields[layer][0] is not None else None  # type: ignore[union-attr]
        every = f", one unit every {stride} pixels" if stride else ""
        lines.append(f"{layer}: theoretical {text}{every}; effective {side:.0f} of {size[0]}x{size[1]} pixels")
        heats.append(heat)
        titles.append(f"{layer}: theoretical {text}\neffective {side:.0f} x {side:.0f}")
        boxes.append(_box(network, variables, layer, fields[layer], size, channels))
    name = f"{Path(source).name}, images of {size[0]}x{size[1]}"
    figure = receptive_field_figure(heats, titles, boxes, receptive_field.THRESHOLD, name)
    return Findings(tuple(lines), pictures={"receptive_field.png": render(figure)})


def view_told(view: str) -> Callable[[str, Options], Findings]:
    """A view that the direction of the model offers."""

    def show(source: str, options: Options) -> Findings:
        return trained.told(_examined(source, options), view, Settings(options.iou, options.score))

    return show


def view_worst(source: str, options: Options) -> Findings:
    """The images with the worst predictions."""
    whole = dataclasses.replace(options, count=None)
    return trained.worst(_examined(source, whole), options.count or trained.WORST)


def view_robustness(source: str, options: Options) -> Findings:
    """The metric under common corruptions."""
    return robustness.robustness(_examined(source, options), options.metric, options.only, options.seed)


def view_runs(sources: Sequence[str], options: Options) -> Findings:
    """Runs over each other."""
    return runs.compare(sources, options.metric)


def view_cost(sources: Sequence[str], options: Options) -> Findings:
    """Parameters, operations and times."""
    return cost.costs(sources)


VIEWS: Mapping[str, Callable[[str, Options], Findings]] = {
    "gradcam": view_gradcam,
    "features": view_features,
    "learning_rate": view_learning_rate,
    "receptive_field": view_receptive_field,
    **{view: view_told(view) for view in ("classes", "confusion", "errors", "precision_recall")},
    "worst": view_worst,
    "robustness": view_robustness,
}
"""Name -> view of one source; a new one is a function and a row, or what tasks offer under a new name."""
TOGETHER: Mapping[str, Callable[[Sequence[str], Options], Findings]] = {"runs": view_runs, "cost": view_cost}
"""Name -> view of all sources at once."""


def analyze(
    sources: Sequence[str], view: str, options: Options, output: Path, say: Callable[[str], None] = print
) -> None:
    """Says what a view tells, and writes its pictures and `VIEW.json` into a folder, or one each of several sources.

    Raises:
      UserError: what the view cannot be made of.
    """
    if view in TOGETHER:
        _write(TOGETHER[view](sources, options), view, output, say)
        return
    for source in sources:
        _write(VIEWS[view](source, options), view, output / Path(source).name if len(sources) > 1 else output, say)


def _write(found: Findings, view: str, folder: Path, say: Callable[[str], None]) -> None:
    from jaxvision.visualization.canvas import save_picture

    say("\n".join(found.lines))
    for name, picture in found.pictures.items():
        save_picture(picture, folder / name)
    written = list(found.pictures)
    if found.json is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{view}.json").write_text(json.dumps(plain(found.json), indent=2) + "\n", encoding="utf-8")
        written.append(f"{view}.json")
    say(f"wrote {', '.join(written)} to {folder}")


def _examined(source: str, options: Options) -> examined.Examined:
    return examined.examine(source, options.checkpoint, options.count)


def _inputs(options: Options, view: str) -> list[str]:
    if not options.inputs:
        raise SetupError(f"the view {view!r} needs images: --input FILE, FOLDER or PATTERN")
    return list(options.inputs)


def _labelled(source: str, options: Options) -> tuple[list[Any], list[int], tuple[str, ...]]:
    """Images with their labels and the names of classes."""
    if options.inputs:
        files, _ = expand(list(options.inputs))
        classes = folder_labels([str(file) for file in files])
        names = tuple(sorted(set(classes)))
        return list(files), [names.index(name) for name in classes], names
    if source in registry.names("model"):
        raise SetupError("a model's name has no data: give a config, a workdir, or --input FOLDER of class folders")
    config = configs.load(source)
    configs.import_extensions(config.imports)
    data = build_source(config.data, "validation")
    count = min(len(data), options.count or 1000)
    chosen = np.sort(np.random.default_rng(0).permutation(len(data))[:count])
    samples = [read_sample(data, int(i)) for i in chosen]
    if np.ndim(samples[0].get("label", ())) != 0:
        raise SetupError(f"{data.name} has no single label of each image to colour it by: give --input")
    return [s["image"] for s in samples], [int(s["label"]) for s in samples], tuple(data.class_names)


def _network(source: str, options: Options) -> tuple[nn.Module, Any, tuple[int, int], int, str]:
    """Module, variables (random without a checkpoint), image size, channels and a line on the weights."""
    if options.checkpoint is not None or (Path(source) / "config.json").exists():
        model = load_model(source, options.checkpoint)
        size = options.size or model.image_size
        return network_of(model.task), model.variables, size, model.channels, f"weights: {model.origin}"
    if source in registry.names("model"):
        network, size, channels = configs.build("model", {"name": source, "num_classes": 10}), (224, 224), 3
    else:
        config = configs.load(source)
        configs.import_extensions(config.imports)
        classes = config.model.get("num_classes")
        network = network_of(experiment.build_task(config, class_names=(), num_classes=classes))
        size, channels = tuple(config.data.image_size), config.data.channels
    size = options.size or size
    with errors.setup():  # a network may refuse the size
        variables = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, *size, channels)))
    return network, variables, size, channels, "weights: random, as initialised"


def _box(
    network: nn.Module, variables: Any, layer: str, field: Sequence[Any], size: tuple[int, int], channels: int
) -> tuple[float, float, float, float] | None:
    """Left, top, right, bottom of what the central unit sees."""
    if any(side is None for side in field):
        return None
    from jaxvision.features import observed, outputs

    images = jax.ShapeDtypeStruct((1, *size, channels), jnp.float32)
    shape = jax.eval_shape(lambda v, x: outputs(observed(network, [layer]), v, x, (layer,))[1], variables, images)
    centre = [side.stride * (shape[layer].shape[1 + i] // 2) for i, side in enumerate(field)]
    (top, bottom), (left, right) = ((c + s.low, c + s.high + 1) for c, s in zip(centre, field, strict=True))
    return left, top, right, bottom
