import math

import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy import stats as reference

from noria.core.statistics.bootstrap import bootstrap_mean, bootstrap_ratios, cluster_bootstrap_mean
from noria.core.statistics.corrections import holm
from noria.core.statistics.intervals import mcnemar, mean_known, paired_difference, proportion_interval

NUMBERS = st.floats(-1e6, 1e6)
PAIRS = st.lists(st.tuples(NUMBERS, NUMBERS), min_size=2, max_size=20)
LEVELS = st.floats(0.5, 0.999)


def generator(seed=0):
    return np.random.default_rng(seed)


@given(st.lists(st.one_of(st.none(), st.just(math.nan), NUMBERS), max_size=8))
def test_the_mean_of_what_is_known_leaves_gaps_out(values):
    known = [v for v in values if v is not None and v == v]
    assert mean_known(values) == pytest.approx(np.mean(known) if known else math.nan, nan_ok=True)


# --- paired differences --------------------------------------------------------------------------------------


@given(PAIRS, LEVELS)
def test_the_paired_interval_is_that_of_scipys_paired_t_test(pairs, level):
    a, b = np.array(pairs).T
    if np.std(a - b) < 1e-6:
        return
    ours = paired_difference(a, b, level=level)
    theirs = reference.ttest_rel(a, b).confidence_interval(level)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=1e-9, abs=1e-6)
    assert ours.n == len(pairs)


@given(PAIRS, NUMBERS)
def test_what_both_sides_of_a_pair_share_does_not_matter(pairs, shift):
    a, b = np.array(pairs).T
    plain, shifted = paired_difference(a, b), paired_difference(a + shift, b + shift)
    assert shifted.low == pytest.approx(plain.low, abs=1e-6)
    assert shifted.high == pytest.approx(plain.high, abs=1e-6)


@given(PAIRS)
def test_swapping_the_sides_mirrors_the_interval(pairs):
    a, b = np.array(pairs).T
    one, other = paired_difference(a, b), paired_difference(b, a)
    assert (one.effect, one.low, one.high) == (-other.effect, -other.high, -other.low)


@given(PAIRS, st.integers(0, 20))
def test_a_missing_side_drops_its_pair_and_no_other(pairs, position):
    a, b = np.array(pairs).T
    position = min(position, len(a))
    with_gap = paired_difference(np.insert(a, position, math.nan), np.insert(b, position, 1.0))
    assert with_gap == paired_difference(a, b)


def test_the_paired_interval_covers_the_truth_as_often_as_it_says():
    draws = generator().normal(1.0, 2.0, size=(4000, 4))
    inside = sum(i.low <= 1.0 <= i.high for i in (paired_difference(d, np.zeros(4)) for d in draws))
    assert reference.binomtest(inside, 4000, 0.95).pvalue > 1e-3


def test_one_seed_has_an_effect_and_no_interval_and_none_has_neither():
    one = paired_difference([3.0], [1.0])
    assert one.effect == 2.0
    assert math.isnan(one.low)
    assert math.isnan(one.high)
    none = paired_difference([math.nan], [1.0])
    assert none.n == 0
    assert math.isnan(none.effect)


def test_pairs_need_two_lists_of_one_length():
    with pytest.raises(ValueError, match="one length"):
        paired_difference([1.0, 2.0], [1.0])


# --- proportions ---------------------------------------------------------------------------------------------


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), LEVELS)
def test_the_proportion_interval_is_wilsons(counts, level):
    successes, trials = counts
    ours = proportion_interval(successes, trials, level=level)
    theirs = reference.binomtest(successes, trials).proportion_ci(level, method="wilson")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert 0 <= ours.low <= ours.effect <= ours.high <= 1


def test_a_proportion_of_nothing_is_missing_and_of_too_much_refused():
    assert math.isnan(proportion_interval(0, 0).effect)
    with pytest.raises(ValueError, match="3 successes of 2 trials"):
        proportion_interval(3, 2)


