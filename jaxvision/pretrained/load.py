"""Published checkpoints -> variables of a model: `jv.load_pretrained`.

What must be told apart: the file (see `torch_file.read_weights`), whose names it has (the source, see `keymaps`), and
which of the model's variables it is to fill (all, all but the classifier, or one part such as the backbone).
"""

import dataclasses
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from jaxvision.errors import SetupError
from jaxvision.pretrained import keymaps
from jaxvision.pretrained.cards import WeightCard, card_of_file, is_card_name, weight_card
from jaxvision.pretrained.download import locate
from jaxvision.pretrained.safetensors import save_safetensors
from jaxvision.pretrained.torch_file import LoadedFile, read_weights
from jaxvision.registry import hint, is_registered, lookup
from jaxvision.trees import flatten, nest

PyTree = Any
Say = Callable[[str], None]

ANY_NUMBER = 100
"""Of classes, to see which layers depend on it; it exceeds the classes of stuff of any published network."""


@dataclasses.dataclass(frozen=True, eq=False)
class Pretrained:
    """Weights that were read for a model.

    Attributes:
      values: our names ("params/backbone/...") -> numpy arrays; without those of `fresh`.
      fresh: names of the variables that start anew: the classifier's, where the file does not have them in this form,
        and those that the family calls `FRESH`, where the file does not have them at all.
      notes: one line each on where the weights come from and what was left out.
      source: whose names the file has.
      card: the card of the file, if there is one.
    """

    values: dict[str, np.ndarray]
    fresh: tuple[str, ...]
    notes: tuple[str, ...]
    source: str
    card: WeightCard | None


def load_pretrained(
    model: Any,
    path: str | os.PathLike[str],
    source: str | None = None,
    num_classes: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    *,
    rng: Any = None,
) -> dict[str, PyTree]:
    """Variables of a model with the weights of a published checkpoint.

    Args:
      model: a registered name, a model, or a bare backbone.
      path: `.pth`, `.pt`, `.bin` or `.safetensors` file, the `.index.json` of a split one, or the name of a weight card
        ("torchvision:resnet50").
      source: whose names and numbers the file has: torchvision, timm, openmmlab, huggingface, smp or jaxvision; None
        finds out by the file's hash, else by its names.
      num_classes: with a registered name: of the model; None for as many as the file has. Where the file has another
        number, the classifier, and nothing else, starts anew, and a line of the log says so.
      image_size: of the model's input in pixels, for models whose variables depend on it.
      rng: random key of what starts anew.

    Returns:
      {"params": ..., "batch_stats": ...} for `model.apply`.

    Raises:
      FileNotFoundError: no such file.
      SetupError: an unknown source, or a file of another one; or a registered name that has other numbers than the
        source's network of this name.
      TreeMismatch: lists every missing, misshaped and unexpected name.
    """
    path = os.fspath(path)
    file, card = open_weights(path, _log)
    name = model if isinstance(model, str) else ""
    if isinstance(model, str):
        model = _named(model, path, file, source, num_classes, card)
        name = lookup("model", name).name  # of an alias
    elif num_classes not in (None, made := getattr(model, "num_classes", None)):
        raise SetupError(f"num_classes={num_classes}, but the model was made with {made}: leave it out")
    bare = not hasattr(model, "backbone")
    family = keymaps.family_of(model)
    size = (image_size, image_size) if isinstance(image_size, int) else image_size or family.input[:2]
    images = jax.ShapeDtypeStruct((1, *size, family.input[2]), jnp.float32)

    def init(key: Any, x: Any) -> dict[str, Any]:
        return flatten(model.init(key, x, train=False))

    wanted = jax.eval_shape(init, jax.random.key(0), images)
    parts: tuple[str, ...] | None = None
    unbuilt: tuple[str, ...] = ()
    if bare:
        unbuilt = unbuilt_variables(model, images)
        wanted, parts = {name.replace("/", "/backbone/", 1): leaf for name, leaf in wanted.items()}, ("backbone",)
    new_head = num_classes is not None
    if source is not None:
        _check_numbers(name, source.partition("/")[0])
    found = match(file, card, wanted, family, source, parts=parts, unbuilt=unbuilt, new_head=new_head, what=path)
    for note in found.notes[1:]:
        _log(note)
    _check_numbers(name, found.source)
    # Copies: the file is mapped into memory, and somebody may write another one in its place.
    values = {name: jnp.array(value, wanted[name].dtype) for name, value in found.values.items()}
    if found.fresh:
        key = jax.random.key(0) if rng is None else rng
        own = {name.replace("/backbone/", "/", 1) if bare else name: name for name in found.fresh}
        # Only these outputs are asked for, so that the compiler leaves the rest of the model out.
        draw = jax.jit(lambda key: {k: v for k, v in init(key, jnp.zeros(images.shape)).items() if k in own})
        values |= {own[name]: value for name, value in draw(key).items()}
    ordered = {name.replace("/backbone/", "/", 1) if bare else name: values[name] for name in wanted}
    return nest(ordered)


