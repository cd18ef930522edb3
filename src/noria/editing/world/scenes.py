"""Scenes: things in the cells of a grid, and the one way to write them as an image and to read them from one."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from noria.core.errors import DataError
from noria.core.pictures import draw
from noria.editing.world.vocabulary import CELLS, COLOURS, NAMES, SPRITES, place

CELL = 24
"""Width and height of a cell in pixels; an image has four by four."""
SIDE = 4 * CELL
TINTS = ((250, 250, 248), (232, 240, 250), (250, 240, 226), (232, 246, 232), (244, 234, 246))
"""Colours of the ground."""
NOISE = 5
"""Largest error of a pixel's channel that a photograph adds."""
TOLERANCE = 9.0
"""Mean error of a pixel, in levels of 255, above which a cell shows nothing that the reader knows."""
UNKNOWN = "something unknown"
"""Name of what the reader does not know."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Scene:
    """Things in cells on a ground.

    Attributes:
        things: cell and name of each thing, in reading order.
        tint: number of the ground's colour.
    """

    things: tuple[tuple[str, str], ...]
    tint: int = 0

    @classmethod
    def of(cls, things: Mapping[str, str], tint: int = 0) -> Scene:
        """A scene of names by cell, whatever their order.

        Raises:
            DataError: there is no such cell or name.
        """
        for cell, name in things.items():
            if cell not in CELLS or name not in (*NAMES, UNKNOWN):
                raise DataError(f"{name!r} at {cell!r} is nothing of this world", where="scene")
        return cls(tuple((cell, things[cell]) for cell in CELLS if cell in things), tint)

    @property
    def by_cell(self) -> dict[str, str]:
        """Name of each thing by its cell."""
        return dict(self.things)

    def __str__(self) -> str:
        return ", ".join(f"{name} at {cell}" for cell, name in self.things) or "nothing"


def render(scene: Scene, *, grain: int | None = None) -> Image.Image:
    """Draw a scene as RGB pixels, 96 × 96.

    Args:
        scene: what to draw.
        grain: seed of a photograph's noise; None draws without noise.
    """
    pixels = np.empty((SIDE, SIDE, 3), np.float32)
    pixels[:] = TINTS[scene.tint]
    for cell, name in scene.things:
        column, row = place(cell)
        square = np.s_[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL]
        colour, alpha = _stamp(name)
        pixels[square] = alpha * colour + (1 - alpha) * pixels[square]
    if grain is not None:
        noise = np.random.default_rng([grain, 7]).integers(-NOISE, NOISE + 1, pixels.shape)
        pixels += noise.astype(np.float32)
    return Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8))


def read(image: Image.Image) -> Scene:
    """Read a scene from pixels, cell by cell, by the drawing that is nearest.

    A cell that is near to no drawing holds `UNKNOWN`. The ground's colour is the median of the cells' corners.

    Raises:
        DataError: the image is not 96 × 96 pixels.
    """
    if image.size != (SIDE, SIDE):
        raise DataError(
            f"an image of {image.size[0]} × {image.size[1]} pixels", where="world", mend="96 × 96"
        )
    pixels = np.asarray(image.convert("RGB"), np.float32)
    cells = pixels.reshape(4, CELL, 4, CELL, 3).swapaxes(1, 2).reshape(16, CELL, CELL, 3)
    ground = np.median(cells[:, [0, 0, -1, -1], [0, -1, 0, -1]].reshape(-1, 3), axis=0)
    tint = int(np.abs(np.array(TINTS) - ground).sum(1).argmin())
    names, templates = _templates(tint)
    gaps = np.abs(cells.reshape(16, 1, -1) - templates[None]).mean(-1)
    nearest = gaps.argmin(1)
    found = {
        cell: names[n] if gap <= TOLERANCE else UNKNOWN
        for cell, n, gap in zip(CELLS, nearest, gaps.min(1), strict=True)
    }
    return Scene.of({cell: name for cell, name in found.items() if name}, tint)


@functools.cache
def _stamp(name: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Colour [24, 24, 3] and opacity [24, 24, 1] of a thing."""
    if name == UNKNOWN:
        smear = np.random.default_rng(3).integers(0, 256, (CELL, CELL, 3)).astype(np.float32)
        return smear, np.ones((CELL, CELL, 1), np.float32)
    stamp = draw(SPRITES[name], size=CELL) if name in SPRITES else _shape(*name.split())
    values = np.asarray(stamp, np.float32)
    return values[..., :3], values[..., 3:] / np.float32(255)


def _shape(colour: str, shape: str) -> Image.Image:
    """A drawn shape, RGBA, smoothed by drawing it four times as large."""
    large = Image.new("RGBA", (4 * CELL, 4 * CELL), (*COLOURS[colour], 0))
    pen, fill = ImageDraw.Draw(large), (*COLOURS[colour], 255)
    low, high = 10, 4 * CELL - 11
    if shape == "circle":
        pen.ellipse((low, low, high, high), fill=fill)
    elif shape == "square":
        pen.rectangle((low, low, high, high), fill=fill)
    else:
        pen.polygon([(2 * CELL, low), (high, high), (low, high)], fill=fill)
    return large.resize((CELL, CELL), Image.Resampling.BOX)


@functools.cache
def _templates(tint: int) -> tuple[tuple[str, ...], NDArray[np.float32]]:
    """Names, the empty one first, and how each looks on this ground: [names, 24 · 24 · 3]."""
    ground = np.empty((CELL, CELL, 3), np.float32)
    ground[:] = TINTS[tint]
    looks = [ground]
    for name in NAMES:
        colour, alpha = _stamp(name)
        looks.append(alpha * colour + (1 - alpha) * ground)
    return ("", *NAMES), np.stack(looks).reshape(len(looks), -1)