# --- bootstrap -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_the_bootstrap_interval_is_scipys_up_to_the_resamples(method):
    values = generator(1).exponential(size=200)
    ours = bootstrap_mean(values, generator=generator(2), resamples=20_000, method=method)
    theirs = reference.bootstrap(
        (values,), np.mean, n_resamples=20_000, method=method, rng=generator(3)
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.01)
    assert ours.effect == pytest.approx(values.mean())


def test_bca_follows_the_skew_that_percentiles_miss():
    values = generator(1).exponential(size=30)
    plain, corrected = (
        bootstrap_mean(values, generator=generator(2), method=method) for method in ("percentile", "bca")
    )
    assert plain.low + 0.01 < corrected.low
    assert plain.high + 0.01 < corrected.high
    (ratio,) = bootstrap_ratios(
        values[:, None], np.ones((30, 1)), generator=generator(3), resamples=20_000, method="bca"
    )
    clusters = cluster_bootstrap_mean(values, range(30), generator=generator(2), method="bca")
    assert clusters == corrected
    assert (ratio.low, ratio.high) == pytest.approx((corrected.low, corrected.high), abs=0.1)


@given(st.lists(NUMBERS, min_size=1, max_size=30), st.integers(0, 2**32))
def test_the_bootstrap_stays_within_the_data_and_repeats_with_its_seed(values, seed):
    first = bootstrap_mean(values, generator=generator(seed), resamples=200)
    assert bootstrap_mean(values, generator=generator(seed), resamples=200) == first or len(values) == 1
    if len(values) > 1:
        slack = 1e-9 * max(map(abs, values))
        assert min(values) - slack <= first.low <= first.high <= max(values) + slack


def test_blocks_of_resamples_do_not_change_the_result(monkeypatch):
    values = generator(1).normal(size=50)
    whole = bootstrap_mean(values, generator=generator(2), resamples=1000)
    monkeypatch.setattr("noria.core.statistics.bootstrap._BLOCK", 333)
    assert bootstrap_mean(values, generator=generator(2), resamples=1000) == whole


@given(st.lists(NUMBERS, min_size=2, max_size=20))
def test_clusters_of_one_are_the_plain_bootstrap(values):
    plain = bootstrap_mean(values, generator=generator(), resamples=100)
    assert cluster_bootstrap_mean(values, range(len(values)), generator=generator(), resamples=100) == plain


def test_copies_within_a_cluster_do_not_narrow_the_interval():
    values = generator(1).normal(size=40)
    plain = bootstrap_mean(values, generator=generator(2))
    copied = cluster_bootstrap_mean(
        np.repeat(values, 25), np.repeat(np.arange(40), 25).tolist(), generator=generator(2)
    )
    assert (copied.low, copied.high) == pytest.approx((plain.low, plain.high))
    naive = bootstrap_mean(np.repeat(values, 25), generator=generator(2), resamples=2000)
    assert naive.high - naive.low < 0.5 * (copied.high - copied.low)


def test_a_cluster_that_is_all_missing_is_no_cluster():
    with_gap = cluster_bootstrap_mean(
        [1.0, math.nan, 3.0, 5.0], ["a", "b", "c", "c"], generator=generator(), resamples=500
    )
    assert with_gap == cluster_bootstrap_mean([1.0, 3.0, 5.0], "acc", generator=generator(), resamples=500)
    assert with_gap.n == 2
    assert with_gap.effect == 3.0


def test_clusters_of_unequal_size_weigh_by_their_values():
    # Of two clusters, both draws hit the same one half of the time: the means are 0, 3/4 and 1.
    interval = cluster_bootstrap_mean([0, 1, 1, 1], "abbb", generator=generator(), level=0.4)
    assert (interval.effect, interval.low, interval.high) == (0.75, 0.75, 0.75)