def open_weights(path: str, say: Say = lambda line: None) -> tuple[LoadedFile, WeightCard | None]:
    """The file of a path or of a weight card, and its card.

    Args:
      say: is told of a download, and of a file that refers to code.

    Raises:
      FileNotFoundError, CheckpointError: no such file, or none of weights.
      SetupError: no such card, or its file can be had from nowhere.
    """
    card = weight_card(path) if is_card_name(path) else card_of_file(path)
    if card is not None and is_card_name(path):
        path = str(locate(card, say))
    file = read_weights(path)
    if file.unknown_globals:
        names = file.unknown_globals
        more = f" and {len(names) - 10} more" if len(names) > 10 else ""
        say(f"{path} refers to {', '.join(names[:10])}{more}: nothing of it was imported or called")
    return file, card


def match(
    file: LoadedFile,
    card: WeightCard | None,
    wanted: Mapping[str, Any],
    family: keymaps.Family,
    source: str | None,
    *,
    parts: tuple[str, ...] | None = None,
    unbuilt: Iterable[str] = (),
    new_head: bool = True,
    what: str = "the file",
) -> Pretrained:
    """The arrays of a file for the variables `wanted`.

    Args:
      file: as `open_weights` gives it, with its card.
      wanted: our names ("params/...") -> anything with `shape` and `dtype`.
      family: of the model.
      source: as for `load_pretrained`.
      parts: first names of the variables to fill ("backbone"); what the file has beyond them is left. None: all.
      unbuilt: names of variables that the file may have and this model does without: see `unbuilt_variables`.
      what: the file's name for messages.
      new_head: whether a file without any classifier will do.

    Raises: as `load_pretrained`.
    """
    everything = {*wanted, "params/head/kernel", "params/head/bias"}
    wanted = {name: leaf for name, leaf in wanted.items() if parts is None or name.split("/")[1] in parts}
    source, rules = _choose(file, card, wanted, family, source, what)
    state_dict = file.state_dict
    fresh: tuple[str, ...] = ()
    notes = [f"{what}: {file}, names of {source}"]
    if parts is None:
        fresh, replaced, note = _classifier(state_dict, wanted, rules, new_head, family.head)
        if note:
            notes.append(f"{what}: {note}")
            state_dict = {name: value for name, value in state_dict.items() if name not in replaced}
    else:
        # What belongs to other parts of the reference's model is not this model's business.
        others = {name for ours in everything - {*wanted} for name in keymaps.reference_names(ours, rules)}
        others |= {name for ours in unbuilt for name in keymaps.reference_names(ours, rules)}
        roots = {_root(name) for ours in wanted for name in keymaps.reference_names(ours, rules)}
        state_dict = {k: value for k, value in state_dict.items() if k not in others and _root(k) in roots}
    if parts is not None or new_head:
        beyond = _beyond_classifiers(state_dict, wanted, rules, family)
        if beyond:
            modules = ", ".join(dict.fromkeys(name.split("/", 1)[1].rpartition("/")[0] for name in beyond))
            notes.append(f"{what}: the file has no {modules}: new ones take their place")
        fresh = (*fresh, *beyond)
    kept = {name: leaf for name, leaf in wanted.items() if name not in fresh}
    found = keymaps.fit(state_dict, kept, rules, ignored=family.ignored, resize=family.resize)
    values = found.check(f"{what} (names of {source})")
    return Pretrained(values, fresh, tuple(notes), source, card)


def unbuilt_variables(backbone: Any, images: jax.ShapeDtypeStruct) -> tuple[str, ...]:
    """Names of the variables that a backbone of all levels has and this one, whose `out_levels` end earlier, has not.

    A family names all of its levels in `LEVELS`.
    """
    levels = getattr(sys.modules[type(backbone).__module__], "LEVELS", None)
    if levels is None or not hasattr(backbone, "out_levels"):
        return ()
    named = [_own_names(module, images) for module in (backbone, backbone.clone(out_levels=tuple(levels)))]
    return tuple(sorted(named[1] - named[0]))


