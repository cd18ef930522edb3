"""Folders of real images that samples are compared with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from noria.core.errors import DataError
from noria.core.files import decoding, open_input

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
MAX_PIXELS = 64_000_000


@dataclass(frozen=True)
class ImageFolder:
    """Image files, brought to one size by cropping around the middle and shrinking.

    Attributes:
        files: paths in the order of their names.
        height, width: size in pixels.
    """

    files: tuple[Path, ...]
    height: int
    width: int

    def __len__(self) -> int:
        return len(self.files)

    def batches(self, size: int) -> Iterator[Tensor]:
        """Images [≤ size, 3, height, width] in [0, 1].

        Raises:
            DataError: a file is no image that can be read.
        """
        for start in range(0, len(self), size):
            yield torch.stack([self._read(path) for path in self.files[start : start + size]])

    def _read(self, path: Path) -> Tensor:
        from PIL import Image, ImageOps

        with (
            open_input(path) as file,
            decoding(path, "an image", mend="remove it"),
            Image.open(file) as image,
        ):
            if image.width * image.height > MAX_PIXELS:
                raise DataError(
                    f"more than {MAX_PIXELS:,} pixels", where=str(path), mend="shrink or remove it"
                )
            fitted = ImageOps.fit(image.convert("RGB"), (self.width, self.height), Image.Resampling.LANCZOS)
        return torch.from_numpy(np.asarray(fitted).copy()).permute(2, 0, 1).float() / 255


def read_images(folder: Path, height: int, width: int) -> ImageFolder:
    """The image files right in `folder`.

    Raises:
        DataError: there is no such folder, or fewer than two images in it.
    """
    if not folder.is_dir():
        raise DataError("no such folder of images", where=str(folder))
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if len(files) < 2:
        raise DataError(
            f"{len(files)} images, and 2 are needed",
            where=str(folder),
            mend=f"put {', '.join(IMAGE_SUFFIXES)} files there",
        )
    return ImageFolder(tuple(files), height, width)
