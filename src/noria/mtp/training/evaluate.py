"""Acceptance of a head's drafts by every rule, from one forced pass over the policy's own text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from noria.core.errors import DataError
from noria.core.records import json_values
from noria.core.statistics.bootstrap import cluster_bootstrap_mean
from noria.core.statistics.intervals import Interval
from noria.mtp.acceptance.chains import (
    ChainAcceptance,
    accept_length,
    factorised_prefix_rates,
    kept_rates,
    round_starts,
    summarise,
    unbiased_prefix_rates,
)
from noria.mtp.acceptance.entropy import entropy
from noria.mtp.acceptance.sampling import SamplingParams, processed
from noria.mtp.data import Rows
from noria.mtp.heads.backbone import backbone_states
from noria.mtp.heads.chain import align
from noria.mtp.heads.head import MTPHead
from noria.mtp.training.own_text import OwnText
from noria.mtp.types import ChainAttention, Rule

LARGEST = 2**25
"""Probabilities held at once for each side."""
FEW = 1e-3
"""Share of impossible chains up to which text passes for the policy's own: engines round."""


def interval_values(value: Interval) -> dict[str, float | None]:
    """JSON values of an interval; what is not known is null."""
    values: dict[str, float | None] = json_values(
        {"mean": value.effect, "low": value.low, "high": value.high}
    )
    return values


@dataclass(frozen=True)
class Averages:
    """Acceptance over many chains, with intervals; a document is a cluster.

    Attributes:
        chains: prefix and conditional rates, accept length.
        length: the accept length.
        rates: the prefix rate of each step.
    """

    chains: ChainAcceptance
    length: Interval
    rates: Sequence[Interval]

    def to_json(self) -> dict[str, Any]:
        """JSON values; what is not known is null."""
        return {
            "accept_length": interval_values(self.length),
            "prefix_rates": [interval_values(rate) for rate in self.rates],
            "conditional_rates": json_values(self.chains.conditional.tolist()),
        }


@dataclass(frozen=True)
class RuleScore(Averages):
    """A head under one rule of verification, averaged over the positions of the text, where every token counts alike.

    Attributes:
        served: averaged over the rounds of a decoder that wrote the text, by its number of drafts: what engines report.
    """

    served: Mapping[int, Averages]


@dataclass(frozen=True)
class HeadScore:
    """A head on some text.

    Attributes:
        rules: by rule of verification.
        factorised: the accept length by the paper's product, which is biased, under rejection, over positions.
        target_entropy: mean of H(p) over the chains' steps, nats.
        draft_entropy: mean of H(q), nats.
        entropy_range: the 5th and the 95th percentile of a document's mean H(p), nats: where the head was measured.
        own: the text's tokens held against the policy's law.
        impossible: chains that hold a token of probability 0; they count nowhere.
        chains: how many were read.
    """

    rules: Mapping[Rule, RuleScore]
    factorised: float
    target_entropy: float
    draft_entropy: float
    entropy_range: tuple[float, float]
    own: OwnText
    impossible: int
    chains: int

    @property
    def warning(self) -> str | None:
        """Why the text cannot be the policy's own; None if nothing speaks against it."""
        if self.impossible > FEW * self.chains:
            return (
                f"{self.impossible:,} of {self.chains:,} chains hold tokens that the policy cannot have drawn with "
                "these settings; score text that was drawn with them"
            )
        if not self.own.foreign:
            return None
        return (
            f"the text surprises the policy by {self.own.surprise.effect:+.2f} nats a token against text of its own: "
            "it is another model's, or was drawn with other settings; the figures are not those of its own text"
        )

    def to_json(self) -> dict[str, Any]:
        """JSON values: averages over a decoder's rounds of the most drafts, and over positions beside them."""
        gamma = len(next(iter(self.rules.values())).rates)
        return {
            "gamma": gamma,
            "chains": self.chains,
            "target_entropy": self.target_entropy,
            "target_entropy_range": list(self.entropy_range),
            "draft_entropy": self.draft_entropy,
            "surprise": interval_values(self.own.surprise),
            "foreign_evidence": self.own.evidence,
            "impossible_chains": self.impossible,
            "warning": self.warning,
            "rules": {
                rule: score.served[gamma].to_json() | {"over_positions": score.to_json()}
                for rule, score in self.rules.items()
            },
            "over_positions_factorised": self.factorised,
        }


