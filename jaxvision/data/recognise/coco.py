"""COCO JSON files and the folders of their images."""

import json

from etils import epath

from jaxvision.data.files import entries
from jaxvision.data.recognise.folder import EVAL_NAMES, TRAIN_NAMES, Folder, Recognised, name_like, parts_note

_JSON_HEAD = 2**20


def coco(root: Folder) -> Recognised | None:
    """COCO detection or panoptic."""
    return _coco_beside(root) or _coco_annotations(root)


def _coco_beside(root: Folder) -> Recognised | None:
    """Each part a folder with its JSON file and its images, as Roboflow exports."""
    files = {}
    for name in root.folders:
        inner = root.inner(name)
        json_file = next((file for file in inner.files if file.endswith("_annotations.coco.json")), None)
        if json_file is None and name.lower() in (*TRAIN_NAMES, *EVAL_NAMES):
            candidates = [file for file in inner.files if file.endswith(".json")]
            json_file = candidates[0] if len(candidates) == 1 and inner.images else None
        if json_file is not None and _coco_kind(inner.path / json_file) == "coco":
            files[name] = str(inner.path / json_file)
    train, validation = name_like(tuple(files), TRAIN_NAMES), name_like(tuple(files), EVAL_NAMES)
    if train is None:
        return None
    source = {"name": "coco", "images": str(root.path / train), "annotations": files[train]}
    if validation is not None:
        source |= {"eval_images": str(root.path / validation), "eval_annotations": files[validation]}
    return Recognised("coco", source, f"COCO JSON beside the images: {parts_note(train, validation)}")


def _coco_annotations(root: Folder) -> Recognised | None:
    """JSON files in `annotations`, or in the folder itself; images in folders of the parts' names."""
    for where in (root.inner("annotations") if "annotations" in root.folders else None, root):
        if where is None:
            continue
        names = [name for name in where.files if name.endswith(".json")]
        kinds = {name: _coco_kind(where.path / name) for name in sorted(names)}
        for kind in ("coco", "coco_panoptic"):
            fitting = tuple(name for name, found in kinds.items() if found == kind)
            if fitting:
                return _coco_source(root, where, kind, fitting)
    return None


def _coco_source(root: Folder, where: Folder, kind: str, names: tuple[str, ...]) -> Recognised | None:
    preferred = tuple(name for name in names if "instances" in name) or names
    trains = [name for name in preferred if "train" in name.lower() and "trainval" not in name.lower()]
    train = min(trains, key=len) if trains else next((name for name in preferred if not _is_eval(name)), preferred[0])
    evaluations = () if _is_eval(train) else preferred
    ordered = [name for word in EVAL_NAMES for name in evaluations if word in name.lower() and name != train]
    validation = next((name for name in ordered if "trainval" not in name.lower()), None)
    folders = {
        part: _image_folder_of(root, where.path / name)
        for part, name in (("train", train), ("eval", validation))
        if name
    }
    if folders["train"] is None:
        return None
    source = {"name": kind, "images": folders["train"], "annotations": str(where.path / train)}
    if validation is not None and folders["eval"] is not None:
        source |= {"eval_images": folders["eval"], "eval_annotations": str(where.path / validation)}
    else:
        validation = None
    others = [name for name in names if name not in (train, validation)]
    note = f"{'COCO' if kind == 'coco' else 'COCO panoptic'} JSON: {parts_note(train, validation)}"
    if others:
        note += f" Not used: {', '.join(others)}."
    return Recognised(kind, source, note)


def _is_eval(name: str) -> bool:
    return any(word in name.lower() for word in EVAL_NAMES)


def _coco_kind(path: epath.Path) -> str | None:
    """ "coco" or "coco_panoptic", by the keys near the beginning of a JSON file (or all of a small one)."""
    try:
        with path.open("rb") as stream:
            head = stream.read(_JSON_HEAD).decode("utf-8", "replace")
    except OSError:
        return None
    if not head.lstrip("\ufeff \t\r\n").startswith("{"):
        return None
    if len(head) < _JSON_HEAD and not ('"images"' in head and '"categories"' in head):
        return None
    if '"images"' not in head and '"annotations"' not in head and '"categories"' not in head:
        return None
    if '"segments_info"' in head or "panoptic" in path.name.lower():
        return "coco_panoptic"
    small = len(head) < _JSON_HEAD
    return "coco" if '"bbox"' in head or "instances" in path.name or not small else None


def _first_image(path: epath.Path) -> str | None:
    """The first `file_name` of a COCO file."""
    with path.open("rb") as stream:
        head = stream.read(_JSON_HEAD).decode("utf-8", "replace")
    before, found, after = head.partition('"images"')
    for text in (after if found else before, head):
        _, key, rest = text.partition('"file_name"')
        start = rest.find('"')
        if key and start >= 0:
            try:
                return json.JSONDecoder().raw_decode(rest[start:])[0]
            except ValueError:
                return None
    return None


def _image_folder_of(root: Folder, annotations: epath.Path) -> str | None:
    """The folder in which the first image of a COCO file lies."""
    name = _first_image(annotations)
    if name is None:
        return None
    near = [root.path, annotations.parent]
    for folder in root.folders:
        near += [root.path / folder, *(root.path / folder / inner for inner in entries(root.path / folder)[1][:50])]
    for folder in near:
        try:
            if (folder / name).exists():
                return str(folder)
        except (OSError, ValueError):
            return None
    return None
