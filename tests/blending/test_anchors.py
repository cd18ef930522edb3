from __future__ import annotations

import numpy as np
import pytest

from noria.blending.alignment.anchors import EffectiveCompletion, audit_anchors, fit_thresholds, smoothed_rate

NAN = float("nan")


def watched(count: int = 20_000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Long contents are watched longer in seconds and less in shares, as in every feed."""
    rng = np.random.default_rng(seed)
    duration = np.exp(rng.normal(3.5, 1.0, size=count))
    return duration**0.5 * rng.gamma(2, 0.5, size=count), duration


def test_rules_and_their_thresholds() -> None:
    d = np.array([2.0, 10.0, 100.0, NAN])
    assert EffectiveCompletion(rule="ratio", ratio=0.5).threshold(d).tolist() == [1, 5, 50, 10]
    assert EffectiveCompletion(rule="seconds", seconds=7).threshold(d).tolist() == [2, 7, 7, 7]
    assert EffectiveCompletion(rule="capped", ratio=0.5, seconds=7).threshold(d).tolist() == [1, 5, 7, 7]
    quantile = EffectiveCompletion(rule="quantile", edges=(5.0, 50.0), thresholds=(9.0, 1.0, 30.0))
    assert quantile.threshold(d).tolist() == [2, 3, 30, 10]  # within [min(d, 3 s), d]


def test_records_that_are_not_valid_are_counted_once_and_have_no_outcome() -> None:
    rule = EffectiveCompletion(rule="ratio", ratio=0.5)
    a, reasons = rule.outcome(
        [5.0, 4.0, NAN, -1.0, 5.0, 500.0, 12.0], [10.0, 10.0, 10.0, 10.0, 0.0, 10.0, NAN]
    )
    np.testing.assert_array_equal(a, [1, 0, NAN, NAN, NAN, NAN, 1])
    assert reasons == {
        "watch missing": 1,
        "watch negative": 1,
        "duration not positive": 1,
        "watched too long to be watching": 1,
    }


def test_watching_in_a_loop_is_one_completion() -> None:
    assert EffectiveCompletion(rule="ratio").outcome([90.0], [10.0])[0].tolist() == [1.0]


def test_quantile_thresholds_make_rates_equal_across_durations() -> None:
    watch, duration = watched()
    fitted = fit_thresholds(watch, duration)
    fixed = EffectiveCompletion(rule="seconds", seconds=float(np.quantile(watch, 0.6)))
    spread = {}
    for name, rule in (("quantile", fitted), ("seconds", fixed)):
        a, _ = rule.outcome(watch, duration)
        spread[name] = audit_anchors({name: a}, duration=duration)[0].by_duration
    assert spread["quantile"] is not None
    assert spread["seconds"] is not None
    assert spread["quantile"] < 0.1 < 0.5 < spread["seconds"]
    a, _ = fitted.outcome(watch, duration)
    assert np.nanmean(a) == pytest.approx(0.4, abs=0.02)


def test_thresholds_of_nothing_fall_back_and_wrong_ones_are_refused() -> None:
    assert fit_thresholds([], []).rule == "capped"
    with pytest.raises(ValueError, match="edges part"):
        EffectiveCompletion(rule="quantile", edges=(1.0,), thresholds=(1.0,))
    with pytest.raises(ValueError, match="not fitted"):
        EffectiveCompletion(rule="quantile").outcome([1.0], [1.0])
    with pytest.raises(ValueError, match="do not rise"):
        EffectiveCompletion(edges=(2.0, 1.0))


def test_the_smoothed_rate_goes_from_the_prior_to_the_data() -> None:
    assert smoothed_rate(0, 0, prior=0.3) == 0.3
    assert smoothed_rate(0, 200, prior=0.3) == pytest.approx(0.15)
    assert smoothed_rate(900_000, 1_000_000, prior=0.3) == pytest.approx(0.9, abs=1e-3)


def test_the_audit_tells_what_each_figure_is_good_at_and_names_no_winner() -> None:
    rng = np.random.default_rng(0)
    n = 8000
    user = rng.integers(200, size=n)
    taste = rng.random(200)
    star = taste + 0.05 * rng.normal(size=200)
    day = rng.integers(5, size=n)
    good = (rng.random(n) < taste[user]).astype(float)
    wild = rng.random(n) * (1 + day)
    late = np.where(rng.random(n) < 0.5, good, NAN)
    rows = {
        one.name: one
        for one in audit_anchors(
            {"good": good, "wild": wild, "late": late},
            day=day.tolist(),
            source=["s"] * n,
            delay={"good": np.full(n, 5.0), "late": np.full(n, 600.0)},
            group=user.tolist(),
            north_star=star[user],
        )
    }
    assert rows["good"].north_star is not None
    assert rows["wild"].north_star is not None
    assert rows["good"].north_star > 0.9 > 0.3 > abs(rows["wild"].north_star)
    assert rows["wild"].stability is not None
    assert rows["good"].stability is not None
    assert rows["wild"].stability > 10 * rows["good"].stability
    assert (rows["good"].coverage, rows["late"].coverage) == (1.0, pytest.approx(0.5, abs=0.02))
    assert (rows["good"].maturity, rows["wild"].maturity) == (5.0, None)
    assert (rows["good"].by_source, rows["good"].by_duration) == (None, None)
    assert rows["good"].pareto
    assert not rows["late"].pareto or rows["late"].stability < rows["good"].stability  # type: ignore[operator]
