from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noria.blending.alignment.tallies import BINS, FOLDS, SHIFT, Tallies, bin_codes, folds
from noria.core.errors import DataError

floats = st.floats(-(2.0**99), 2.0**99, width=32)


@given(st.lists(floats, min_size=2, max_size=50))
def test_bins_rise_with_the_score_and_hold_the_whole_of_float32(values: list[float]) -> None:
    code, low = bin_codes(np.sort(np.array(values, np.float32)).view(np.uint32))
    assert (np.diff(code) >= 0).all()
    assert ((code >= 0) & (code < BINS)).all()
    assert ((low >= 0) & (low < 2**SHIFT)).all()
    zeros = np.array([-0.0, 0.0], np.float32).view(np.uint32)
    assert len(set(bin_codes(zeros)[0].tolist())) == 1


@given(st.lists(st.tuples(floats, st.booleans(), st.sampled_from([1.0, 0.25, 3.0])), min_size=1, max_size=60))
def test_sums_are_those_of_exact_arithmetic(rows: list[tuple[float, bool, float]]) -> None:
    x, a, w = (np.array(column, float) for column in zip(*rows, strict=True))
    tallies = Tallies()
    tallies.add(x, a, source="s", weight=w)
    found = tallies.binned(None, tallies.cells)
    assert math.fsum(found.n) == math.fsum(w)
    assert math.fsum(found.a) == math.fsum(w * a)
    exact = sum(Fraction(float(np.float32(one))) * Fraction(weight) for one, weight in zip(x, w, strict=True))
    scale = float(np.abs(x).sum()) or 1.0
    assert abs(math.fsum(found.x * found.n) - float(exact)) <= 1e-14 * scale


@given(st.integers(0, 2**32 - 1), st.integers(1, 7))
def test_any_partition_merges_to_the_same_integers(seed: int, parts: int) -> None:
    rng = np.random.default_rng(seed)
    x, a = rng.lognormal(size=200), rng.integers(2, size=200).astype(float)
    whole = Tallies()
    whole.add(x, a, source="s", fold=folds(np.arange(200)))
    pieces = []
    owner = rng.integers(parts, size=200)
    for part in rng.permutation(parts):
        piece = Tallies()
        mine = owner == part
        piece.add(x[mine], a[mine], source="s", fold=folds(np.arange(200)[mine]))
        pieces.append(piece)
    merged = Tallies().merge(*pieces)
    assert set(merged.cells) == set(whole.cells)
    for cell, histogram in whole.cells.items():
        for name in ("code", "n", "a", "m"):
            assert getattr(merged.cells[cell], name).tolist() == getattr(histogram, name).tolist()


def test_decay_weighs_ticks_and_is_applied_when_read() -> None:
    tallies = Tallies()
    tallies.add([2.0], [1.0], source="s", tick=0)
    tallies.add([2.0], [0.0], source="s", tick=1)
    found = tallies.binned({0: 0.5, 1: 1.0}, tallies.cells)
    assert found.n.tolist() == [1.5]
    assert found.a.tolist() == [0.5]
    assert found.x.tolist() == [2.0]


def test_what_cannot_be_counted_is_left_out_and_told() -> None:
    tallies = Tallies()
    tallies.add([1.0, np.nan, np.inf, 1e300, 2.0, 3.0], [1.0, 1.0, 0.0, 1.0, np.nan, 1e9], source="s")
    assert tallies.dropped == {"score not finite": 3, "no outcome": 1, "outcome out of range": 1}
    assert tallies.binned(None, tallies.cells).n.sum() == 1


@pytest.mark.parametrize("weight", [-1.0, np.nan, np.inf])
def test_a_weight_that_is_none_is_refused(weight: float) -> None:
    with pytest.raises(DataError, match="weight"):
        Tallies().add([1.0], [1.0], source="s", weight=weight)


def test_folds_are_even_and_the_same_everywhere() -> None:
    for ids in (np.arange(4000), [f"request-{n}" for n in range(4000)]):
        counts = np.bincount(folds(ids), minlength=FOLDS)
        assert counts.min() > 900
    assert folds(["a", "b"]).tolist() == folds(np.array(["a", "b"])).tolist()
