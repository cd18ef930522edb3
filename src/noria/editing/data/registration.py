"""Registration: an editor's picture has another size and lies a little off; it is put back before it is compared.

Editors work at sizes of their own, round them to their patches, and shift or zoom by some pixels. A preservation item
would then fail everywhere, and a pixel comparison would see a change everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.Image import Image as Picture

from noria.editing.types import EditorError

LONGEST_SIDE = 256
"""Longest side of the pictures that are correlated, in pixels."""
COARSE, FINE = (0.96, 0.98, 1.0, 1.02, 1.04), (-0.01, -0.005, 0.005, 0.01)
"""Zooms that are tried first, and those that are tried about the best of them."""
IN_PLACE = 0.6
"""Peak of the correlation from which an unmoved picture is taken to be in its place."""
MOST_SHIFT = 0.06
"""Largest shift that is believed, as a share of the side."""
MOST_STRETCH = 0.1
"""Largest difference of the sides' ratios that is resized away, as a share."""
LEAST_GAIN = 0.05
"""Least fall of the difference, as a share, for which a picture is moved."""


@dataclass(frozen=True)
class Registration:
    """Position of an edited picture on its source: shift, zoom and size.

    Attributes:
        image: picture, of the source's size and place; what lies outside of it is the source's.
        resized: whether the edited picture had another size.
        dx, dy: shift that was taken back, in pixels of the source.
        scale: zoom that was taken back.
    """

    image: Picture
    resized: bool = False
    dx: float = 0.0
    dy: float = 0.0
    scale: float = 1.0

    @property
    def moved(self) -> bool:
        """Whether it was shifted or zoomed."""
        return (self.dx, self.dy, self.scale) != (0.0, 0.0, 1.0)

    def __str__(self) -> str:
        words = ["resized"] if self.resized else []
        if self.moved:
            words.append(f"shift {self.dx:+.1f}, {self.dy:+.1f}, zoom {self.scale:.3f}")
        return "; ".join(words)


def register(source: Picture, edited: Picture, *, move: bool = True) -> Registration:
    """Bring an edited picture to the size of its source, and take back a small shift and zoom.

    The zoom is the one of those tried whose phase correlation with the source has the highest peak; the peak's place is
    the shift. The picture is moved where that makes the mean difference of the pixels smaller by `LEAST_GAIN`.

    Args:
        source: picture that was edited, RGB.
        edited: the editor's picture, RGB.
        move: whether a shift and a zoom are looked for.

    Raises:
        EditorError: of kind `size`, the ratio of the sides is another.
    """
    resized = edited.size != source.size
    if resized:
        (width, height), (other, tall) = source.size, edited.size
        if min(other, tall) < 8 or abs(other * height / (tall * width) - 1) > MOST_STRETCH:
            raise EditorError(f"a picture of {other}×{tall} for one of {width}×{height}", kind="size")
        edited = edited.resize(source.size, Image.Resampling.LANCZOS)
    if not move or min(source.size) < 32:
        return Registration(edited, resized)
    factor = min(1.0, LONGEST_SIDE / max(source.size))
    small = (max(16, round(source.width * factor)), max(16, round(source.height * factor)))
    target, other_small = (
        image.convert("L").resize(small, Image.Resampling.BOX) for image in (source, edited)
    )
    if _in_place(target, other_small):
        return Registration(edited, resized)
    dx, dy, scale = _place(target, other_small)
    if (abs(dx) < 0.5 and abs(dy) < 0.5 and scale == 1.0) or max(
        abs(dx) / small[0], abs(dy) / small[1]
    ) > MOST_SHIFT:
        return Registration(edited, resized)
    before, after = _difference(target, other_small), _difference(target, _warped(other_small, dx, dy, scale))
    if after > (1 - LEAST_GAIN) * before:
        return Registration(edited, resized)
    dx, dy = dx / factor, dy / factor
    return Registration(_warped(edited, dx, dy, scale, ground=source), resized, dx, dy, scale)


