"""Draws `digit_scenes.png`: presets, kinds of annotation and a clip of the sources `digit_scenes` and `digit_clips`.

python -m experiments.results.digit_scenes
"""

from pathlib import Path

import numpy as np
from PIL import Image

from jaxvision.data.sources.digit_scenes import PRESETS, DigitClips, DigitScenes
from jaxvision.visualization import palette
from jaxvision.visualization.canvas import blank, font
from jaxvision.visualization.samples import draw_sample

SIDE, GAP, HEAD = 208, 10, 24
LEFT_OUT = ("area", "crowd", "file", "id")
SCENES = {"easy": 25, "medium": 30, "hard": 37, "crowd": 28, "lines": 33}
"""The scene that is shown of each preset."""
KINDS = (
    ("boxes, labels", "medium", ("boxes", "labels")),
    ("rotated_boxes", "medium", ("rotated_boxes",)),
    ("masks", "medium", ("masks", "labels")),
    ("keypoints", "medium", ("keypoints",)),
    ("texts, rotated_boxes", "lines", ("rotated_boxes", "texts")),
    ("semantic", "medium", ("semantic",)),
    ("panoptic", "medium", ("panoptic", "segment_labels")),
)


def cells() -> list[tuple[str, np.ndarray]]:
    """Titles and pictures, in reading order."""
    kinds = ("boxes", "masks", "keypoints", "rotated_boxes", "texts", "semantic", "panoptic")
    made = {
        name: DigitScenes(name, annotations=kinds, split="train", image_size=(SIDE, SIDE), channels=3)
        for name in PRESETS
    }
    shown = {name: made[name].sample(SCENES[name]) for name in PRESETS}
    found = [(f'preset "{name}"', shown[name]["image"]) for name in PRESETS]
    for title, name, keys in KINDS:
        sample = {"image": shown[name]["image"], **{key: shown[name][key] for key in keys}}
        found.append((title, draw_sample(sample, made[name].class_names)[:SIDE]))
    clips = DigitClips("easy", frames=25, objects=(4, 4), split="train", image_size=(SIDE, SIDE), channels=3)
    clip = clips.sample(7)
    for time in (0, 12, 24):
        present = clip["present"][time]
        frame = {"image": clip["video"][time], "boxes": clip["boxes"][time][present]}
        frame |= {key: clip[key][present] for key in ("labels", "track_ids")}
        found.append((f"clip: boxes, track_ids; frame {time}", draw_sample(frame, clips.class_names)))
    return found


def main() -> None:
    found, columns = cells(), 5
    rows = -(-len(found) // columns)
    paper, pen = blank(columns * (SIDE + GAP) + GAP, rows * (SIDE + HEAD + 4) + GAP)
    for place, (title, picture) in enumerate(found):
        row, column = divmod(place, columns)
        left, top = GAP + column * (SIDE + GAP), row * (SIDE + HEAD + 4)
        pen.text((left, top + HEAD / 2 + 2), title, palette.TEXT, font(12), anchor="lm")
        paper.paste(Image.fromarray(np.ascontiguousarray(picture)), (left, top + HEAD))
    target = Path(__file__).with_suffix(".png")
    paper.quantize(240, dither=Image.Dither.NONE).save(target, optimize=True)
    print(f"{target}: {target.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
