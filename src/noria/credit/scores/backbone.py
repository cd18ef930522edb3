"""The backbone of a flow: the fewest edges that carry most of it, one spine through it, and its hubs.

Edge flow is φ[i → k] = g[i] A[k, i] h[k]; over all edges it sums to Σ_k (f[k] − q[k]), so the share that a set of edges
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
    """An edge from an earlier token to a later one, and the flow on it."""

    source: int
    target: int
    flow: float


@dataclass(frozen=True)
class Backbone:
    """The edges that carry the flow of one sequence.

    Attributes:
        edges: edges of the backbone, the strongest first.
        carried: share of all edge flow that they carry.
        edges_in_all: number of edges that carry any flow.
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

    The spine starts at the answer node with most flow and follows the strongest edge back, until the virtual source
    gives a token more than any edge does. The paper draws its backbone without stating a rule; these rules are ours.

    Args:
        attention: attention that was given to :func:`noria.credit.scores.flow.trace_flow`.
        flow: flow that was traced in it.
        row: row of the batch.
        share: share of the edge flow, in (0, 1].
        limit: most edges that are kept; `carried` is below `share` if they are too few.
        block: number of rows held at once.
    """
    rows = as_rows(attention) if isinstance(attention, Tensor) else attention
    tokens = flow.flow.shape[1]
    total = float((flow.flow[row] - flow.injected[row]).sum())
    values, places, alive = torch.empty(0), torch.empty(0, dtype=torch.long), 0
    for start in range(0, tokens, block):
        stop = min(start + block, tokens)
        part = inflow(rows, flow, row, start, stop).cpu()
        alive += int((part > 0).sum())
        strongest, index = part.flatten().topk(min(limit, part.numel()))
        target, source = index // stop + start, index % stop
        values = torch.cat([values, strongest])
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
    """φ into the tokens start … stop − 1 from each earlier token: [stop − start, stop]."""
    part = rows(start, stop)[row].float().tril(start - 1)
    if flow.response is not None:
        written = flow.response[row, start:stop] * flow.emission
        part = part * (1 - written[:, None])
        for place in written.nonzero()[:, 0].tolist():
            part[place, start + place - 1] += written[place]
    passed = flow.potential[row, :stop]
    if flow.absorbing:
        passed = passed.masked_fill(flow.answer[row, :stop], 0.0)
    # A row of padding may hold NaN: where nothing is reached or passed, the flow is zero all the same.
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
        received = inflow(rows, flow, row, place, place + 1)[0, :place]
        best = int(received.argmax())
        if float(received[best]) <= float(flow.injected[row, place]):
            break
        place = best
        path.append(place)
    return path[::-1]


def hubs(flow: Flow, among: Tensor, row: int = 0, *, number: int = 10) -> list[tuple[int, float]]:
    """The tokens of `among` [batch, tokens] with most throughput, and how much, the strongest first."""
    throughput = flow.throughput[row].where(among[row] & ~flow.answer[row], -1.0)
    values, places = throughput.topk(min(number, len(throughput)))
    return [(int(p), float(v)) for p, v in zip(places, values, strict=True) if v > 0]
