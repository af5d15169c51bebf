"""Image in, prediction and picture out: `Inferencer` runs a trained task on files and arrays.

    infer = Inferencer("runs/lenet5_digits")          # a workdir: config, class names and weights
    result = infer("seven.png")
    result.json["class"], result.save("prediction.png")

From a workdir plain data are read (`config.json`, `meta.json`, a checkpoint) and no Python is executed. One program is
compiled, for a fixed batch that the last images fill up with padding.
"""

import dataclasses
import functools
import glob
import itertools
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import UInt8

from jaxvision.data.build import host_transforms
from jaxvision.data.collate import GEOMETRY, collate
from jaxvision.data.images import fit_image, read_image
from jaxvision.data.order import sample_rng
from jaxvision.data.prepare import prepare
from jaxvision.data.samples import Sample
from jaxvision.data.transforms import Resize
from jaxvision.engine.task import Context, Task
from jaxvision.engine.tta import augmented
from jaxvision.errors import SetupError
from jaxvision.pretrained.cards import WeightCard, card_of_file, find_card, is_card_name, weight_card
from jaxvision.pretrained.keymaps import family_of
from jaxvision.pretrained.load import match, open_weights
from jaxvision.pretrained.safetensors import assign, load_safetensors_metadata, save_safetensors
from jaxvision.pretrained.torch_file import LoadedFile
from jaxvision.trees import TreeMismatch, flatten, nest

