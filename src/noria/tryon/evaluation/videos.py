"""Fréchet distances of videos (FVD, VFID): windows of frames, features of a network, two Gaussians.

The network is the user's; `PixelFeatures` is a small exact one, for tests and relative comparison of one set-up.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from noria.core.errors import DataError
from noria.core.files import check_input, decoding

Features = Callable[[Tensor], Tensor]
"""Windows `[windows, 3, frames, height, width]` in -1 .. 1 to features `[windows, width]`."""


def windows(frames: NDArray[np.uint8], length: int, stride: int | None = None) -> Iterator[Tensor]:
    """Windows of a video `[3, length, height, width]` in -1 .. 1; every frame is in one of them.

    Args:
        frames: pixels `[frames, height, width, 3]`, RGB.
        length: frames of a window; a shorter video repeats its last frame.
        stride: frames between the starts of windows; `length` by default.
    """
    last = max(0, len(frames) - length)
    for start in sorted({*range(0, last + 1, stride or length), last}):
        part = torch.as_tensor(frames[start : start + length]).permute(3, 0, 1, 2).float().div_(127.5).sub_(1)
        if missing := length - part.shape[1]:
            part = torch.cat([part, part[:, -1:].expand(-1, missing, -1, -1)], dim=1)
        yield part


class CatV2TonWindows:
    """The windows that CatV2TON's `eval_video_metrics.py` measures VFID on, whose figures others compare with.

    It counts the windows of all videos together, finds a window's video by bisection, and subtracts the number of
    windows up to and with that video instead of before it. Each start is so 0 or negative, which OpenCV reads as 0: a
    video gives its first frames again and again. Channels are in the order BGR.

    Args:
        length: frames of a window.
    """

    def __init__(self, length: int = 10) -> None:
        self.length = length
        self._frames, self._given = 0, 0

    def __call__(self, frames: NDArray[np.uint8], last: bool) -> Iterator[Tensor]:
        """Windows of the next video, in the script's order of files.

        Args:
            frames: pixels `[frames, height, width, 3]`, RGB.
            last: whether no video follows, which the number of windows ends before.

        Raises:
            DataError: the video is shorter than a window, where the script stops, too.
        """
        # The first video has the windows 0 .. its accumulated number, each next one those up to its own.
        self._frames += len(frames)
        upto = self._frames // self.length + 1
        times = max(0, upto - self._given) - last
        self._given = max(self._given, upto)
        if times > 0 and len(frames) < self.length:
            raise DataError(
                f"a video of {len(frames)} frames, and a window has {self.length}", where="compat catv2ton"
            )
        first = torch.tensor(frames[: self.length, :, :, ::-1].copy()).permute(3, 0, 1, 2).float() / 127.5 - 1
        for _ in range(times):
            yield first


class Moments:
    """Mean and covariance of the features of windows, each of which is looked at once.

    The windows of a batch lie in memory that the next batch is written to: features must not keep them.

    Args:
        features: what is measured of windows.
        batch: windows that are measured together.
    """

    def __init__(self, features: Features, batch: int = 8) -> None:
        self.features, self.batch, self.number = features, batch, 0
        self._room, self._waiting = torch.empty(0), 0
        self._total: NDArray[np.float64] | None = None
        self._products: NDArray[np.float64] | None = None

    def add(self, parts: Iterable[Tensor]) -> None:
        """Take in windows `[3, frames, height, width]` in -1 .. 1."""
        for part in parts:
            if part.shape != self._room.shape[1:]:
                self._measure()
                self._room = torch.empty(self.batch, *part.shape)
            self._room[self._waiting] = part
            self._waiting += 1
            if self._waiting == self.batch:
                self._measure()

    def result(self) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
        """Mean, covariance and number of the features of all windows.

        Raises:
            DataError: there are fewer than two windows.
        """
        self._measure()
        if self.number < 2 or self._total is None or self._products is None:
            raise DataError(
                f"{self.number} windows; a covariance needs two", mend="give longer or more videos"
            )
        mean = self._total / self.number
        covariance = (self._products - self.number * np.outer(mean, mean)) / (self.number - 1)
        return mean, covariance, self.number

    def _measure(self) -> None:
        if not self._waiting:
            return
        with torch.inference_mode():
            values = self.features(self._room[: self._waiting]).double().numpy()
        self.number, self._waiting = self.number + len(values), 0
        total, products = values.sum(0), values.T @ values
        self._total = total if self._total is None else self._total + total
        self._products = products if self._products is None else self._products + products


def moments(
    parts: Iterable[Tensor], features: Features, batch: int = 8
) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """Mean, covariance and number of the features of windows: `Moments` of all of them.

    Raises:
        DataError: there are fewer than two windows.
    """
    gathered = Moments(features, batch)
    gathered.add(parts)
    return gathered.result()


def frechet(
    one: tuple[NDArray[np.float64], NDArray[np.float64]],
    other: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> float:
    """`|m - m'|^2 + tr(S + S' - 2 (S S')^(1/2))` of two Gaussians (Dowson and Landau 1982).

    The trace of the root is the sum of the square roots of the eigenvalues of `S^(1/2) S' S^(1/2)`, which is symmetric.
    """
    (m1, s1), (m2, s2) = one, other
    values, vectors = np.linalg.eigh(s1)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    between = np.sqrt(np.linalg.eigvalsh(root @ s2 @ root).clip(0)).sum()
    return float(np.square(m1 - m2).sum() + np.trace(s1) + np.trace(s2) - 2 * between)


class PixelFeatures:
    """Means of blocks in space and of thirds in time, and how they change: the same for everybody, and no network.

    Args:
        grid: blocks each way.
    """

    def __init__(self, grid: int = 4) -> None:
        self.grid = grid

    def __call__(self, parts: Tensor) -> Tensor:
        """Features `[windows, 2 * 3 * 3 * grid * grid]`."""
        moves = (parts[:, :, 1:] - parts[:, :, :-1]).abs_()
        return torch.cat([self._means(values).flatten(1) for values in (parts, moves)], dim=1)

    def _means(self, values: Tensor) -> Tensor:
        """Block means `[windows, 3, 3, grid, grid]`: adaptive pooling, an axis at a time.

        Rows go first: whole rows are added to one another, where a product along the rows would end in four columns.
        """
        frames, height, width = values.shape[2:]
        if height % self.grid:  # the bins of adaptive pooling overlap
            rows = _shares(height, self.grid).T @ values
        else:
            rows = values.reshape(*values.shape[:3], self.grid, -1, width).mean(4)
        return torch.einsum("bcfhw,ft->bcthw", rows @ _shares(width, self.grid), _shares(frames, 3))


@functools.cache
def _shares(length: int, parts: int) -> Tensor:
    """Weights `[length, parts]` of the means over the bins of adaptive pooling."""
    weights = torch.zeros(length, parts)
    for part in range(parts):
        first, last = part * length // parts, -(-(part + 1) * length // parts)
        weights[first:last, part] = 1 / (last - first)
    return weights


class ScriptFeatures:
    """A network that a user supplies as a TorchScript file, such as the I3D of FVD.

    TorchScript runs in PyTorch's interpreter, not in Python; the file is the user's own choice all the same.

    Args:
        path: the file.
        side: pixels that windows are scaled to, each way.
    """

    def __init__(self, path: Path, side: int = 224) -> None:
        check_input(path)
        with decoding(path, "a TorchScript network"):
            self.network: Any = torch.jit.load(str(path), map_location="cpu").eval()  # type: ignore[no-untyped-call]
        self.path, self.side = path, side

    def __call__(self, parts: Tensor) -> Tensor:
        """Features `[windows, width]` of the network.

        Raises:
            DataError: it takes no such windows.
        """
        size = (parts.shape[2], self.side, self.side)
        with decoding(self.path, "a network of video windows"):
            values = self.network(torch.nn.functional.interpolate(parts, size=size, mode="trilinear"))
            return values.reshape(len(parts), -1)  # type: ignore[no-any-return]
