"""Necks: modules between a backbone and the heads of a detector or segmenter, from levels to levels."""