PyTree = Any
Image = UInt8[np.ndarray, "h w c"]
Input = str | os.PathLike[str] | Image
SUFFIXES = (
    ".avif", ".bmp", ".gif", ".ico", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff",
    ".webp",
)  # fmt: skip
"""Files of a folder or a glob that are taken for images."""
READERS = 4
"""Threads that decode images while the device computes."""


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """The prediction for one image.

    Attributes:
      path: the file, or None for an array.
      prediction: the task's prediction for this image: a pytree of numpy arrays without the batch's axis.
      json: the same in the direction's usual format.
      task: draws the picture.
      image: the array that was given; files are read again when they are drawn, so that many results stay small.
      geometry: `size`, `original_size` and `to_original` of the image on its canvas.
    """

    path: str | None
    prediction: PyTree
    json: dict[str, Any]
    task: Task
    image: Image | None = None
    geometry: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def picture(self) -> UInt8[np.ndarray, "h w 3"]:
        """The image with its prediction drawn beside or on it."""
        image = self.image if self.path is None else read_image(self.path)
        return self.task.draw({"image": image, **self.geometry}, self.prediction)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the picture (`.png`, `.jpg`, `.webp`); folders are made."""
        from jaxvision.visualization.canvas import save_picture

        save_picture(self.picture(), path)


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """What prediction needs: the parts that `load_model` finds and `Inferencer` runs.

    Attributes:
      task: gives `predict`, `draw` and `to_json`.
      variables: what `task.predict` takes.
      image_size: height and width to which images are fitted.
      channels: of the images, 1 or 3.
      preprocess: device transforms `(batch, key) -> batch` of evaluation.
      dtype: compute dtype of the precision policy.
      host_transforms: of evaluation, from the decoded image to its canvas.
      origin: one line that says where the weights come from.
      card: of the published checkpoint that the weights are, or that their training started from; None without one.
    """

    task: Task
    variables: Mapping[str, PyTree]
    image_size: tuple[int, int]
    channels: int
    preprocess: Callable[[Mapping[str, Any], Any], Mapping[str, Any]]
    dtype: Any = jnp.float32
    host_transforms: tuple[Any, ...] = (Resize(),)
    origin: str = ""
    card: WeightCard | None = None


class Inferencer:
    """Predicts for image files and arrays."""

    def __init__(
        self,
        source: str | os.PathLike[str] | Model,
        checkpoint: str | int | os.PathLike[str] | None = None,
        *,
        batch_size: int = 16,
        tta: Any = "config",
    ) -> None:
        """Loads the model; see `load_model` for `source` and `checkpoint`.

        Args:
          batch_size: images per call of the compiled program; fewer are padded.
          tta: test-time augmentation: "config" as the config's `evaluation.tta` says, None for none, an
            `engine.tta.TTA`, or what a config may say ("d4", "ten_crop:(224, 224)", `dict(name="d4", merge="gmean")`).
        """
        if batch_size < 1:
            raise SetupError(f"batch_size is {batch_size}: expected at least 1")
        self.model = source if isinstance(source, Model) else load_model(source, checkpoint)
        if tta != "config":
            from jaxvision.experiment import build_tta

            self.model = dataclasses.replace(self.model, task=augmented(self.model.task, build_tta(tta)))
        self.batch_size = batch_size
        self._predict = jax.jit(functools.partial(_predict, self.model))
        self._variables = jax.device_put(self.model.variables)

    def __call__(self, inputs: Input | Iterable[Input]) -> Result | list[Result]:
        """Predicts for what `inputs` names.

        Args:
          inputs: an image file or an array `[H, W]` or `[H, W, C]` (uint8) gives one result; a folder (searched with
            its subfolders), a glob pattern, a stack of arrays `[N, H, W, C]`, or a list of any of these gives a list.

        Raises:
          FileNotFoundError: no such file, or a folder or pattern without images.
          ImageError: a file that is no image, an array that is no uint8 image.
        """
        items, single = expand(inputs)
        results = list(self.iterate(items))
        return results[0] if single else results

    def iterate(self, items: Iterable[Input]) -> Iterator[Result]:
        """Results one by one, in order, for image files and arrays; for more images than memory should hold."""
        waiting: tuple[list[Input], list[Sample], PyTree] | None = None
        with ThreadPoolExecutor(READERS) as pool:
            for chunk in _chunks(items, self.batch_size):
                samples = list(pool.map(self._read, chunk))
                # While the device works on this batch, results of the one before are handed out and the next is read.
                predictions = self._predict(self._variables, self._batch(samples))
                if waiting is not None:
                    yield from self._results(*waiting)
                waiting = (chunk, samples, predictions)
        if waiting is not None:
            yield from self._results(*waiting)

    def _read(self, item: Input) -> Sample:
        image = read_image(item) if isinstance(item, (str, os.PathLike)) else item
        size = np.shape(image)[:2] if np.ndim(image) > 1 else (1, 1)
        image = fit_image(image, size, self.model.channels)  # checks it, too
        canvas, channels, transforms = self.model.image_size, self.model.channels, self.model.host_transforms
        return prepare(image, None, transforms, sample_rng(0, 0), canvas=canvas, channels=channels)

    def _batch(self, samples: list[Sample]) -> dict[str, Any]:
        size = self.batch_size
        return {
            **collate(samples + samples[-1:] * (size - len(samples))),
            "valid": np.arange(size) < len(samples),
            "index": np.arange(size, dtype=np.int32),
            "position": np.arange(size, dtype=np.uint32),
        }

    def _results(self, chunk: list[Input], samples: list[Sample], predictions: PyTree) -> Iterator[Result]:
        predictions = jax.device_get(predictions)
        for row, (item, prepared) in enumerate(zip(chunk, samples, strict=True)):
            own = jax.tree.map(lambda x, row=row: x[row], predictions)
            is_file = isinstance(item, (str, os.PathLike))
            sample = {key: prepared[key] for key in GEOMETRY} | ({} if is_file else {"image": item})
            yield Result(
                path=os.fspath(item) if is_file else None,  # type: ignore[arg-type]
                prediction=own,
                json=self.model.task.to_json(sample, own),
                geometry={key: prepared[key] for key in GEOMETRY},
                task=self.model.task,
                image=None if is_file else item,  # type: ignore[arg-type]
            )


def expand(inputs: Input | Iterable[Input]) -> tuple[list[Input], bool]:
    """Image files and arrays that `inputs` names, and whether it is a single one; see `Inferencer.__call__`."""
    if isinstance(inputs, (str, os.PathLike)):
        return _files(os.fspath(inputs))
    if isinstance(inputs, (list, tuple)):
        found = list(itertools.chain.from_iterable(expand(item)[0] for item in inputs))
        if not found:
            raise SetupError("there is no image to predict for: the list is empty")
        return found, False
    array = np.asarray(inputs)
    if array.ndim == 4:
        return list(array), False
    return [array], True


def _files(name: str) -> tuple[list[Input], bool]:
    path = epath.Path(name)
    if path.is_dir():
        files = sorted(str(p) for p in _walk(path) if p.suffix.lower() in SUFFIXES)
        if not files:
            raise FileNotFoundError(f"folder {name!r} has no image (looked for {', '.join(SUFFIXES)})")
        return list(files), False
    if path.exists():
        return [name], True
    if glob.has_magic(name):
        matches = glob.glob(name, recursive=True)
        files = sorted(match for match in matches if match.lower().endswith(SUFFIXES) and os.path.isfile(match))
        if not files:
            raise FileNotFoundError(f"no image matches the pattern {name!r}")
        return list(files), False
    raise FileNotFoundError(f"no such image file, folder or pattern: {name!r}")


def _walk(folder: epath.Path) -> Iterator[epath.Path]:
    for path in folder.iterdir():
        if path.is_dir():
            yield from _walk(path)
        else:
            yield path


def _chunks(items: Iterable[Input], size: int) -> Iterator[list[Input]]:
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk


def _predict(model: Model, variables: Mapping[str, PyTree], batch: Mapping[str, Any]) -> PyTree:
    batch = model.preprocess(batch, jax.random.key(0))
    return model.task.predict(variables, batch, Context(dtype=model.dtype), model.task.init_carry(batch))[0]


def save_weights(
    source: str | os.PathLike[str], path: str | os.PathLike[str], checkpoint: str | int | None = None
) -> None:
    """Writes the weights of a run to one `.safetensors` file that `Inferencer` and `load_model` take as checkpoint.

    The file carries the config and the class names, so the model's name and this file are enough to predict.

    Args:
      source: the workdir of a run.
      path: the file; its folder is created.
      checkpoint: a step, "best", or None for the newest.
    """
    workdir = epath.Path(source)
    if not (workdir / "config.json").exists():
        raise SetupError(_no_checkpoint(source, workdir))
    model = load_model(workdir, checkpoint)
    meta = workdir / "meta.json"
    metadata = {"config": (workdir / "config.json").read_text(), "meta": meta.read_text() if meta.exists() else "{}"}
    save_safetensors(path, model.variables, metadata)


def load_model(source: str | os.PathLike[str], checkpoint: str | int | os.PathLike[str] | None = None) -> Model:
    """Builds the task of `source` and restores its weights, averaged ones (EMA) where the run evaluates those.

    With the name of a model, images are prepared as the weights ask for: by the config that they carry or, for a
    published classifier, by its weight card, which is found by the file's name or, renamed, by its content.

    Args:
      source: the workdir of a run; or a config (name or file) or the name of a registered model, with a `checkpoint`;
        or a weight card ("torchvision:resnet50").
      checkpoint: of a workdir: a step, "best", or None for the newest; or a path: a workdir, its `checkpoints` folder,
        one step in there, or a file of weights, ours or published (see `jv.load_pretrained`), or a weight card.

    Raises:
      FileNotFoundError: no such workdir, config or weights.
      SetupError: no checkpoint given where one is needed, or one of another model (all differences are listed).
    """
    from jaxvision import config as configs
    from jaxvision import experiment

    if checkpoint is None and is_card_name(os.fspath(source)):
        source, checkpoint = weight_card(os.fspath(source)).registered, os.fspath(source)
    workdir = epath.Path(source)
    workdir = workdir.parent if workdir.name == "config.json" else workdir
    is_workdir = (workdir / "config.json").exists()
    if not is_workdir and checkpoint is None:
        raise SetupError(_no_checkpoint(source, workdir))
    weights = find_weights(checkpoint, workdir if is_workdir else None)
    config = _read_config(workdir) if is_workdir else _named_config(os.fspath(source), weights)
    configs.import_extensions(config.imports)
    class_names, num_classes = _classes(workdir if is_workdir else weights.workdir, weights, config)
    trained = experiment.build_task(config, class_names=class_names, num_classes=num_classes)
    task = trained.for_prediction()
    preprocess = experiment.build_preprocess(config, train=False)
    image_size, channels = tuple(config.data.image_size), config.data.channels
    loaded, origin = weights.load(ema=config.evaluation.use_ema)
    loaded = _without_parts(loaded, trained.parts.keys() - task.parts.keys())
    variables = fit_variables(task, preprocess, (*image_size, channels), loaded, origin)
    transforms, dtype = host_transforms(config.data, train=False), experiment.DTYPES[config.precision]
    task = augmented(task, experiment.build_tta(config.evaluation.tta))
    return Model(task, variables, image_size, channels, preprocess, dtype, transforms, origin, weights.find_card())


@dataclasses.dataclass(frozen=True)
class Weights:
    """Where weights lie: a file or weight card, or a step of a checkpoint folder; and the run that they belong to."""

    file: epath.Path | None = None
    card: str | None = None
    folder: epath.Path | None = None
    step: int | str | None = None
    workdir: epath.Path | None = None

    def load(self, *, ema: bool, say: Callable[[str], None] = lambda line: None) -> tuple[LoadedFile, str]:
        """The weights under our own names or a reference's, and the line that says where they come from."""
        published = self.card or (str(self.file) if self.file is not None else None)
        if published is not None:
            return open_weights(published, say)[0], published
        from jaxvision.engine.checkpoints import restore_variables

        restored, _, step = restore_variables(self.folder, self.step)
        averaged = restored["ema"] if ema and restored["ema"] else {}
        trained = averaged.get("params", restored["params"])
        collections = {name: value for name, value in averaged.items() if name != "params"}
        variables = {
            "params": nest(flatten(trained) | flatten(restored["frozen"])),
            **restored["collections"],
            **collections,
        }
        origin = f"step {step} of {self.folder}{' (averaged weights)' if averaged else ''}"
        return LoadedFile(flatten(variables), format="checkpoint"), origin

    def find_card(self) -> WeightCard | None:
        """The card of these weights, or of those that their run started from."""
        if self.card is not None or self.file is not None:
            card = card_of_file(self.card or os.fspath(self.file or ""))
            if card is not None:
                return card
        recorded = self.meta().get("pretrained") or {}
        return next((find_card(entry["card"]) for entry in recorded.values() if entry.get("card")), None)

    def meta(self) -> Mapping[str, Any]:
        """What the run recorded about its data and its origin; empty where there is nothing."""
        if self.workdir is not None and (self.workdir / "meta.json").exists():
            return json.loads((self.workdir / "meta.json").read_text())
        return json.loads(self.metadata().get("meta", "{}"))

    def metadata(self) -> dict[str, str]:
        """The strings that a `.safetensors` file carries."""
        return load_safetensors_metadata(self.file) if str(self.file).endswith(".safetensors") else {}


