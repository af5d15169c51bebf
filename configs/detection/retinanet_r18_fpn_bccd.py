"""RetinaNet, a narrow ResNet-18 with FPN, on BCCD: blood cells in 205 micrographs, from scratch, on CPU cores.

BCCD (https://github.com/Shenggan/BCCD_Dataset) as COCO files: `--config.data.source.images=DIR`,
`--config.data.source.annotations=FILE`, `--config.data.source.eval_annotations=FILE`. Images of 640 x 480 pixels are
learned at 256 x 192, where platelets are 16 pixels high: anchors are half of torchvision's, else its numbers are used.
"""

from configs.common import base
from jaxvision.detection.anchors import octaves


def get_config(arg=""):
    config = base.get_config(arg)
    config.task = dict(name="detection", show_above=0.5)
    config.model = dict(
        name="torchvision/retinanet",
        num_classes=3,
        backbone=dict(name="resnet18", width=32, norm="bn"),
        neck=dict(channels=64),
        anchors=dict(scales=octaves(2.0, 3)),
    )
    config.data = dict(
        source=dict(
            name="coco",
            images="data/bccd/JPEGImages",
            annotations="data/bccd/coco_train.json",
            eval_annotations="data/bccd/coco_val.json",
        ),
        batch_size=8,
        image_size=(192, 256),
        channels=3,
        host_transforms=("resize",),
        eval_host_transforms=("resize",),
        augment=("random_flip",),
        eval_transforms=(dict(name="normalize", mean=(0.74, 0.70, 0.71), std=(0.1, 0.1, 0.1)),),
    )
    config.schedule = dict(
        epochs=20,
        optimizer=dict(name="adamw", weight_decay=0.0),
        learning_rate=dict(name="cosine", value=1e-3),
        warmup=1.0,
        clip_norm=5.0,
    )
    config.evaluation.every_epochs = 4.0
    config.checkpoint.every_epochs = 4.0
    config.checkpoint.best_metric = "ap"
    config.log.every_steps = 10
    return base.complete(config)
