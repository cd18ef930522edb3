"""What a try-on must keep: the background outside of the garment's mask, and who the person is.

Both are measured on decoded files, so that encoding counts, too. The identity of a person is that of the face's region:
its structural similarity, and the cosine of a network's embeddings where a user supplies one (a TorchScript file of,
for example, ArcFace).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from noria.core.errors import DataError
from noria.core.files import check_input, decoding
from noria.tryon.evaluation.pictures import WINDOW, ssim_map
from noria.tryon.video.masks import grown

MARGIN = 0.2
"""Share of a face's box by which it is widened on each side before it is embedded."""


def psnr_in(made: Tensor, real: Tensor, where: Tensor) -> float | None:
    """Peak signal-to-noise ratio in decibels over some pixels; None over no pixel, infinite for equal ones.

    Args:
        made: frames `[frames, 3, height, width]` in 0-255.
        real: frames of the same shape.
        where: pixels that count `[frames, height, width]`.
    """
    if not bool(where.any()):
        return None
    square = float((made - real).square().mean(1)[where].mean())
    return 10 * math.log10(255**2 / square) if square else math.inf


def ssim_in(made: Tensor, real: Tensor, where: Tensor, *, pure: bool) -> float | None:
    """Mean structural similarity over some pixels; None over no pixel.

    Args:
        made: frames `[frames, 3, height, width]` in 0-255.
        real: frames of the same shape.
        where: pixels that count `[frames, height, width]`.
        pure: count a pixel only where all of its window counts, so that pixels elsewhere change nothing.
    """
    half = WINDOW // 2
    inner = (grown(where, -half) if pure else where)[:, half:-half, half:-half]
    if not bool(inner.any()):
        return None
    return float(ssim_map(made, real)[inner].mean())


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
        made: frames `[frames, 3, height, width]` in 0-255.
        real: frames of the same shape.
        faces: pixels of the face `[frames, height, width]`; the square around them is embedded.
        embedding: the network.

    Returns:
        The cosine, None where no frame has a face, and the number of frames that have none.
    """
    cosines = []
    for frame in faces.flatten(1).any(1).nonzero().flatten().tolist():
        top, left, side = _square(faces[frame])
        pair = torch.stack([made[frame], real[frame]])
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
