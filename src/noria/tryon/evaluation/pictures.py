"""Metrics of frames against their references: SSIM, and LPIPS with weights that a user supplies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from noria.core.errors import DataError
from noria.core.files import check_input, decoding

SIGMA, WINDOW = 1.5, 11
"""Deviation and side of SSIM's Gaussian window (Wang et al. 2004)."""
GROUP = 8
"""Frames that are compared at a time: SSIM takes some 450 bytes for each of their pixels."""


def ssim(one: Tensor, other: Tensor, peak: float = 255.0) -> Tensor:
    """Structural similarity of each frame `[frames]`, 1 for equal frames: the mean of its `ssim_map`."""
    groups = zip(torch.split(one, GROUP), torch.split(other, GROUP), strict=True)
    return torch.cat([ssim_map(a, b, peak).flatten(1).mean(1) for a, b in groups])


def ssim_map(one: Tensor, other: Tensor, peak: float = 255.0) -> Tensor:
    """Structural similarity at each pixel: Gaussian window, K1 = .01, K2 = .03, mean over channels.

    The pixels are those whose window lies in the frame, so 5 less on each side. The mean equals scikit-image's
    `structural_similarity` with `gaussian_weights=True, use_sample_covariance=False`.

    Args:
        one: frames `[frames, channels, height, width]`.
        other: frames of the same shape.
        peak: range of the values.

    Returns:
        `[frames, height - 10, width - 10]`.

    Raises:
        ValueError: the shapes differ, or a side is below 11 pixels.
    """
    if one.shape != other.shape:
        raise ValueError(f"frames of {list(one.shape)} and {list(other.shape)}")
    if min(one.shape[-2:]) < WINDOW:
        raise ValueError(f"a side is below {WINDOW} pixels")
    at = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    line = torch.exp(-at.square() / (2 * SIGMA**2))
    line = line / line.sum()

    def mean(x: Tensor) -> Tensor:
        flat = x.reshape(-1, 1, *x.shape[-2:])
        flat = torch.nn.functional.conv2d(flat, line.view(1, 1, -1, 1))
        return torch.nn.functional.conv2d(flat, line.view(1, 1, 1, -1))

    x, y = one.double(), other.double()
    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    values = (2 * mx * my + c1) * (2 * cov + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    return values.reshape(len(one), -1, *values.shape[-2:]).mean(1)


class Lpips(nn.Module):
    """LPIPS (Zhang et al. 2018) on AlexNet, from torchvision's AlexNet weights and the published linear heads.

    Args:
        backbone: state of AlexNet's `features`, by torchvision's names.
        heads: weights `[1, channels, 1, 1]` of the five layers, by the names of the package `lpips`
            (`lin0.model.1.weight`, …).
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, backbone: dict[str, Tensor], heads: dict[str, Tensor]) -> None:
        super().__init__()
        layers = [
            (3, 64, 11, 4, 2),
            (64, 192, 5, 1, 2),
            (192, 384, 3, 1, 1),
            (384, 256, 3, 1, 1),
            (256, 256, 3, 1, 1),
        ]
        places = (0, 3, 6, 8, 10)
        self.convolutions = nn.ModuleList(nn.Conv2d(i, o, k, s, p) for i, o, k, s, p in layers)
        for convolution, place in zip(self.convolutions, places, strict=True):
            state = {part: backbone[f"features.{place}.{part}"] for part in ("weight", "bias")}
            convolution.load_state_dict(state)
        self.heads = nn.ParameterList(
            [heads[f"lin{n}.model.1.weight"].reshape(1, -1, 1, 1) for n in range(5)]
        )
        self.register_buffer("mean", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1))
        self.requires_grad_(False).eval()

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        """Distance of frames `[frames, 3, height, width]` in -1 .. 1: `[frames]`, 0 for equal ones."""
        x, y = ((v - self.mean) / self.deviation for v in (one, other))
        total = torch.zeros(len(one))
        for place, (layer, head) in enumerate(zip(self.convolutions, self.heads, strict=True)):
            if place in (1, 2):
                x, y = (torch.nn.functional.max_pool2d(v, 3, 2) for v in (x, y))
            x, y = layer(x).relu(), layer(y).relu()
            a, b = (v / (v.square().sum(1, keepdim=True).sqrt() + 1e-10) for v in (x, y))
            total = total + ((a - b).square() * head).sum(1).mean(dim=(1, 2))
        return total


def open_lpips(backbone: Path, heads: Path) -> Lpips:
    """LPIPS from two weight files: safetensors, or PyTorch files that hold tensors alone.

    Raises:
        DataError: a file cannot be read, is of another network, or holds more than tensors.
    """
    states = [read_weights(path) for path in (backbone, heads)]
    with decoding(backbone, "AlexNet's weights with the heads of lpips"):
        return Lpips(*states)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a weight file; pickled objects are refused.

    Raises:
        DataError: the file cannot be read, or holds more than tensors.
    """
    check_input(path)
    with decoding(path, "a file of weights", mend="give safetensors"):
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
            raise DataError("it holds more than named tensors")
        return state
