"""With Numba and without it: the same lists, accounts and tallies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from noria.blending.alignment.tallies import Tallies
from noria.blending.boosting import scoring
from noria.blending.boosting.scoring import PlanTables, lists, ranked


def case(seed: int, count: int, plans: int = 11) -> tuple[Any, Any, PlanTables]:
    rng = np.random.default_rng(seed)
    caps = [None if rng.random() < 0.5 else float(rng.random()) for _ in range(plans)]
    tables = PlanTables.of(
        rng.normal(size=plans), rng.normal(size=plans), caps, total_cap=0.8, floor=0.1, mean_value=0.5
    )
    y = rng.integers(20, size=count) / 20  # with ties
    mask = rng.integers(1 << plans, size=count).astype(np.uint64) * (rng.random(count) < 0.7).astype(
        np.uint64
    )
    return y, mask, tables


@pytest.mark.parametrize("size", [0, 1, 50, 299, 300, 400])
def test_a_ranking_is_the_same(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    assert scoring.kernels() is not None
    for seed in range(20):
        y, mask, tables = case(seed, 300)
        compiled = ranked(y, mask, tables, size)
        with monkeypatch.context() as patch:
            patch.setattr(scoring, "kernels", lambda: None)
            plain = ranked(y, mask, tables, size)
        assert compiled[0].tolist() == plain[0].tolist()
        for ours, theirs in zip(compiled[1:], plain[1:], strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


def test_lists_of_many_requests_are_the_same_and_those_of_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    y, mask, tables = case(3, 500)
    start = np.array([0, 0, 7, 250, 500])
    variants = np.array([0, 2**11 - 1, 5, 1 << 10], np.uint64)
    compiled = lists(y, mask, start, variants, tables, 10)
    monkeypatch.setattr(scoring, "kernels", lambda: None)
    plain = lists(y, mask, start, variants, tables, 10)
    assert compiled.tolist() == plain.tolist()
    assert (plain[0] == -1).all()
    assert (plain[1, :, 7:] == -1).all()
    assert plain[2, 1].tolist() == (ranked(y[7:250], mask[7:250], tables, 10)[0] + 7).tolist()


def test_tallies_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    rng = np.random.default_rng(0)
    x = np.concatenate(
        [rng.lognormal(size=60_000), -rng.lognormal(size=9000), [np.nan, np.inf, 1e300, -0.0, 0.0]]
    )
    a = rng.integers(2, size=len(x)).astype(float)
    a[:7] = np.nan
    a[7] = 1e9
    fold = rng.integers(3, size=len(x))
    both = []
    for compiled in (True, False):
        if not compiled:
            monkeypatch.setattr("noria.blending.alignment.tallies.kernels", lambda: None)
        tallies = Tallies()
        tallies.add(x, a, source="s", fold=fold)
        both.append(tallies)
    one, two = both
    assert one.dropped == two.dropped == {"score not finite": 3, "no outcome": 7, "outcome out of range": 1}
    assert one.cells.keys() == two.cells.keys()
    for cell, histogram in one.cells.items():
        for name in ("code", "n", "a", "m"):
            assert getattr(histogram, name).tolist() == getattr(two.cells[cell], name).tolist()


def test_numba_can_be_left_out_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NORIA_KERNELS", "numpy")
    assert scoring.kernels.__wrapped__() is None


def test_the_score_at_a_place_is_that_of_numpys_partition() -> None:
    from noria.blending.kernels import _largest

    rng = np.random.default_rng(0)
    for n in (1, 2, 3, 10, 200):
        for scores in (
            rng.normal(size=n),
            rng.integers(0, 3, n).astype(float),
            np.where(rng.random(n) < 0.3, np.inf, rng.choice([-np.inf, 0.0, 1.0], n)),
            np.arange(n, dtype=float),
        ):
            before = scores.copy()
            for size in {1, n // 2 or 1, n}:
                assert _largest(scores, size) == np.partition(scores, n - size)[n - size]
            np.testing.assert_array_equal(scores, before)
