"""Which action each latent frame belongs to, and the positions that follow.

Wan's video autoencoder is causal: latent frame 0 covers pixel frame 0, latent frame t >= 1 covers frames 4t-3 .. 4t.
How the paper cuts a clip into segments is reconstructed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

STRIDE = 4
"""Pixel frames that a latent frame covers, after the first."""


def latent_frames(frames: int) -> int:
    """Latent frames of a clip of 4m + 1 pixel frames: m + 1."""
    if frames < 1 or frames % STRIDE != 1:
        raise ValueError(f"a clip of Wan has 4m + 1 frames, not {frames}")
    return (frames - 1) // STRIDE + 1


def coverage(spans: Sequence[tuple[float, float]], times: Sequence[float]) -> Tensor:
    """Share of each latent frame's pixel frames that lie in each span of seconds `[start, end)`.

    Args:
        spans: starts and ends in seconds.
        times: presentation time of each of the clip's 4m + 1 pixel frames, in seconds. At a constant rate a frame f
            lies in a span when ceil(fps * start) <= f < ceil(fps * end).

    Returns:
        Shares `[spans, latent frames]`.
    """
    number = latent_frames(len(times))
    at = torch.as_tensor(times, dtype=torch.float64) + 1e-6  # so that 3/fps is in a span that starts at 3/fps
    edges = torch.tensor(spans, dtype=torch.float64).reshape(-1, 2, 1)
    inside = ((edges[:, 0] <= at) & (at < edges[:, 1])).float()
    if number == 1:
        return inside[:, :1]
    return torch.cat([inside[:, :1], inside[:, 1:].reshape(len(inside), number - 1, STRIDE).mean(-1)], dim=1)


def assign(spans: Sequence[tuple[float, float]], times: Sequence[float]) -> Tensor:
    """The action of each latent frame: n for the n-th span in order of start, counted from 1, and 0 where none.

    A frame belongs to the span that covers most of it, if that is at least half; of equal ones, to the earlier. A
    span that touches the clip but wins no frame gets the one that it covers most, among those that no other span
    holds alone.

    Raises:
        ValueError: the spans are not in order of start, or one does not touch the clip.
    """
    if any(later[0] < earlier[0] for earlier, later in pairwise(spans)):
        raise ValueError("spans are given in order of start")
    segments = torch.zeros(latent_frames(len(times)), dtype=torch.long)
    if not spans:
        return segments
    shares = coverage(spans, times)
    if not bool((shares.amax(1) > 0).all()):
        raise ValueError("an action covers no frame of the clip")
    most, winner = shares.max(dim=0)  # the first of equal ones
    segments = torch.where(most >= 0.5, winner + 1, 0)
    for index in range(len(spans)):
        if not bool((segments == index + 1).any()):
            counts = torch.bincount(segments, minlength=len(spans) + 1)
            free = (segments == 0) | (counts[segments] > 1)
            wanted = torch.where(free, shares[index], torch.zeros(()))
            if float(wanted.max()) <= 0:
                raise ValueError(
                    f"action {index + 1} shares each of its frames with another: nothing is left for it"
                )
            segments[int(wanted.argmax())] = index + 1
    return segments


def positions(segments: Tensor, index: str) -> tuple[Tensor, dict[int, int]]:
    """Positions of latent frames and of the actions' captions, before the separation scale.

    Args:
        segments: the action of each latent frame `[latent frames]`, 0 for none.
        index: `anchored`: action n has position n, and frames without one have 0, as has the global caption, so that a
            clip without actions is the base model's. `paper`: the clip's maximal constant runs are numbered from 0,
            with and without action, and every query turns.

    Returns:
        Positions `[latent frames]`, and the position of each action. Under `paper` an action that is interrupted by
        another has that of its longest run.
    """
    if index == "anchored":
        return segments.clone(), {int(n): int(n) for n in sorted(set(segments.tolist())) if n > 0}
    if index != "paper":
        raise ValueError(f"index is anchored or paper, not {index}")
    values, inverse, counts = torch.unique_consecutive(segments, return_inverse=True, return_counts=True)
    runs: dict[int, int] = {}
    for run, value in enumerate(values.tolist()):
        if value > 0 and (value not in runs or counts[run] > counts[runs[value]]):
            runs[value] = run
    return inverse, runs


def relay_penalty(queries: Tensor, keys: Tensor, epsilon: float = 0.1) -> Tensor:
    """What a logit loses between a frame and a caption: `relu(|t - middle| - w)^2 / (2 sigma^2)`.

    The form is Prompt Relay's (arXiv 2604.10030); here w is half of a segment's half length, and sigma is such that
    exp(-penalty) = epsilon at the segment's ends (reconstructed).

    Args:
        queries: position of each frame `[batch, frames]`.
        keys: position of each token `[batch, tokens]`.
        epsilon: weight of a caption at the ends of its segment.

    Returns:
        Penalties `[batch, frames, tokens]`; infinite for a caption that no frame has.
    """
    same = queries[:, :, None] == keys[:, None, :]
    time = torch.arange(queries.shape[1], device=queries.device, dtype=torch.float32)[None, :, None]
    half = same.sum(1, keepdim=True) / 2
    middle = (same * time).sum(1, keepdim=True) / (2 * half).clamp(min=1)
    excess = ((time - middle).abs() - half / 2).clamp(min=0)
    penalty = math.log(1 / epsilon) * (excess / (half / 2).clamp(min=0.25)).square()
    return torch.where(half > 0, penalty, torch.inf)
