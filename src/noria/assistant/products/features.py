"""A picture as a vector: the colours of its regions and the directions of its edges.

Histograms of oriented gradients (Dalal and Triggs, 2005) over a grid, and mean colours over the same grid, of the
picture without its plain border. It needs no model and no framework; what looks alike lies near, what means alike does
not. A shop with a model of its own puts another :class:`PictureEncoder` in its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from PIL import Image
from PIL.Image import Image as Picture

SIZE = 64
GRID = 4
DIRECTIONS = 9
_CELL = SIZE // GRID


class PictureEncoder(Protocol):
    """Turns pictures into vectors whose product is their likeness.

    Attributes:
        name: name and version; vectors of another name are made anew.
    """

    name: str

    def encode(self, pictures: Sequence[Picture]) -> np.ndarray:
        """[pictures, features] float32, each row of length one."""
        ...


class LayoutEncoder:
    """Colours and edges on a grid of four by four cells: 192 features."""

    name = "layout-1"

    def encode(self, pictures: Sequence[Picture]) -> np.ndarray:
        """Do what :meth:`PictureEncoder.encode` says."""
        if not pictures:
            return np.zeros((0, GRID * GRID * (3 + DIRECTIONS)), np.float32)
        pixels = np.stack([np.asarray(_framed(one), np.float32) for one in pictures]) / 255
        features = np.concatenate([_unit(_colours(pixels)), _unit(_edges(pixels))], axis=1)
        return _unit(features).astype(np.float32)


def _framed(picture: Picture) -> Picture:
    """The picture without its plain border, centred on a square of the border's colour."""
    small = picture.convert("RGB")
    small.thumbnail((2 * SIZE, 2 * SIZE), Image.Resampling.BILINEAR)
    pixels = np.asarray(small, np.int16)
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    ground = np.median(edge, axis=0)
    inside = np.abs(pixels - ground).max(axis=2) > 24
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if len(rows) and len(columns):
        small = small.crop((int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1))
    side = max(small.size)
    square = Image.new("RGB", (side, side), tuple(int(value) for value in ground))
    square.paste(small, ((side - small.width) // 2, (side - small.height) // 2))
    return square.resize((SIZE, SIZE), Image.Resampling.BILINEAR)


def _colours(pixels: np.ndarray) -> np.ndarray:
    """[n, cells · 3] mean of each cell as opponent colours: lightness, red against green, yellow against blue."""
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    opponent = np.stack([(red + green + blue) / 3 - 0.5, red - green, (red + green) / 2 - blue], axis=-1)
    cells = opponent.reshape(len(pixels), GRID, _CELL, GRID, _CELL, 3).mean(axis=(2, 4))
    return np.asarray(cells.reshape(len(pixels), -1))


def _edges(pixels: np.ndarray) -> np.ndarray:
    """[n, cells · directions] strength of the edges of each cell, by direction without sign."""
    grey = pixels.mean(axis=3)
    down, right = np.gradient(grey, axis=(1, 2))
    strength = np.hypot(down, right)
    direction = (np.arctan2(down, right) % np.pi / np.pi * DIRECTIONS).astype(int) % DIRECTIONS
    edges = np.zeros((len(pixels), GRID * GRID, DIRECTIONS), np.float32)
    cell = (np.arange(SIZE)[:, None] // _CELL * GRID + np.arange(SIZE)[None, :] // _CELL).ravel()
    picture = np.arange(len(pixels))[:, None]
    np.add.at(
        edges, (picture, cell[None], direction.reshape(len(pixels), -1)), strength.reshape(len(pixels), -1)
    )
    return np.sqrt(edges).reshape(len(pixels), -1)


def _unit(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    units: np.ndarray = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 1e-9)
    return units
