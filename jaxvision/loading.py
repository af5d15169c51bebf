"""From a run, a config, a model's name or a weight card to what prediction needs: a task and its variables.

    model = load_model("runs/lenet5_digits")          # a workdir: config, class names and weights
    save_weights("runs/lenet5_digits", "lenet5.safetensors")

`Weights` says where weights lie, `fit_variables` brings them into the form of a model, `load_model` does all of it.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from jaxvision.data.build import host_transforms
from jaxvision.data.transforms import Resize
from jaxvision.engine.task import Context, Task
from jaxvision.engine.tta import augmented
from jaxvision.errors import SetupError
from jaxvision.pretrained.cards import FEATURES, WeightCard, card_of_file, find_card, is_card_name, weight_card
from jaxvision.pretrained.keymaps import family_of
from jaxvision.pretrained.load import match, open_weights
from jaxvision.pretrained.safetensors import assign, load_safetensors_metadata, save_safetensors
from jaxvision.pretrained.torch_file import LoadedFile
from jaxvision.trees import TreeMismatch, flatten, nest

PyTree = Any


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
      config: that the task was built from; None where it was built by hand.
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
    config: Any = None

    def predict(self, variables: Mapping[str, PyTree], batch: Mapping[str, Any]) -> PyTree:
        """The whole predictor, to be compiled: device transforms, network and decoding.

        Args:
          variables: of the structure of `self.variables`.
          batch: see `data.collate`, with uint8 images, `valid`, `index` and `position`.
        """
        batch = self.preprocess(batch, jax.random.key(0))
        return self.task.predict(variables, batch, Context(dtype=self.dtype), self.task.init_carry(batch))[0]


def load_model(source: str | os.PathLike[str], checkpoint: str | int | os.PathLike[str] | None = None) -> Model:
    """Builds the task of `source` and restores its weights, averaged ones (EMA) where the run evaluates those.

    With the name of a model, images are prepared as the weights ask for: by the config that they carry or, for a
    published classifier or segmenter, by its weight card, which is found by the file's name or, renamed, its content.

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
    card = weights.find_card()
    return Model(task, variables, image_size, channels, preprocess, dtype, transforms, origin, card, config)


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

    return configs.complete_saved(configs.from_json((workdir / "config.json").read_text()), workdir)


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
    """The config that prepares images as the published classifier or segmenter of a card was evaluated.

    Raises:
      SetupError: the card is that of a backbone without classes.
    """
    from jaxvision import config as configs

    if card.task == FEATURES:
        raise SetupError(f"{card.name} is a backbone without classes: give it as pretrained.backbone of a config")
    if card.config:
        return configs.load(card.config)
    how = {"interpolation": card.interpolation}
    whole = isinstance(card.resize, int)
    resize = {"name": "resize_side", "short": card.resize} if whole else {"name": "resize", "size": card.resize}
    transforms: tuple[Any, ...] = ({**resize, **how}, "center_crop")
    if card.task == "semantic_segmentation":  # the whole image, somewhere on its canvas
        transforms = ({**resize, **how, "long": max(card.image_size)},)
    config = configs.blank("")
    config.task = card.task
    config.model = {"name": card.registered, "num_classes": card.num_classes}
    if hasattr(configs.build("model", dict(config.model)).backbone, "image_size"):
        config.model.backbone = {"image_size": card.image_size}
    config.data = {
        "source": {"name": "synthetic", "num_classes": card.num_classes},
        "image_size": card.image_size,
        "channels": 3,
        "eval_host_transforms": transforms,
        "eval_transforms": ({"name": "normalize", "mean": card.mean, "std": card.std, "bgr": card.bgr},),
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
