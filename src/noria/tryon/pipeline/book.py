"""The segment book of a clip: which action each latent frame of the whole clip has, and what a chunk sees of it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from noria.core.errors import DataError
from noria.tryon.actions.reading import Action
from noria.tryon.attention.segments import assign, positions


@dataclass(frozen=True)
class ChunkSegments:
    """Actions of a chunk.

    Attributes:
        queries: position of each latent frame `[latent frames]`, before the separation scale.
        captions: captions of the chunk's actions, in order of their first frame.
        keys: position of each caption.
    """

    queries: Tensor
    captions: tuple[str, ...]
    keys: tuple[int, ...]


@dataclass(frozen=True)
class SegmentBook:
    """Actions of a clip in order of their start, and the action of each latent frame, counted from 1; 0 is none.

    Attributes:
        actions: the actions.
        table: action of each latent frame of the whole clip `[latent frames]`.
    """

    actions: tuple[Action, ...]
    table: Tensor

    def chunk(self, start: int, frames: int, index: str) -> ChunkSegments:
        """Segments of the latent frames `start .. start + frames`, numbered anew, as in a clip of its own.

        Args:
            start: first latent frame.
            frames: number of latent frames.
            index: way of counting of `noria.tryon.attention.segments.positions`.
        """
        part = self.table[start : start + frames]
        known = [n for n in dict.fromkeys(part.tolist()) if n]
        number = {n: place for place, n in enumerate(known, 1)}
        queries, keys = positions(torch.tensor([number.get(n, 0) for n in part.tolist()]), index)
        captions = tuple(self.actions[n - 1].caption for n in known)
        return ChunkSegments(queries, captions, tuple(keys[number[n]] for n in known))

    def frame_spans(self, seconds: Sequence[float]) -> list[tuple[int, int]]:
        """First and last frame (exclusive) of each action, by the times of the frames."""
        at = torch.as_tensor(seconds, dtype=torch.float64) + 1e-6
        inside = [((action.start <= at) & (at < action.end)).nonzero().flatten() for action in self.actions]
        return [(int(span[0]), int(span[-1]) + 1) for span in inside if len(span)]


def make_book(actions: Sequence[Action], seconds: Sequence[float], duration: float) -> SegmentBook:
    """Assign the latent frames of a clip to its actions.

    Args:
        actions: actions, in any order.
        seconds: time of each frame of the padded clip, 4m + 1 of them.
        duration: length of the clip in seconds.

    Raises:
        DataError: an action begins after the clip's end, falls between two frames, or has no frame to itself.
    """
    ordered = tuple(sorted(actions, key=lambda action: (action.start, action.end)))
    for number, action in enumerate(ordered, 1):
        if action.start >= duration:
            raise DataError(
                f"it starts at {action.start:.2f} s, and the clip ends at {duration:.2f} s",
                where=f"action {number}",
                mend="times are seconds from the clip's start",
            )
        if action.end > duration + 0.05:
            warnings.warn(f"action {number} is cut at the clip's end, {duration:.2f} s", stacklevel=2)
    for number, (one, other) in enumerate(pairwise(ordered), 1):
        if other.start < one.end:
            warnings.warn(
                f"actions {number} and {number + 1} overlap; a frame goes to the one that covers more of it",
                stacklevel=2,
            )
    try:
        table = assign([(action.start, action.end) for action in ordered], seconds)
    except ValueError as error:
        raise DataError(str(error), where="actions", mend="make it longer, or leave it out") from None
    return SegmentBook(ordered, table)
