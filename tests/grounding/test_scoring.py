"""The table, its rates, their uncertainty: closed forms, the paper's own numbers, and what no refusal may do."""

from __future__ import annotations

import itertools
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

from noria.grounding.corpus.types import level_number, source_of, to_levels
from noria.grounding.scoring.comparing import (
    compare,
    fair_prejudice,
    least_detectable,
    max_t,
    mcnemar_of,
    rank_intervals,
)
from noria.grounding.scoring.intervals import bootstrap, cluster_weights, estimates
from noria.grounding.scoring.rates import (
    DEFAULT,
    SWEEP,
    Marks,
    Ratio,
    Theta,
    Truth,
    cells,
    measures,
    passes,
    rates,
)
from noria.grounding.scoring.views import (
    association,
    chance_corrected,
    chance_of_passing,
    distinct_settings,
    guesses,
    linked_prejudice,
    positional_bias,
    rank_gap,
    threshold_curves,
    total_variation,
)


def world(n: int = 60, seed: int = 0, per: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7)) -> Truth:
    """`n` videos with questions of the release's numbers, two to a source."""
    generator = np.random.default_rng(seed)
    counts = np.array([per[i % len(per)] for i in range(n)])
    video = np.repeat(np.arange(n), counts)
    category = np.concatenate([np.arange(c) for c in counts])
    return Truth(
        levels=generator.integers(5, size=(n, 5)),
        sources=np.arange(n) // 2,
        video=video,
        category=category,
        answer=generator.integers(6, size=len(video)),
        options=np.full(len(video), 6),
        linked=generator.random((len(video), 5)) < 0.4,
    )


def said(truth: Truth, seed: int = 1, skill: float = 0.5, judged: bool = True) -> Marks:
    generator = np.random.default_rng(seed)
    guess = guesses(truth, generator)
    return Marks(
        np.where(generator.random(truth.levels.shape) < skill, truth.levels, guess.levels),
        np.where(generator.random(truth.answer.shape) < skill, truth.answer, guess.answers),
        np.ones(truth.levels.shape, bool),
        generator.uniform(4, 10, size=(*truth.levels.shape, 4)) if judged else None,
    )


def value(ratios: list[Ratio], name: str) -> float | None:
    return next(r.value for r in ratios if r.name == name)


# -- the vocabulary ---------------------------------------------------------------------------------------------------


def test_the_two_binnings_differ_on_the_edges_alone() -> None:
    scores = np.array([0.0, 0.2, 0.35, 0.4, 0.6, 0.61, 0.8, 1.0, np.nan])
    assert to_levels(scores, "paper").tolist() == [0, 1, 1, 2, 3, 3, 4, 4, -1]
    assert to_levels(scores, "official").tolist() == [0, 0, 1, 1, 2, 3, 3, 4, -1]


@pytest.mark.parametrize(
    ("given", "level"),
    [
        ("Very High", 4), ("very_high", 4), ("VH", 4), ("5", 4), (5, 4), (3.0, 2), ("moderate", 2), (" **low** ", 1),
        ("Very-Low", 0), ("very  low", 0), (0, None), (6, None), (True, None), (None, None), ("highest", None),
        ("", None), (2.5, None), ("High " * 20, None), ([], None),
    ],
)  # fmt: skip
def test_levels_as_models_write_them(given: object, level: int | None) -> None:
    assert level_number(given) == level


def test_a_source_is_an_id_without_its_clip_number() -> None:
    assert source_of("-6otZ7M-Mro.002.mp4") == "-6otZ7M-Mro"
    assert source_of("a.b.001") == "a.b"
    assert source_of("plain.mp4") == "plain.mp4"
    assert source_of(".001.mp4") == ".001.mp4"


# -- passing ----------------------------------------------------------------------------------------------------------


