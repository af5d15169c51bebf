"""What recipes for segmenters on published data share: the data sets as OpenMMLab lays them out, its augmentation and
its schedules by steps.

The numbers are those of MMSegmentation's `configs/_base_/{datasets,schedules}`. What is done otherwise: a crop is taken
wherever it falls, where MMSegmentation draws up to ten times until no class fills more than three quarters of it; a
picture that is smaller than its crop lies anywhere in it, not in the top left corner.

Labels are scored pixel by pixel on the original images, as published scores are. On Cityscapes and CamVid that is the
canvas of evaluation; on ADE20K, Pascal VOC and COCO-Stuff, whose images are resized for evaluation, logits are brought
to the size of the original (`ORIGINALS`), and the truth stays as it is. What is left of a difference there: an image
lies on a canvas that many share, with the mean beside it, where MMSegmentation's batch of one image has no padding; its
longer side is rounded down, not to the nearest pixel; and images that shrink are smoothed.
"""

from typing import Any

from configs.common import base
from jaxvision.config import Config

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GROUND = (124, 116, 104)
"""Of a crop beside its picture: the mean, which the normalisation makes zero."""
ALL_PIXELS = (dict(name="cross_entropy", count_ignored=True),)
"""OpenMMLab's cross-entropy, whose divisor is the number of all pixels."""


def _listed(names: str) -> tuple[str, ...]:
    """Names between commas and line ends."""
    return tuple(name.strip() for name in names.replace("\n", " ").split(",") if name.strip())


