"""ResNet-50 (He et al. 2015) on a folder of images for each class, in the folders `train` and `val`.

`--config.data.source.path=FOLDER --config.model.num_classes=N`. ImageNet's own preparation: a random part of 8 to
100% of the image (Szegedy et al. 2014) in training, the centre of the shorter side at 256 in evaluation.
`experiments.run --data FOLDER` writes a config that follows the data instead.
"""

from configs.common import base

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def get_config(arg=""):
    config = base.get_config(arg)
    config.task = "classification"
    config.model = dict(name="resnet50", num_classes=1000)
    config.data = dict(
        source="image_folder:data/imagenet",
        batch_size=256,
        image_size=(224, 224),
        channels=3,
        host_transforms=("random_resized_crop",),
        eval_host_transforms=(dict(name="resize_side", short=256), "center_crop"),
        augment=("random_flip",),
        eval_transforms=(dict(name="normalize", mean=IMAGENET_MEAN, std=IMAGENET_STD),),
    )
    config.schedule = dict(
        epochs=90,
        optimizer=dict(name="sgd", momentum=0.9, weight_decay=1e-4),
        learning_rate=dict(name="step", value=0.1, milestones=(30, 60, 80)),
        base_batch_size=256,
    )
    return base.complete(config)