def test_shares_are_rationals() -> None:
    """3 of 5 passes .6 exactly, and .5 and .6 are one rule for five traits (audit of the paper, finding 6)."""
    truth = world(20, per=(5,))
    levels = truth.levels.copy()
    levels[:, :2] = (levels[:, :2] + 1) % 5
    marks = Marks(levels, truth.answer, np.ones_like(levels, bool))
    for theta in (".5", ".6", 0.6, Fraction(3, 5)):
        assert passes(truth, marks, Theta(theta, ".7", ".5")).rating.all()
    assert not passes(truth, marks, Theta(".61", ".7", ".5")).rating.any()
    with pytest.raises(ValueError, match="not in"):
        Theta("0", ".7", ".5")


def test_the_papers_sweep_of_27_has_18_rules() -> None:
    assert len(SWEEP) == 27
    assert len(distinct_settings(world())) == 18


def test_chance_of_passing_is_the_binomial_of_the_audit() -> None:
    """Pr[Bin(m, 1/6) ≥ m/2] for m = 1 … 7, as computed in the audit of the release."""
    chance = chance_of_passing(world(7))
    assert chance == pytest.approx([0.167, 0.306, 0.074, 0.132, 0.035, 0.062, 0.018], abs=6e-4)
    # Weighted by the release's numbers of questions: a guesser's PR is 92.2 %, 87.1 at θ3 = .4 and 97.3 at .6.
    counts = {1: 11, 2: 38, 3: 126, 4: 265, 5: 298, 6: 257, 7: 109}
    for theta, expected in ((".4", 0.871), (".5", 0.922), (".6", 0.973)):
        each = chance_of_passing(world(7), Theta(".5", ".7", theta))
        mean = sum(each[m - 1] * n for m, n in counts.items()) / sum(counts.values())
        assert 1 - mean == pytest.approx(expected, abs=6e-4)


def test_chance_with_options_of_several_numbers() -> None:
    truth = world(1, per=(3,))
    truth = Truth(**{**vars(truth), "options": np.array([2, 3, 6])})
    exact = 1 / 2 * 1 / 3 + 1 / 2 * 2 / 3 * 1 / 6 + 1 / 2 * 1 / 3 * 1 / 6  # two right or more, by hand
    assert chance_of_passing(truth)[0] == pytest.approx(exact)


def test_a_guesser_reaches_none_of_the_corrected_share() -> None:
    truth = world(4000, per=(5,))
    marks = Marks(
        truth.levels, guesses(truth, np.random.default_rng(5)).answers, np.ones(truth.levels.shape, bool)
    )
    reference, share = chance_corrected(truth, [passes(truth, marks)])
    assert reference == pytest.approx(0.965, abs=1e-3)
    assert share == pytest.approx(0, abs=0.01)
    right = Marks(truth.levels, truth.answer, marks.reasoned)
    assert chance_corrected(truth, [passes(truth, right)]) == (pytest.approx(reference), 1.0)
    both = chance_corrected(truth, [passes(truth, right), passes(truth, marks)])
    assert both[1] == pytest.approx((1 + share) / 2)


# -- rates ------------------------------------------------------------------------------------------------------------


def test_rates_are_views_of_the_table() -> None:
    """With nothing refused, PR, CR, IR and HR are quotients of the eight cells."""
    truth = world(400)
    passed = passes(truth, said(truth))
    table = cells(passed)
    by = {r.name: r.value for r in rates(passed)}
    assert table.sum() == truth.n
    assert by["PR"] == pytest.approx((table[4] + table[6]) / table[4:].sum())
    assert by["CR"] == pytest.approx((table[4] + table[5]) / table[4:].sum())
    assert by["IR"] == pytest.approx((table[1] + table[3]) / table[1::2].sum())
    assert by["HR"] == pytest.approx(table[7] / truth.n)
    assert association([passed])["lift"] == pytest.approx(
        (table[7] / truth.n)
        / np.prod(
            [table[4:].sum() / truth.n, table[[2, 3, 6, 7]].sum() / truth.n, table[1::2].sum() / truth.n]
        )
    )


def test_what_nobody_judged_has_no_rate() -> None:
    truth = world()
    by = {r.name: r.value for r in rates(passes(truth, said(truth, judged=False)))}
    assert by["CR"] is None
    assert by["HR"] is None
    assert by["PR"] is not None
    assert cells(passes(truth, said(truth, judged=False))).sum() == 0


