"""The flow of a reasoning trace through attention, by two triangular solves that read every row once.

Tokens are nodes and attention A[k, i] of a later token k on an earlier one i is the capacity of the edge i → k. With
answer nodes S, e = 1_S, and L the strictly lower part of A with the columns of S zeroed (an answer passes nothing on),
FlowTracer (arXiv 2606.10646, sec. 3) reads

    reach       h = e + Lᵀh                        one unit-upper solve, from the last row up
    reweighted  W'[i → k] = A[k, i] h[k] / h[i]    Σ_k W'[i → k] = 1 wherever h[i] > 0
    flow        f = q + W'ᵀf,  q = 1/|Q| on Q      f = g ⊙ h, g = q/h + Lg: one unit-lower solve, from the top
    edge flow   φ[i → k] = f[i] W'[i → k] = g[i] A[k, i] h[k]
    throughput  τ = inflow + outflow, 2f between question and answer

h[i] is the expected number of visits to i of walks that start at the answer nodes and step from k to i with probability
A[k, i], so 0 ≤ h ≤ |S| and nothing can overflow. W' is that walk, reversed in time.

Both solves need one block of rows at a time, so attention may be a whole matrix or a function of rows (:data:`Rows`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from noria.credit.types import AnswerNodes, Fallback

__all__ = ["Flow", "Rows", "answer_nodes", "as_rows", "trace_flow"]

Rows: TypeAlias = Callable[[int, int], Tensor]
"""(start, stop) → attention of the tokens start … stop − 1 on the tokens 0 … stop − 1: [batch, stop − start, stop]."""

_LEAST_REACH = 1e-12  # h at or below this counts as zero
_TOLERANCE = 1e-3  # largest distance from 1 of the mass that arrives


@dataclass(frozen=True)
class Flow:
    """The flow of a batch; fields are [batch, tokens] unless stated otherwise, and `sequence` numbers the sequences.

    Attributes:
        reach: h, expected visits of the backward walk.
        potential: g, so that edge flow is g[i] A[k, i] h[k].
        flow: f, the mass that passes each token.
        injected: q, the mass that starts at each token.
        answer: answer nodes.
        sequence: the number of each token's sequence, −1 for padding.
        fallback: [sequences] a :class:`Fallback` each; where it is not NONE, all fields above are zero.
        arrived: [sequences] mass that arrives at the answer; 1 up to rounding.
        lost: [sequences] share of the question that cannot reach the answer; its mass was spread over the rest.
        absorbing: whether an answer node passes nothing on.
        emission: ω of the walk, see :func:`trace_flow`.
        response: response tokens with an emission edge; None where ω is 0.
    """

    reach: Tensor
    potential: Tensor
    flow: Tensor
    injected: Tensor
    answer: Tensor
    sequence: Tensor
    fallback: Tensor
    arrived: Tensor
    lost: Tensor
    absorbing: bool
    emission: float
    response: Tensor | None

    @property
    def throughput(self) -> Tensor:
        """τ: inflow and outflow of each token; edges from the virtual source count, those to the sink do not."""
        # An answer node sends f/h, its potential, to the sink: all of f where it absorbs.
        return self.flow + torch.where(self.answer, self.flow - self.potential, self.flow)

    @property
    def path_length(self) -> Tensor:
        """Mean number of tokens on a path from question to answer, [sequences]."""
        return per_sequence(self.flow, self.sequence, len(self.fallback))


def as_rows(attention: Tensor) -> Rows:
    """A function of the rows of a matrix [batch, tokens, tokens]."""
    return lambda start, stop: attention[:, start:stop, :stop]


def answer_nodes(answer: Tensor, which: AnswerNodes, sequence: Tensor | None = None) -> Tensor:
    """The nodes at which an answer's flow ends.

    Row t − 1 of attention is what token t is predicted from; token t's own row is read when t is already there. So the
    default is the `predictor` of each answer token, and `token` is the literal reading of the paper.

    Args:
        answer: [batch, tokens] tokens of the answer.
        which: `predictor` or `token`.
        sequence: number of each token's sequence; a predictor is in the sequence of its token.
    """
    if which == "token":
        return answer
    nodes = torch.zeros_like(answer)
    nodes[:, :-1] = answer[:, 1:]
    if sequence is not None:
        nodes[:, :-1] &= sequence[:, 1:] == sequence[:, :-1]
    return nodes


@torch.no_grad()
def trace_flow(
    attention: Tensor | Rows,
    question: Tensor,
    answer: Tensor,
    *,
    valid: Tensor | None = None,
    sequence: Tensor | None = None,
    known: Tensor | None = None,
    absorbing: bool = True,
    emission: float = 0.0,
    response: Tensor | None = None,
    block: int = 64,
) -> Flow:
    """Trace the unit flow from question to answer in every sequence of a batch.

    Args:
        attention: [batch, tokens, tokens], query × key, or a function of rows. Only entries below the diagonal are
            read.
        question: [batch, tokens] tokens where the flow starts, uniformly.
        answer: [batch, tokens] nodes where the flow ends, from :func:`answer_nodes`.
        valid: [batch, tokens] False for padding, on either side. All tokens by default.
        sequence: [batch, tokens] numbers 0, 1, … of packed sequences, −1 for padding; each row is one sequence by
            default. Attention must not cross sequences.
        known: [sequences] fallbacks that the caller knows already.
        absorbing: whether an answer node passes nothing on to later tokens. Otherwise it both ends flow and passes
            it on.
        emission: ω in [0, 1): the walk steps from a response token back to the position that wrote it with probability
            ω, and by attention otherwise. Attention has no such edge.
        response: [batch, tokens] response tokens; needed with `emission`.
        block: number of rows held at once.

    Returns:
        The flow. A sequence without one has its reason in `fallback`, and its values are zero.
    """
    rows = as_rows(attention) if isinstance(attention, Tensor) else attention
    if valid is None:
        valid = torch.ones_like(question) if sequence is None else sequence >= 0
    if sequence is None:
        sequence = torch.arange(len(valid), device=valid.device)[:, None].where(valid, -1)
        number = len(valid)
    else:
        number = int(sequence.max()) + 1 if known is None else len(known)
    answer, question = answer & valid, question & valid
    written = None
    if emission:
        if response is None or not 0 <= emission < 1:
            raise ValueError("emission is in [0, 1) and needs the response")
        written = response & valid
        written[:, 0] = False
        written[:, 1:] &= sequence[:, 1:] == sequence[:, :-1]
    walk = _Walk(rows, valid, answer if absorbing else torch.zeros_like(answer), emission, written, block)

    reach = walk.backward(answer)
    reached = reach > _LEAST_REACH
    sources = question & reached
    questions = per_sequence(question, sequence, number)
    connected = per_sequence(sources, sequence, number)
    share = connected.reciprocal().masked_fill(connected == 0, 0.0)
    index = sequence.clamp(min=0)
    injected = torch.where(sources, share[index], 0.0)
    potential = walk.forward(injected / reach.clamp(min=_LEAST_REACH))
    flow = potential * reach
    at_answer = flow if absorbing else potential
    arrived = per_sequence(torch.where(answer, at_answer, 0.0), sequence, number)

    fallback = torch.zeros(number, dtype=torch.long, device=valid.device)
    not_finite = per_sequence(walk.not_finite[:, None].expand_as(valid) & valid, sequence, number) > 0
    for reason, holds in (
        (Fallback.DOUBT, ~((arrived - 1).abs() <= _TOLERANCE)),
        (Fallback.UNREACHABLE, connected == 0),
        (Fallback.NOT_FINITE, not_finite),
        (Fallback.NO_QUESTION, questions == 0),
        (Fallback.NO_ANSWER, per_sequence(answer, sequence, number) == 0),
    ):
        fallback = fallback.masked_fill(holds, int(reason))
    if known is not None:
        fallback = torch.where(known != 0, known, fallback)
    whole = (fallback == 0)[index] & valid
    lost = torch.where(fallback == 0, 1 - connected / questions.clamp(min=1), 0.0)
    return Flow(
        reach=torch.where(whole, reach, 0.0),
        potential=torch.where(whole, potential, 0.0),
        flow=torch.where(whole, flow, 0.0),
        injected=torch.where(whole, injected, 0.0),
        answer=answer & whole,
        sequence=sequence,
        fallback=fallback,
        arrived=torch.where(fallback == 0, arrived, 0.0),
        lost=lost,
        absorbing=absorbing,
        emission=emission,
        response=written,
    )


def per_sequence(values: Tensor, sequence: Tensor, number: int) -> Tensor:
    """Sums of [batch, tokens] over the tokens of each sequence, [sequences]; tokens numbered −1 are left out."""
    values = values.float() if not values.is_floating_point() else values
    sums = values.new_zeros(number + 1)
    return sums.index_add_(0, (sequence % (number + 1)).flatten(), values.flatten())[:number]


class _Walk:
    """The two solves over blocks of rows; masks are put on the vectors, so that a block is only multiplied."""

    def __init__(
        self, rows: Rows, valid: Tensor, stops: Tensor, emission: float, written: Tensor | None, block: int
    ) -> None:
        self.rows, self.valid, self.stops, self.block = rows, valid, stops, block
        self.emission, self.written = emission, written
        self.passes = valid & ~stops
        self.not_finite = torch.zeros(len(valid), dtype=torch.bool, device=valid.device)

    def backward(self, ends: Tensor) -> Tensor:
        """Solve h = e + Lᵀh."""
        visits = ends.float()
        for start in reversed(range(0, ends.shape[1], self.block)):
            stop = min(start + self.block, ends.shape[1])
            part, inside, edges = self._read(start, stop)
            own = torch.linalg.solve_triangular(
                (-inside).mT, visits[:, start:stop, None], upper=True, unitriangular=True
            )[..., 0]
            visits[:, start:stop] = own
            if start:
                sent = own if edges is None else own * (1 - edges)
                received = torch.bmm(sent[:, None], part)[:, 0]
                if edges is not None:
                    received[:, -1] += own[:, 0] * edges[:, 0]
                visits[:, :start] += received.where(self.passes[:, :start], 0.0)
        return visits

    def forward(self, starts: Tensor) -> Tensor:
        """Solve g = q/h + Lg."""
        potential = starts.clone()
        for start in range(0, starts.shape[1], self.block):
            stop = min(start + self.block, starts.shape[1])
            part, inside, edges = self._read(start, stop)
            if start:
                before = potential[:, :start].where(self.passes[:, :start], 0.0)
                received = torch.bmm(part, before[..., None])[..., 0]
                if edges is not None:
                    received = received * (1 - edges)
                    received[:, 0] += before[:, -1] * edges[:, 0]
                potential[:, start:stop] += received.where(self.valid[:, start:stop], 0.0)
            potential[:, start:stop] = torch.linalg.solve_triangular(
                -inside, potential[:, start:stop, None], upper=False, unitriangular=True
            )[..., 0]
        return potential

    def _read(self, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Rows on the tokens before the block, rows inside it as in L, and the emission weight of each row."""
        part = self.rows(start, stop)
        if part.dtype != torch.float32:
            part = part.float()
        if not torch.isfinite(part.sum()):
            # NaN in padding harms nothing; NaN among a row's own tokens makes that row, and no other, fall back.
            part = part.where(self.valid[:, start:stop, None] & self.valid[:, None, :stop], 0.0)
            bad = ~torch.isfinite(part).flatten(1).all(1)
            self.not_finite |= bad
            part = part.masked_fill(bad[:, None, None], 0.0)
        inside = part[..., start:].tril(-1)
        edges = None
        if self.written is not None:
            edges = self.written[:, start:stop] * self.emission
            inside = inside * (1 - edges[..., None]) + torch.diag_embed(edges[:, 1:], offset=-1)
        inside = inside.where(self.valid[:, start:stop, None] & self.passes[:, None, start:stop], 0.0)
        return part[..., :start], inside, edges
