"""Writes `jaxvision/pretrained/cards.json` and the class names beside it.

    python -m tests.parity.make_cards [--mmpretrain CHECKOUT] [--mmsegmentation CHECKOUT]

torchvision's rows come from the installed package, OpenMMLab's from a checkout of open-mmlab/mmpretrain (metafiles for
addresses and accuracies, configs for preprocessing) and of mmsegmentation (or `mmseg/.mim` of its wheel); without one,
the rows that the table has stay. What is not registered here is left out. A new family adds its folder to `OPENMMLAB`
and its names to `NAMES`, a recipe of a segmenter its config to `SEGMENTERS`.
"""

import argparse
import ast
import json
import re
from pathlib import Path

FOLDER = Path(__file__).parent.parent.parent / "jaxvision" / "pretrained"
OPENMMLAB = (
    *("resnet", "resnext", "wrn", "seresnet", "vgg", "mobilenet_v2", "mobilenet_v3", "shufflenet_v1", "shufflenet_v2"),
    *("densenet", "efficientnet", "regnet", "repvgg", "hrnet", "convnext", "convnext_v2", "vision_transformer", "deit"),
    *("deit3", "swin_transformer", "swin_transformer_v2", "mlp_mixer"),
)
NAMES = {
    r"vgg(\d+)(bn)?_.*": lambda depth, norm: f"vgg{depth}{'_bn' if norm else ''}",
    r"mobilenet-v2_.*": "mobilenetv2_100",
    r"mobilenet-v3-small-0(50|75)_.*": r"mobilenetv3_small_0\1",
    r"mobilenet-v3-(small|large)_.*": r"mobilenet_v3_\1",
    r"shufflenet-v([12])-1x_.*": r"shufflenet_v\1_x1_0",
    r"densenet(\d+)_.*": r"densenet\1",
    r"efficientnet-b(\d)_.*": r"tf_efficientnet_b\1",
    r"regnetx-([\d.]+)([mg])f_.*": lambda size, unit: (
        f"regnetx_{round(float(size) * (0.01 if unit == 'm' else 10)):03d}"
    ),
    r"repvgg-(\w+?)_.*": lambda size: f"repvgg_{size.lower()}",
    r"hrnet-w(\d+)_.*": r"hrnet_w\1",
    r"convnext-v2-(\w+?)_.*": r"convnextv2_\1",
    r"convnext-(\w+?)_.*": r"convnext_\1",
    r"vit-(base|large)-p(\d+)_in21k.*-384px": r"vit_\1_patch\2_384",
    r"vit-base-p16_32xb128-mae_in1k": "vit_base_patch16_224",
    r"deit-(\w+)-distilled_.*?(-384px)?": lambda size, large: (
        f"deit_{size}_distilled_patch16_{'384' if large else '224'}"
    ),
    r"deit-(\w+?)_.*?(-384px)?": lambda size, large: f"deit_{size}_patch16_{'384' if large else '224'}",
    r"deit3-(\w+)-p(\d+)_.*?(-384px)?": lambda size, patch, large: (
        f"deit3_{size}_patch{patch}_{'384' if large else '224'}"
    ),
    r"swin-([a-z]+)_.*?(-384|_cub-384px)?": lambda size, large: (
        f"swin_{size}_patch4_window{'12_384' if large else '7_224'}"
    ),
    r"swinv2-(\w+)-w(\d+)_3rdparty_in1k-256px": r"swinv2_\1_window\2_256",
    r"swinv2-(\w+)-w16_in21k-pre.*-256px": r"swinv2_\1_window12to16_192to256",
    r"swinv2-(\w+)-w24_in21k-pre.*-384px": r"swinv2_\1_window12to24_192to384",
    r"mlp-mixer-(b|l)\w+-p(\d+)_.*": r"mixer_\1\2_224",
}
"""Patterns of the names in the metafiles -> ours; ResNets are named by their configs."""
SEGMENTERS = {
    "fcn_r50_d8_cityscapes": "fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024",
    "fcn_r50_d8_ade20k": "fcn/fcn_r50-d8_4xb4-160k_ade20k-512x512",
    "fcn_r50_d8_voc12aug": "fcn/fcn_r50-d8_4xb4-40k_voc12aug-512x512",
    "pspnet_r50_d8_cityscapes": "pspnet/pspnet_r50-d8_4xb2-80k_cityscapes-512x1024",
    "pspnet_r50_d8_ade20k": "pspnet/pspnet_r50-d8_4xb4-160k_ade20k-512x512",
    "pspnet_r50_d8_voc12aug": "pspnet/pspnet_r50-d8_4xb4-40k_voc12aug-512x512",
    "pspnet_r50_d8_coco_stuff": "pspnet/pspnet_r50-d8_4xb4-80k_coco-stuff164k-512x512",
    "deeplabv3_r50_d8_cityscapes": "deeplabv3/deeplabv3_r50-d8_4xb2-80k_cityscapes-512x1024",
    "deeplabv3_r50_d8_voc12aug": "deeplabv3/deeplabv3_r50-d8_4xb4-40k_voc12aug-512x512",
    "deeplabv3plus_r50_d8_cityscapes": "deeplabv3plus/deeplabv3plus_r50-d8_4xb2-80k_cityscapes-512x1024",
    "deeplabv3plus_r50_d8_voc12aug": "deeplabv3plus/deeplabv3plus_r50-d8_4xb4-40k_voc12aug-512x512",
    "upernet_r50_ade20k": "upernet/upernet_r50_4xb4-160k_ade20k-512x512",
    "segformer_b0_ade20k": "segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512",
    "segformer_b5_ade20k": "segformer/segformer_mit-b5_8xb2-160k_ade20k-512x512",
    "lraspp_mobilenet_v3_large_cityscapes": "mobilenet_v3/mobilenet-v3-d8_lraspp_4xb4-320k_cityscapes-512x1024",
    "ocrnet_hrnet_w18_cityscapes": "ocrnet/ocrnet_hr18_4xb2-160k_cityscapes-512x1024",
    "ocrnet_hrnet_w48_cityscapes": "ocrnet/ocrnet_hr48_4xb2-160k_cityscapes-512x1024",
    "unet_s5_d16_drive": "unet/unet-s5-d16_fcn_4xb4-40k_drive-64x64",
}
"""Our configs -> those of mmsegmentation."""
SEGMENTED = {
    "cityscapes": "cityscapes",
    "ade20k": "ade20k",
    "voc12aug": "voc",
    "coco_stuff": "coco_stuff",
    "drive": "drive",
}
"""How configs' names end -> data sets of cards."""
WHOLE = [704, 704]
"""Canvas of torchvision's segmenters, which see images of any shape: 520 pixels by 704, or the other way round."""
DATASETS = {"ImageNet-1k": "imagenet1k", "CIFAR-10": "cifar10", "CIFAR-100": "cifar100", "CUB-200-2011": "cub200"}
DEFAULTS = {
    "dataset": "imagenet1k", "num_classes": 1000, "image_size": [224, 224], "resize": 256, "interpolation": "bilinear",
    "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "bgr": False, "top1": None, "top5": None,
    "parameters": None, "recipe": "", "task": "classification", "config": "", "miou": None, "mdice": None,
    "pixel_accuracy": None,
}  # fmt: skip


