"""Image quality: the benchmark's formula exactly, and the same with a sharpness that blur lowers and noise does
not pass.

Source: the released evaluator of TVIR (arXiv 2606.02320), read in its code: Q = .25 R + .15 A + .35 S + .25 C. Its
sharpness S is the variance of Laplacians and is saturated on real pictures: blur of five pixels keeps it at 1, and
random noise has Q = 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

WEIGHTS = {"resolution": 0.25, "aspect": 0.15, "sharpness": 0.35, "contrast": 0.25}
NEAR = 10
"""Largest Hamming distance of the 64-bit hashes of duplicates."""
Gray = NDArray[np.float64]


class Quality(msgspec.Struct, frozen=True):
    """Parts of the quality of a picture, each in 0 … 1, and their weighted sum."""

    resolution: float
    aspect: float
    sharpness: float
    contrast: float
    total: float


def gray_of(image: Any) -> Gray:
    """Brightness of a picture [height, width], 0 … 255, by the weights .299, .587, .114, rounded as OpenCV rounds."""
    rgb = np.asarray(image.convert("RGB"), dtype=np.float64)
    return np.asarray(np.floor(rgb @ np.array([0.299, 0.587, 0.114]) + 0.5))


def image_quality(image: Any, *, repaired: bool = False) -> Quality:
    """Quality of a picture.

    Args:
        image: a Pillow image.
        repaired: whether sharpness is the repaired one; by default it is the benchmark's.
    """
    gray = gray_of(image)
    height, width = gray.shape
    parts = {
        "resolution": min(1.0, min(height, width) / 400),
        "aspect": aspect_score(max(height, width) / max(1, min(height, width))),
        "sharpness": repaired_sharpness(gray) if repaired else official_sharpness(gray),
        "contrast": contrast_score(gray),
    }
    return Quality(**parts, total=sum(WEIGHTS[name] * value for name, value in parts.items()))


def aspect_score(ratio: float) -> float:
    """A = 1 up to 2, then 1 − (a − 2)/4 up to 4, then .5 − (a − 4)/8, not below 0."""
    if ratio <= 2:
        return 1.0
    return 1 - (ratio - 2) / 4 if ratio <= 4 else max(0.0, 0.5 - (ratio - 4) / 8)


def laplacian(gray: Gray, size: int) -> Gray:
    """Laplacian with OpenCV's kernels of size 1, 3 and 5, borders mirrored without the edge."""
    from scipy.ndimage import correlate, correlate1d

    if size == 1:
        return np.asarray(correlate(gray, np.array([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]), mode="mirror"))
    if size == 3:
        return np.asarray(correlate(gray, np.array([[2.0, 0, 2], [0, -8, 0], [2, 0, 2]]), mode="mirror"))
    second, smooth = np.array([1.0, 0, -2, 0, 1]), np.array([1.0, 4, 6, 4, 1])
    across = correlate1d(correlate1d(gray, second, axis=1, mode="mirror"), smooth, axis=0, mode="mirror")
    down = correlate1d(correlate1d(gray, second, axis=0, mode="mirror"), smooth, axis=1, mode="mirror")
    return np.asarray(across + down)


def official_sharpness(gray: Gray) -> float:
    """S = clip((.5 L1 + .3 L3 + .2 L5) / τ, 0, 1), Lk the variance of the Laplacian of size k; τ by brightness."""
    raw = sum(weight * float(laplacian(gray, size).var()) for weight, size in ((0.5, 1), (0.3, 3), (0.2, 5)))
    mean = gray.mean()
    return float(np.clip(raw / (90 if mean > 120 else 80 if mean > 80 else 50), 0, 1))


def repaired_sharpness(gray: Gray) -> float:
    """Sharpness that falls with blur and that noise does not pass: width of edges, times coherence of what is fine.

    The share of gradient energy that a blur of one pixel takes away is large for sharp edges and small for blurred
    ones.
    Noise loses more than any edge does and has no direction, so both the loss above that of an ideal edge and the
    lack of coherence of gradients (eigenvalues of the structure tensor) count against it.
    """
    from scipy.ndimage import gaussian_filter, sobel

    def energy(field: Gray) -> tuple[Gray, Gray]:
        return sobel(field, axis=1), sobel(field, axis=0)

    gx, gy = energy(gray)
    total = float((gx**2 + gy**2).sum())
    if total <= 0:
        return 0.0
    bx, by = energy(gaussian_filter(gray, 1.0, mode="mirror"))
    lost = 1 - float((bx**2 + by**2).sum()) / total
    xx, yy, xy = (gaussian_filter(part, 2.0, mode="mirror") for part in (gx * gx, gy * gy, gx * gy))
    gap, size = np.sqrt((xx - yy) ** 2 + 4 * xy**2), xx + yy
    coherence = float(gap.sum() / max(size.sum(), 1e-12))
    edge = float(np.clip(lost / 0.35, 0, 1)) * float(np.clip((0.95 - lost) / 0.25, 0, 1))
    return edge * float(np.clip((coherence - 0.2) / 0.35, 0, 1))


def contrast_score(gray: Gray) -> float:
    """C = clip((.7 σ + .3 median σ of blocks) / κ, 0, 1); blocks of max(min(h, w) // 4, 64) pixels, κ by brightness."""
    side = max(min(gray.shape) // 4, 64)
    blocks = [
        float(gray[y : y + side, x : x + side].std())
        for y in range(0, gray.shape[0], side)
        for x in range(0, gray.shape[1], side)
    ]
    mean = gray.mean()
    raw = 0.7 * float(gray.std()) + 0.3 * float(np.median(blocks))
    return float(np.clip(raw / (45 if mean > 120 else 55 if mean > 80 else 50), 0, 1))


def perceptual_hash(image: Any) -> int:
    """64-bit pHash: signs of the 8 × 8 lowest cosine coefficients of a 32 × 32 picture against their median."""
    from PIL import Image
    from scipy.fft import dct

    small = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.LANCZOS), dtype=np.float64)
    low = dct(dct(small, axis=0), axis=1)[:8, :8]
    bits = (low > np.median(low)).ravel()
    return int("".join("1" if bit else "0" for bit in bits), 2)


def duplicate_share(hashes: Sequence[int]) -> float:
    """Σ(|g| − 1) / N over groups of pictures whose hashes differ in at most `NEAR` bits, joined in order."""
    groups: list[list[int]] = []
    for value in hashes:
        for group in groups:
            if (group[0] ^ value).bit_count() <= NEAR:
                group.append(value)
                break
        else:
            groups.append([value])
    return sum(len(group) - 1 for group in groups) / len(hashes) if hashes else 0.0


def report_quality(totals: Sequence[float], hashes: Sequence[int]) -> float | None:
    """Mean quality × (1 − min(.5, .8 duplicates)); None without pictures."""
    if not totals:
        return None
    return sum(totals) / len(totals) * (1 - min(0.5, 0.8 * duplicate_share(hashes)))
