"""The backbone of a flow: the fewest edges that carry most of it, one spine through it, and its hubs.

Edge flow is φ[i → k] = g[i] A[k, i] h[k]; over all edges it sums to Σ_k (f[k] − q[k]), so how much a set of edges
carries is known without the matrix of φ, and rows are read a block at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from noria.credit.scores.flow import Flow, Rows, as_rows

__all__ = ["Backbone", "Edge", "backbone", "hubs", "inflow"]


@dataclass(frozen=True)
class Edge:
    """From an earlier token to a later one, and the flow on it."""

    source: int
    target: int
    flow: float


@dataclass(frozen=True)
class Backbone:
    """The edges that carry a flow, of one sequence.

    Attributes:
        edges: the strongest first.
        carried: the share of all edge flow that they carry.
        edges_in_all: how many edges carry any flow.
        spine: tokens of one path, from the question to the answer.
    """

    edges: list[Edge]
    carried: float
    edges_in_all: int
    spine: list[int]


@torch.no_grad()
def backbone(
    attention: Tensor | Rows,
    flow: Flow,
    row: int = 0,
    *,
    share: float = 0.8,
    limit: int = 4096,
    block: int = 64,
) -> Backbone:
    """The smallest set of edges that carries a share of a sequence's flow, and its spine.

    The spine goes from the answer node that takes most back along the strongest edge, until the virtual source gives a
    token more than any edge does. The paper draws its backbone without saying by which rule; these are ours.

    Args:
        attention: as :func:`noria.credit.scores.flow.trace_flow` was given it.
        flow: what it found.
        row: of the batch.
        share: of the edge flow, in (0, 1].
        limit: the most edges that are kept; `carried` says what they carry if that is too few.
        block: rows held at once.
    """
    rows = as_rows(attention) if isinstance(attention, Tensor) else attention
    tokens = flow.flow.shape[1]
    total = float((flow.flow[row] - flow.injected[row]).sum())
    values, places, alive = torch.empty(0), torch.empty(0, dtype=torch.long), 0
    for start in range(0, tokens, block):
        stop = min(start + block, tokens)
        part = inflow(rows, flow, row, start, stop).cpu()
        alive += int((part > 0).sum())
        found, index = part.flatten().topk(min(limit, part.numel()))
        target, source = index // stop + start, index % stop
        values = torch.cat([values, found])
        places = torch.cat([places, target * tokens + source])
        values, kept = values.topk(min(limit, len(values)))
        places = places[kept]
    sums = values.double().cumsum(0)
    number = int((sums < share * total * (1 - 1e-6)).sum()) + 1 if total > 0 else 0
    number = min(number, len(values), alive)
    edges = [
        Edge(place % tokens, place // tokens, value)
        for place, value in zip(places[:number].tolist(), values[:number].tolist(), strict=True)
    ]
    carried = float(sums[number - 1]) / total if number else 0.0
    return Backbone(edges, min(1.0, carried), alive, _spine(rows, flow, row))


def inflow(rows: Rows, flow: Flow, row: int, start: int, stop: int) -> Tensor:
    """φ into the tokens start … stop − 1 from each token before: [stop − start, stop]."""
    part = rows(start, stop)[row].float().tril(start - 1)
    if flow.response is not None:
        written = flow.response[row, start:stop] * flow.emission
        part = part * (1 - written[:, None])
        for place in written.nonzero()[:, 0].tolist():
            part[place, start + place - 1] += written[place]
    passed = flow.potential[row, :stop]
    if flow.absorbing:
        passed = passed.masked_fill(flow.answer[row, :stop], 0.0)
    # Zero times what a row of padding may hold is to be zero.
    reached = flow.reach[row, start:stop, None]
    carried = part * passed * reached
    return carried.where((reached > 0) & (passed > 0), 0.0)


def _spine(rows: Rows, flow: Flow, row: int) -> list[int]:
    ends = torch.where(flow.answer[row], flow.flow[row], -1.0)
    if float(ends.max()) <= 0:
        return []
    place = int(ends.argmax())
    path = [place]
    while place > 0:
        came = inflow(rows, flow, row, place, place + 1)[0, :place]
        best = int(came.argmax())
        if float(came[best]) <= float(flow.injected[row, place]):
            break
        place = best
        path.append(place)
    return path[::-1]


def hubs(flow: Flow, among: Tensor, row: int = 0, *, number: int = 10) -> list[tuple[int, float]]:
    """The tokens with most throughput, and how much: among [batch, tokens], the strongest first."""
    throughput = flow.throughput[row].where(among[row] & ~flow.answer[row], -1.0)
    values, places = throughput.topk(min(number, len(throughput)))
    return [(int(p), float(v)) for p, v in zip(places, values, strict=True) if v > 0]
