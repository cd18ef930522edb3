"""What a try-on must keep: the background outside of the garment's mask, and who the person is.

Both are measured on decoded files, so that encoding counts, too. The identity of a person is that of the face's region:
its structural similarity, and the cosine of a network's embeddings where a user supplies one (a TorchScript file of,
for example, ArcFace).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from noria.core.errors import DataError
from noria.core.files import check_input, decoding
from noria.tryon.evaluation.pictures import GROUP, WINDOW, Lpips, ssim_map
from noria.tryon.video.masks import grown

MARGIN = 0.2
"""Share of a face's box by which it is widened on each side before it is embedded."""


class Likeness:
    """Likeness of two clips over some pixels, from groups of their frames.

    Args:
        where: pixels that count `[frames, height, width]`; all by default.
        pure: count the structural similarity of a pixel only where all of its window counts, so that pixels
            elsewhere change nothing.
    """

    def __init__(self, where: Tensor | None = None, *, pure: bool = False) -> None:
        self.where, self.pure = where, pure
        self._squares, self._pixels, self._similar, self._windows = 0.0, 0, 0.0, 0

    def add(self, part: slice, squares: Tensor, similar: Tensor) -> None:
        """Take in a group of frames.

        Args:
            part: numbers of the frames.
            squares: mean squared difference at each pixel `[group, height, width]`.
            similar: structural similarity `[group, height - 10, width - 10]`.
        """
        if self.where is not None:
            half, where = WINDOW // 2, self.where[part]
            inner = grown(where, -half) if self.pure else where
            squares, similar = squares[where], similar[inner[:, half:-half, half:-half]]
        self._squares, self._pixels = self._squares + float(squares.sum()), self._pixels + squares.numel()
        self._similar, self._windows = self._similar + float(similar.sum()), self._windows + similar.numel()

    @property
    def psnr(self) -> float | None:
        """Peak signal-to-noise ratio in decibels; None over no pixel, infinite for equal ones."""
        if not self._pixels:
            return None
        return 10 * math.log10(255**2 * self._pixels / self._squares) if self._squares else math.inf

    @property
    def ssim(self) -> float | None:
        """Mean structural similarity; None over no pixel."""
        return self._similar / self._windows if self._windows else None


def compare(
    made: Tensor, real: Tensor, likenesses: Sequence[Likeness], lpips: Lpips | None = None
) -> float | None:
    """Fill in likenesses of two clips by groups of frames, with one map of structural similarity for all.

    Args:
        made: frames `[frames, 3, height, width]` in 0-255, of any type.
        real: frames of the same shape.
        likenesses: what to fill in.
        lpips: the network of LPIPS.

    Returns:
        Mean LPIPS; None without the network.

    Raises:
        ValueError: the shapes differ, or a side is below 11 pixels.
    """
    distances = []
    for start in range(0, len(made), GROUP):
        part = slice(start, start + GROUP)
        one, other = made[part].float(), real[part].float()
        similar = ssim_map(one, other)
        squares = (one - other).square().sum(1, dtype=torch.float64) / one.shape[1]
        for likeness in likenesses:
            likeness.add(part, squares, similar)
        if lpips is not None:
            distances.append(lpips(one / 127.5 - 1, other / 127.5 - 1))
    return float(torch.cat(distances).mean()) if distances else None


class Embedding:
    """A TorchScript network that embeds square pictures, such as one of faces.

    Args:
        path: the file.
        side: pixels that the network takes, each way.

    Raises:
        DataError: the file is no TorchScript network.
    """

    def __init__(self, path: Path, side: int) -> None:
        check_input(path)
        with decoding(path, "a TorchScript network"):
            self.network: Any = torch.jit.load(str(path), map_location="cpu").eval()  # type: ignore[no-untyped-call]
        self.path, self.side = path, side

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> Tensor:
        """Unit vectors `[pictures, width]` of pictures `[pictures, 3, side, side]` in -1 .. 1.

        Raises:
            DataError: the network does not take them, or gives no vectors.
        """
        with decoding(self.path, f"a network of pictures of {self.side} pixels"):
            vectors = self.network(pictures)
            if not isinstance(vectors, Tensor) or vectors.shape[:1] != pictures.shape[:1]:
                raise DataError("it gives no vector for each picture", where=str(self.path))
        return torch.nn.functional.normalize(vectors.flatten(1).float(), dim=1)


def identity(made: Tensor, real: Tensor, faces: Tensor, embedding: Embedding) -> tuple[float | None, int]:
    """Mean cosine of the embeddings of a person's face in generated and real frames.

    Args:
        made: frames `[frames, 3, height, width]` in 0-255, of any type.
        real: frames of the same shape.
        faces: pixels of the face `[frames, height, width]`; the square around them is embedded.
        embedding: the network.

    Returns:
        The cosine, None where no frame has a face, and the number of frames that have none.
    """
    cosines = []
    for frame in faces.flatten(1).any(1).nonzero().flatten().tolist():
        top, left, side = _square(faces[frame])
        pair = torch.stack([made[frame], real[frame]]).float()
        wide = torch.nn.functional.pad(
            pair, (side,) * 4, mode="replicate"
        )  # a face at the edge stays a square
        cut = wide[:, :, top + side : top + 2 * side, left + side : left + 2 * side]
        size = (embedding.side, embedding.side)
        shown = torch.nn.functional.interpolate(cut, size, mode="bilinear", antialias=True) / 127.5 - 1
        one, other = embedding(shown)
        cosines.append(float(one @ other))
    return (sum(cosines) / len(cosines) if cosines else None), len(faces) - len(cosines)


def _square(face: Tensor) -> tuple[int, int, int]:
    """Top, left and side of the widened square around the pixels of a face."""
    rows, columns = face.any(1).nonzero().flatten(), face.any(0).nonzero().flatten()
    tall, wide = int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1
    side = math.ceil(max(tall, wide) * (1 + 2 * MARGIN))
    return int(rows[0]) - (side - tall) // 2, int(columns[0]) - (side - wide) // 2, side
