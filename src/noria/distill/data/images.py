"""Small sets of real images: labelled, split and balanced the same way every time; scikit-learn's digits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from noria.core.errors import ConfigError, DataError, require
from noria.distill.data.streams import BALANCED, HELD_OUT, Integers, permutation

__all__ = ["ImageSet", "Images", "digits"]

Images: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images of one size.

    Attributes:
        images: float32 [n, channels, height, width] in [−1, 1].
        labels: int64 [n], each below `classes`.
        classes: number of classes.
        name: name of the set in reports.
        licence: owner of the images, and the terms of use.
    """

    images: Images
    labels: Integers
    classes: int
    name: str
    licence: str

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != np.float32 or not self.images.size:
            raise DataError(
                f"images are float32 [n, channels, height, width], not {self.images.dtype} {self.images.shape}",
                where=self.name,
            )
        if self.labels.shape != (len(self.images),) or self.labels.dtype != np.int64:
            raise DataError(
                f"labels are int64 [{len(self.images)}], not {self.labels.dtype} {self.labels.shape}",
                where=self.name,
            )
        if not (np.abs(self.images).max() <= 1):  # so that NaN fails too
            raise DataError("images leave [-1, 1]", where=self.name)
        if self.labels.min() < 0 or self.labels.max() >= self.classes:
            raise DataError(f"labels leave 0 to {self.classes - 1}", where=self.name)

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, rows: npt.NDArray[Any], name: str | None = None) -> ImageSet:
        """The images in `rows` (numbers or a mask)."""
        return ImageSet(self.images[rows], self.labels[rows], self.classes, name or self.name, self.licence)

    def balanced(self) -> ImageSet:
        """The set with as many images of every class as the rarest has, always the same ones."""
        rows = [np.flatnonzero(self.labels == number) for number in np.unique(self.labels)]
        least = min(map(len, rows))
        kept = [own[permutation(len(own), 0, int(self.labels[own[0]]), BALANCED)[:least]] for own in rows]
        return self.subset(np.sort(np.concatenate(kept)), f"{self.name}, balanced")

    def split(self, held_out: float = 0.2) -> tuple[ImageSet, ImageSet]:
        """(train, held-out), always the same, with `held_out` of every class in the second.

        Raises:
            ConfigError: `held_out` outside (0, 1).
            DataError: a class with a single image.
        """
        if not 0 < held_out < 1:
            raise ConfigError(f"{held_out} is not in (0, 1)", where="held_out")
        mask = np.zeros(len(self), dtype=bool)
        for number in np.unique(self.labels):
            rows = np.flatnonzero(self.labels == number)
            if len(rows) < 2:
                raise DataError(f"class {number} has one image, which cannot be split", where=self.name)
            count = min(max(1, round(held_out * len(rows))), len(rows) - 1)
            mask[rows[permutation(len(rows), 0, int(number), HELD_OUT)[:count]]] = True
        return self.subset(~mask, f"{self.name}, train"), self.subset(mask, f"{self.name}, held out")


def digits() -> ImageSet:
    """The 1,797 handwritten digits, 8 × 8 in 17 grey levels, that scikit-learn ships.

    Raises:
        MissingExtra: scikit-learn is not installed.
    """
    data = require("sklearn.datasets", "proof").load_digits()
    return ImageSet(
        (data.images[:, None] / 8 - 1).astype(np.float32),
        data.target.astype(np.int64),
        10,
        "digits",
        "Optical Recognition of Handwritten Digits (Alpaydin and Kaynak, UCI), CC BY 4.0, as shipped by scikit-learn",
    )
