"""Arms that were not treated alike are told apart from those that were."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from noria.core.errors import DataError
from noria.core.proofs.arms import Arm, best_candidate, candidates, unfair

ALIKE = [
    Arm("ours", "tokens", 1000, 6, (7, 8)),
    Arm("theirs", "tokens", 990, 6, (7, 8)),
    Arm("untrained", "tokens", 1000),
]


def test_arms_that_were_treated_alike_are_fair() -> None:
    assert unfair(ALIKE, [0, 1, 2]) == []


@pytest.mark.parametrize(
    ("arm", "reason"),
    [
        (Arm("poor", "tokens", 260, 6, (7, 8)), "ours was paid 1,000 tokens, poor 260"),
        (Arm("other", "renders", 1000, 6, (7, 8)), "tokens and in renders"),
        (Arm("lazy", "tokens", 1000, 1, (7,)), "different numbers of tries: ours 6, theirs 6, lazy 1"),
        (Arm("sly", "tokens", 1000, 6, (1, 8)), "sly was tuned on seed 1, which is judged"),
        (Arm("silent", "tokens", 1000, 6), "silent does not say"),
    ],
)
def test_an_arm_that_was_not_is_named(arm: Arm, reason: str) -> None:
    (found,) = unfair([*ALIKE, arm], [0, 1, 2])
    assert reason in found


def test_a_published_setting_is_not_tuned() -> None:
    assert unfair([*ALIKE, Arm("as published", "tokens", 1000, published=True)], [0]) == []


@given(st.integers(1, 12), st.integers(1, 4), st.integers(1, 4), st.integers(0, 5))
def test_candidates_are_distinct_and_begin_with_the_usual_one(tries: int, m: int, n: int, seed: int) -> None:
    space = {"lr": list(range(m)), "beta": list(range(n))}
    drawn = candidates(space, generator=np.random.default_rng(seed), tries=tries)
    assert drawn[0] == {"lr": 0, "beta": 0}
    assert len({(c["lr"], c["beta"]) for c in drawn}) == len(drawn) == min(tries, m * n)


def test_the_best_is_the_best_on_every_seed() -> None:
    scores = [[1.0, 1.0], [9.0, None], [3.0, 2.0], [float("nan"), 9.0]]
    assert best_candidate(scores, "higher") == 2
    assert best_candidate(scores, "lower") == 0
    with pytest.raises(DataError, match="no setting"):
        best_candidate([[None]], "higher")