def torchvision_rows(models):
    """One row per weights of torchvision's models whose names match `TORCHVISION`."""
    for name in models.list_models(module=models):
        if registered(name) is None:
            print(f"left out: {name} is not built here")
            continue
        for weights in models.get_model_weights(name):
            meta, preset = weights.value.meta, weights.value.transforms()
            if meta["categories"] is None:
                print(f"left out: {name} {weights.name} (features without a classifier)")
                continue
            metrics = meta["_metrics"]["ImageNet-1K"]
            yield {
                "hash": re.search(r"-([0-9a-f]{8})[0-9a-f]*\.pth$", weights.value.url).group(1),
                "source": "torchvision",
                "model": name,
                "tag": weights.name.lower(),
                "url": weights.value.url,
                "num_classes": len(meta["categories"]),
                "image_size": preset.crop_size * 2,
                "resize": preset.resize_size[0],
                "interpolation": preset.interpolation.value,
                "mean": preset.mean,
                "std": preset.std,
                "top1": metrics["acc@1"],
                "top5": metrics["acc@5"],
                "parameters": meta["num_params"],
                "recipe": meta["recipe"],
            }


def torchvision_segmenters(models):
    """The same for its segmenters, trained on the images of COCO that have classes of Pascal VOC."""
    for name in models.list_models(module=models.segmentation):
        for weights in models.get_model_weights(name):
            meta, preset = weights.value.meta, weights.value.transforms()
            metrics = meta["_metrics"]["COCO-val2017-VOC-labels"]
            yield {
                "hash": re.search(r"-([0-9a-f]{8})[0-9a-f]*\.pth$", weights.value.url).group(1),
                "source": "torchvision",
                "task": "semantic_segmentation",
                "model": name,
                "tag": weights.name.lower(),
                "url": weights.value.url,
                "dataset": "voc",
                "num_classes": len(meta["categories"]),
                "image_size": WHOLE,
                "resize": preset.resize_size[0],
                "interpolation": preset.interpolation.value,
                "mean": preset.mean,
                "std": preset.std,
                "miou": metrics["miou"],
                "pixel_accuracy": metrics["pixel_acc"],
                "parameters": meta["num_params"],
                "recipe": meta["recipe"],
            }


