"""Rollouts: tokens drawn from a model in batches, from random numbers that are passed in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from noria.core.errors import DivergenceError
from noria.credit.responses.answers import Finder, finder

__all__ = ["Rollout", "answers", "sample"]


@dataclass(frozen=True)
class Rollout:
    """What was written behind a prompt.

    Attributes:
        tokens: ids, the end token included where it came.
        logprobs: of each, under the tempered distribution it was drawn from.
        ended: whether it came to its end token, or was cut.
    """

    tokens: list[int]
    logprobs: list[float]
    ended: bool


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
    on_token: Callable[[int], None] | None = None,
) -> list[Rollout]:
    """One rollout of each prompt, all at once, with a cache; temperature 0 takes the likeliest token.

    Args:
        model: a causal language model of transformers.
        prompts: ids of each, none empty.
        new: the most tokens of each.
        temperature: divides logits.
        generator: of what is drawn, on the CPU; needed where the temperature is not 0.
        eos: ids that end a rollout.
        pad: id of padding, in front of shorter prompts.
        hidden: of each prompt, which of its tokens nothing may attend to; the others stay where they are.
        on_token: called with the number of tokens drawn so far.

    Raises:
        DivergenceError: logits that are not finite.
    """
    device = next(model.parameters()).device
    width = max(map(len, prompts))
    tokens = torch.full((len(prompts), width), pad, device=device)
    mask = torch.zeros_like(tokens)
    for row, prompt in enumerate(prompts):
        tokens[row, width - len(prompt) :] = torch.tensor(prompt, device=device)
        mask[row, width - len(prompt) :] = 1
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    if hidden is not None:
        for row, gone in enumerate(hidden):
            mask[row, width - len(gone) :] &= ~torch.tensor(gone, device=device)
    ends = torch.tensor(list(eos), device=device, dtype=torch.long)
    alive = torch.ones(len(prompts), dtype=torch.bool, device=device)
    drawn: list[Tensor] = []
    scores: list[Tensor] = []
    lengths = torch.zeros(len(prompts), dtype=torch.long, device=device)
    cache: Any = None
    training = model.training
    model.eval()
    try:
        for count in range(new):
            out = model(
                input_ids=tokens,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
            )
            cache, logits = out.past_key_values, out.logits[:, -1].float()
            logp = (logits / temperature if temperature else logits).log_softmax(-1)
            if not torch.isfinite(logits).all():
                raise DivergenceError(
                    "the model's logits are not finite", where=f"token {count} of a rollout"
                )
            if temperature:
                noise = torch.rand(logp.shape, generator=generator).to(device)
                chosen = (logp.exp() / (-noise.clamp(min=1e-20).log())).argmax(
                    -1
                )  # exponential races: a draw by argmax
            else:
                chosen = logp.argmax(-1)
            drawn.append(chosen)
            scores.append(logp.gather(1, chosen[:, None])[:, 0])
            lengths += alive
            alive = alive & ~torch.isin(chosen, ends)
            if on_token is not None:
                on_token(count + 1)
            if not alive.any():
                break
            tokens, positions = chosen[:, None], positions[:, -1:] + 1
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
    finally:
        model.train(training)
    whole, logprobs = torch.stack(drawn, 1).tolist(), torch.stack(scores, 1).tolist()
    return [
        Rollout(row[:n], logp[:n], not going)
        for row, logp, n, going in zip(whole, logprobs, lengths.tolist(), alive.tolist(), strict=True)
    ]


def answers(responses: Sequence[Sequence[int]], tokenizer: Any, find: str | Finder) -> list[str | None]:
    """The text of each response's answer, None where it has none."""
    look, found = finder(find), []
    for ids in responses:
        text = tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        span = look(text)
        found.append(None if span is None else text[slice(*span)])
    return found
