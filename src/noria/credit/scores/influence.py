"""The influence of each token of a response on the model's own answer: OAR (arXiv 2601.07408).

    OAR-G   |∂φ/∂e_t · e_t|, φ the mean log-probability of the answer's tokens, e_t the embedding of token t
    OAR-P   mean over the answer's tokens of KL(p ‖ p with token t replaced)

OAR-G costs one forward and backward pass of the model, OAR-P one forward pass for every token.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from noria.credit.responses.traces import Traces

__all__ = ["by_gradient", "by_perturbation"]


def by_gradient(model: Any, traces: Traces) -> Tensor:
    """OAR-G's scores of rows of one sequence each, [batch, tokens]; gradients of parameters are not touched."""
    embedding = model.get_input_embeddings()
    embeds = embedding(traces.tokens).detach().requires_grad_(True)
    with torch.enable_grad():
        logits = model(
            inputs_embeds=embeds,
            attention_mask=traces.valid.long(),
            position_ids=traces.places,
            use_cache=False,
        ).logits
        logp = logits[:, :-1].float().log_softmax(-1)
        own = logp.gather(-1, traces.tokens[:, 1:, None])[..., 0]
        answer = traces.answer[:, 1:]
        mean = (own * answer).sum(1) / answer.sum(1).clamp(min=1)
        (gradient,) = torch.autograd.grad(mean.sum(), embeds)
    scores: Tensor = (gradient.float() * embeds.detach().float()).sum(-1).abs()
    return scores.where(traces.before_end(), 0.0)


@torch.no_grad()
def by_perturbation(model: Any, traces: Traces, *, replacement: int, batch_size: int = 32) -> Tensor:
    """OAR-P's scores, [batch, tokens].

    Args:
        model: causal language model.
        traces: rows of one sequence each.
        replacement: token id without a meaning, such as padding.
        batch_size: number of replaced tokens in one forward pass.
    """
    scores = torch.zeros(traces.tokens.shape, dtype=torch.float32, device=traces.tokens.device)
    wanted, places = traces.before_end() & ~traces.answer, traces.places
    for row in range(len(traces.tokens)):
        nodes = traces.answer[row].nonzero()[:, 0] - 1
        tokens_to_try = wanted[row].nonzero()[:, 0]
        if not len(nodes) or not len(tokens_to_try):
            continue

        def answers(tokens: Tensor, row: int = row, nodes: Tensor = nodes) -> Tensor:
            mask = traces.valid[row].long().expand(len(tokens), -1)
            positions = places[row].expand(len(tokens), -1)
            logits = model(tokens, attention_mask=mask, position_ids=positions, use_cache=False).logits
            logp: Tensor = logits[:, nodes].float().log_softmax(-1)
            return logp

        base = answers(traces.tokens[row][None])
        for part in torch.split(tokens_to_try, batch_size):
            tried = traces.tokens[row].repeat(len(part), 1)
            tried[torch.arange(len(part)), part] = replacement
            other = answers(tried)
            scores[row, part] = (base.exp() * (base - other)).sum(-1).mean(1)
    return scores
