"""How much of a head's drafts would be accepted, from one forced pass over the policy's own text, by every rule."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from noria.core.errors import DataError
from noria.core.stats import Interval, cluster_bootstrap_mean
from noria.mtp.acceptance import (
    ChainAcceptance,
    accept_length,
    factorised_prefix_rates,
    summarise,
    unbiased_prefix_rates,
)
from noria.mtp.chain import align
from noria.mtp.data import Rows
from noria.mtp.entropy import entropy
from noria.mtp.heads import MTPHead, backbone_states
from noria.mtp.names import ChainAttention, Rule
from noria.mtp.sampling import SamplingParams, processed

__all__ = ["HeadScore", "RuleScore", "evaluate_head"]

LARGEST = 2**25
"""Probabilities held at once for each side."""


@dataclass(frozen=True)
class RuleScore:
    """A head under one rule of verification.

    Attributes:
        chains: prefix and conditional rates, accept length, by the estimator without bias.
        length: the accept length with its interval, a row of text a cluster.
        rates: the prefix rate of each step with its interval.
    """

    chains: ChainAcceptance
    length: Interval
    rates: Sequence[Interval]


@dataclass(frozen=True)
class HeadScore:
    """A head on some text.

    Attributes:
        rules: by rule of verification.
        factorised: the accept length by the paper's product, which is biased, under rejection.
        target_entropy: mean of H(p) over the chains' steps, nats.
        draft_entropy: mean of H(q), nats.
        chains: how many were read.
    """

    rules: Mapping[Rule, RuleScore]
    factorised: float
    target_entropy: float
    draft_entropy: float
    chains: int


@torch.no_grad()
def evaluate_head(
    backbone: Any,
    head: MTPHead,
    rows: Rows,
    *,
    gamma: int = 3,
    rules: Sequence[Rule] = ("rejection", "target_only"),
    params: SamplingParams | None = None,
    vocab: int | None = None,
    batch_size: int = 8,
    chain_attention: ChainAttention | None = None,
    seed: int = 0,
    on_rows: Callable[[int], None] | None = None,
) -> HeadScore:
    """Score a head.

    The text must be the policy's own, sampled with the same `params`: the estimator weighs each step by the chance that
    an accepted prefix reads like the text.

    Args:
        backbone: the model.
        head: its head.
        rows: the text.
        gamma: drafts a round.
        rules: of verification.
        params: temperature and filters, for both sides.
        vocab: how many logits are real tokens; all by default.
        batch_size: rows at a time.
        chain_attention: as in training; by default as the head drafts.
        seed: of the bootstrap.
        on_rows: called with the number of rows done.

    Raises:
        DataError: no document holds a whole chain.
    """
    params = params or SamplingParams()
    device = next(head.parameters()).device
    found: dict[Rule, list[torch.Tensor]] = {rule: [] for rule in rules}
    product, nats, clusters = [], [], []
    output: Any = head.output
    head.eval()
    for start in range(0, len(rows), batch_size):
        batch = rows[slice(start, start + batch_size)].to(device)
        hidden = backbone_states(backbone, batch)
        aligned = align(batch.tokens, gamma, segments=batch.segments, mask=batch.mask)
        states = head(
            hidden,
            batch.tokens,
            steps=gamma,
            segments=batch.segments,
            positions=batch.positions,
            chain_attention=chain_attention,
        )
        whole = aligned.valid.all(-1)
        row, root = whole.nonzero(as_tuple=True)
        clusters += (row + start).tolist()
        flat = hidden.flatten(0, 1)
        most = max(1, LARGEST // (gamma * output.weight.shape[0]))
        for first in range(0, len(row), most):
            at, t = row[first : first + most], root[first : first + most]
            p = processed(output(flat[aligned.teacher[at, t]]), params, vocab=vocab).probs
            q = processed(output(states[at, t]), params, vocab=vocab).probs
            tokens = aligned.tokens[at, t]
            for rule in rules:
                found[rule].append(unbiased_prefix_rates(p, q, tokens, rule).cpu())
            product.append(factorised_prefix_rates(p, q, "rejection").cpu())
            nats.append(torch.stack([entropy(p).mean(-1), entropy(q).mean(-1)], -1).cpu())
        if on_rows is not None:
            on_rows(min(len(rows), start + batch_size))
    if not clusters:
        raise DataError(f"no document holds a chain of {gamma} steps", where="data", mend="give longer text")
    means = torch.cat(nats).nanmean(0)
    scores = {rule: _score(torch.cat(chains), clusters, seed) for rule, chains in found.items()}
    return HeadScore(
        rules=scores,
        factorised=summarise(torch.cat(product)).length,
        target_entropy=float(means[0]),
        draft_entropy=float(means[1]),
        chains=len(clusters),
    )


def _score(chains: torch.Tensor, clusters: Sequence[int], seed: int) -> RuleScore:
    def interval(values: torch.Tensor) -> Interval:
        generator = np.random.default_rng(seed)
        return cluster_bootstrap_mean(values.double().numpy(), clusters, generator=generator, resamples=2000)

    whole = chains.masked_fill(chains.isnan().any(-1, keepdim=True), math.nan)
    return RuleScore(
        chains=summarise(chains),
        length=interval(accept_length(whole)),
        rates=tuple(interval(whole[:, step]) for step in range(whole.shape[1])),
    )
