"""The figures and thumbnails that are kept of a set of images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from noria.core.errors import DataError
from noria.distill.evaluation.features import FeatureExtractor

__all__ = ["COLUMNS", "Views", "batches", "thumbnails", "view"]

COLUMNS = 8
"""Number of pictures that are kept of a set."""


def thumbnails(images: Tensor, side: int = 256) -> npt.NDArray[np.uint8]:
    """Images [n, 1 or 3, h, w] in [0, 1] for a report: uint8 [n, h, w(, 3)], shrunk to at most `side` pixels."""
    height, width = images.shape[-2:]
    if max(height, width) > side:
        scale = side / max(height, width)
        size = [max(1, round(height * scale)), max(1, round(width * scale))]
        images = torch.nn.functional.interpolate(images.float(), size=size, mode="bilinear", antialias=True)
    pixels = (images.clamp(0, 1) * 255).round().byte().cpu().numpy()
    return np.asarray(pixels[:, 0] if pixels.shape[1] == 1 else pixels.transpose(0, 2, 3, 1))


@dataclass(frozen=True)
class Views:
    """A set of images, seen through features.

    Attributes:
        features: features of the images, [n, d].
        clipped: share of pixels at black or white.
        classes: classes that a classifier takes them for.
        pictures: thumbnails of the first few.
    """

    features: npt.NDArray[np.float64]
    clipped: float
    classes: npt.NDArray[np.int64] | None
    pictures: npt.NDArray[np.uint8]


def view(parts: Iterable[Tensor], extractor: FeatureExtractor, columns: int = COLUMNS) -> Views:
    """Go through images that come in batches [n, channels, height, width] in [0, 1]."""
    features: list[npt.NDArray[np.float64]] = []
    classes: list[npt.NDArray[np.int64]] = []
    pictures: list[npt.NDArray[np.uint8]] = []
    clipped = pixels = 0
    for images in parts:
        features.append(extractor.features(images))
        if extractor.classify is not None:
            classes.append(extractor.classify(images))
        if len(pictures) < columns:
            pictures += list(thumbnails(images[: columns - len(pictures)]))
        clipped += int(((images <= 0) | (images >= 1)).sum())
        pixels += images.numel()
    if not pixels:
        raise DataError("no images")
    seen = np.concatenate(classes) if classes else None
    return Views(np.concatenate(features), clipped / pixels, seen, np.stack(pictures))


def batches(rows: Tensor, size: int) -> list[Tensor]:
    """Rows, `size` at a time."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]
