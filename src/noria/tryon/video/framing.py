"""Sizes and numbers of frames that Wan takes, and the way back: nothing is stretched, and no frame is lost."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

STRIDE = 4
"""Frames that one latent frame covers, after the first."""
GRID = 16
"""Pixels that one token covers each way: 8 of the autoencoder times 2 of the patch."""


@dataclass(frozen=True)
class Fit:
    """The way from a clip's part to the canvas of the model, and back.

    Attributes:
        box: part of the source that is used: top, left, height, width.
        inner: height and width of that part on the canvas.
        canvas: height and width of the canvas, multiples of 16; what is beyond `inner` is padding.
    """

    box: tuple[int, int, int, int]
    inner: tuple[int, int]
    canvas: tuple[int, int]

    def forward(self, video: Tensor) -> Tensor:
        """Cut, scale and pad `[channels, frames, height, width]`; the padding repeats the edge."""
        top, left, height, width = self.box
        video = resized(video[:, :, top : top + height, left : left + width], self.inner)
        right, below = self.canvas[1] - self.inner[1], self.canvas[0] - self.inner[0]
        return torch.nn.functional.pad(video, (0, right, 0, below), mode="replicate")

    def back(self, video: Tensor) -> Tensor:
        """Remove the padding and scale back: `[channels, frames, box height, box width]`."""
        return resized(video[:, :, : self.inner[0], : self.inner[1]], self.box[2:])


def resized(video: Tensor, size: tuple[int, ...]) -> Tensor:
    """Scale `[channels, frames, height, width]` with an antialiased bicubic filter; the same size is left as it is."""
    if tuple(video.shape[2:]) == tuple(size):
        return video
    scaled = torch.nn.functional.interpolate(
        video.transpose(0, 1), size=tuple(size), mode="bicubic", antialias=True
    )
    return scaled.transpose(0, 1)


def fit(box: tuple[int, int, int, int], most_pixels: int) -> Fit:
    """Canvas for a part of a clip: its own size where it has at most `most_pixels`, else scaled down to it.

    Args:
        box: top, left, height, width of the part.
        most_pixels: most pixels of the canvas.
    """
    height, width = box[2:]
    share = min(1.0, math.sqrt(most_pixels / (height * width)))
    while True:
        inner = max(1, round(height * share)), max(1, round(width * share))
        canvas = tuple(-(-side // GRID) * GRID for side in inner)
        if canvas[0] * canvas[1] <= max(most_pixels, GRID * GRID) or share == 0:
            return Fit(box, inner, (canvas[0], canvas[1]))
        share *= 0.98


def person_box(mask: Tensor, margin: float = 0.25) -> tuple[int, int, int, int]:
    """Box around all that a mask `[frames, height, width]` ever covers, wider by a margin on each side.

    Returns:
        top, left, height, width; the whole frame where the mask is empty. Sides are multiples of 16 where the frame
        has room for that, so that the model needs no padding.
    """
    covered = mask.bool().any(dim=0)
    height, width = covered.shape
    rows, columns = covered.any(1).nonzero().flatten(), covered.any(0).nonzero().flatten()
    if not len(rows):
        return 0, 0, height, width
    top, tall = _span(int(rows[0]), int(rows[-1]) + 1, height, margin)
    left, wide = _span(int(columns[0]), int(columns[-1]) + 1, width, margin)
    return top, left, tall, wide


def _span(start: int, stop: int, size: int, margin: float) -> tuple[int, int]:
    """Start and length of a wider span, a multiple of 16 where that fits, moved into the frame."""
    length = math.ceil((stop - start) * (1 + 2 * margin))
    length = -(-length // GRID) * GRID
    if length >= size:
        return 0, size
    middle = (start + stop) // 2
    return min(max(0, middle - length // 2), size - length), length


def whole_frames(number: int) -> int:
    """The least 4m + 1 that is not below `number`."""
    return -(-(number - 1) // STRIDE) * STRIDE + 1


def pad_frames(video: Tensor, number: int) -> Tensor:
    """Repeat the last frame of `[channels, frames, ...]` until there are `number`."""
    missing = number - video.shape[1]
    return (
        torch.cat([video, video[:, -1:].expand(-1, missing, *video.shape[2:])], dim=1) if missing else video
    )


def chunk_starts(frames: int, size: int, overlap: int) -> list[int]:
    """First frames of chunks of `size` frames that cover 4m + 1 frames, each sharing `overlap` with the one before.

    Starts are multiples of 4, so that the latent frames of a chunk are those of the whole clip. They are spread evenly,
    the last chunk ends with the clip, and overlaps may be longer.

    Raises:
        ValueError: a number is not 4m + 1, or the overlap leaves no new frame.
    """
    if any(n % STRIDE != 1 for n in (frames, size, overlap)) or overlap >= size:
        raise ValueError(
            f"frames {frames}, chunk {size} and overlap {overlap} are 4m + 1, the overlap the least"
        )
    if frames <= size:
        return [0]
    last = (frames - size) // STRIDE
    chunks = -(-(frames - size) // (size - overlap))
    return [STRIDE * round(number * last / chunks) for number in range(chunks + 1)]
