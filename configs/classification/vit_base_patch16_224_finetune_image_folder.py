"""Fine-tuning of a ViT-B/16 on a folder of images, with the layer decay of BEiT (Bao et al. 2022).

`--config.data.source.path=FOLDER --config.model.num_classes=N`. The learning rate falls by 0.65 from each block to the
one before it, down to the patch embedding; vectors, the position embedding and the class token have no weight decay.
"""

from configs.classification import resnet50_image_folder
from configs.common import base, imagenet


def get_config(arg=""):
    config = resnet50_image_folder.get_config(arg)
    config.task = dict(name="classification", label_smoothing=0.1)
    config.model = dict(name="vit_base_patch16_224", num_classes=1000, backbone=dict(drop_path_rate=0.1))
    config.pretrained = dict(backbone="torchvision:vit_b_16")
    config.data.source = "image_folder:data/images"
    config.data.batch_size = 128
    config.data.host_transforms = ("random_resized_crop", imagenet.timm_policy(9))
    config.schedule = dict(
        epochs=50,
        optimizer=dict(name="adamw", weight_decay=0.05),
        learning_rate=dict(name="cosine", value=5e-4, end=1e-6, start=5.0),
        warmup=5.0,
        layer_decay=0.65,
        no_weight_decay_on_norm_and_bias=True,
        base_batch_size=512,
    )
    config.checkpoint.best_metric = "top1"
    return base.complete(config)