def registered(name):
    """Our registered name of a name or alias; None where there is none."""
    from jaxvision import registry

    for candidate in (f"torchvision/{name}", name):
        try:
            return registry.lookup("model", candidate).name
        except registry.RegistryError:
            continue
    return None


def openmmlab_rows(checkout):
    """One row per checkpoint of the metafiles in the folders `OPENMMLAB`."""
    import yaml

    for folder in OPENMMLAB:
        for entry in yaml.safe_load((checkout / "configs" / folder / "metafile.yml").read_text())["Models"]:
            url, results = entry.get("Weights"), (entry.get("Results") or [{}])[0]
            match = re.search(r"[-_]([0-9a-f]{8})\.pth$", url or "")
            if match is None or results.get("Dataset") not in DATASETS:
                print(f"left out: {entry['Name']} ({results.get('Dataset')}, {url})")
                continue
            config = read_config(checkout / entry["Config"])
            metrics, model = results["Metrics"], model_name(entry, config)
            if model is None or registered(model) is None:
                print(f"left out: {entry['Name']} ({model} is not built here)")
                continue
            yield {
                "hash": match.group(1),
                "source": "openmmlab",
                "model": model,
                "tag": entry["Name"],
                "url": url,
                "dataset": DATASETS[results["Dataset"]],
                "num_classes": config["model"].get("head", {}).get("num_classes", 1000),
                **preprocessing(config),
                "bgr": reads_bgr(config),
                "top1": metrics.get("Top 1 Accuracy"),
                "top5": metrics.get("Top 5 Accuracy"),
                "parameters": (entry.get("Metadata") or {}).get("Parameters"),
                "recipe": f"https://github.com/open-mmlab/mmpretrain/blob/main/{entry['Config']}",
            }


