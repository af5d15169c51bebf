"""Fine-tuning of a ViT-B/16 on a folder of images: that of MAE's ViT-B on ImageNet-1k (He et al. 2021, FINETUNE.md).

`--config.data.source.path=FOLDER --config.model.num_classes=N`. The learning rate, 5e-4 for a batch of 256, falls by
0.65 from each block to the one before it (Bao et al. 2022), down to the patch embedding; vectors, the position
embedding and the class token have no weight decay. Otherwise than there, images are not mixed (Mixup 0.8, CutMix 1.0),
the class token is read instead of the mean, and the weights are those of a classifier.
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
    config.data.host_transforms = (dict(name="random_resized_crop", interpolation="bicubic"),)
    config.data.eval_host_transforms = (dict(name="resize_side", short=256, interpolation="bicubic"), "center_crop")
    imagenet.augmentation(config, policy=imagenet.timm_policy(9), erasing=0.25, erasing_mode="normal")
    config.schedule = dict(
        epochs=100,
        optimizer=dict(name="adamw", weight_decay=0.05),
        learning_rate=dict(name="cosine", value=5e-4, end=2e-6, start=5.0),  # at 128: 2.5e-4 to 1e-6
        warmup=5.0,
        layer_decay=0.65,
        no_weight_decay_on_norm_and_bias=True,
        base_batch_size=256,
    )
    config.checkpoint.best_metric = "top1"
    return base.complete(config)
