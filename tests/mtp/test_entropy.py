"""Bounds that hold and are reached, a line that is found again, and a split that is refused where it cannot be told."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy import stats

from noria.core.errors import ConfigError, DataError
from noria.core.statistics.intervals import Interval
from noria.mtp.acceptance.entropy import entropy, entropy_bounds, top_bounds
from noria.mtp.acceptance.rates import overlap
from noria.mtp.acceptance.regression import decompose, regress


def law(*shape: int, seed: int, sharp: float = 2.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (sharp * torch.randn(*shape, generator=generator, dtype=torch.float64)).softmax(-1)


def test_entropy_is_in_nats_and_missing_is_not_zero() -> None:
    p = torch.tensor([[0.25] * 4, [1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0.5, 0.2, 0, 0]])
    assert entropy(p)[:3].tolist() == pytest.approx([math.log(4), 0, math.log(2)])
    assert entropy(p)[3].isnan()


@settings(max_examples=80, deadline=None)
@given(st.integers(2, 40), st.integers(0, 10_000), st.floats(0.05, 8))
def test_entropy_lies_between_the_bounds_of_its_largest_probability(
    vocab: int, seed: int, sharp: float
) -> None:
    p = law(20, vocab, seed=seed, sharp=sharp)
    h, top = entropy(p), p.amax(-1)
    low, high = entropy_bounds(top, vocab)
    assert (low <= h + 1e-9).all()
    assert (h <= high + 1e-9).all()
    assert (top >= torch.exp(-h) - 1e-12).all(), "Bebop's first proposition"
    least, most = top_bounds(h, vocab)
    assert (least <= top + 1e-7).all()
    assert (top <= most + 1e-7).all()


def test_the_bounds_are_reached() -> None:
    spread = torch.tensor([0.4, 0.2, 0.2, 0.2], dtype=torch.float64)
    packed = torch.tensor([0.4, 0.4, 0.2, 0.0], dtype=torch.float64)
    low, high = entropy_bounds(torch.tensor(0.4, dtype=torch.float64), 4)
    assert float(high) == pytest.approx(float(entropy(spread)))
    assert float(low) <= float(entropy(packed)) + 1e-12
    for nats in (0.1, 0.7, 1.2):
        least, most = top_bounds(torch.tensor(nats, dtype=torch.float64), 4)
        assert float(entropy_bounds(most, 4)[1]) == pytest.approx(nats, abs=1e-6)
        assert float(least) < float(most)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 20), st.integers(0, 10_000))
def test_a_small_divergence_keeps_acceptance_up(vocab: int, seed: int) -> None:
    p, q = law(8, vocab, seed=seed, sharp=1), law(8, vocab, seed=seed + 1, sharp=1)
    kl = (p * (p / q).log()).sum(-1)
    pinsker = (kl / 2).sqrt().clamp(max=1)  # ≥ d_TV(p, q)
    assert (overlap(p, q) >= 1 - pinsker - 1e-9).all()


# -- the line ---------------------------------------------------------------------------------------------------------


def test_the_regression_is_least_squares_with_students_intervals() -> None:
    generator = np.random.default_rng(0)
    h = generator.uniform(0.3, 0.5, 40)
    tokens = 3.6 - 1.68 * h + generator.normal(0, 0.01, 40)
    fit, theirs = regress(h, tokens), stats.linregress(h, tokens)
    assert fit.slope.effect == pytest.approx(theirs.slope)
    half = stats.t.ppf(0.975, 38) * theirs.stderr
    assert (fit.slope.low, fit.slope.high) == pytest.approx((theirs.slope - half, theirs.slope + half))
    assert fit.slope.low < -1.68 < fit.slope.high
    holes = np.append(h, np.nan)
    assert regress(holes, np.append(tokens, 3.0)).slope.effect == pytest.approx(theirs.slope)


# -- Eq. 16 -----------------------------------------------------------------------------------------------------------


def planted(mismatch: float, noise: float = 0.002, steps: int = 100) -> tuple[Any, Any]:
    generator = np.random.default_rng(1)
    time = np.linspace(0, 1, steps)
    h = 0.4 + 0.1 * np.sin(9 * time) + 0.1 * time
    late = np.clip(time - 0.3, 0, None)
    return h, 3.5 - 1.5 * (h - h[0]) - mismatch * late + generator.normal(0, noise, steps)


@pytest.mark.parametrize("mismatch", [0.0, 0.4])
def test_a_planted_split_is_found_again(mismatch: float) -> None:
    h, tokens = planted(mismatch)
    split = decompose(h, tokens, baseline=3)
    assert split.identifiable, split.reason
    assert split.slope.effect == pytest.approx(-1.5, abs=0.1)
    np.testing.assert_allclose(split.entropy_part + split.mismatch, split.change)
    assert split.mismatch[-1] == pytest.approx(-0.7 * mismatch, abs=0.03)


def test_flat_entropy_gives_no_slope_but_a_reason() -> None:
    generator = np.random.default_rng(2)
    h, tokens = np.full(60, 0.4), 3.5 + generator.normal(0, 0.02, 60)
    for entropies, words in ((h, "too flat"), (h + generator.normal(0, 0.002, 60), "moved too little")):
        split = decompose(
            entropies, tokens + np.linspace(0, 0.3, 60) * (words != "too flat"), early=12, flat=1e-3
        )
        if words == "moved too little":
            split = decompose(np.append(entropies[:-1], 0.9), tokens, early=12, flat=1e-4)
        assert not split.identifiable
        assert words in split.reason
        assert np.isnan(split.entropy_part).all()
        assert np.isnan(split.mismatch).all()
        assert not np.isnan(split.change).all()
        assert math.isnan(split.slope.effect)


def test_a_slope_from_elsewhere_needs_no_early_steps() -> None:
    h, tokens = planted(0.0)
    split = decompose(h[:4], tokens[:4], slope=Interval(-1.5, -1.6, -1.4, 20))
    assert split.identifiable
    np.testing.assert_allclose(split.entropy_part, -1.5 * (h[:4] - h[0]))
    np.testing.assert_allclose(split.margin, 0.1 * np.abs(h[:4] - h[0]))
    few = decompose(h[:4], tokens[:4])
    assert not few.identifiable
    assert "only 4 early steps" in few.reason


def test_missing_steps_stay_missing() -> None:
    h, tokens = planted(0.2)
    tokens[[0, 50]] = np.nan
    split = decompose(h, tokens)
    assert split.identifiable
    for part in (split.change, split.entropy_part, split.mismatch, split.margin):
        assert np.flatnonzero(np.isnan(part)).tolist() == [0, 50]
    assert split.change[1] == 0


def test_errors_say_what_is_wrong() -> None:
    with pytest.raises(DataError, match="one of each a step"):
        decompose([0.1, 0.2], [3.0])
    with pytest.raises(DataError, match="no step has both"):
        decompose([math.nan, 0.2], [3.0, math.nan])
    with pytest.raises(DataError, match="NaN for what is missing"):
        decompose([math.inf], [3.0])
    with pytest.raises(ConfigError, match="at least 1 step"):
        decompose([0.1], [3.0], early=0)
    with pytest.raises(ConfigError, match="level"):
        regress([0.1, 0.2, 0.3], [1, 2, 3], level=1.5)
