"""A chain of draft steps over whole sequences at once: what each step reads, may attend to and is compared with.

Bebop, sec. 2 and the DeepSeek-V3 convention. The backbone's state h_t predicts y_{t+1}. Step k of the chain that starts
at root t reads y_{t+k} and the state of step k − 1 (h_t for the first), and predicts y_{t+k+1}, which the backbone
itself predicts from h_{t+k}. The chain counts as far as t … t+k+1 lie in one document.

What step k may attend to is where training and drafting can come apart. A head of one layer that is used again and
again keeps, while it drafts, the first step's keys of all tokens that were committed, and one key for each step of
the chain at hand. `ttt` computes just that for all roots at once (training-time test, as EAGLE-3 and HASS call it); in
`parallel` step k attends to step k of all roots before, which is how a head with a layer for each step drafts, too.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, Cache

from noria.core.errors import DataError

ATTENTION = "noria_chain"
"""The name of the attention below in a configuration's `_attn_implementation`."""
BLOCK = 1024
"""Queries of a forced chain that are attended for at once: weights of [heads, 1024, n] a row, not [heads, n, n]."""


class Alignment(NamedTuple):
    """Targets that the steps of each root are compared with, [rows, n, steps] each.

    Attributes:
        tokens: y_{t+k+1}, the token that the step predicts.
        teacher: index of h_{t+k} among the flattened states [rows · n].
        valid: t … t+k+1 lie in one document, and t+1 … t+k+1 in what is trained on.
    """

    tokens: Tensor
    teacher: Tensor
    valid: Tensor


def align(
    tokens: Tensor, steps: int, *, segments: Tensor | None = None, mask: Tensor | None = None
) -> Alignment:
    """Line up a chain's steps with tokens and teacher.

    Args:
        tokens: y [rows, n] int64.
        steps: number of steps of the chain.
        segments: number of each token's document [rows, n], negative for padding; all one by default.
        mask: tokens that are trained on [rows, n] bool; all by default.

    Raises:
        DataError: shapes that do not fit, or no step at all.
    """
    if tokens.ndim != 2 or steps < 1:
        raise DataError(
            f"tokens {list(tokens.shape)} with {steps} steps", mend="give [rows, n] and at least one"
        )
    segments = torch.zeros_like(tokens) if segments is None else segments
    mask = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask
    for name, tensor in (("segments", segments), ("mask", mask)):
        if tensor.shape != tokens.shape:
            raise DataError(
                f"{name} {list(tensor.shape)} for tokens {list(tokens.shape)}", mend="give one a token"
            )
    rows, n = tokens.shape
    flat = torch.arange(rows * n, device=tokens.device).view(rows, n)
    index = torch.arange(n, device=tokens.device)
    valid = (segments >= 0) & _reach(mask, segments, 1, index)
    targets, teachers, valids = [], [], []
    for step in range(1, steps + 1):
        valid = valid & _reach(mask, segments, step + 1, index)
        targets.append(shifted(tokens, step + 1))
        teachers.append(shifted(flat, step))
        valids.append(valid)
    return Alignment(torch.stack(targets, -1), torch.stack(teachers, -1), torch.stack(valids, -1))


def _reach(mask: Tensor, segments: Tensor, by: int, index: Tensor) -> Tensor:
    """Whether the token `by` places on is there, in the same document and trained on."""
    inside = index + by < len(index)
    return inside & shifted(mask, by) & (shifted(segments, by) == segments)


def shifted(x: Tensor, by: int) -> Tensor:
    """x[:, t + by] at t; what would lie behind the end is x's last."""
    index = torch.arange(x.shape[1], device=x.device).add(by).clamp(max=x.shape[1] - 1)
    return x[:, index]


def visible(segments: Tensor, begin: int, end: int) -> Tensor:
    """Mask [rows, 1, end − begin, end]: tokens begin … end−1 see themselves and what came before in their document."""
    index = torch.arange(end, device=segments.device)
    same = segments[:, begin:end, None] == segments[:, None, :end]
    return (same & (index[begin:, None] >= index))[:, None]


class ChainCache(Cache):  # type: ignore[misc]
    """Hands a step the keys of all steps so far, one step's n behind the other's: [rows, heads, steps · n, dim]."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Add a step's keys and values [rows, heads, n, dim]; all there are so far."""
        self._keys.append(key_states)
        self._values.append(value_states)
        return torch.cat(self._keys, 2), torch.cat(self._values, 2)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """None before the first step: its keys stand where its queries do."""
        return 0


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of [rows, heads, n, dim]: a mask of two dimensions is the segments [rows, n] of a forced chain."""
    if attention_mask is not None and attention_mask.ndim == 2:
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        out = _forced(query, key, value, attention_mask, scale)
    else:
        out = scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=attention_mask,
            dropout_p=dropout,
            scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )
    return out.transpose(1, 2).contiguous(), None


def _forced(query: Tensor, key: Tensor, value: Tensor, segments: Tensor, scale: float) -> Tensor:
    """Attention of all roots at once, in blocks of queries whose weights are not kept but computed again backwards.

    Where there are more keys than queries, they are those of several steps, one step's n behind the other's: a query
    sees the first step's up to its own root, and of each later step its own root's.
    """
    n = query.shape[2]
    steps, rest = divmod(key.shape[2], n)
    if rest or segments.shape[-1] != n:
        raise DataError(f"segments of {segments.shape[-1]} for {key.shape[2]} keys and {n} queries")
    own_key, own_value = (x.view(*x.shape[:2], steps, n, -1)[:, :, 1:] for x in (key, value))
    outputs = []
    for begin in range(0, n, BLOCK):
        end = min(begin + BLOCK, n)
        block = (
            query[:, :, begin:end],
            key[:, :, :end],
            value[:, :, :end],
            segments[:, :end],
            own_key[:, :, :, begin:end],
            own_value[:, :, :, begin:end],
            scale,
        )
        outputs.append(_block(*block) if n <= BLOCK else checkpoint(_block, *block, use_reentrant=False))
    return torch.cat(outputs, 2)


def _block(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: Tensor,
    own_key: Tensor,
    own_value: Tensor,
    scale: float,
) -> Tensor:
    """[rows, heads, m, dim]: softmax over keys [rows, shared, k, dim] and own ones [rows, shared, later, m, dim].

    The m queries are of the last of the k segments [rows, k].
    """
    rows, heads, m, _dim = query.shape
    shared, earlier = key.shape[1:3]
    mask = visible(segments, earlier - m, earlier)
    if not own_key.shape[2]:
        return scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=scale, enable_gqa=heads != shared
        )
    q = query.view(rows, shared, heads // shared, m, -1) * scale
    first = (q @ key[:, :, None].transpose(-1, -2)).masked_fill(~mask[:, :, None], -torch.inf)
    own = torch.einsum("bhgnd,bhsnd->bhgns", q, own_key)
    weights = torch.cat([first, own], -1).softmax(-1, dtype=torch.float32).to(value.dtype)
    out = weights[..., :earlier] @ value[:, :, None]
    out = out + torch.einsum("bhgns,bhsnd->bhgnd", weights[..., earlier:], own_value)
    return out.reshape(rows, heads, m, -1)


AttentionInterface.register(ATTENTION, _attention)
