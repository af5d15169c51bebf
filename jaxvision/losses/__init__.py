"""Losses computed in float32 and returned per sample or element; `weighted_sum` reduces them."""

from jaxvision.losses.boxes import iou_loss, smooth_l1
from jaxvision.losses.classification import binary_cross_entropy, cross_entropy, focal
from jaxvision.losses.reduction import weighted_sum

__all__ = ["binary_cross_entropy", "cross_entropy", "focal", "iou_loss", "smooth_l1", "weighted_sum"]