def _own_names(backbone: Any, images: jax.ShapeDtypeStruct) -> set[str]:
    shapes = jax.eval_shape(lambda key, x: backbone.init(key, x, train=False), jax.random.key(0), images)
    return {name.replace("/", "/backbone/", 1) for name in flatten(shapes)}


def save_torch_named_safetensors(
    path: epath.PathLike, model: Any, variables: Mapping[str, PyTree], source: str = "torchvision"
) -> None:
    """Writes variables as `.safetensors` under a reference's names and in its layouts, bit for bit.

    The file loads there with `model.load_state_dict(safetensors.torch.load_file(path))`.

    Args:
      path: local or `gs://` file.
      model: tells the family; `variables` are its.
      source: whose names.

    Raises:
      SetupError: the family has no names of this source.
    """
    flat = {name: np.asarray(jax.device_get(leaf)) for name, leaf in flatten(dict(variables)).items()}
    if not hasattr(model, "backbone"):
        flat = {name.replace("/", "/backbone/", 1): leaf for name, leaf in flat.items()}
    state_dict = keymaps.to_state_dict(flat, _rules(keymaps.family_of(model), source))
    save_safetensors(path, state_dict, {"format": "pt"})


def _named(
    name: str, path: str, file: LoadedFile, source: str | None, num_classes: int | None, card: WeightCard | None
) -> Any:
    """The registered model of this name; without `num_classes`, with as many as the file's classifier has."""
    from jaxvision.config import build

    prefix, slash, _ = name.partition("/")
    if slash and prefix in keymaps.SOURCES:
        for given in (source, card.source if card else None):
            if given not in (None, prefix):
                raise SetupError(f"{name} has the numbers of {prefix}, but the weights are those of {given}")
    if num_classes is not None:
        return build("model", {"name": name, "num_classes": num_classes})
    model = build("model", {"name": name, "num_classes": ANY_NUMBER})
    family = keymaps.family_of(model)
    layers = class_layers(model, family)
    if not layers:  # nothing depends on it, as in a region proposal network
        return model
    classes = classes_of(file.state_dict, layers, family)
    if classes is None:
        raise SetupError(
            f"{path} has no classifier of {name} under the names of {', '.join([*family.keys, 'jaxvision'])}: "
            "is it the file of another model? For a backbone's file give num_classes"
        )
    return model.clone(num_classes=classes)


def class_layers(model: Any, family: keymaps.Family) -> dict[str, tuple[int, int]]:
    """Our variables that depend on the number of classes n -> (factor, offset): the last axis is factor * n + offset.

    A detector's layers may have several numbers of each class, and more of a background.
    """
    if family.head == keymaps.Family.head:
        return {"params/head/bias": (1, 0), "params/head/kernel": (1, 0)}
    images = jax.ShapeDtypeStruct((1, *family.input), jnp.float32)

    def sizes(classes: int) -> dict[str, int]:
        own = model.clone(num_classes=classes)
        shapes = jax.eval_shape(lambda key, x: own.init(key, x, train=False), jax.random.key(0), images)
        return {name: leaf.shape[-1] for name, leaf in flatten(shapes).items() if leaf.ndim}

    count = model.num_classes
    some, more = sizes(count), sizes(count + 1)
    factors = {name: more[name] - size for name, size in some.items()}
    return {name: (factor, some[name] - factor * count) for name, factor in factors.items() if factor}


def classes_of(
    state_dict: Mapping[str, np.ndarray], layers: Mapping[str, tuple[int, int]], family: keymaps.Family
) -> int | None:
    """The number of classes of a file, by its layers of `class_layers`; None where it tells none, or several."""
    counts = {_classes(state_dict, layers, rules) for rules in (*family.keys.values(), keymaps.OWN)} - {None}
    return counts.pop() if len(counts) == 1 else None


