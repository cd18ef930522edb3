"""The flow's rivals, against networkx, scipy and numbers worked by hand."""

from __future__ import annotations

import math

import networkx
import pytest
import scipy.stats
import torch

from noria.credit.attention.readers import AttentionRollout, LookBack
from noria.credit.attention.tap import AttentionTap
from noria.credit.scores.rivals import (
    HeadReach,
    _fisher,
    _information_gain,
    answer_attention,
    attention_flow,
    coupled,
    key_tokens,
    most_flow,
    token_entropy,
    waad_steps,
)
from tests.credit.test_flow import at, attention
from tests.credit.test_tap import batch, chosen, eager
from tests.credit.tiny_models import tiny


def test_the_greatest_flow_is_networkx_s() -> None:
    matrix = attention(1, 14, seed=8)[0]
    graph = networkx.DiGraph()
    for later in range(14):
        for earlier in range(later):
            graph.add_edge(earlier, later, capacity=float(matrix[later, earlier]))
    for sources, sinks in (([0], [13]), ([3], [9]), ([0, 1, 2], [12, 13])):
        whole = graph.copy()
        whole.remove_edges_from([(sink, later) for sink in sinks for later in range(14)])
        whole.add_edges_from([("source", s) for s in sources] + [(s, "sink") for s in sinks])  # of any size
        expected = networkx.maximum_flow_value(whole, "source", "sink")
        assert most_flow(matrix, sources, sinks) == pytest.approx(expected, abs=1e-4)
    assert most_flow(matrix, [4], [4]) == math.inf


def test_attention_flow_scores_each_token_by_itself() -> None:
    matrix, nodes = attention(2, 9, seed=1), at(2, 9, [8])
    wanted = at(2, 9, slice(2, 7))
    found = attention_flow(matrix, nodes, wanted)
    assert found[1, 4] == pytest.approx(most_flow(matrix[1], [4], [8]))
    assert not found[~wanted].any()
    with pytest.raises(ValueError):
        attention_flow(matrix, nodes, wanted, largest=8)


def test_raw_attention_sums_the_rows_of_the_answer() -> None:
    matrix, nodes = attention(2, 9, seed=1), at(2, 9, [6, 8])
    torch.testing.assert_close(answer_attention(matrix, nodes), matrix[:, 6] + matrix[:, 8])


def test_entropy_is_of_the_distribution_a_token_was_drawn_from() -> None:
    logits = torch.zeros(1, 3, 8)
    logits[0, 1] = torch.tensor([50.0] + [0.0] * 7)
    assert token_entropy(logits)[0].tolist() == pytest.approx([0.0, math.log(8), 0.0], abs=1e-5)


def test_rollout_is_the_product_over_all_layers() -> None:
    model = tiny("qwen3")
    ids, mask = batch()
    layers = chosen(model)
    with AttentionTap(model, layers, {"rollout": AttentionRollout}) as tap, torch.no_grad():
        model(ids, attention_mask=mask, use_cache=False)
    product = torch.eye(23)[None]
    for layer in layers:
        product = (0.5 * eager(model, [layer], ids, mask) + 0.5 * torch.eye(23)) @ product
    real = mask.bool()
    torch.testing.assert_close(tap.passes[0]["rollout"][real], product[real], atol=1e-6, rtol=0)