def test_a_judge_that_fails_is_masked_and_a_model_that_is_silent_is_not() -> None:
    truth = world(10, per=(3,))
    marks = said(truth, skill=1.0)
    assert marks.judged is not None
    marks.judged[...] = 8.0
    whole = value(measures(truth, marks), "T2")
    marks.judged[0, 0, 1] = np.nan  # one dimension of one trait
    assert value(measures(truth, marks), "T2") == whole == 8.0
    marks.judged[1] = np.nan  # all of a video: it leaves T2, CR and HR
    by = measures(truth, marks)
    assert value(by, "T2") == 8.0
    assert next(r for r in by if r.name == "T2").whole.sum() == 9
    marks.reasoned[2] = False  # the model said nothing: 0
    assert value(measures(truth, marks), "T2") == pytest.approx(8 * 8 / 9)


FIELDS = ("T1", "MAE", "T2", "T3", "T3 grounding", "PR", "CR", "IR", "HR")


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.floats(0, 1), st.floats(0.2, 0.9))
def test_refusing_never_improves_a_score(seed: int, share: float, skill: float) -> None:
    """Whatever subset of levels, rationales and answers is withheld, no figure gets better."""
    truth = world(24, seed % 97)
    marks = said(truth, seed % 89, skill)
    generator = np.random.default_rng(seed)
    silent = Marks(
        np.where(generator.random(marks.levels.shape) < share, -1, marks.levels),
        np.where(generator.random(marks.answers.shape) < share, -1, marks.answers),
        marks.reasoned & (generator.random(marks.levels.shape) >= share),
        marks.judged,
    )
    before, after = (
        {r.name: r for r in [*measures(truth, m), *rates(passes(truth, m))]} for m in (marks, silent)
    )
    for name in FIELDS:
        was, now = before[name].value, after[name].value
        if was is None or now is None:
            continue
        worse = was - now if before[name].better == "higher" else now - was
        assert worse >= -1e-12, (name, was, now)


def test_a_rate_cannot_be_refused_away() -> None:
    """Declining to rate wherever the grounding will fail leaves PR where it was."""
    truth = world(200, per=(5,))
    marks = said(truth, skill=0.45)
    passed = passes(truth, marks)
    hide = passed.rating & ~passed.grounding
    levels = marks.levels.copy()
    levels[hide] = -1
    shy = Marks(levels, marks.answers, marks.reasoned, marks.judged)
    naive = passes(truth, shy)
    kept = naive.rating
    assert (kept & ~naive.grounding).sum() == 0  # the paper's PR would be 0
    assert value(rates(naive), "PR") == pytest.approx(value(rates(passed), "PR") or 0)


# -- uncertainty ------------------------------------------------------------------------------------------------------


def test_one_matrix_product_equals_resampling_by_hand() -> None:
    truth = world(30)
    passed = passes(truth, said(truth))
    ratios = rates(passed)
    weights = cluster_weights(truth.sources, 5, np.random.default_rng(0))
    assert (weights.sum(axis=1) == 15).all()
    drawn = bootstrap(ratios, truth.sources, weights)
    for row in range(5):
        picked = np.concatenate(
            [np.flatnonzero(truth.sources == s) for s in range(15) for _ in range(int(weights[row, s]))]
        )
        for column, ratio in enumerate(ratios):
            assert drawn[row, column] == pytest.approx(ratio.part[picked].sum() / ratio.whole[picked].sum())


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_intervals_cover(method: str) -> None:
    """95 % intervals of a mean over clusters hold the truth about 95 times in 100."""
    hits = 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        centre = generator.normal(0.5, 0.1, size=40)
        part = np.repeat(centre, 2) + generator.normal(0, 0.05, size=80)
        sources = np.repeat(np.arange(40), 2)
        weights = cluster_weights(sources, 400, generator)
        (found,) = estimates([Ratio("x", part, np.ones(80))], sources, weights, method=method)  # type: ignore[arg-type]
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= 0.5 <= found.high
    assert 178 <= hits <= 199


