"""Colours of classes, all as (red, green, blue) from 0 to 255."""
import colorsys
from typing import Tuple

Color = Tuple[int, int, int]
BLACK, WHITE = (0, 0, 0), (255, 255, 255)
GOLDEN = 0.61803399  # steps of the golden ratio around the circle of hues keep any number of colours apart

# Okabe and Ito's palette, moved a little by a search: under each of the three kinds of colour blindness, and without
# one, the two most similar colours differ by 24 units of CIELAB. The original's differ by 16. Black is missing, because
# it does not stand out from photos, and a purple takes its place.
FIRST: Tuple[Color, ...] = (
    (255, 173, 0), (56, 226, 254), (255, 110, 186), (6, 169, 104), (13, 77, 233), (253, 255, 110), (225, 95, 20),
    (148, 26, 112))


def class_color(label: int) -> Color:
    """Return the colour of a class. It depends on the label alone, not on the number of classes."""
    if label < len(FIRST):
        return FIRST[label]
    index = label - len(FIRST)
    color = colorsys.hls_to_rgb(index * GOLDEN % 1, (0.5, 0.65, 0.35)[index % 3], 0.9)
    return tuple(round(255 * part) for part in color)


def contrast(first: Color, second: Color) -> float:
    """Contrast ratio of two colours, from 1 to 21, as the Web Content Accessibility Guidelines (WCAG 2) define it."""
    darker, brighter = sorted((_luminance(first), _luminance(second)))
    return (brighter + 0.05) / (darker + 0.05)


def black_or_white(color: Color) -> Color:
    """Return black or white, whichever contrasts more with a colour. The contrast is at least 4.5."""
    return max(BLACK, WHITE, key=lambda other: contrast(color, other))


def _luminance(color: Color) -> float:
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055)**2.4 for part in (c / 255 for c in color)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
