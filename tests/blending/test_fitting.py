from __future__ import annotations

import json
import math
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from noria.blending.alignment.aligners import (
    KINDS,
    Affine,
    Beta,
    Isotonic,
    Kind,
    Mean,
    Platt,
    aligner_from_json,
    aligner_to_json,
    kind_of,
)
from noria.blending.alignment.alignment import ANY, Alignment, Entry
from noria.blending.alignment.config import FitConfig
from noria.blending.alignment.curves import fit_aligner
from noria.blending.alignment.diagnosis import diagnose
from noria.blending.alignment.fitting import fit_alignment
from noria.blending.alignment.tallies import Bins, Key, Tallies, folds
from noria.core.errors import DataError

PLAIN = FitConfig(half_life=None, shrink=0, population="all")


def draw(
    count: int, seed: int, power: float = 1.0, unit: float = 1.0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scores in proportion to a power of the truth, and outcomes of the truth."""
    rng = np.random.default_rng(seed)
    truth = rng.beta(2, 3, size=count)
    return unit * truth**power, (rng.random(count) < truth).astype(float)


def tallied(x: NDArray[np.float64], a: NDArray[np.float64], **more: object) -> Tallies:
    tallies = Tallies()
    tallies.add(x, a, source="s", fold=folds(np.arange(len(x))), **more)  # type: ignore[arg-type]
    return tallies


def binned(x: NDArray[np.float64], a: NDArray[np.float64]) -> Bins:
    tallies = tallied(x, a)
    return tallies.binned(None, tallies.cells)


@pytest.mark.parametrize("kind", get_args(Kind))
def test_every_kind_keeps_the_mean_rises_with_the_score_and_survives_json(kind: Kind) -> None:
    x, a = draw(20_000, 0, power=1.5)
    fit = fit_aligner(kind, binned(x, a))
    assert fit is not None
    assert kind_of(fit) == kind
    keeps = {"sir": 1e-3, "isotonic": 1e-4}.get(kind, 3e-6)  # where lines run between the centres of bins
    assert fit.transform(x).mean() == pytest.approx(a.mean(), rel=keeps)
    grid = np.unique(np.linspace(x.min() - 0.1 * (kind != "beta"), x.max(), 2000))
    assert (np.diff(fit.transform(grid)) > 0).all()
    again = aligner_from_json(json.loads(json.dumps(aligner_to_json(fit))))
    assert again.transform(x).tobytes() == fit.transform(x).tobytes()


@given(st.floats(1e-3, 1e6), st.integers(0, 100))
def test_the_mean_aligner_does_not_know_the_unit_of_scores(unit: float, seed: int) -> None:
    x, a = draw(300, seed)
    plain, scaled = (fit_aligner("mean", binned(one, a)) for one in (x, unit * x))
    assert isinstance(plain, Mean)
    assert isinstance(scaled, Mean)
    np.testing.assert_allclose(scaled.transform(unit * x), plain.transform(x), rtol=1e-7)


def test_the_mean_aligner_is_the_ratio_of_sums_and_shrinks_to_the_parents_rate() -> None:
    x, a = draw(1000, 1, unit=12.0)
    x = x.astype(np.float32).astype(float)
    exact = fit_aligner("mean", binned(x, a))
    assert isinstance(exact, Mean)
    assert exact.scale == pytest.approx(a.sum() / x.sum(), rel=1e-12)
    shrunk = fit_aligner("mean", binned(x, a), rate=0.9, shrink=200)
    assert isinstance(shrunk, Mean)
    assert shrunk.scale == pytest.approx((a.sum() + 200 * 0.9) / (x.sum() + 200 * x.mean()), rel=1e-12)
    nothing = fit_aligner("mean", binned(x, np.zeros(1000)), rate=0.3, shrink=200)
    assert isinstance(nothing, Mean)
    assert nothing.scale > 0


def test_the_shrunk_affine_aligner_lies_between_least_squares_and_the_mean_line() -> None:
    x, a = draw(2000, 2)
    x = x.astype(np.float32).astype(float)
    data = binned(x, a)
    plain, shrunk, mean = (
        fit_aligner("affine", data),
        fit_aligner("affine", data, shrink=500),
        fit_aligner("mean", data),
    )
    assert isinstance(plain, Affine)
    assert isinstance(shrunk, Affine)
    assert isinstance(mean, Mean)
    design = np.column_stack([x, np.ones(2000)])
    np.testing.assert_allclose([plain.scale, plain.offset], np.linalg.lstsq(design, a)[0], atol=1e-4)
    if (mean.scale * x).max() <= 1:
        share = 2000 / 2500
        assert shrunk.scale == pytest.approx(share * plain.scale + (1 - share) * mean.scale, rel=1e-9)
        assert shrunk.offset == pytest.approx(share * plain.offset, rel=1e-9)


def test_platt_and_isotonic_agree_with_scikit_learn() -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    isotonic = pytest.importorskip("sklearn.isotonic")
    x, a = draw(5000, 3, power=2)
    ours = fit_aligner("platt", binned(x, a))
    theirs = linear.LogisticRegression(C=1e12, tol=1e-10, max_iter=1000).fit(x[:, None], a)
    assert ours is not None
    np.testing.assert_allclose(ours.transform(x), theirs.predict_proba(x[:, None])[:, 1], atol=2e-4)
    ours = fit_aligner("isotonic", binned(x, a))
    regression = isotonic.IsotonicRegression(out_of_bounds="clip").fit(x, a)
    assert ours is not None
    assert np.abs(ours.transform(x) - regression.predict(x)).mean() < 2e-3


def test_beta_calibration_finds_the_power_that_scores_were_raised_to() -> None:
    """Of scores x = p² / (p² + (1 − p)²) the log odds of p are half of those of x: a = b = 1/2."""
    rng = np.random.default_rng(4)
    p = rng.beta(2, 2, size=200_000)
    x = p**2 / (p**2 + (1 - p) ** 2)
    fit = fit_aligner("beta", binned(x, (rng.random(len(p)) < p).astype(float)))
    assert isinstance(fit, Beta)
    assert [fit.a, fit.b, fit.c] == pytest.approx([0.5, 0.5, 0.0], abs=0.02)
    assert fit_aligner("beta", binned(2 * x, p.round())) is None  # no probabilities


def test_ties_and_weights_of_nothing_do_not_stop_isotonic_regression() -> None:
    """What scikit-learn's issues 9432, 6691 and 4185 were about."""
    tied = binned(np.array([1.0, 1.0, 1.0, 2.0, 3.0]), np.array([0.0, 1.0, 1.0, 0.0, 1.0]))
    fit = fit_aligner("isotonic", tied)
    assert fit is not None
    assert fit.transform(np.array([1.0, 2.0, 3.0])) == pytest.approx([0.5, 0.5, 1.0], abs=1e-5)
    tallies = Tallies()
    tallies.add([1.0, 2.0, 3.0], [0.0, 1.0, 1.0], source="s", weight=[1.0, 0.0, 1.0])
    fit = fit_aligner("isotonic", tallies.binned(None, tallies.cells))
    assert fit is not None
    n = 20_000
    falling = fit_aligner("isotonic", binned(np.linspace(1, 2, n), (np.arange(n) < n / 2).astype(float)))
    assert falling is None  # one block


def test_a_score_that_says_nothing_or_the_wrong_thing_gives_no_aligner_of_most_kinds() -> None:
    x, a = draw(5000, 5)
    upside_down = binned(2 - x, a)
    for kind in ("affine", "platt"):
        assert fit_aligner(kind, upside_down) is None
    assert fit_aligner("mean", binned(-x, a)) is None
    assert fit_aligner("mean", binned(x, np.zeros(5000))) is None
    assert fit_aligner("mean", Bins(np.empty(0), np.empty(0), np.empty(0))) is None
    assert fit_aligner("platt", binned(x, np.ones(5000))) is None


@pytest.mark.parametrize(
    ("power", "simple"), [(1.0, {"mean", "affine"}), (2.5, {"affine", "platt", "beta", "sir", "isotonic"})]
)
def test_the_diagnosis_finds_mean_scaling_wrong_exactly_where_it_is(power: float, simple: set[str]) -> None:
    x, a = draw(30_000, 6, power=power)
    tallies = tallied(x, a)
    found = diagnose(tallies, tallies.cells, PLAIN)
    assert found.advice in simple
    assert found.p_value is not None
    assert (found.p_value < 1e-6) == (power != 1.0)
    assert sum(decile.exposures for decile in found.deciles) == 30_000
    if power == 1.0:
        assert all(decile.low <= decile.value <= decile.high for decile in found.deciles[1:])


def test_mean_scaling_passes_the_test_of_deciles_as_often_as_it_should() -> None:
    values = []
    for seed in range(60):
        tallies = tallied(*draw(4000, 100 + seed))
        p = diagnose(tallies, tallies.cells, PLAIN).p_value
        assert p is not None
        values.append(p)
    assert sum(p < 0.1 for p in values) <= 14  # 6 are expected; more than 14 has a chance of 0.001


def test_keys_are_aligned_alone_and_unknown_ones_by_their_parent() -> None:
    tallies = Tallies()
    for version, unit in (("v1", 1.0), ("v2", 50.0)):
        x, a = draw(4000, 7, unit=unit)
        tallies.add(x, a, source="live", scene="home", version=version)
    alignment, notes = fit_alignment(tallies, PLAIN, now=0.0)
    one, two = (alignment.entries[Key("home", "live", version)].aligner for version in ("v1", "v2"))
    assert isinstance(one, Mean)
    assert isinstance(two, Mean)
    assert one.scale == pytest.approx(50 * two.scale, rel=1e-6)
    assert alignment.find("home", "live", "v3") == (Key("home", "live", ANY), True)
    assert alignment.find("search", "live", "v3") == (Key(ANY, "live", ANY), True)
    assert alignment.find("home", "ads", "v1") is None
    assert {note.origin for note in notes} == {"own"}


def test_the_control_bucket_is_what_counts_where_it_is_large_enough() -> None:
    tallies = Tallies()
    x, a = draw(3000, 8)
    tallies.add(x, a, source="s", control=True)
    tallies.add(x, np.ones(3000), source="s")  # boosted items that were watched for other reasons
    config = FitConfig(half_life=None, shrink=0)
    control, _ = fit_alignment(tallies, config, now=0.0)
    everyone, notes = fit_alignment(tallies, config.model_copy(update={"least_control": 5000}), now=0.0)
    assert control.mean_value == pytest.approx(a.mean())
    assert everyone.mean_value > control.mean_value
    assert {note.population for note in notes} == {"all"}


def test_old_exposures_count_less() -> None:
    tallies = Tallies()
    tallies.add(np.ones(1000), np.zeros(1000), source="s", tick=0)
    tallies.add(np.ones(1000), np.ones(1000), source="s", tick=96)  # a day later
    config = FitConfig(shrink=0, population="all")
    alignment, _ = fit_alignment(tallies, config, now=97 * 900.0)
    assert alignment.mean_value == pytest.approx(1 / 1.5)


def test_what_has_no_outcomes_takes_the_last_good_alignment_and_a_jump_is_held_back() -> None:
    x, a = draw(4000, 9)
    good, _ = fit_alignment(tallied(x, a), PLAIN, now=0.0)
    dead, notes = fit_alignment(tallied(x, np.zeros(4000)), PLAIN, now=1.0, previous=good)
    assert {note.origin for note in notes} == {"last"}
    assert dead.mean_value == good.mean_value
    gone, _ = fit_alignment(Tallies(), PLAIN, now=1.0, previous=good)
    assert gone.entries.keys() == good.entries.keys()
    with pytest.raises(DataError, match="no effective completion"):
        fit_alignment(tallied(x, np.zeros(4000)), PLAIN, now=1.0)
    with pytest.raises(DataError, match="no effective completion"):
        fit_alignment(Tallies(), PLAIN, now=1.0)

    half = tallied(x, a * (np.arange(4000) % 2))
    held, notes = fit_alignment(half, PLAIN, now=1.0, previous=good, jump=0.3)
    assert {note.origin for note in notes} == {"held"}
    assert "jumped" in notes[0].why
    key = Key("", "s", "")
    assert held.entries[key].aligner == good.entries[key].aligner
    let, _ = fit_alignment(half, PLAIN, now=1.0, previous=good, jump=1.0)
    assert let.entries[key].aligner != good.entries[key].aligner


def test_a_kind_that_does_not_fit_falls_back_to_the_mean_and_says_so() -> None:
    x, a = draw(4000, 10)
    config = PLAIN.model_copy(update={"aligner": "platt"})
    alignment, notes = fit_alignment(tallied(2 - x, a), config, now=0.0)
    assert {type(entry.aligner) for entry in alignment.entries.values()} == {Mean}
    assert "no rising platt" in notes[0].why
    auto = PLAIN.model_copy(update={"by_source": {"s": "auto"}})
    alignment, _ = fit_alignment(tallied(*draw(30_000, 11, power=3)), auto, now=0.0)
    assert Mean not in {type(entry.aligner) for entry in alignment.entries.values()}


def test_fitting_is_the_same_whatever_was_merged_when() -> None:
    x, a = draw(6000, 12, power=2)
    ticks = np.random.default_rng(0).integers(5, size=6000)
    whole, parts = Tallies(), [Tallies() for _ in range(3)]
    fold = folds(np.arange(6000))
    for tick in range(5):
        rows = ticks == tick
        whole.add(x[rows], a[rows], source="s", tick=tick, fold=fold[rows])
        for number, part in enumerate(parts):
            mine = rows & (np.arange(6000) % 3 == number)
            part.add(x[mine], a[mine], source="s", tick=tick, fold=fold[mine])
    config = FitConfig(aligner="auto", population="all")
    one, _ = fit_alignment(whole, config, now=4500.0)
    two, _ = fit_alignment(Tallies().merge(*reversed(parts)), config, now=4500.0)
    assert json.dumps(one.to_json()) == json.dumps(two.to_json())


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"kind": "magic", "scale": 1},
        {"kind": "mean"},
        {"kind": "mean", "scale": "x"},
        {"kind": "mean", "scale": math.nan},
        {"kind": "isotonic", "x": [2, 1], "y": [0, 1], "tilt": 0, "centre": 0, "spread": 1},
        {"kind": "isotonic", "x": [], "y": [], "tilt": 0, "centre": 0, "spread": 1},
    ],
)
def test_what_is_no_aligner_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(DataError):
        aligner_from_json(values)


def test_an_alignment_of_several_kinds_gives_each_candidate_its_own() -> None:
    from noria.blending.columns import Candidates

    entries = {
        Key(ANY, "a", ANY): Entry(Mean(2.0)),
        Key(ANY, "b", ANY): Entry(Platt(1.0, 0.0)),
        Key("home", "c", "v2"): Entry(Isotonic((0.0, 1.0), (0.2, 0.4), 0.0, 0.0, 1.0)),
    }
    candidates = Candidates.of(
        {
            "item": [1, 2, 3, 4, 5],
            "score": [0.5, 0.0, 0.5, 1.0, 1.0],
            "source": ["a", "b", "c", "d", "c"],
            "version": ["v1", None, "v2", "v1", "v1"],
        },
        scene="home",
    )
    found = Alignment(entries, 0.5).align(candidates)
    np.testing.assert_allclose(found.value, [1.0, 0.5, 0.3, np.nan, np.nan])
    assert found.unknown.tolist() == [False, False, False, True, True]
    assert found.fallback.tolist() == [True, True, False, False, False]
    assert set(KINDS) == set(get_args(Kind))