def find_weights(checkpoint: str | int | os.PathLike[str] | None, workdir: epath.Path | None) -> Weights:
    """Where the weights of `checkpoint` lie: see `load_model` for it; `workdir` is that of the run, if there is one."""
    step = checkpoint if isinstance(checkpoint, int) or checkpoint in (None, "best") else None
    if isinstance(checkpoint, str) and checkpoint.isdigit() and workdir is not None:
        step = int(checkpoint)
    if checkpoint is None or step is not None:
        if workdir is None:
            raise SetupError(
                f"checkpoint={checkpoint!r} names a step of a workdir, but the source is none: give a path"
            )
        return Weights(folder=workdir / "checkpoints", step=step, workdir=workdir)
    if isinstance(checkpoint, str) and is_card_name(checkpoint):
        return Weights(card=checkpoint)
    path = epath.Path(checkpoint)
    if not path.exists():
        raise FileNotFoundError(f"no such checkpoint: {path}")
    if not path.is_dir():
        return Weights(file=path)
    if (path / "checkpoints").exists():
        return Weights(folder=path / "checkpoints", workdir=path)
    if path.name.isdigit():
        return Weights(folder=path.parent, step=int(path.name), workdir=path.parent.parent)
    return Weights(folder=path, workdir=path.parent)


