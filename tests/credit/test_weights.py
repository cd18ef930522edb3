"""Rules from scores to weights: counts, ties, mass, and numbers worked by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st

from noria.credit.scores.weights import bilevel, chosen_share, ranks, soft, top, with_mass


def rows(*lengths: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Which tokens count in rows of the given lengths, and the number of each row."""
    width = max(lengths)
    counted = torch.arange(width) < torch.tensor(lengths)[:, None]
    return counted, torch.arange(len(lengths))[:, None].expand(-1, width)


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=5),
    st.floats(0.05, 1),
    st.integers(0, 999),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_the_top_share_is_the_rounded_number_of_the_highest(
    lengths: list[int], fraction: float, seed: int, lowest: bool
) -> None:
    counted, unit = rows(*lengths, 3)
    scores = torch.randint(0, 6, counted.shape, generator=torch.Generator().manual_seed(seed)).float()
    chosen = top(scores, counted, unit, fraction=fraction, lowest=lowest)
    for row, n in enumerate([*lengths, 3]):
        picked = chosen[row, :n].nonzero()[:, 0].tolist()
        assert len(picked) == math.floor(fraction * n + 0.5)
        sign = 1 if lowest else -1
        best = sorted(
            range(n), key=lambda place: (sign * float(scores[row, place]), place)
        )  # ties by position
        assert picked == sorted(best[: len(picked)])
        assert not chosen[row, n:].any()


def test_a_unit_may_be_a_group_or_a_part_of_a_row() -> None:
    scores = torch.tensor([[9.0, 8, 1, 2], [3, 4, 7, 6]])
    counted = torch.ones_like(scores, dtype=torch.bool)
    together = torch.zeros_like(scores, dtype=torch.long)
    assert top(scores, counted, together, fraction=0.5).int().tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]]
    packed = torch.tensor([[0, 0, 1, 1], [2, 2, 2, 2]])
    assert top(scores, counted, packed, fraction=0.5).int().tolist() == [[1, 0, 0, 1], [0, 0, 1, 1]]
    place, number = ranks(scores, counted, packed)
    assert place.tolist() == [[0, 1, 1, 0], [3, 2, 0, 1]]
    assert number.tolist() == [[2, 2, 2, 2], [4, 4, 4, 4]]
    missing = torch.tensor([[math.nan, 0.0, -1.0, -5.0]])
    assert ranks(missing, counted[:1], together[:1])[0].tolist() == [[3, 0, 1, 2]]


def test_soft_is_linear_in_rank() -> None:
    counted, unit = rows(5, 1, 0)
    scores = torch.tensor([[5.0, 1, 4, 2, 3]] * 3)
    assert soft(scores, counted, unit).tolist() == [[1.0, 0.0, 0.75, 0.25, 0.5], [0.5, 0, 0, 0, 0], [0.0] * 5]


@given(st.floats(0.0, 0.9), st.floats(0, 3), st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_the_bilevel_rule_keeps_the_sum_and_the_order(quantile: float, beta: float, seed: int) -> None:
    counted, unit = rows(9, 6)
    scores = torch.rand(2, 9, generator=torch.Generator().manual_seed(seed)) * 3
    weights = bilevel(scores, counted, unit, quantile=quantile, beta=beta)
    for row, n in ((0, 9), (1, 6)):
        own = weights[row, :n]
        assert float(own.sum()) == pytest.approx(n, rel=1e-5)
        order = scores[row, :n].argsort()
        assert (own[order].diff() >= -1e-6).all()
        assert float(own.min()) > 0
    assert (weights[1, 6:] == 1).all()


def test_the_bilevel_rule_by_hand() -> None:
    # log1p of e^u − 1 is u: levels 0, ¼, ½, ¾, 1; at the median the weights are 0.1, ½ | 1, 1.25, 1.5 before scaling.
    scores = torch.expm1(torch.tensor([[0.0, 0.25, 0.5, 0.75, 1.0]]))
    counted, unit = rows(5)
    found = bilevel(scores, counted, unit, quantile=0.5, beta=0.5)[0]
    plain = torch.tensor([0.1, 0.5, 1.0, 1.25, 1.5])
    torch.testing.assert_close(found, plain * 5 / plain.sum())
    flat = bilevel(torch.ones(1, 5), counted, unit, quantile=0.5, beta=0.5)
    torch.testing.assert_close(flat, torch.ones(1, 5))


def test_mass_is_kept_where_it_should_be() -> None:
    response, unit = rows(10, 4, 0)
    chosen = top(torch.rand(3, 10), response, unit, fraction=0.4)
    weights = torch.where(chosen, 1.5, 1.0)
    assert with_mass(weights, response, unit, 3, "free")[0].mean() == pytest.approx(
        1.2
    )  # the paper's longer step
    kept = with_mass(weights, response, unit, 3, "preserve")
    assert kept[0].mean() == pytest.approx(1)
    assert kept[1, :4].mean() == pytest.approx(1)
    assert (kept[2] == 1).all()
    assert float(kept[0].max() / kept[0].min()) == pytest.approx(1.5)
    nothing = with_mass(torch.zeros(3, 10), response, unit, 3, "preserve")
    assert torch.isfinite(nothing).all()


def test_the_share_of_advantage_on_the_chosen() -> None:
    response, _ = rows(4)
    chosen = torch.tensor([[True, False, False, True]])
    assert chosen_share(chosen, torch.tensor([[1.0, -1, 1, -3]]), response) == pytest.approx(4 / 6)
    assert math.isnan(chosen_share(chosen, torch.zeros(1, 4), response))
