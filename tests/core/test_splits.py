"""The two-way split: no group and no content on both sides, nothing moves while traffic grows, the loss is bounded."""

from __future__ import annotations

import time
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, strategies as st

from noria.core.experiments.splits import LEFT_OUT, cross_folds, two_way_split, widest_contents

SHARES = {"train": 0.6, "gates": 0.3, "final": 0.1}
TRAFFIC = st.lists(
    st.tuples(st.integers(0, 9), st.lists(st.integers(0, 6), max_size=3)), min_size=1, max_size=40
)


def dealt(traffic, salt: str = "s", shares=SHARES) -> list[str]:  # type: ignore[no-untyped-def]
    groups = [f"user {user}" for user, _ in traffic]
    contents = [[f"picture {one}" for one in own] for _, own in traffic]
    return two_way_split(groups, contents, salt=salt, shares=shares)


@given(TRAFFIC, st.text(max_size=3))
def test_no_group_and_no_content_lies_in_two_splits(traffic, salt) -> None:  # type: ignore[no-untyped-def]
    places = defaultdict(set)
    for (user, own), split in zip(traffic, dealt(traffic, salt), strict=True):
        for name in (f"user {user}", *own):
            places[name].add(split)
    assert all(len(splits - {LEFT_OUT}) <= 1 for splits in places.values())


@given(TRAFFIC, TRAFFIC)
def test_an_example_keeps_its_split_or_leaves_it_and_never_comes_to_another(few, later) -> None:  # type: ignore[no-untyped-def]
    before, after = dealt(few), dealt([*few, *later])
    assert all(new in (old, LEFT_OUT) for old, new in zip(before, after, strict=False) if old != LEFT_OUT)
    assert dealt([*later, *few])[len(later) :] == after[: len(few)], "the order of traffic decides nothing"


@given(TRAFFIC)
def test_what_one_group_alone_has_is_always_used(traffic) -> None:  # type: ignore[no-untyped-def]
    alone = [(user, [10 * user + one for one in own]) for user, own in traffic]
    assert LEFT_OUT not in dealt(alone)


def test_splits_have_their_shares_and_what_is_shared_costs_one_less_the_sum_of_their_squares() -> None:
    rng = np.random.default_rng(0)
    plain = dealt([(user, []) for user in range(20_000)])
    for name, share in SHARES.items():
        assert plain.count(name) / len(plain) == pytest.approx(share, abs=0.02)
    popular = [(user, [int(rng.integers(2000))]) for user in range(20_000)]
    found = dealt(popular)
    kept = sum(share**2 for share in SHARES.values())
    assert found.count(LEFT_OUT) / len(found) == pytest.approx(1 - kept, abs=0.04)
    for name, share in SHARES.items():
        assert found.count(name) / len(found) == pytest.approx(share**2, abs=0.03)


def test_a_request_that_everybody_sends_costs_its_own_rows_alone() -> None:
    """Joined by it, all would be one group: here they stay apart, and their other requests are used."""
    traffic = [(user, [0]) for user in range(3000)] + [(user, [1 + user]) for user in range(3000)]
    found = dealt(traffic)
    assert set(found[3000:]) == set(SHARES)
    assert len(set(found[:3000]) - {LEFT_OUT}) == 1, "the request lies in one split"


@given(TRAFFIC)
def test_no_fold_is_known_to_what_is_fitted_for_it(traffic) -> None:  # type: ignore[no-untyped-def]
    groups, contents = (
        [f"user {user}" for user, _ in traffic],
        [[str(one) for one in own] for _, own in traffic],
    )
    held, others = cross_folds(groups, contents, 3, salt="s")
    for fold, fitted in enumerate(others):
        own = [n for n, at in enumerate(held) if at == fold]
        assert not {groups[n] for n in own} & {groups[n] for n in fitted}
        asked = {name for n in own for name in contents[n]}
        assert not asked & {name for n in fitted for name in contents[n]}
        free = {n for n, at in enumerate(held) if at != fold and not asked & set(contents[n])}
        assert set(fitted) == free, "and all else is learnt from"


def test_a_hundred_thousand_are_dealt_in_seconds() -> None:
    rng = np.random.default_rng(0)
    traffic = [(int(user), rng.integers(0, 30_000, 3).tolist()) for user in rng.integers(0, 20_000, 100_000)]
    began = time.perf_counter()
    dealt(traffic)
    assert time.perf_counter() - began < 10


def test_shares_that_are_no_split_are_refused() -> None:
    for wrong in ({"train": 0.9}, {"train": 1.5, "gates": -0.5}, {}, {LEFT_OUT: 1.0}):
        with pytest.raises(ValueError, match="sum to 1"):
            dealt([(0, [])], shares=wrong)


def test_the_widest_content_is_the_one_that_most_examples_have() -> None:
    assert widest_contents([["a", "hello"], ["hello", "b"], ["b"], [], []]) == [
        "hello", "b", "b", "nothing 3", "nothing 4",
    ]  # fmt: skip
