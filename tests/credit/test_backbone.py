"""The backbone carries what it says with the fewest edges, and its spine is a path of the graph."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings, strategies as st

from noria.credit.scores.backbone import backbone, hubs
from noria.credit.scores.flow import trace_flow
from tests.credit.test_flow import at, attention


@given(
    st.integers(5, 20), st.integers(0, 500), st.floats(0.05, 1.0), st.sampled_from([0.0, 0.3]), st.booleans()
)
@settings(max_examples=40, deadline=None)
def test_no_smaller_set_of_edges_carries_as_much(
    tokens: int, seed: int, share: float, emission: float, absorbing: bool
) -> None:
    matrix, question, answer = attention(1, tokens, seed=seed), at(1, tokens, [0, 1]), at(1, tokens, [-2, -1])
    response = at(1, tokens, slice(2, tokens))
    flow = trace_flow(matrix, question, answer, emission=emission, response=response, absorbing=absorbing)
    found = backbone(matrix, flow, share=share, block=6)
    walk = matrix[0].double().tril(-1)
    if emission:
        for k in range(2, tokens):
            walk[k] *= 1 - emission
            walk[k, k - 1] += emission
    if absorbing:
        walk[:, answer[0]] = 0
    edges = flow.reach[0].double()[:, None] * walk * flow.potential[0].double()
    ordered = edges.flatten().sort(descending=True).values
    total = float(edges.sum())
    carried = sum(edge.flow for edge in found.edges)
    assert carried == pytest.approx(found.carried * total, rel=1e-3)
    assert found.carried >= share - 1e-4
    fewer = float(ordered[: len(found.edges) - 1].sum())
    assert fewer < share * total * (1 + 1e-4)
    for edge in found.edges[:5]:
        assert edge.flow == pytest.approx(float(edges[edge.target, edge.source]), rel=1e-3, abs=1e-6)
    assert found.edges_in_all == int((edges > 0).sum())
    # The spine is a path along the strongest edges, out of the question and into the answer.
    assert question[0, found.spine[0]]
    assert answer[0, found.spine[-1]]
    for source, target in zip(found.spine, found.spine[1:], strict=False):
        assert source == int(edges[target].argmax())


def test_a_chain_is_its_own_backbone_and_spine() -> None:
    # 0 → 2 → 3 → 5, and a dead branch 1 → 4.
    matrix = torch.zeros(1, 6, 6)
    for target, source in ((2, 0), (3, 2), (5, 3), (4, 1)):
        matrix[0, target, source] = 0.5
    flow = trace_flow(matrix, at(1, 6, [0, 1]), at(1, 6, [5]))
    found = backbone(matrix, flow, share=1.0)
    assert {(edge.source, edge.target) for edge in found.edges} == {(0, 2), (2, 3), (3, 5)}
    assert found.spine == [0, 2, 3, 5]
    assert found.carried == pytest.approx(1)
    assert hubs(flow, at(1, 6, [2, 3, 4])) == [(2, pytest.approx(2)), (3, pytest.approx(2))]


def test_a_limit_says_what_it_leaves_out_and_a_flow_that_is_none_has_none() -> None:
    matrix, question, answer = attention(1, 12, seed=1), at(1, 12, [0]), at(1, 12, [11])
    flow = trace_flow(matrix, question, answer)
    few = backbone(matrix, flow, share=0.99, limit=3, block=4)
    assert len(few.edges) == 3
    assert few.carried < 0.99
    nothing = backbone(matrix, trace_flow(matrix, question, at(1, 12)))
    assert (nothing.edges, nothing.spine, nothing.carried, nothing.edges_in_all) == ([], [], 0.0, 0)
