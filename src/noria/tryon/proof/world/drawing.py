"""Drawing of the world: a person, a striped garment with its shading, by a depth buffer of fine points."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from noria.tryon.proof.world.acting import CAMERA_AT
from noria.tryon.proof.world.cloth import COLUMNS, ROWS, SEAM, Points

FINE = 4
"""Points that are drawn for each particle, each way."""
OVER = 3
"""Samples of a pixel, each way."""
SKIN, SHIRT, WALL = np.array([0.85, 0.62, 0.5]), np.array([0.93, 0.93, 0.9]), np.array([0.25, 0.3, 0.35])


def garment_colours(
    base: NDArray[np.floating], stripe: NDArray[np.floating], vertical: bool
) -> NDArray[np.float32]:
    """Colours of the fine points `[rows, columns, 3]`: two stripes of another colour on a base."""
    rows, columns = ROWS * FINE, COLUMNS * FINE
    line = np.zeros((rows, columns), np.bool_)
    if vertical:
        line[:, columns // 5 : 2 * columns // 5] = line[:, 4 * columns // 5 :] = True
    else:
        line[rows // 4 : rows // 2] = line[4 * rows // 5 :] = True
    return np.where(line[..., None], stripe, base).astype(np.float32)


def refined(points: Points, fine: int) -> Points:
    """Bilinear interpolation of particles `[..., rows, columns, 3]` to fine points; nothing spans the zipper."""
    rows = np.linspace(0, ROWS - 1, ROWS * fine)
    low = np.minimum(rows.astype(int), ROWS - 2)
    share = (rows - low)[:, None, None]
    tall = points[..., low, :, :] * (1 - share) + points[..., low + 1, :, :] * share
    halves = []
    for part in (tall[..., :SEAM, :], tall[..., SEAM:, :]):
        # each half reaches half a spacing towards the seam, so that a closed zipper shows no gap
        columns = np.linspace(-0.5, SEAM - 0.5, SEAM * fine)
        left = np.clip(np.floor(columns).astype(int), 0, SEAM - 2)
        part_share = (columns - left)[:, None]
        halves.append(part[..., left, :] * (1 - part_share) + part[..., left + 1, :] * part_share)
    return np.concatenate(halves, axis=-2).astype(np.float32)


def background(size: int) -> NDArray[np.float32]:
    """The person without the garment, before a wall `[size, size, 3]`: head, arms, a white shirt."""
    y, x = (np.mgrid[:size, :size] + 0.5) / size * 2 - 1
    picture = np.broadcast_to(WALL, (size, size, 3)).copy()
    picture[(np.abs(x) < 0.62) & (y > -0.62)] = SKIN
    picture[(np.abs(x) < 0.44) & (y > -0.66)] = SHIRT
    picture[(x**2 + (y + 0.85) ** 2) < 0.04] = SKIN
    return picture.astype(np.float32)


def draw(points: Points, colours: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Draw garments over the person.

    Args:
        points: particles `[pictures, rows, columns, 3]`.
        colours: colours of the fine points `[pictures, rows, columns, 3]`.
        size: pixels of a side.

    Returns:
        Pictures `[pictures, size, size, 3]` in 0 .. 1.
    """
    more = -(-size // 20)  # so that a larger picture has no holes
    colours = colours.repeat(more, axis=1).repeat(more, axis=2)
    fine, side = refined(points, FINE * more), size * OVER
    shade = _shading(fine)
    share = CAMERA_AT / (CAMERA_AT - fine[..., 2])
    at = np.floor((fine[..., :2] * share[..., None] + 1) / 2 * side).astype(int)
    scene = np.repeat(np.repeat(background(size), OVER, 0), OVER, 1)
    pictures = np.repeat(scene[None], len(points), axis=0)
    flat = pictures.reshape(len(points), side * side, 3)
    coloured = (colours * shade[..., None]).reshape(len(points), -1, 3)
    for number in range(len(points)):
        place = at[number].reshape(-1, 2)
        inside = ((place >= 0) & (place < side)).all(1)
        order = np.argsort(
            fine[number, ..., 2].reshape(-1)[inside], kind="stable"
        )  # the nearest is drawn last
        index = (place[inside, 1] * side + place[inside, 0])[order]
        flat[number, index] = coloured[number][inside][order]
    mean: NDArray[np.float32] = pictures.reshape(len(points), size, OVER, size, OVER, 3).mean(axis=(2, 4))
    return mean.astype(np.float32)


def _shading(fine: Points) -> NDArray[np.float32]:
    """Light from the upper left: 0.55 .. 1 by the normal."""
    across, down = np.gradient(fine, axis=-2), np.gradient(fine, axis=-3)
    normal = np.cross(across, down)
    normal = normal / (np.linalg.norm(normal, axis=-1, keepdims=True) + 1e-9)
    light = np.abs(normal @ np.array([-0.4, -0.5, 0.77], np.float32))
    shade: NDArray[np.float32] = (0.55 + 0.45 * light).astype(np.float32)
    return shade
