"""Scenes and clips composed of the scanned digits that scikit-learn ships: every annotation, without a download.

`DigitScenes` gives pictures with boxes, rotated boxes, instance masks, semantic and panoptic maps, keypoints and texts;
`DigitClips` short videos with tracks or actions. Everything is a function of a seed, made with numpy alone.
"""

from jaxvision.data.sources.digit_scenes.clips import DigitClips
from jaxvision.data.sources.digit_scenes.presets import PRESETS, Preset
from jaxvision.data.sources.digit_scenes.scenes import DigitScenes

__all__ = ["PRESETS", "DigitClips", "DigitScenes", "Preset"]