def _read_config(workdir: epath.Path) -> Any:
    from jaxvision import config as configs

    return configs.complete_saved(configs.from_json((workdir / "config.json").read_text()))


def _named_config(source: str, weights: Weights) -> Any:
    """The config of a name; for the name of a model, the one that the weights were trained with."""
    from jaxvision import config as configs
    from jaxvision import registry

    try:
        name = registry.lookup("model", source).name
    except registry.RegistryError:
        return configs.load(source)
    if weights.workdir is not None and (weights.workdir / "config.json").exists():
        config = _read_config(weights.workdir)
    elif "config" in (metadata := weights.metadata()):
        config = configs.complete_saved(configs.from_json(metadata["config"]))
    elif (card := weights.find_card()) is not None:
        config = card_config(card)
    else:
        raise SetupError(
            f"the weights of {source!r} come without a config or a weight card, so size and normalisation of images "
            "are unknown: give the config instead of the model's name"
        )
    if registry.lookup("model", config.model.name).name != name:
        raise SetupError(f"wrong checkpoint: it belongs to the model {config.model.name!r}, asked for {source!r}")
    return config


def card_config(card: WeightCard) -> Any:
    """The config that prepares images as the published classifier of a card was evaluated."""
    from jaxvision import config as configs

    how = {"interpolation": card.interpolation}
    whole = isinstance(card.resize, int)
    resize = {"name": "resize_side", "short": card.resize} if whole else {"name": "resize", "size": card.resize}
    config = configs.blank("")
    config.task = "classification"
    config.model = {"name": card.registered, "num_classes": card.num_classes}
    if hasattr(configs.build("model", dict(config.model)).backbone, "image_size"):
        config.model.backbone = {"image_size": card.image_size}
    config.data = {
        "source": {"name": "synthetic", "num_classes": card.num_classes},
        "image_size": card.image_size,
        "channels": 3,
        "eval_host_transforms": ({**resize, **how}, "center_crop"),
        "eval_transforms": ({"name": "normalize", "mean": card.mean, "std": card.std},),
    }
    config.schedule = {"epochs": 1, "learning_rate": {"name": "constant", "value": 1e-3}}  # asked for, never used here
    return configs.complete(config)


