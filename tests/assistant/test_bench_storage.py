"""The benches of storage measure what they name: two journals that are read along, and spans that are grouped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from noria.assistant.proof import bench_journal
from noria.assistant.proof.bench_journal import Comparison, Round, compare, table
from noria.assistant.proof.bench_spans import GROUPED, make_segments
from noria.core.traces.queries import query

pytest.importorskip("duckdb")


def test_both_journals_are_measured_and_read_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_journal, "CALLERS", (4,))
    monkeypatch.setattr(bench_journal, "SIZES", (600,))
    (cell,) = compare(tmp_path, seconds=0.5, rounds=1)
    for side in (*cell.sqlite, *cell.own):
        assert side.acknowledged > 10
        assert 0 < side.read <= side.acknowledged
    assert list(tmp_path.iterdir()) == []


def test_a_ratio_is_taken_by_pair_of_rounds() -> None:
    cell = Comparison(16, 600, (Round(100, 50), Round(30, 30)), (Round(50, 50), Round(60, 30)))
    assert cell.ratios == [0.5, 2.0]
    assert "| 16 | 0.6 kB | 65 (30–100) | 55 (50–60) | 1.25 (0.50–2.00) | 75% / 75% |" in table([cell])


def test_made_spans_are_read_as_sealed_ones(tmp_path: Path) -> None:
    manifest = make_segments(tmp_path, 100_000, np.random.default_rng(0))
    assert len(manifest.segments) == 2
    rows = query(tmp_path, GROUPED).rows
    assert sum(row[2] for row in rows) == 2 * 81_920
    assert len(rows) == 5 * 12
    assert 0.01 < sum(row[3] for row in rows) / (2 * 81_920) < 0.03