def test_how_heads_look_is_what_their_attention_says() -> None:
    model = tiny("llama")
    ids, mask = batch(60)
    mask[1, 18:] = 1
    mask[1, 50:] = 0
    rows = torch.where(mask.bool(), torch.arange(len(mask))[:, None], -1)
    layers = chosen(model, [1, 2])
    with AttentionTap(model, layers, {"looks": lambda: LookBack(rows)}) as tap, torch.no_grad():
        model(ids, attention_mask=mask, use_cache=False)
    looks = tap.passes[0]["looks"]
    model.set_attn_implementation("eager")
    with torch.no_grad():
        every = model(ids, attention_mask=mask, output_attentions=True, use_cache=False).attentions
    heads = torch.cat([every[1], every[2]], 1) * mask[:, None, :, None]  # [batch, 8, t, s]
    back = (torch.arange(60)[:, None] - torch.arange(60)).clamp(min=0)
    real = mask.sum(1)[:, None]
    torch.testing.assert_close(looks.distance, (heads * back).sum((2, 3)) / real, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(looks.near, (heads * back.clamp(max=10)).sum(-1), atol=1e-4, rtol=1e-4)
    for row, place in ((0, 20), (1, 30), (2, 55)):
        later = [t for t in range(place + 10, min(60, place + 101)) if mask[row, t]]
        mean = heads[row, :, later, place].sum(1) / max(1, len(later))
        torch.testing.assert_close(looks.future[row, :, place], mean, atol=1e-5, rtol=1e-4)
    with (
        AttentionTap(model, layers, {"looks": lambda: LookBack(rows, (1, 5))}) as tap,
        torch.no_grad(),
    ):
        model(ids, attention_mask=mask, use_cache=False)
    mean = heads[0, :, 21:26, 20].sum(1) / 5
    torch.testing.assert_close(tap.passes[0]["looks"].future[0, :, 20], mean, atol=1e-5, rtol=1e-4)


def test_local_heads_are_those_that_look_back_least() -> None:
    looks = HeadReach(
        torch.tensor([[9.0, 1.0, 5.0, 2.0]]),
        torch.arange(8.0).view(1, 4, 2),
        torch.arange(8.0).view(1, 4, 2) * 10,
    )
    assert looks.waad(0.5).tolist() == [[4.0, 5.0]]  # heads 1 and 3
    assert looks.fai(0.25).tolist() == [[0.0, 10.0]]  # head 0


def test_steps_of_waad_end_with_the_response() -> None:
    response = torch.tensor([[False, True, True, True, False]])
    assert waad_steps(torch.tensor([[9.0, 1, 4, 2, 8]]), response).tolist() == [[0.0, 3.0, 2.0, 0.0, 0.0]]


def test_near_anchors_share_with_the_token_that_began_their_chunk() -> None:
    response = torch.ones(1, 6, dtype=torch.bool)
    sequence = torch.zeros(1, 6, dtype=torch.long)
    anchors = torch.tensor([[False, False, True, False, True, True]])
    starts = torch.tensor([[True, False, False, True, False, True]])
    waad = torch.tensor([[5.0, 5.0, 1.0, 5.0, 9.0, 1.0]])
    # Token 2 is near and began with token 0; token 4 looks far; token 5 began its chunk itself.
    assert coupled(anchors, starts, waad, response, sequence)[0].tolist() == [0.5, 0, 0.5, 0, 1, 1]


def test_fisher_is_scipy_s_and_information_gain_is_mutual_information() -> None:
    tables = [(3, 1, 1, 3), (4, 0, 0, 4), (2, 2, 2, 2), (5, 1, 0, 7), (0, 3, 6, 2)]
    columns = torch.tensor(tables, dtype=torch.float64).T
    p = _fisher(*columns).tolist()
    assert p == pytest.approx(
        [scipy.stats.fisher_exact([[a, b], [c, d]])[1] for a, b, c, d in tables], abs=1e-9
    )
    gain = _information_gain(*columns).tolist()
    expected = []
    for a, b, c, d in tables:
        joint = torch.tensor([[a, b], [c, d]], dtype=torch.float64) / (a + b + c + d)
        apart = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
        expected.append(float((joint * (joint / apart).clamp(min=1e-300).log2()).nan_to_num(0).sum()))
    assert gain == pytest.approx(expected, abs=1e-9)


def test_key_tokens_are_those_whose_presence_goes_with_being_right() -> None:
    # Token 7 is in every right rollout and in no wrong one, token 9 the other way round, token 5 in all.
    tokens = torch.tensor([[1, 5, 7], [1, 5, 7], [1, 5, 9], [1, 5, 9], [1, 5, 7], [1, 5, 7]])
    response = at(6, 3, [1, 2])
    sequence = torch.arange(6)[:, None].expand(-1, 3)
    group = torch.tensor([0, 0, 0, 0, 1, 1])
    correct = torch.tensor([True, True, False, False, True, True])
    values = key_tokens(tokens, response, sequence, group, correct)
    assert (values[:2, 2] > 0.9).all()
    torch.testing.assert_close(values[2:4, 2], -values[:2, 2])
    assert not values[:, :2].any()
    assert not values[4:].any()  # a group that is all right says nothing
    plain = key_tokens(tokens, response, sequence, group, correct, frequency=False)
    # p = 1/3 of four rollouts, information gain 1 bit, direction π/2: worked by hand.
    strength = (math.exp(-2 / 3) + 2) / 3
    assert float(plain[0, 2]) == pytest.approx(2 / (1 + math.exp(-strength * math.pi / 2)) - 1, abs=1e-5)
