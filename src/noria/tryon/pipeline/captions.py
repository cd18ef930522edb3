"""Captions of actions as tokens: each is encoded by itself, and keeps only its own tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from noria.tryon.pipeline.book import ChunkSegments

LONGEST = 64
"""Most tokens of an action's caption; what is longer is cut."""


class ActionTokens(NamedTuple):
    """What the transformer takes of the actions of a batch.

    Attributes:
        states: encoded captions one after the other `[batch, tokens, width]`.
        keys: position of each token `[batch, tokens]`.
        queries: position of each latent frame, reference frames included `[batch, frames]`.
        mask: False on padding `[batch, tokens]`.
    """

    states: Tensor
    keys: Tensor
    queries: Tensor
    mask: Tensor

    def arguments(self) -> dict[str, Tensor]:
        """Arguments of the transformer by name."""
        return {
            "action_hidden_states": self.states,
            "action_positions": self.keys,
            "query_positions": self.queries,
            "action_mask": self.mask,
        }


def encode_texts(tokenizer: Any, encoder: Any, texts: Sequence[str], longest: int = LONGEST) -> list[Tensor]:
    """States `[tokens, width]` of each text, without padding."""
    if not texts:
        return []
    given = tokenizer(
        list(texts),
        padding=True,
        truncation=True,
        max_length=longest,
        add_special_tokens=True,
        return_tensors="pt",
    )
    device = encoder.device
    states = encoder(given.input_ids.to(device), given.attention_mask.to(device)).last_hidden_state
    return [row[: int(mask.sum())] for row, mask in zip(states, given.attention_mask, strict=True)]


def pack_actions(
    encoded: Sequence[Sequence[Tensor]],
    segments: Sequence[ChunkSegments],
    references: int,
    empty: Tensor | None,
) -> ActionTokens | None:
    """Lay out the encoded captions of a batch; None where no clip has an action.

    Args:
        encoded: states of each clip's captions.
        segments: actions of each clip.
        references: leading reference frames, which belong to no action.
        empty: states of the empty caption, which frames without an action read in a clip that has some, where all
            captions share one attention; None where such frames have a sink of their own.
    """
    if not any(encoded):
        return None
    rows, places = [], []
    for states, clip in zip(encoded, segments, strict=True):
        parts = [(state, key) for state, key in zip(states, clip.keys, strict=True)]
        parts += [(empty, 0)] if parts and empty is not None else []
        rows.append(torch.cat([state for state, _ in parts]) if parts else None)
        places.append([key for state, key in parts for _ in range(len(state))])
    like = next(row for row in rows if row is not None)
    longest = max(len(place) for place in places)
    packed = like.new_zeros(len(rows), longest, like.shape[1])
    keys = torch.zeros(len(rows), longest, dtype=torch.long, device=like.device)
    mask = torch.zeros(len(rows), longest, dtype=torch.bool, device=like.device)
    for number, (row, place) in enumerate(zip(rows, places, strict=True)):
        if row is not None:
            packed[number, : len(row)], mask[number, : len(row)] = row, True
            keys[number, : len(row)] = torch.tensor(place, device=like.device)
    queries = torch.stack([clip.queries for clip in segments]).to(like.device)
    return ActionTokens(packed, keys, torch.nn.functional.pad(queries, (references, 0)), mask)