def openmmlab_segmenters(checkout):
    """One row per recipe of `SEGMENTERS`, and one per encoder that one of them starts from."""
    import yaml

    from jaxvision import config as configs

    address = "https://github.com/open-mmlab/mmsegmentation/blob/main/configs"
    encoders = {}
    for ours, theirs in SEGMENTERS.items():
        folder, _, name = theirs.partition("/")
        entries = yaml.safe_load((checkout / "configs" / folder / "metafile.yaml").read_text())["Models"]
        (entry,) = (entry for entry in entries if entry["Name"] == name)
        config, metrics = configs.load(f"segmentation/{ours}"), entry["Results"]["Metrics"]
        (dataset,) = (own for ending, own in SEGMENTED.items() if ours.endswith(f"_{ending}"))
        resize = next((step["short"] for step in config.data.eval_host_transforms if "short" in step), None)
        yield {
            "hash": hash_of(entry["Weights"]),
            "source": "openmmlab",
            "task": "semantic_segmentation",
            "model": config.model.name.removeprefix("openmmlab/"),
            "tag": name,
            "url": entry["Weights"],
            "dataset": dataset,
            "num_classes": config.model.num_classes,
            "image_size": list(config.data.image_size),
            "resize": resize or list(config.data.image_size),
            "config": f"segmentation/{ours}",
            "miou": metrics.get("mIoU"),
            "mdice": metrics.get("mDice"),
            "recipe": f"{address}/{theirs}.py",
        }
        backbone = read_config(checkout / "configs" / f"{theirs}.py")["model"]["backbone"]
        encoder = (backbone.get("init_cfg") or {}).get("checkpoint")
        if encoder:
            encoders[encoder] = (config.model.backbone.name.removeprefix("openmmlab/"), f"{address}/{theirs}.py")
    for url, (model, recipe) in encoders.items():
        yield {
            "hash": hash_of(url),
            "source": "openmmlab",
            "task": "features",
            "model": model,
            "tag": url.rpartition("/")[2].partition("-")[0],
            "url": url,
            "num_classes": 0,
            "recipe": recipe,
        }


def hash_of(url):
    return re.search(r"[-_]([0-9a-f]{8})\.pth$", url).group(1)


def model_name(entry, config):
    """Our name (timm's, where it has the architecture) of a row of a metafile; None for what is not built here."""
    for pattern, ours in NAMES.items():
        match = re.fullmatch(pattern, entry["Name"])
        if match:
            return ours(*match.groups()) if callable(ours) else match.expand(ours)
    return resnet_name(config["model"]["backbone"])


def resnet_name(backbone):
    """The same by the config, whose depth, groups and widths tell ResNets apart."""
    kind, depth = backbone["type"], backbone.get("depth")
    form = f"{depth}_{backbone.get('groups', 32)}x{backbone.get('width_per_group', 4)}d"
    names = {
        "ResNet": f"wide_resnet{depth}_2" if backbone.get("base_channels") == 128 else f"resnet{depth}",
        "ResNet_CIFAR": f"resnet{depth}_cifar",
        "ResNetV1c": f"resnet{depth}c",
        "ResNetV1d": f"resnet{depth}d",
        "ResNeXt": f"resnext{form}",
        "SEResNet": f"seresnet{depth}",
        "SEResNeXt": f"seresnext{form}",
    }
    return names.get(kind)


def reads_bgr(config):
    """Whether the network takes BGR images: files are read so there; CIFAR's arrays are RGB already."""
    normal = config["model"].get("data_preprocessor") or config["data_preprocessor"]
    return not normal.get("to_rgb") and not config["dataset_type"].startswith("CIFAR")


def preprocessing(config):
    """Size, resizing and normalisation of evaluation."""
    normal = config["model"].get("data_preprocessor") or config["data_preprocessor"]
    row = {name: [round(value / 255, 6) for value in normal[name]] for name in ("mean", "std")}
    pipeline = {step["type"]: step for step in config["test_dataloader"]["dataset"]["pipeline"]}
    resize = pipeline.get("ResizeEdge") or pipeline.get("Resize")
    crop = pipeline.get("CenterCrop")
    if own := pipeline.get("EfficientNetCenterCrop"):  # keeps size / (size + crop_padding) of the shorter side
        size = own["crop_size"]
        return {
            **row,
            "image_size": [size, size],
            "resize": size + own.get("crop_padding", 32),
            "interpolation": own.get("interpolation", "bicubic"),
        }
    if resize is None:  # pictures that have the network's size
        return {**row, "image_size": [32, 32], "resize": 32}
    size, scale = crop["crop_size"] if crop else resize["scale"], resize["scale"]
    if resize["type"] == "Resize" and isinstance(scale, int):  # stretches to a square; ResizeEdge keeps proportions
        scale = [scale, scale]
    return {
        **row,
        "image_size": [size, size] if isinstance(size, int) else size,
        "resize": scale,
        "interpolation": resize.get("interpolation", "bilinear"),
    }