CITYSCAPES = (
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation"),
    *("terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
)
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Values of the classes in the `_gtFine_labelIds` files; the other values, 0..34, have no class."""
VOC = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
CAMVID = (
    *("sky", "building", "pole", "road", "pavement", "tree", "sign symbol", "fence", "car", "pedestrian"),
    "bicyclist",
)
ADE20K = _listed("""
wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth, door,
table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug, field,
armchair, seat, fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column, signboard,
chest of drawers, counter, sand, sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway,
case, pool table, pillow, screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet, flower,
book, hill, bench, countertop, stove, palm, kitchen island, computer, swivel chair, boat, bar, arcade machine,
hovel, bus, towel, light, truck, tower, chandelier, awning, streetlight, booth, television receiver, airplane,
dirt track, apparel, pole, land, bannister, escalator, ottoman, bottle, buffet, poster, stage, van, ship,
fountain, conveyer belt, canopy, washer, plaything, swimming pool, stool, barrel, basket, waterfall, tent, bag,
minibike, cradle, oven, ball, food, step, tank, trade name, microwave, pot, animal, bicycle, lake, dishwasher,
screen, blanket, sculpture, hood, sconce, vase, traffic light, tray, ashcan, fan, pier, crt screen, plate,
monitor, bulletin board, shower, radiator, glass, clock, flag
""")
COCO_STUFF = _listed("""
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign,
parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella,
handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard,
surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange,
broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv,
laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase,
scissors, teddy bear, hair drier, toothbrush, banner, blanket, branch, bridge, building-other, bush, cabinet,
cage, cardboard, carpet, ceiling-other, ceiling-tile, cloth, clothes, clouds, counter, cupboard, curtain,
desk-stuff, dirt, door-stuff, fence, floor-marble, floor-other, floor-stone, floor-tile, floor-wood, flower,
fog, food-other, fruit, furniture-other, grass, gravel, ground-other, hill, house, leaves, light, mat, metal,
mirror-stuff, moss, mountain, mud, napkin, net, paper, pavement, pillow, plant-other, plastic, platform,
playingfield, railing, railroad, river, road, rock, roof, rug, salad, sand, sea, shelf, sky-other, skyscraper,
snow, solid-other, stairs, stone, straw, structural-other, table, tent, textile-other, towel, tree, vegetable,
wall-brick, wall-concrete, wall-other, wall-panel, wall-stone, wall-tile, wall-wood, water-other, waterdrops,
window-blind, window-other, wood
""")
COCO_STUFF_GAPS = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
"""Values below 182 in the pixel maps of COCO-Stuff that no class has."""

SOURCES: dict[str, dict[str, Any]] = {
    "cityscapes": dict(
        images="data/cityscapes/leftImg8bit/train",
        masks="data/cityscapes/gtFine/train",
        eval_images="data/cityscapes/leftImg8bit/val",
        eval_masks="data/cityscapes/gtFine/val",
        image_suffix="_leftImg8bit",
        mask_suffix="_gtFine_labelIds",
        class_names=CITYSCAPES,
        values={
            **{str(value): 255 for value in range(35) if value not in CITYSCAPES_IDS},
            **{str(value): label for label, value in enumerate(CITYSCAPES_IDS)},
        },
    ),
    "ade20k": dict(
        images="data/ade/ADEChallengeData2016/images/training",
        masks="data/ade/ADEChallengeData2016/annotations/training",
        eval_images="data/ade/ADEChallengeData2016/images/validation",
        eval_masks="data/ade/ADEChallengeData2016/annotations/validation",
        class_names=ADE20K,
        reduce_zero_label=True,
    ),
    "voc12": dict(
        images="data/VOCdevkit/VOC2012/JPEGImages",
        masks="data/VOCdevkit/VOC2012/SegmentationClass",
        train_list="data/VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt",
        eval_list="data/VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt",
        class_names=VOC,
    ),
    "voc12aug": dict(  # SegmentationClassAug: the maps of Hariharan et al. 2011 and those of VOC, as 8-bit PNG files
        images="data/VOCdevkit/VOC2012/JPEGImages",
        masks="data/VOCdevkit/VOC2012/SegmentationClassAug",
        train_list="data/VOCdevkit/VOC2012/ImageSets/Segmentation/trainaug.txt",
        eval_list="data/VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt",
        class_names=VOC,
    ),
    "coco_stuff": dict(
        images="data/coco_stuff164k/images/train2017",
        masks="data/coco_stuff164k/annotations/train2017",
        eval_images="data/coco_stuff164k/images/val2017",
        eval_masks="data/coco_stuff164k/annotations/val2017",
        class_names=COCO_STUFF,
        values={
            str(value): label
            for label, value in enumerate(value for value in range(182) if value not in COCO_STUFF_GAPS)
        },
    ),
    "camvid": dict(  # the 480 x 360 form of SegNet; `test` lies beside `val`
        images="data/camvid/train",
        masks="data/camvid/trainannot",
        eval_images="data/camvid/val",
        eval_masks="data/camvid/valannot",
        class_names=CAMVID,
        ignore=11,
    ),
}
"""Arguments of the source `image_mask` for each data set; another folder:
`--config.data.source.images=DIR` and so on."""
SCALES: dict[str, tuple[int, int]] = {
    "cityscapes": (1024, 2048),
    "ade20k": (512, 2048),
    "voc12": (512, 2048),
    "voc12aug": (512, 2048),
    "coco_stuff": (512, 2048),
    "camvid": (360, 480),
}
"""The shorter side of images before the random factor and in evaluation, unless the longer one becomes longer."""
ORIGINALS: dict[str, tuple[tuple[int, int], ...]] = {
    "ade20k": ((512, 688), (688, 512), (2112, 2112)),
    "voc12": ((500, 500),),
    "voc12aug": ((500, 500),),
    "coco_stuff": ((640, 640),),
}
"""Canvases for the label maps of photographs at their original size. Most images of ADE20K have a shorter side of 512
pixels, the largest of its validation part is 2100 x 2100; VOC and COCO have longer sides of up to 500 and 640."""

DEEPLAB_CRF = dict(
    iterations=10,
    smoothness=3.0,
    smoothness_std=3.0,
    appearance=4.0,
    position_std=49.0,
    color_std=5.0,
    mean=MEAN,
    std=STD,
)
"""Of the authors' script for DeepLab-LargeFOV."""

complete = base.complete


def get_config(arg: str = "", *, dataset: str, crop: tuple[int, int]) -> Config:
    """A published data set with random scales of 0.5 to 2, a crop, a flip and changes of colour.

    Args:
      arg: of the config.
      dataset: a key of `SOURCES`.
      crop: height and width in training.
    """
    config = base.get_config(arg)
    config.task = "semantic_segmentation"
    short, long = SCALES[dataset]
    # Road scenes are all wide; of photographs each lies on the canvas that shows it largest.
    roads = dataset in ("cityscapes", "camvid")
    canvases = ((short, long),) if roads else ((512, 688), (688, 512), (short, long), (long, short))
    config.data = dict(
        source=dict(name="image_mask", **SOURCES[dataset]),
        batch_size=8 if dataset == "cityscapes" else 16,
        image_size=(short, long) if roads else (688, 688),
        buckets=(crop,),
        eval_buckets=canvases,
        original_buckets=ORIGINALS.get(dataset, ()),
        eval_batch_size=8,
        channels=3,
        host_transforms=(
            dict(name="random_scale", short=short, long=long),
            dict(name="random_crop", fill=GROUND),
        ),
        eval_host_transforms=(
            dict(name="resize_side", short=short, long=long),
            dict(name="letterbox", fill=GROUND, upscale=False, centered=False),
        ),
        augment=("random_flip", "photo_metric_distortion"),
        eval_transforms=(dict(name="normalize", mean=MEAN, std=STD),),
    )
    config.checkpoint.best_metric = "miou"
    return config


def schedule(steps: int, *, learning_rate: float = 0.01, batch_size: int) -> dict[str, Any]:
    """OpenMMLab's `schedule_20k`, `40k`, `80k`, `160k`: SGD, a rate that falls to 1e-4 with the power 0.9."""
    return dict(
        steps=steps,
        optimizer=dict(name="sgd", momentum=0.9, weight_decay=5e-4),
        learning_rate=dict(name="polynomial", value=learning_rate, power=0.9, end=1e-4),
        base_batch_size=batch_size,
    )
