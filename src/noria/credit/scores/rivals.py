"""The flow's rivals, each a pure function from what a pass of the model shows to scores of tokens.

attention       Σ over answer nodes of their row of attention
rollout         the answer's row of Π_l (½A_l + ½I)                         Abnar & Zuidema 2020, arXiv 2005.00928
attention_flow  the maximum flow from a token to the answer                 the same paper, on the flow's mean graph
entropy         entropy of the distribution a token was drawn from          arXiv 2506.01939
WAAD            mean of min(distance, W) a token looks back, local heads    arXiv 2510.13554
FAI             mean attention from 10 … 100 tokens later, global heads     arXiv 2510.13554
KTAE            association of a token's presence with correct rollouts     arXiv 2505.16826
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

NEAR = 10
"""W of WAAD."""


@dataclass(frozen=True)
class HeadReach:
    """Reach of every head of the layers that were read, [batch, heads, tokens] but for `distance`.

    Attributes:
        distance: [batch, heads] mean distance looked back.
        near: Σ_s A[t, s] min(t − s, 10) for each token t.
        future: mean of A[t, s] over t = s + 10 … s + 100, or another horizon, for each token s.
    """

    distance: Tensor
    near: Tensor
    future: Tensor

    def waad(self, share: float = 0.3) -> Tensor:
        """Mean of `near` over the local heads, the `share` of heads that look back least: [batch, tokens]."""
        return self._mean(self.near, share, local=True)

    def fai(self, share: float = 0.3) -> Tensor:
        """Mean of `future` over the global heads, the `share` of heads that look back farthest: [batch, tokens]."""
        return self._mean(self.future, share, local=False)

    def _mean(self, values: Tensor, share: float, *, local: bool) -> Tensor:
        # Heads are sorted by the whole batch, so that a head is of one kind in all of it.
        distance = self.distance.nanmean(0)
        count = max(1, round(share * len(distance)))
        heads = torch.argsort(distance, descending=not local, stable=True)[:count]
        return values[:, heads].mean(1)


def waad_steps(waad: Tensor, response: Tensor) -> Tensor:
    """|WAAD_t − WAAD_{t+1}|, where a chunk of reasoning begins or ends; 0 at the end of a response."""
    steps = torch.zeros_like(waad)
    steps[:, :-1] = (waad[:, :-1] - waad[:, 1:]).abs()
    ends = torch.zeros_like(response)
    ends[:, :-1] = response[:, :-1] & response[:, 1:]
    return steps.where(ends, 0.0)


def coupled(anchors: Tensor, starts: Tensor, waad: Tensor, response: Tensor, sequence: Tensor) -> Tensor:
    """The coupled rhythm of the sister paper as shares of γ − 1, [batch, tokens].

    An anchor (top by FAI) that looks near (WAAD below its response's median) was prepared by the token that began its
    chunk: half of its credit goes there. Which anchors count as near is our reading; we did not have the paper's
    rule.

    Args:
        anchors: top tokens by FAI.
        starts: top tokens by steps of WAAD, where chunks begin.
        waad: WAAD of each token.
        response: response tokens.
        sequence: number of each token's sequence.
    """
    credit = anchors.float()
    for number in torch.unique(sequence[response]):
        own = response & (sequence == number)
        near = anchors & own & (waad < waad[own].median())
        for row, place in near.nonzero().tolist():
            before = (starts & own)[row, : place + 1].nonzero()
            if len(before) and int(before[-1]) != place:
                credit[row, place] = 0.5
                credit[row, before[-1]] = credit[row, before[-1]].clamp(min=0.5)
    return credit


def answer_attention(attention: Tensor, nodes: Tensor) -> Tensor:
    """Attention that each token gets from the answer nodes: Σ_a A[a, i], [batch, tokens]."""
    return torch.bmm(nodes[:, None].to(attention), attention)[:, 0]


def token_entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of the distribution that each token was drawn from, at the position before it.

    Args:
        logits: [batch, tokens, vocab].

    Returns:
        [batch, tokens]; 0 for the first token, which was not drawn.
    """
    entropy = logits.new_zeros(logits.shape[:2], dtype=torch.float32)
    for row in range(len(logits)):  # one row at a time: [batch, tokens, vocab] in fp32 may not fit
        logp = logits[row, :-1].float().log_softmax(-1)
        entropy[row, 1:] = -(logp.exp() * logp).sum(-1)
    return entropy


def attention_flow(attention: Tensor, nodes: Tensor, wanted: Tensor, *, largest: int = 512) -> Tensor:
    """The maximum flow from each wanted token to the answer nodes in the graph of attention, [batch, tokens].

    Every token is one maximum-flow problem, solved on the CPU (Dinic's algorithm of scipy, capacities to 1e-6): a
    baseline for sequences of some hundred tokens.

    Args:
        attention: [batch, tokens, tokens].
        nodes: answer nodes.
        wanted: tokens to score; the others get 0.
        largest: most tokens of a sequence.

    Raises:
        ValueError: the sequences are longer than `largest`.
    """
    tokens = attention.shape[1]
    if tokens > largest:
        raise ValueError(
            f"attention flow of {tokens} tokens would take hours; {largest} is the most that is done"
        )
    scores = torch.zeros(attention.shape[:2])
    for row in range(len(attention)):
        ends = nodes[row].nonzero()[:, 0].tolist()
        for token in wanted[row].nonzero()[:, 0].tolist():
            if token in ends:
                scores[row, token] = len(ends)  # as much as all answer nodes together could take in
            elif ends and token < max(ends):
                scores[row, token] = most_flow(attention[row], [token], ends)
    return scores.to(attention.device)


def most_flow(attention: Tensor, sources: list[int], sinks: list[int]) -> float:
    """The maximum flow from sources to sinks, with capacity A[k, i] from an earlier token i to a later k."""
    import numpy as np
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import maximum_flow

    if set(sources) & set(sinks):
        return math.inf
    unit = 1 << 20
    # Tokens behind the last sink, or before the first source, carry nothing.
    first, last = min(sources), max(sinks)
    lower = attention.float().tril(-1).cpu().numpy()[first : last + 1, first : last + 1]
    size = last - first + 1
    graph = np.zeros((size + 2, size + 2), dtype=np.int32)
    graph[:size, :size] = np.round(lower.T * unit)
    ends = [sink - first for sink in sinks if sink >= first]
    graph[ends, size + 1] = 2**30
    graph[size, [source - first for source in sources]] = 2**30
    return float(maximum_flow(csr_matrix(graph), size, size + 1).flow_value) / unit


def key_tokens(
    tokens: Tensor,
    response: Tensor,
    sequence: Tensor,
    group: Tensor,
    correct: Tensor,
    *,
    frequency: bool = True,
) -> Tensor:
    """KTAE's key-token values, [batch, tokens], to be added to the advantage.

    In each group of rollouts, a token's presence in a rollout and the rollout's correctness make a table (a: present
    and right, b: present and wrong, c: absent and right, d: absent and wrong). With p of Fisher's exact test and the
    information gain, strength = (e^{−2p} + 2 IG)/3; the direction is half of Cohen's h of the two rates of
    presence, plus, with `frequency`, r − 1/r of the saturated term frequencies (k1 = 2, b = ½). The value is
    2 σ(strength × direction) − 1. In a group that is all right or all wrong it is 0.

    Args:
        tokens: token ids.
        response: response tokens.
        sequence: number of each token's sequence.
        group: [sequences] number of each sequence's prompt.
        correct: [sequences] whether each is right.
        frequency: whether the direction counts term frequencies, too.
    """
    values = torch.zeros(tokens.shape, dtype=torch.float32, device=tokens.device)
    index = sequence.clamp(min=0)
    for number in torch.unique(group):
        own = response & (group[index] == number) & (sequence >= 0)
        members = (group == number).nonzero()[:, 0]
        right = correct[members].bool()
        if right.all() or not right.any() or not own.any():
            continue
        kinds, inverse = torch.unique(tokens[own], return_inverse=True)
        counts = torch.zeros(len(members), len(kinds), device=tokens.device)
        place = torch.searchsorted(members, index[own])
        counts.index_put_((place, inverse), torch.ones(len(inverse), device=tokens.device), accumulate=True)
        present = counts > 0
        a, b = present[right].sum(0).double(), present[~right].sum(0).double()
        c, d = right.sum() - a, (~right).sum() - b
        p = _fisher(a, b, c, d)
        evidence = torch.where(p < 1 - 1e-12, torch.exp(-2 * p), 0.0)
        strength = (evidence + 2 * _information_gain(a, b, c, d)) / 3
        direction = torch.asin((a / (a + c)).sqrt()) - torch.asin((b / (b + d)).sqrt())
        if frequency:
            often, seldom = _frequencies(counts[right].sum(0).double(), counts[~right].sum(0).double())
            direction = direction + often / (seldom + 1e-5) - seldom / (often + 1e-5)
        values[own] = (2 * torch.sigmoid(strength * direction) - 1)[inverse].float()
    return values


def _fisher(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Two-sided p of Fisher's exact test for the tables ((a, b), (c, d))."""
    row, column, total = a + b, a + c, a + b + c + d

    def choose(n: Tensor, k: Tensor) -> Tensor:
        return torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)

    def log_p(k: Tensor) -> Tensor:
        return choose(column, k) + choose(total - column, row - k) - choose(total, row)

    observed = log_p(a)
    p = torch.zeros_like(a)
    for k in range(int(torch.minimum(row, column).max()) + 1):
        possible = (k >= row + column - total) & (k <= torch.minimum(row, column))
        inside = torch.full_like(a, k).where(possible, a)
        value = log_p(inside)
        p += torch.where(possible & (value <= observed + 1e-9), value.exp(), 0.0)
    return p.clamp(max=1)


def _information_gain(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """H(correct) − H(correct | present) in bits."""
    total = a + b + c + d

    def entropy(x: Tensor, y: Tensor) -> Tensor:
        share = torch.stack([x, y]) / (x + y).clamp(min=1)
        return -(share * share.clamp(min=1e-300).log2()).sum(0)

    return entropy(a + c, b + d) - ((a + b) * entropy(a, b) + (c + d) * entropy(c, d)) / total


def _frequencies(right: Tensor, wrong: Tensor) -> tuple[Tensor, Tensor]:
    """Saturated term frequencies (BM25's) of each token among right and among wrong responses."""
    k1, b = 2.0, 0.5
    mean = (right.sum() + wrong.sum()) / 2

    def saturated(counts: Tensor) -> Tensor:
        total = counts.sum()
        share = counts / total.clamp(min=1)
        return share * (k1 + 1) / (share + k1 * (1 - b + b * total / mean))

    return saturated(right), saturated(wrong)
