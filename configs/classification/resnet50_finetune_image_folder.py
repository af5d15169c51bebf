"""Fine-tuning of torchvision's ResNet-50 on a folder of images: what most data sets need.

`--config.data.source.path=FOLDER --config.model.num_classes=N`. The published backbone, a new classifier that learns
ten times as fast, the stem and the first stage frozen. Other weights: `--config.pretrained.backbone=FILE`, a run of
your own or another card; less memory: `--config.model.backbone.frozen_stages=4` trains the classifier alone.
"""

from configs.classification import resnet50_image_folder
from configs.common import base


def get_config(arg=""):
    config = resnet50_image_folder.get_config(arg)
    config.model.backbone.frozen_stages = 1
    config.pretrained = dict(backbone="torchvision:resnet50")
    config.data.source = "image_folder:data/images"
    config.data.batch_size = 64
    config.schedule = dict(
        epochs=20,
        optimizer=dict(name="sgd", momentum=0.9, weight_decay=1e-4),
        learning_rate=dict(name="cosine", value=0.01),
        warmup=1.0,
        rules=(dict(pattern="backbone/.*", learning_rate=0.1),),
        base_batch_size=64,
    )
    config.checkpoint.best_metric = "top1"
    return base.complete(config)