def test_undefined_is_none_and_one_source_has_no_interval() -> None:
    ratio = Ratio("x", np.zeros(4), np.zeros(4))
    weights = cluster_weights(np.array([0, 0, 1, 1]), 20, np.random.default_rng(0))
    (found,) = estimates([ratio], np.array([0, 0, 1, 1]), weights)
    assert (found.value, found.low, found.high) == (None, None, None)
    one = np.zeros(4, int)
    (single,) = estimates(
        [Ratio("x", np.ones(4), np.ones(4))], one, cluster_weights(one, 20, np.random.default_rng(0))
    )
    assert (single.value, single.low) == (1.0, None)


# -- more views -------------------------------------------------------------------------------------------------------


def test_linked_prejudice_asks_about_the_trait_alone() -> None:
    truth = world(2, per=(2,))
    truth = Truth(
        **{
            **vars(truth),
            "levels": np.full((2, 5), 2),
            "linked": np.array([[1, 0, 0, 0, 0], [0, 1, 0, 0, 0]] * 2, dtype=bool),
            "answer": np.zeros(4, int),
        }
    )
    marks = Marks(np.full((2, 5), 2), np.array([0, 1, 0, 1]), np.ones((2, 5), bool))
    total, by_trait = linked_prejudice(truth, marks)
    assert total.value == 0.5
    assert by_trait["extraversion"].value == 0.0
    assert by_trait["agreeableness"].value == 1.0
    assert by_trait["openness"].value is None
    # A trait that is kept silent about, its questions failed, is no way out.
    levels = marks.levels.copy()
    levels[:, :2] = -1
    silent, _ = linked_prejudice(truth, Marks(levels, marks.answers, marks.reasoned))
    assert (silent.part.tolist(), silent.whole.tolist()) == ([1, 1], [1, 1])


def test_positional_bias_of_always_the_last_letter() -> None:
    truth = world(500, per=(6,))
    found = positional_bias(np.full(len(truth.answer), 5), truth.answer, truth.options)
    assert found["sigma"] == pytest.approx(100 * np.sqrt(((5 / 6) ** 2 + 5 / 36) / 6))
    assert found["of_truth"] is not None
    assert found["of_truth"] < 2
    assert positional_bias(truth.answer, truth.answer, truth.options)["against_truth"] == 0
    assert positional_bias(np.full(len(truth.answer), -1), truth.answer, truth.options)["sigma"] is None


def test_total_variation_is_none_for_the_truth_and_all_for_a_constant_that_never_is() -> None:
    truth = world(100)
    assert set(total_variation(truth, said(truth, skill=1.0)).values()) == {0.0}
    levels = np.where(truth.levels == 0, 1, truth.levels)
    constant = Marks(np.zeros_like(levels), truth.answer, np.ones(levels.shape, bool))
    found = total_variation(Truth(**{**vars(truth), "levels": levels}), constant)
    assert list(found.values()) == pytest.approx([1.0] * 5)


def test_curves_fall_as_thresholds_rise() -> None:
    truth = world(100)
    one, two = said(truth), said(truth, skill=0.9)
    for curve, alone, other in zip(
        threshold_curves(truth, [one, two]),
        threshold_curves(truth, [one]),
        threshold_curves(truth, [two]),
        strict=True,
    ):
        hr = [rates_["HR"] for _, rates_ in curve["points"]]
        assert all(a is not None and b is not None and a >= b for a, b in itertools.pairwise(hr))
        means = [
            (a["HR"] + b["HR"]) / 2 for (_, a), (_, b) in zip(alone["points"], other["points"], strict=True)
        ]
        assert hr == pytest.approx(means)


# -- the paper's table ------------------------------------------------------------------------------------------------