@torch.no_grad()
def evaluate_head(
    backbone: Any,
    head: MTPHead,
    rows: Rows,
    *,
    gamma: int = 3,
    served: Sequence[int] | None = None,
    rules: Sequence[Rule] = ("rejection", "target_only"),
    params: SamplingParams | None = None,
    vocab: int | None = None,
    batch_size: int = 8,
    chain_attention: ChainAttention | None = None,
    seed: int = 0,
    on_rows: Callable[[int], None] | None = None,
) -> HeadScore:
    """Score a head's drafts on text of the policy.

    The text must be the policy's own, sampled with the same `params`: the estimator weighs each step by the chance that
    an accepted prefix reads like the text.

    Args:
        backbone: the model.
        head: the model's head.
        rows: text that the model wrote.
        gamma: drafts of a round.
        served: numbers of drafts, up to `gamma`, whose rounds are averaged over; `gamma` alone by default.
        rules: rules of verification.
        params: temperature and filters, for both sides.
        vocab: how many logits are real tokens; all by default.
        batch_size: rows at a time.
        chain_attention: attention along a chain; by default as the head drafts.
        seed: seed of the bootstrap.
        on_rows: called with the number of rows done.

    Raises:
        DataError: no document holds a whole chain.
    """
    params = params or SamplingParams()
    device = next(head.parameters()).device
    output: Any = head.output
    most = LARGEST // output.weight.shape[0]

    def law(states: Tensor) -> Tensor:
        return processed(output(states), params, vocab=vocab).probs

    chains, own = _Chains(rules), OwnText()
    head.eval()
    for start in range(0, len(rows), batch_size):
        batch = rows[slice(start, start + batch_size)].to(device)
        hidden = backbone_states(backbone, batch)
        drawn = _drawn(batch).nonzero(as_tuple=True)
        for row, before in _blocks(drawn, most):
            own.add(law(hidden[row, before]), batch.tokens[row, before + 1])
        aligned = align(batch.tokens, gamma, segments=batch.segments, mask=batch.mask)
        states = head(
            hidden,
            batch.tokens,
            steps=gamma,
            segments=batch.segments,
            positions=batch.positions,
            chain_attention=chain_attention,
        )
        row, root = chains.begin(batch, aligned.valid.all(-1), start)
        flat = hidden.flatten(0, 1)
        for at, t in _blocks((row, root), most // gamma):
            chains.add(law(flat[aligned.teacher[at, t]]), law(states[at, t]), aligned.tokens[at, t])
        if on_rows is not None:
            on_rows(min(len(rows), start + batch_size))
    if not chains.clusters:
        raise DataError(f"no document holds a chain of {gamma} steps", where="data", mend="give longer text")
    return chains.score(own, [gamma] if served is None else served, seed)


def _blocks(places: Sequence[Tensor], size: int) -> Iterator[tuple[Tensor, ...]]:
    """Places [n] of several axes, some at a time."""
    for start in range(0, len(places[0]), max(1, size)):
        yield tuple(part[start : start + max(1, size)] for part in places)


def _drawn(rows: Rows) -> Tensor:
    """Where the next token is in the same document, and the policy's own [rows, n]."""
    following = torch.zeros_like(rows.mask)
    same = (rows.segments[:, 1:] == rows.segments[:, :-1]) & (rows.segments[:, 1:] >= 0)
    following[:, :-1] = same & rows.mask[:, 1:]
    return following


class _Chains:
    """Acceptance of all chains, gathered batch by batch."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rates: dict[Rule, list[Tensor]] = {rule: [] for rule in rules}
        self.kept: dict[Rule, list[Tensor]] = {rule: [] for rule in rules}
        self.product: list[Tensor] = []
        self.nats: list[Tensor] = []
        self.roots: list[Tensor] = []
        self.clusters: list[int] = []
        self.impossible = 0

    def begin(self, batch: Rows, whole: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Rows and roots of a batch's whole chains; a document is a cluster."""
        row, root = whole.nonzero(as_tuple=True)
        self.clusters += ((row + start) * batch.segments.shape[1] + batch.segments[row, root]).tolist()
        self.roots.append(whole.cpu())
        return row, root

    def add(self, p: Tensor, q: Tensor, tokens: Tensor) -> None:
        """Target and draft [chains, γ, vocab] with the text's tokens [chains, γ]."""
        for rule in self.rates:
            self.rates[rule].append(unbiased_prefix_rates(p, q, tokens, rule).cpu())
            self.kept[rule].append(kept_rates(p, q, tokens, rule).cpu())
        self.product.append(factorised_prefix_rates(p, q, "rejection").cpu())
        self.nats.append(torch.stack([entropy(p).mean(-1), entropy(q).mean(-1)], -1).cpu())
        self.impossible += int((p.gather(-1, tokens[..., None]) == 0).any(-2).sum())

    def score(self, own: OwnText, served: Sequence[int], seed: int) -> HeadScore:
        """Averages over all that was gathered."""
        entropies, where = torch.cat(self.nats), torch.cat(self.roots)
        means = entropies.nanmean(0)

        def scored(rule: Rule) -> RuleScore:
            chains, along = torch.cat(self.rates[rule]), torch.cat(self.kept[rule])
            averages = _averages(chains, self.clusters, seed)
            rounds = {
                g: _averages(chains[:, :g], self.clusters, seed, _weights(along[:, :g], where))
                for g in served
            }
            return RuleScore(averages.chains, averages.length, averages.rates, rounds)

        return HeadScore(
            rules={rule: scored(rule) for rule in self.rates},
            factorised=summarise(torch.cat(self.product)).length,
            target_entropy=float(means[0]),
            draft_entropy=float(means[1]),
            entropy_range=_spread(entropies[:, 0], self.clusters),
            own=own,
            impossible=self.impossible,
            chains=len(self.clusters),
        )


def _weights(kept: Tensor, roots: Tensor) -> Tensor:
    """Frequency with which a decoder's round begins at each chain [chains], of K [chains, γ] at the roots [rows, n]."""
    whole = torch.zeros(*roots.shape, kept.shape[1], dtype=kept.dtype)
    whole[roots] = kept
    return round_starts(whole, roots)[roots]


def _averages(chains: Tensor, clusters: Sequence[int], seed: int, weights: Tensor | None = None) -> Averages:
    whole = chains.masked_fill(chains.isnan().any(-1, keepdim=True), math.nan)
    return Averages(
        chains=summarise(chains, weights),
        length=_interval(accept_length(whole), clusters, seed, weights),
        rates=tuple(_interval(whole[:, step], clusters, seed, weights) for step in range(whole.shape[1])),
    )


def _interval(values: Tensor, clusters: Sequence[int], seed: int, weights: Tensor | None = None) -> Interval:
    return cluster_bootstrap_mean(
        values.double().numpy(),
        clusters,
        generator=np.random.default_rng(seed),
        weights=None if weights is None else weights.numpy(),
        resamples=2000,
    )


def _spread(nats: Tensor, clusters: Sequence[int]) -> tuple[float, float]:
    """The 5th and 95th percentile of a document's mean entropy."""
    index = np.unique(clusters, return_inverse=True)[1]
    known = ~nats.isnan().numpy()
    values = np.bincount(index[known], weights=nats.double().numpy()[known])
    means = values / np.bincount(index[known])
    low, high = np.nanquantile(means, [0.05, 0.95])
    return float(low), float(high)
