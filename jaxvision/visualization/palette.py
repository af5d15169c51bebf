"""Colours that stay apart for every kind of colour vision (Okabe and Ito 2008), and what each one means here.

Source: M. Okabe and K. Ito, "Color Universal Design: how to make figures and presentations that are friendly to
colorblind people". Colour is never the only cue: marks, labels or positions say the same.
"""

BLACK = "#000000"
ORANGE = "#E69F00"
SKY_BLUE = "#56B4E9"
BLUISH_GREEN = "#009E73"
YELLOW = "#F0E442"
BLUE = "#0072B2"
VERMILLION = "#D55E00"
REDDISH_PURPLE = "#CC79A7"

CYCLE = (BLUE, ORANGE, BLUISH_GREEN, VERMILLION, SKY_BLUE, REDDISH_PURPLE, YELLOW, BLACK)
"""Order in which unrelated series take their colours: the first four are also apart in grey."""

TRAIN = SKY_BLUE
EVALUATION = BLUE
BEST = ORANGE
RIGHT = BLUISH_GREEN
WRONG = VERMILLION
NEUTRAL = "#9FB4C4"

TEXT = "#1F2933"
FAINT = "#6B7785"
GRID = "#DDE3E8"
PAPER = "#FFFFFF"


def rgb(color: str) -> tuple[int, int, int]:
    """`"#RRGGBB"` -> three integers 0..255."""
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def luminance(color: tuple[float, float, float]) -> float:
    """Relative luminance 0..1 of an sRGB colour with channels 0..1 (WCAG 2.1): it decides the colour of text on it."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