def _in_place(target: Picture, other: Picture) -> bool:
    """Whether edges lie where they lay: at most strong edges, the pictures differ by less than a quarter pixel's step.

    It takes a tenth of the time of a search, and most pictures are in their place.
    """
    one, two = (np.asarray(image, dtype=np.float32) for image in (target, other))
    dy, dx = np.gradient(one)
    steps = np.hypot(dx, dy)
    strong = steps > max(6.0, float(np.quantile(steps, 0.9)))
    if strong.sum() < 20:  # nothing that a place could be told by
        return True
    gaps = np.abs(one - two)[strong]
    return float(np.median(gaps)) <= 0.25 * float(np.median(steps[strong]))


def _place(target: Picture, other: Picture) -> tuple[float, float, float]:
    """Shift and zoom that bring `other` onto `target`: (dx, dy, scale)."""
    spectrum = np.fft.rfft2(_edges(target))

    def tried(scale: float) -> tuple[float, float, float, float]:
        return (*_shift(spectrum, _edges(_warped(other, 0.0, 0.0, scale))), scale)

    best = tried(1.0)
    if best[0] < IN_PLACE or max(abs(best[1]), abs(best[2])) >= 0.5:
        best = max(best, *(tried(scale) for scale in COARSE if scale != 1.0))
        best = max(best, *(tried(round(best[3] + step, 3)) for step in FINE))
    return best[1:]


def _warped(image: Picture, dx: float, dy: float, scale: float, *, ground: Picture | None = None) -> Picture:
    """The picture zoomed about its centre, then shifted by (dx, dy); what it does not cover is the ground's."""
    width, height = image.size
    inverse = 1 / scale
    x = (1 - inverse) * width / 2 - inverse * dx
    y = (1 - inverse) * height / 2 - inverse * dy
    data = (inverse, 0.0, x, 0.0, inverse, y)
    moved = image.transform(image.size, Image.Transform.AFFINE, data, Image.Resampling.BICUBIC)
    if ground is None:
        return moved
    full = Image.new("L", image.size, 255)
    cover = full.transform(image.size, Image.Transform.AFFINE, data, Image.Resampling.NEAREST)
    return Image.composite(moved, ground, cover)


def _edges(image: Picture) -> NDArray[np.float64]:
    """Gradient magnitude under a Hann window, which keeps the borders from correlating with each other."""
    values = np.asarray(image, dtype=np.float64)
    dy, dx = np.gradient(values)
    window = np.outer(np.hanning(values.shape[0]), np.hanning(values.shape[1]))
    edges: NDArray[np.float64] = np.hypot(dx, dy) * window
    return edges


def _shift(spectrum: NDArray[np.complex128], other: NDArray[np.float64]) -> tuple[float, float, float]:
    """Peak of the phase correlation, and the shift (dx, dy) that brings `other` onto the spectrum's picture."""
    cross: Any = spectrum * np.conj(np.fft.rfft2(other))
    size = np.abs(cross)
    plane = np.fft.irfft2(cross / np.maximum(size, 1e-9 * max(float(size.max()), 1e-12)), s=other.shape)
    row, column = np.unravel_index(int(plane.argmax()), plane.shape)
    peak = float(plane[row, column])
    dy, dx = (_signed(plane, int(row), int(column), axis) for axis in (0, 1))
    return peak, dx, dy


def _signed(plane: NDArray[np.float64], row: int, column: int, axis: int) -> float:
    """Place of the peak along an axis, below zero beyond the middle, refined by the parabola through its neighbours."""
    length = plane.shape[axis]
    line = plane[:, column] if axis == 0 else plane[row]
    at = row if axis == 0 else column
    left, here, right = (float(line[(at + step) % length]) for step in (-1, 0, 1))
    curve = left - 2 * here + right
    offset = 0.0 if curve >= 0 else 0.5 * (left - right) / curve
    return (at if at <= length // 2 else at - length) + max(-0.5, min(0.5, offset))


def _difference(one: Picture, other: Picture) -> float:
    """Mean difference of the pixels of the inner part, each capped: what the edit changed must not decide."""
    gap = np.abs(np.asarray(one, dtype=np.float64) - np.asarray(other, dtype=np.float64))
    height, width = gap.shape
    inner = gap[height // 10 : height - height // 10, width // 10 : width - width // 10]
    return float(np.minimum(inner, 40.0).mean())