# name: T1, T2, T3, HR, PR, RGM as printed; facts of arXiv 2605.22109, Table 2.
PRINTED = """
Gemini 3 Flash|64.1|6.65|66.5|33.5|17.2|0.5
GPT-5.5|56.0|6.65|66.4|28.0|15.5|-0.5
Gemini 3.1 Pro|57.3|6.59|70.6|27.4|10.8|0.0
Gemini 2.5 Pro|50.1|6.40|65.2|20.0|16.9|-7.0
GPT-5.4|48.7|6.48|52.6|17.9|33.0|-9.5
Gemini 2.5 Flash|43.1|6.37|56.5|16.9|28.0|-16.5
Claude Opus 4.6|50.2|6.50|49.7|16.8|40.7|-5.5
Claude Sonnet 4.6|46.6|6.37|45.6|12.5|46.1|-9.0
Claude Haiku 4.5|50.6|6.51|41.0|12.4|55.9|-1.5
GPT-5.4-mini|49.6|6.38|40.5|11.3|55.4|-2.0
o4-mini|48.0|6.05|43.4|7.8|48.2|-5.0
GPT-4o|53.3|6.03|31.9|4.5|69.7|11.0
GPT-4o-mini|47.6|5.44|17.5|0.3|87.9|5.0
Qwen3.5-397B-A17B|53.1|6.45|48.1|15.9|41.5|0.0
Qwen3-VL-235B-A22B|51.5|6.39|44.2|12.8|47.0|1.0
Qwen3-VL-30B-A3B|55.8|6.34|43.0|12.4|52.4|8.0
Gemma-4-31B-it|55.7|6.02|57.0|11.3|29.8|4.5
Llama-4-Maverick-FP8|55.9|6.01|36.6|5.8|64.5|14.0
GLM-4.6V|48.2|5.86|42.0|4.6|52.7|-1.0
MiMo-VL-7B-RL|51.1|5.82|38.9|3.6|56.5|8.0
Qwen3-VL-8B|50.0|5.80|37.0|2.8|62.4|5.0
Step3-VL-10B|42.4|5.51|36.3|0.9|62.3|-5.5
MiniCPM-o 2.6|44.7|4.79|28.6|0.6|67.8|1.5
Qwen2.5-Omni-7B|43.8|5.10|27.8|0.5|79.9|0.0
Qwen2.5-VL-7B|45.1|4.67|23.9|0.1|86.3|4.5
InternVL3-8B|43.8|4.84|26.4|0.0|75.6|0.0
LLaVA-NeXT-Video-7B|36.0|1.94|16.7|0.0|82.3|0.0
"""


def table() -> dict[str, list[float]]:
    rows = [line.split("|") for line in PRINTED.strip().splitlines()]
    columns = ("T1", "T2", "T3", "HR", "PR", "RGM")
    return {name: [float(row[place]) for row in rows] for place, name in enumerate(columns, start=1)}


def test_rgm_of_the_papers_columns_is_the_papers_rgm() -> None:
    """Within the half rank that printed ties leave open."""
    printed = table()
    gaps = rank_gap(printed["T1"], printed["T2"], printed["T3"])
    assert len(gaps) == 27
    assert np.abs(np.array(gaps) - printed["RGM"]).max() <= 0.5 + 1e-9
    assert sum(g >= 5 for g in printed["RGM"]) == 6  # the text says 5
    assert sum(g <= -5 for g in printed["RGM"]) == 7  # the text says 5


def test_headline_figures_follow_from_the_papers_columns() -> None:
    printed = table()
    assert np.mean(printed["PR"]) == pytest.approx(51.3, abs=0.05)
    assert np.mean(printed["HR"]) == pytest.approx(10.4, abs=0.05)
    spread = {name: np.std(printed[name]) / np.mean(printed[name]) for name in ("T1", "T3", "HR")}
    assert spread == pytest.approx(
        {"T1": 0.114, "T3": 0.337, "HR": 0.893}, abs=1e-3
    )  # printed as .13, .36, .93
    closed, opened = slice(0, 13), slice(13, 27)
    for name, gap in (("T1", -5.6), ("T2", -3.6), ("T3", -26.6)):
        top = [np.mean(sorted(printed[name][part])[-3:]) for part in (closed, opened)]
        assert 100 * (top[1] - top[0]) / top[0] == pytest.approx(gap, abs=0.1)
    assert sum(a >= 50 and p <= 30 for a, p in zip(printed["T1"], printed["PR"], strict=True)) == 5


# -- comparisons ------------------------------------------------------------------------------------------------------


