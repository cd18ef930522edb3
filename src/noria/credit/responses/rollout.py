"""Rollouts: responses drawn from a model in batches, from random numbers that are passed in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from noria.core.errors import DivergenceError

__all__ = ["Rollout", "end_and_pad", "sample"]


@dataclass(frozen=True)
class Rollout:
    """The response to a prompt.

    Attributes:
        tokens: token ids, the end token included where it was drawn.
        logprobs: log-probability of each token under the tempered distribution it was drawn from.
        ended: whether the end token was drawn; otherwise the response was cut.
    """

    tokens: list[int]
    logprobs: list[float]
    ended: bool


def end_and_pad(tokenizer: Any) -> tuple[list[int], int]:
    """The ids that end a response, and the id of padding; a tokenizer without padding pads with its end token."""
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    return [] if end is None else [int(end)], int(pad if pad is not None else end or 0)


@torch.no_grad()
def sample(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    new: int,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    eos: Sequence[int] = (),
    pad: int = 0,
    hidden: Sequence[Sequence[bool]] | None = None,
) -> list[Rollout]:
    """Draw one rollout of each prompt, all in one batch with a cache; temperature 0 takes the likeliest token.

    Args:
        model: causal language model of transformers.
        prompts: token ids of each prompt, none empty.
        new: most tokens of a response.
        temperature: divisor of the logits.
        generator: generator of the random numbers, on the CPU; needed unless the temperature is 0.
        eos: ids that end a rollout.
        pad: id of padding, in front of shorter prompts.
        hidden: for each prompt, the tokens that no token may attend to; positions do not change.

    Raises:
        DivergenceError: the model's logits are not finite.
    """
    device = next(model.parameters()).device
    width = max(map(len, prompts))
    tokens = torch.full((len(prompts), width), pad, device=device)
    mask = torch.zeros_like(tokens)
    for row, prompt in enumerate(prompts):
        tokens[row, width - len(prompt) :] = torch.tensor(prompt, device=device)
        mask[row, width - len(prompt) :] = 1
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    for row, marks in enumerate(hidden or ()):
        mask[row, width - len(marks) :] &= ~torch.tensor(marks, device=device)
    ends = torch.tensor(list(eos), device=device, dtype=torch.long)
    alive = torch.ones(len(prompts), dtype=torch.bool, device=device)
    lengths = torch.zeros(len(prompts), dtype=torch.long, device=device)
    drawn: list[Tensor] = []
    logprobs: list[Tensor] = []
    cache: Any = None
    training = model.training
    model.eval()
    try:
        for count in range(new):
            output = model(
                input_ids=tokens,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
            )
            cache, logits = output.past_key_values, output.logits[:, -1].float()
            if not torch.isfinite(logits).all():
                raise DivergenceError(
                    "the model's logits are not finite", where=f"token {count} of a rollout"
                )
            logp = (logits / temperature if temperature else logits).log_softmax(-1)
            chosen = _drawn(logp, generator) if temperature else logp.argmax(-1)
            drawn.append(chosen)
            logprobs.append(logp.gather(1, chosen[:, None])[:, 0])
            lengths += alive
            alive = alive & ~torch.isin(chosen, ends)
            if not alive.any():
                break
            tokens, positions = chosen[:, None], positions[:, -1:] + 1
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
    finally:
        model.train(training)
    return [
        Rollout(row[:length], logp[:length], not cut)
        for row, logp, length, cut in zip(
            torch.stack(drawn, 1).tolist(),
            torch.stack(logprobs, 1).tolist(),
            lengths.tolist(),
            alive.tolist(),
            strict=True,
        )
    ]


def _drawn(logp: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw a token from each row by an exponential race, which is a draw by argmax."""
    noise = torch.rand(logp.shape, generator=generator).to(logp.device)
    return (logp.exp() / (-noise.clamp(min=1e-20).log())).argmax(-1)
