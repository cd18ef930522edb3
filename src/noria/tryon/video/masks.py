"""Masks of the garment: one binary mask from any form, steady in time, without the hands, with a look at its faults.

A mask must not tell what the person does: one that follows a lifted hem shows the action, and the shape of the old
garment. `steady` widens it to all that it covers during an action.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Shape = Literal["outline", "box"]


def binary(pixels: Tensor) -> Tensor:
    """A mask `[frames, height, width]` of booleans from grey, colour or 0-1 values `[frames, height, width(, 3)]`."""
    values = pixels.float()
    values = values.mean(-1) if values.ndim == 4 else values
    return values > (0.5 if float(values.max()) <= 1 else 127.5)


def grown(mask: Tensor, pixels: int) -> Tensor:
    """Dilate `[frames, height, width]` by a square of `2 pixels + 1`; a negative number erodes."""
    if pixels == 0:
        return mask
    side = 2 * abs(pixels) + 1
    field = (mask if pixels > 0 else ~mask).float()[:, None]
    field = torch.nn.functional.max_pool2d(field, side, stride=1, padding=abs(pixels))[:, 0] > 0
    return field if pixels > 0 else ~field


def smoothed(mask: Tensor, window: int) -> Tensor:
    """The majority over `window` (odd) neighbouring frames, at each pixel; ends repeat the first and last frame."""
    if window <= 1 or len(mask) == 1:
        return mask
    half = window // 2
    padded = torch.cat([mask[:1].expand(half, -1, -1), mask, mask[-1:].expand(half, -1, -1)]).float()
    total = padded.cumsum(0)
    total = torch.cat([torch.zeros_like(total[:1]), total])
    return (total[window:] - total[:-window]) * 2 > window


def steady(mask: Tensor, spans: Sequence[tuple[int, int]]) -> Tensor:
    """In each span of frames `[first, last)`, all that the mask covers anywhere in the span."""
    result = mask.clone()
    for first, last in spans:
        result[first:last] |= mask[first:last].any(dim=0)
    return result


def without(mask: Tensor, hands: Tensor, erosion: int = 1) -> Tensor:
    """The mask without the hands, which are eroded first so that their edge is generated with the garment."""
    return mask & ~grown(hands, -erosion)


def loosened(mask: Tensor, shape: Shape) -> Tensor:
    """The mask itself (`outline`), or the box around it in each frame (`box`), which says nothing of a shape."""
    if shape == "outline":
        return mask
    rows, columns = mask.any(2), mask.any(1)
    return _filled(rows)[:, :, None] & _filled(columns)[:, None, :]


def _filled(line: Tensor) -> Tensor:
    """True between the first and the last true of each row."""
    return (line.cumsum(1) > 0) & (line.flip(1).cumsum(1).flip(1) > 0)


@dataclass(frozen=True)
class MaskFault:
    """A frame in which a mask is not to be trusted, and why."""

    frame: int
    reason: Literal["empty", "whole frame", "collapses", "jumps"]


def mask_faults(mask: Tensor, *, change: float = 2.0) -> list[MaskFault]:
    """Frames in which the mask is empty, covers all, or has an area far from that of the frames around it.

    Args:
        mask: mask `[frames, height, width]`.
        change: factor of the median area of the 9 frames around, beyond which an area is a fault.
    """
    areas = mask.flatten(1).float().mean(1)
    half = 4
    padded = torch.cat([areas[:1].expand(half), areas, areas[-1:].expand(half)])
    usual = padded.unfold(0, 2 * half + 1, 1).median(dim=1).values
    faults = []
    for frame, (area, around) in enumerate(zip(areas.tolist(), usual.tolist(), strict=True)):
        if area == 0:
            faults.append(MaskFault(frame, "empty"))
        elif area > 0.98:
            faults.append(MaskFault(frame, "whole frame"))
        elif area * change < around:
            faults.append(MaskFault(frame, "collapses"))
        elif area > around * change and around > 0:
            faults.append(MaskFault(frame, "jumps"))
    return faults


def feathered(mask: Tensor, pixels: int) -> Tensor:
    """Weights in 0-1 that are 0 outside the mask exactly and rise to 1 over `pixels` inside of it."""
    if pixels == 0:
        return mask.float()
    layers = [grown(mask, -step).float() for step in range(pixels + 1)]
    return torch.stack(layers).mean(0)


def blended(source: Tensor, generated: Tensor, mask: Tensor, feather: int) -> Tensor:
    """Put a generated video into its source: outside the mask each byte of the source stays as it is.

    Args:
        source: pixels `[frames, height, width, 3]`, bytes.
        generated: pixels of the same shape, 0-255 as bytes or floats.
        mask: mask `[frames, height, width]`.
        feather: width of the edge, inside the mask.
    """
    weights = feathered(mask, feather)[..., None]
    mixed = source.float() * (1 - weights) + generated.float() * weights
    return torch.where(mask[..., None], mixed.round().clamp(0, 255).to(torch.uint8), source)