def read_config(path):
    """The assignments of a config of mmengine over those of its `_base_`; nothing is executed."""
    own = {}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            own[node.targets[0].id] = evaluate(node.value, own)
    bases = own.pop("_base_", [])
    merged = {}
    for base in [bases] if isinstance(bases, str) else bases:
        merged = merge(merged, read_config((path.parent / base).resolve()))
    return merge(merged, own)


def evaluate(node, names):
    """Literals, `dict(...)` calls and names that were assigned before; anything else is None."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        return {keyword.arg: evaluate(keyword.value, names) for keyword in node.keywords}
    if isinstance(node, ast.Dict):
        return {evaluate(k, names): evaluate(v, names) for k, v in zip(node.keys, node.values, strict=True)}
    if isinstance(node, (ast.List, ast.Tuple)):
        return [evaluate(element, names) for element in node.elts]
    if isinstance(node, ast.Name):
        return names.get(node.id)
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None


def merge(base, own):
    if not isinstance(base, dict) or not isinstance(own, dict) or own.get("_delete_"):
        return own
    return {**base, **{key: merge(base.get(key), value) for key, value in own.items()}}


def to_lines(rows):
    """One line per card, without what is the default."""
    kept = [{k: v for k, v in row.items() if k not in DEFAULTS or v != DEFAULTS[k]} for row in rows]
    return "".join(json.dumps(row) + "\n" for row in kept)


def read_rows(source, *, classifiers):
    rows = [json.loads(line) for line in (FOLDER / "cards.json").read_text().splitlines()]
    return [row for row in rows if row["source"] == source and ("task" not in row) == classifiers]


def main():
    from configs.common import semantic_segmentation as segmentation
    from tests.parity.torch_weights import load_tool

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mmpretrain", type=Path)
    parser.add_argument("--mmsegmentation", type=Path)
    given = parser.parse_args()
    checkout, dense = given.mmpretrain, given.mmsegmentation
    models = load_tool("torchvision_cpu").torchvision.models
    second = list(openmmlab_rows(checkout)) if checkout else read_rows("openmmlab", classifiers=True)
    third = list(openmmlab_segmenters(dense)) if dense else read_rows("openmmlab", classifiers=False)
    rows = [*torchvision_rows(models), *second, *torchvision_segmenters(models), *third]
    hashes = [row["hash"] for row in rows]
    twice = {row["url"] for row in rows if hashes.count(row["hash"]) > 1}
    assert not twice, f"cards are found by their hash; these share one: {twice}"
    (FOLDER / "cards.json").write_text(to_lines(rows))
    (FOLDER / "labels").mkdir(exist_ok=True)
    labels = {"imagenet1k": models.ResNet18_Weights.DEFAULT.meta["categories"]}
    labels |= {dataset: segmentation.SOURCES[of]["class_names"] for of, dataset in SEGMENTED.items() if of != "drive"}
    labels |= {"drive": ("background", "vessel")}
    if checkout:
        names = read_config(checkout / "mmpretrain" / "datasets" / "categories.py")
        labels |= {"cifar10": names["CIFAR10_CATEGORIES"], "cifar100": names["CIFAR100_CATEGORIES"]}
        labels |= {"cub200": names["CUB_CATEGORIES"]}
    for dataset, names in labels.items():
        (FOLDER / "labels" / f"{dataset}.txt").write_text("".join(f"{name}\n" for name in names))
    print(f"{len(rows)} cards")


if __name__ == "__main__":
    main()