def _classes(workdir: epath.Path | None, weights: Weights, config: Any) -> tuple[tuple[str, ...], int]:
    """Class names (none where they are unknown) and their number, as the run recorded them."""
    meta: Mapping[str, Any] = {}
    if workdir is not None and (workdir / "meta.json").exists():
        meta = json.loads((workdir / "meta.json").read_text())
    elif (weights.card or weights.file) and (card := card_of_file(weights.card or str(weights.file))) is not None:
        meta = {"class_names": card.class_names, "num_classes": card.num_classes}
    else:
        meta = json.loads(weights.metadata().get("meta", "{}"))
    num_classes = meta.get("num_classes") or config.model.get("num_classes")
    if num_classes is None:
        raise SetupError(
            "the number of classes is unknown: neither meta.json nor the config's model.num_classes says it"
        )
    return tuple(meta.get("class_names") or ()), int(num_classes)


def example_batch(shape: tuple[int, ...]) -> dict[str, jax.ShapeDtypeStruct]:
    """What an image of this shape [H, W, C] is before the device transforms, without its annotations."""
    return {
        "image": jax.ShapeDtypeStruct((1, *shape), jnp.uint8),
        "valid": jax.ShapeDtypeStruct((1,), jnp.bool_),
        "index": jax.ShapeDtypeStruct((1,), jnp.int32),
        "position": jax.ShapeDtypeStruct((1,), jnp.uint32),
        "size": jax.ShapeDtypeStruct((1, 2), jnp.float32),
        "original_size": jax.ShapeDtypeStruct((1, 2), jnp.int32),
        "to_original": jax.ShapeDtypeStruct((1, 3, 3), jnp.float32),
    }


def _without_parts(loaded: LoadedFile, parts: Collection[str]) -> LoadedFile:
    """The weights without those of parts that prediction does not use."""
    unused = tuple(start for part in parts for start in (f"params/{part}/", f"{part}/"))
    kept = {name: value for name, value in loaded.state_dict.items() if not name.startswith(unused)}
    return dataclasses.replace(loaded, state_dict=kept) if unused else loaded


def fit_variables(
    task: Task, preprocess: Any, shape: tuple[int, ...], loaded: LoadedFile, origin: str
) -> dict[str, PyTree]:
    """The loaded variables in the structure and dtypes of the model; one error lists everything that differs."""
    batch = example_batch(shape)
    wanted = jax.eval_shape(lambda key, b: dict(task.init(key, preprocess(b, key))), jax.random.key(0), batch)
    own = all(name.partition("/")[0] in wanted for name in loaded.state_dict)
    try:
        if own:
            return assign(wanted, nest(loaded.state_dict))
        family = family_of(getattr(task, "model", task))
        found = match(loaded, card_of_file(origin), flatten(wanted), family, None, new_head=False, what=origin)
        if found.fresh:
            raise SetupError(f"wrong checkpoint: {found.notes[-1].removesuffix(': a new one replaces it')}")
        return assign(wanted, nest(found.values))
    except TreeMismatch as error:
        raise SetupError(f"wrong checkpoint ({origin}): {error}") from error


def _no_checkpoint(source: Any, workdir: epath.Path) -> str:
    if workdir.is_dir():
        return f"{source} is a folder without config.json: expected the workdir of a run"
    if workdir.exists() and workdir.suffix != ".py":
        return f"{source} is neither a workdir nor a config nor a model"
    return f"no checkpoint: {source!r} is no workdir, so give the trained weights as `checkpoint` (--checkpoint)"
