"""Find a font for a text in any script. Matplotlib ships DejaVu Sans and knows the fonts of the system."""
import functools
import importlib.util
import os
import re
import unicodedata
from typing import Container, FrozenSet, List

from PIL import ImageFont

DEJAVU = os.path.join(next(iter(importlib.util.find_spec('matplotlib').submodule_search_locations)),
                      'mpl-data', 'fonts', 'ttf', 'DejaVuSans.ttf')  # its path, without importing Matplotlib
LATIN = 0x250  # DejaVu Sans has every printable character below this one
# These fonts claim to have a character, but their glyph is a box, is blank, or is a picture that Pillow cannot draw.
USELESS = re.compile(r'last ?resort|adobe ?blank|colou?r|tofu', re.IGNORECASE)


def clean(name: str, longest: int = 100) -> str:
    """Put a name on one line: line breaks and control characters become spaces, and an overlong name is cut."""
    joiners = '\u200c\u200d'  # they are not printable, but they shape Persian, Hindi and emoji
    printable = ''.join(c if c.isprintable() or c in joiners else ' ' for c in name[:2 * longest])
    text = ' '.join(printable.split())
    return text if len(text) <= longest and len(name) <= 2 * longest else f'{text[:longest]}…'


def shorten(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """Cut a text so that it is at most ``width`` pixels wide, with an ellipsis; '' if not even a character fits."""
    if font.getlength(text) <= width:
        return text
    fits, too_long = 0, len(text)
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if font.getlength(f'{text[:middle].rstrip()}…') <= width:
            fits = middle
        else:
            too_long = middle
    return f'{text[:fits].rstrip()}…' if fits else ''


@functools.lru_cache(maxsize=1024)
def font_for(text: str, size: int) -> ImageFont.FreeTypeFont:
    """Load the first font that has all characters of a text, or else the font that has most of them.

    The font draws a box for a character that it lacks. Pillow joins the letters of Arabic and Hindi if it was built
    with Raqm, as its wheels are.
    """
    return _load(_choose(frozenset(c for c in text if not _is_invisible(c))), size)


@functools.lru_cache(maxsize=64)
def _load(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


@functools.lru_cache(maxsize=1024)
def _choose(characters: FrozenSet[str]) -> str:
    if all(ord(character) < LATIN for character in characters):
        return DEJAVU
    best, most = DEJAVU, 0
    for path in (DEJAVU, *_installed_fonts()):
        count = sum(ord(character) in _characters_of(path) for character in characters)
        if count > most:
            best, most = path, count
        if most == len(characters):
            break
    return best


@functools.lru_cache(maxsize=1)
def _installed_fonts() -> List[str]:
    """Paths of the system's fonts, upright sans-serif fonts of normal weight first."""
    from matplotlib import font_manager  # a slow import, and only unusual scripts need it

    def distance(entry: font_manager.FontEntry) -> tuple:
        weight = entry.weight if isinstance(entry.weight, (int, float)) else 400
        return entry.style != 'normal', abs(weight - 400) > 100, 'sans' not in entry.name.lower(), entry.name

    entries = [entry for entry in font_manager.fontManager.ttflist
               if not USELESS.search(entry.name) and not USELESS.search(os.path.basename(entry.fname))]
    return list(dict.fromkeys(entry.fname for entry in sorted(entries, key=distance)))


@functools.lru_cache(maxsize=None)
def _characters_of(path: str) -> Container[int]:
    """Code points of the characters that a font has; none if the font cannot be used."""
    from matplotlib.ft2font import FT2Font
    try:
        _load(path, 16)  # Pillow refuses fonts that have pixels of another size
        return FT2Font(path).get_charmap().keys()
    except (OSError, RuntimeError, ValueError):
        return ()


def _is_invisible(character: str) -> bool:
    """Whether a character only controls how others are drawn: joiners and variation selectors."""
    return unicodedata.category(character) == 'Cf' or '\ufe00' <= character <= '\ufe0f'
