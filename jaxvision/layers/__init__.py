"""Small flax modules that architectures share. They follow the dtype of their input; parameters stay float32."""

from jaxvision.layers.conv import Conv, Dense
from jaxvision.layers.drop_path import DropPath, drop_path
from jaxvision.layers.norm import BatchNorm, GroupNorm, LayerNorm, Norm
from jaxvision.layers.squeeze_excite import SqueezeExcite

__all__ = ["BatchNorm", "Conv", "Dense", "DropPath", "GroupNorm", "LayerNorm", "Norm", "SqueezeExcite", "drop_path"]
