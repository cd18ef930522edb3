"""Cross-attention over the global caption and the captions of actions."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.transformers.transformer_wan import WanAttention, WanAttnProcessor
from torch import Tensor

from noria.tryon.attention.rotary import rotate


class Captions(NamedTuple):
    """What cross-attention reads beside the hidden states. A tuple, so that offloading moves its tensors.

    Attributes:
        whole: embedded global caption `[batch, tokens, width]`.
        actions: embedded captions of actions `[batch, action tokens, width]`.
        query_turn: cosine and sine for the queries `[batch, queries, 1, head / 2]`; None where nothing turns.
        key_turn: cosine and sine for the action tokens `[batch, action tokens, 1, head / 2]`, or None.
        bias: what is added to the logits of the action tokens `[batch, 1, queries or 1, action tokens]`, or None.
        whole_bias: what is added to the logits of the global caption's tokens `[1, 1, 1, tokens]`, or None.
    """

    whole: Tensor
    actions: Tensor
    query_turn: tuple[Tensor, Tensor] | None
    key_turn: tuple[Tensor, Tensor] | None
    bias: Tensor | None
    whole_bias: Tensor | None = None


def folded(text: Tensor, states: Tensor) -> tuple[Tensor, Tensor | None]:
    """The global caption with its padding as one token: `n` equal keys weigh as one whose logit is greater by `log n`.

    Wan pads captions with zeros to 512 tokens, and attends to all of them.

    Args:
        text: embedded caption `[batch, tokens, width]`.
        states: the caption before it was embedded, zero where it is padded `[batch, tokens, text width]`.

    Returns:
        The tokens up to the longest caption's padding, with one of that, and what is added to their logits
        `[1, 1, 1, tokens]`; None where there is nothing to fold.
    """
    used = states.ne(0).any(-1).any(0).nonzero()
    length = int(used[-1]) + 1 if len(used) else 0
    same = states.shape[1] - length
    if same < 2:
        return text, None
    bias = text.new_zeros(1, 1, 1, length + 1, dtype=torch.float32)
    bias[..., -1] = math.log(same)
    return text[:, : length + 1], bias


class ActionAttnProcessor(WanAttnProcessor):  # type: ignore[misc]
    """Stock attention for a tensor; attention over both kinds of captions for `Captions`.

    Everything that a call depends on is in its arguments, so that gradient checkpointing recomputes the same.
    """

    def __init__(self, context: str) -> None:
        super().__init__()
        self.context = context

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Any = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Attend; the arguments are those of diffusers' processor, with `Captions` in place of a tensor of text."""
        if not isinstance(encoder_hidden_states, Captions):
            return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb)  # type: ignore[no-any-return]
        captions = encoder_hidden_states
        query = attn.norm_q(attn.to_q(hidden_states)).unflatten(2, (attn.heads, -1))
        turned = query if captions.query_turn is None else rotate(query, *captions.query_turn)
        key, value = _project(attn, captions.whole)
        action_key, action_value = _project(attn, captions.actions)
        if captions.key_turn is not None:
            action_key = rotate(action_key, *captions.key_turn)
        if self.context == "joint":
            bias = captions.bias
            if captions.whole_bias is not None:
                rest = action_key.new_zeros(1, 1, 1, action_key.shape[1]) if bias is None else bias
                bias = torch.cat([captions.whole_bias.expand(*rest.shape[:-1], -1), rest], dim=-1)
            else:
                bias = _with_zeros(bias, key.shape[1])
            mixed = self._attend(
                turned, torch.cat([key, action_key], 1), torch.cat([value, action_value], 1), bias
            )
        else:
            sink = attn.action_sink.to(action_key).unflatten(0, (attn.heads, -1))
            sink = sink.expand(len(action_key), 1, -1, -1)
            acted = self._attend(
                turned,
                torch.cat([sink, action_key], 1),
                torch.cat([torch.zeros_like(sink), action_value], 1),
                _with_zeros(captions.bias, 1),
            )
            mixed = self._attend(query, key, value, None)
            mixed = mixed + attn.action_gate.to(mixed) * acted
        return attn.to_out[1](attn.to_out[0](mixed))  # type: ignore[no-any-return]

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        bias = None if bias is None else bias.to(query.dtype)
        mixed = dispatch_attention_fn(
            query,
            key,
            value,
            attn_mask=bias,
            dropout_p=0.0,
            is_causal=False,
            backend=self._attention_backend,
            parallel_config=None,
        )
        return mixed.flatten(2, 3).type_as(query)  # type: ignore[no-any-return]


def _project(attn: WanAttention, states: Tensor) -> tuple[Tensor, Tensor]:
    """Keys, normalised across heads, and values: `[batch, tokens, heads, head]`."""
    key, value = (
        attn.to_kv(states).chunk(2, dim=-1)
        if attn.fused_projections
        else (attn.to_k(states), attn.to_v(states))
    )
    return attn.norm_k(key).unflatten(2, (attn.heads, -1)), value.unflatten(2, (attn.heads, -1))


def _with_zeros(bias: Tensor | None, number: int) -> Tensor | None:
    """The bias with zeros in front, for keys that every query sees."""
    if bias is None:
        return None
    return torch.cat([bias.new_zeros(*bias.shape[:-1], number), bias], dim=-1)