def _classes(
    state_dict: Mapping[str, np.ndarray], layers: Mapping[str, tuple[int, int]], rules: keymaps.Rules
) -> int | None:
    counts = set()
    for name, (factor, offset) in layers.items():
        references = keymaps.reference_names(name, rules)
        if len(references) == 1 and references[0] in state_dict:
            size = keymaps.to_our_form(name, state_dict[references[0]], rules).shape[-1] - offset
            counts.add(size // factor if size > 0 and size % factor == 0 else None)
    return counts.pop() if len(counts) == 1 else None


def _check_numbers(name: str, source: str) -> None:
    """Refuses weights of a source whose network of this name has numbers (epsilon, padding) that the table keeps apart.

    `source/name` is registered where they differ from those of the bare name.
    """
    prefix, slash, _ = name.partition("/")
    if source == "jaxvision" or not name:
        return
    if slash and prefix in keymaps.SOURCES and prefix != source:
        raise SetupError(f"{name} has the numbers of {prefix}, but the weights have the names of {source}")
    if not slash and is_registered("model", f"{source}/{name}"):
        raise SetupError(f"{name} has other numbers than the weights of {source}: load {source}/{name} instead")


def _rules(family: keymaps.Family, source: str) -> keymaps.Rules:
    if source.partition("/")[0] not in keymaps.SOURCES:
        raise SetupError(f"unknown source {source!r}: {hint(source, keymaps.SOURCES)}")
    try:
        return keymaps.rules_for(family, source)
    except ValueError as error:
        raise SetupError(str(error)) from None


def _choose(
    file: LoadedFile,
    card: WeightCard | None,
    wanted: Mapping[str, Any],
    family: keymaps.Family,
    source: str | None,
    what: str,
) -> tuple[str, keymaps.Rules]:
    """The source of a file and its rules; refuses a given one that the card or the names contradict."""
    if source is not None:
        _rules(family, source)
    publisher = None if source is None else source.partition("/")[0]
    if publisher is not None and card is not None and publisher != card.source:
        raise SetupError(f"{what} was published by {card.source} ({card.name}), not by {publisher}")
    tables = {**family.keys, "jaxvision": keymaps.OWN}
    counts = {}
    for name, rules in tables.items():
        references = {reference for ours in wanted for reference in keymaps.reference_names(ours, rules)}
        counts[name] = sum(reference not in file.state_dict for reference in references)
    best = min(tables, key=counts.__getitem__)
    if not family.keys and counts["jaxvision"] == len(wanted):
        raise SetupError(f"no published weights are known for this model: {family.name} has no table KEYS of names")
    given = source or (card.source if card is not None else None)
    if given is None:
        return best.partition("/")[0], tables[best]
    _rules(family, given)
    own = min(("jaxvision",) if given == "jaxvision" else keymaps.tables_of(family, given), key=counts.__getitem__)
    if counts[own] > len(wanted) // 2 and counts[best] < len(wanted) // 4:
        raise SetupError(f"{what} has the names of {best}, not of {given}: give source={best!r}, or leave it out")
    return own.partition("/")[0], tables[own]


def _root(name: str) -> str:
    """The part that a name begins with: "layer1" of "layer1.0.conv1.weight", "params/backbone" of our own names."""
    return "/".join(name.split("/")[:2]) if "/" in name else name.split(".")[0]


def _classifier(
    state_dict: Mapping[str, np.ndarray], wanted: Mapping[str, Any], rules: keymaps.Rules, new_head: bool, head: str
) -> tuple[tuple[str, ...], set[str], str]:
    """Names of the classifier where the file has another number of classes; the file's names for it; and a note."""
    heads = {name: keymaps.reference_names(name, rules) for name in wanted if re.search(head, name)}
    references = {reference for names in heads.values() for reference in names}
    if new_head and heads and not references & set(state_dict):
        return tuple(heads), set(), "the file has no classifier: a new one takes its place"
    different = []
    for name, names in heads.items():
        for value in (state_dict[reference] for reference in names if reference in state_dict):
            own, shape = keymaps.to_our_form(name, value, rules), tuple(wanted[name].shape)
            if own.ndim == len(shape) and own.shape[-1] != shape[-1]:
                different.append((own.shape[-1], shape[-1]))
    if not different:
        return (), set(), ""
    # A detector also has several numbers of each class: the fewest are the classes.
    note = "the file's classifier has {} classes, the model {}: a new one replaces it".format(*min(different))
    return tuple(heads), references, note


def _beyond_classifiers(
    state_dict: Mapping[str, np.ndarray], wanted: Mapping[str, Any], rules: keymaps.Rules, family: keymaps.Family
) -> tuple[str, ...]:
    """Variables that published classifiers do not have, as far as this file has nothing of them."""
    names = [name for name in wanted if any(re.search(pattern, name) for pattern in family.fresh)]
    return tuple(name for name in names if not {*keymaps.reference_names(name, rules)} & {*state_dict})


def _log(line: str) -> None:
    logging.getLogger("jaxvision").warning(line)