def test_a_model_does_not_differ_from_itself_and_does_from_a_better_one() -> None:
    truth = world(300)
    weights = cluster_weights(truth.sources, 500, np.random.default_rng(0))
    one, better = said(truth, 1, 0.3), said(truth, 2, 0.8)
    same = compare(truth, [one], [one], weights)
    assert all(row.difference == 0 and row.p == 1 for row in same)
    rows = {row.name: row for row in compare(truth, [better], [one], weights)}
    for name in ("T1", "T3", "HR"):
        assert rows[name].low is not None
        assert rows[name].low > 0
        assert rows[name].adjusted is not None
        assert rows[name].adjusted < 0.05
    assert rows["PR"].high is not None
    assert rows["PR"].high < 0
    # In several orders of options a figure is the mean of theirs.
    orders = {row.name: row for row in compare(truth, [one, better], [better], weights)}
    for name in ("T3", "HR"):
        assert orders[name].difference == pytest.approx(-rows[name].difference / 2)  # type: ignore[operator]


def test_the_fair_prejudice_looks_at_the_same_videos() -> None:
    truth = world(200, per=(5,))
    a, b = (passes(truth, said(truth, seed, 0.6)) for seed in (1, 2))
    one, two = fair_prejudice([a], [b])
    assert (one.whole == two.whole).all()
    assert one.whole.sum() == (a.rating & b.rating).sum()


def test_mcnemar_by_hand() -> None:
    first = passes(truth := world(21), said(truth))
    known = np.array([True] * 17 + [False] * 4)  # a judge who failed says nothing about who is better
    first = replace(
        first, has_reasoning=known, reasoning=np.array([1] * 9 + [0] * 3 + [1] * 5 + [0] * 4, bool)
    )
    second = replace(
        first,
        has_reasoning=np.ones(21, bool),
        reasoning=np.array([0] * 9 + [1] * 3 + [1] * 5 + [1] * 4, bool),
    )
    assert mcnemar_of(first, second, "reasoning") == (9, 3, pytest.approx(2 * sum([1, 12, 66, 220]) / 2**12))
    assert mcnemar_of(first, first, "reasoning") == (0, 0, None)


def test_max_t_holds_the_family_wise_error_and_finds_a_true_difference() -> None:
    generator = np.random.default_rng(0)
    sources = np.arange(60)
    base = generator.random(60)

    def figure(part: NDArray[np.float64]) -> Ratio:
        return Ratio("x", part, np.ones(len(part)))

    found = max_t(
        [
            figure(part)
            for part in (base + generator.normal(0, 0.1, 60), base + generator.normal(0, 0.1, 60), base + 0.3)
        ],
        sources,
        draws=400,
        generator=generator,
    )
    assert found[(0, 1)] > 0.05
    assert found[(0, 2)] < 0.01
    assert found[(1, 2)] < 0.01
    false = sum(
        min(
            max_t(
                [figure(generator.normal(size=40)) for _ in range(3)],
                np.arange(40),
                draws=99,
                generator=generator,
            ).values()
        )
        <= 0.05
        for _ in range(100)
    )
    assert false <= 12


def test_what_a_judge_failed_on_is_no_difference_between_models() -> None:
    generator = np.random.default_rng(0)
    part = generator.random(60)
    half = (np.arange(60) < 30).astype(float)
    figures = [Ratio("HR", part, np.ones(60)), Ratio("HR", part * half, half)]
    assert max_t(figures, np.arange(60), draws=99, generator=generator)[(0, 1)] == 1.0


def test_least_detectable_difference_is_the_audits() -> None:
    """±3.7 points of HR at 28 % with the release's 1,104 videos, unpaired."""
    assert least_detectable(0.28, 1104)["significant"] == pytest.approx(0.037, abs=5e-4)


def test_rank_intervals_tell_what_is_certain() -> None:
    generator = np.random.default_rng(0)
    drawn = np.stack([generator.normal(m, 0.1, 500) for m in (2.0, 1.0, 1.0)], axis=1)
    first, second, third = rank_intervals(drawn)
    assert first == (1, 1)
    assert second == third == (2, 3)
    assert Theta(0.5, 0.7, 0.5) == DEFAULT