def test_a_weight_counts_as_so_many_copies():
    once = cluster_bootstrap_mean([0, 1, 4], "abb", weights=[2, 1, 3], generator=generator(), resamples=200)
    copied = cluster_bootstrap_mean([0, 0, 1, 4, 4, 4], "aabbbb", generator=generator(), resamples=200)
    assert once == copied
    unknown = cluster_bootstrap_mean([0, 1, 9], "abb", weights=[1, 2, math.nan], generator=generator())
    assert unknown.effect == pytest.approx(2 / 3)


def test_a_single_cluster_has_no_interval():
    interval = cluster_bootstrap_mean([1.0, 2.0], "aa", generator=generator())
    assert interval.effect == 1.5
    assert math.isnan(interval.low)
    with pytest.raises(ValueError, match="2 values with 2 weights in 1 clusters"):
        cluster_bootstrap_mean([1.0, 2.0], "a", generator=generator())


# --- ratios --------------------------------------------------------------------------------------------------


def test_the_ratio_of_sums_covers_the_truth_as_often_as_it_says():
    held = 0
    for seed in range(200):
        rng = generator(seed)
        bottom = rng.gamma(2, size=(80, 1))
        top = 1.5 * bottom + rng.normal(size=(80, 1))
        (interval,) = bootstrap_ratios(top, bottom, generator=rng, resamples=400)
        assert interval.effect == pytest.approx(top.sum() / bottom.sum())
        held += interval.low <= 1.5 <= interval.high
    assert 176 <= held <= 199


def test_a_ratio_of_equal_denominators_is_the_bootstrap_of_the_mean():
    values = generator().normal(size=(60, 2))
    ratios = bootstrap_ratios(values, np.ones((60, 2)), generator=generator(1), resamples=20_000)
    for column, ratio in enumerate(ratios):
        mean = bootstrap_mean(values[:, column], generator=generator(2), resamples=20_000)
        assert (ratio.low, ratio.high) == pytest.approx((mean.low, mean.high), abs=0.02)
        assert ratio.n == 60


def test_a_ratio_to_nothing_is_missing_and_one_near_it_has_no_interval():
    top = np.ones((4, 3))
    bottom = np.array([[0, 1, 1], [0, -1, 1], [0, 1, math.nan], [0, 1, math.nan]], float)
    nothing, near, few = bootstrap_ratios(top, bottom, generator=generator())
    assert math.isnan(nothing.effect)
    assert near.effect == 2.0
    assert math.isnan(near.low)
    assert (few.effect, few.n) == (1.0, 2)
    with pytest.raises(ValueError, match="one shape"):
        bootstrap_ratios([[1.0]], [[1.0, 2.0]], generator=generator())
    assert math.isnan(bootstrap_ratios(np.empty((0, 1)), np.empty((0, 1)), generator=generator())[0].effect)


# --- several tests at once -----------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holms_p_values_are_those_of_the_step_down(values):
    found = holm(values)
    order = np.argsort(values)
    expected = np.maximum.accumulate([min(1.0, values[n] * (len(values) - k)) for k, n in enumerate(order)])
    assert [found[n] for n in order] == pytest.approx(expected.tolist())
    assert holm([None, *values, None])[1:-1] == found  # no test costs nothing
    assert all(b >= a for a, b in zip(found, holm(values, looks=5), strict=True))


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []
    assert holm([None]) == [None]


@pytest.mark.parametrize(
    ("gained", "lost"), [(5, 1), (1, 5), (3, 3), (10, 0), (1, 0), (0, 7), (10, 10), (23, 11)]
)
def test_mcnemars_test_is_the_binomials(gained: int, lost: int) -> None:
    assert mcnemar(gained, lost) == pytest.approx(reference.binomtest(gained, gained + lost).pvalue)
    law, k = reference.binom(gained + lost, 0.5), min(gained, lost)
    assert mcnemar(gained, lost, mid=True) == pytest.approx(min(1.0, 2 * (law.cdf(k) - 0.5 * law.pmf(k))))
    assert mcnemar(0, 0) is None
    assert mcnemar(1500 + gained, 1500) == pytest.approx(reference.binomtest(1500, 3000 + gained).pvalue)
