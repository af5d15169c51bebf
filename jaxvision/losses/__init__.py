"""Losses on logits, computed in float32 and returned per sample or element; `weighted_sum` reduces them."""

from jaxvision.losses.classification import binary_cross_entropy, cross_entropy, focal
from jaxvision.losses.reduction import weighted_sum

__all__ = ["binary_cross_entropy", "cross_entropy", "focal", "weighted_sum"]
