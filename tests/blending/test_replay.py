from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from noria.blending import Alignment, Blender, Plans, Setting, Snapshot
from noria.blending.logs.candidates import CandidateLog, read_candidates
from noria.blending.logs.replay import replay
from noria.core.errors import DataError

PLANS: dict[str, Any] = {
    "plans": [
        {"id": "live", "when": 'source == "live"', "bias": 0.2, "cap": 0.3},
        {"id": "fresh", "when": 'age < 10 and "new" in tags', "weight": 0.5},
        {"id": "evening", "when": "ours", "bias": 0.1, "schedule": {"hours": "18:00-24:00"}},
    ],
    "guards": {"total_cap": 0.8},
}
SLOTS = {"slots": [{"id": "gap", "when": 'source == "live"', "gap": 1}]}


def snapshot(**more: Any) -> Snapshot:
    alignment = Alignment.of_scales({"live": 0.01, "organic": 1.0}, mean_value=0.4)
    return Snapshot.of(alignment, Plans.model_validate(PLANS | more), settings={"live": Setting(0.1, 0.15)})


def log(requests: int = 12, seed: int = 0) -> dict[str, list[Any]]:
    """A log whose rows are shuffled across requests."""
    rng = np.random.default_rng(seed)
    rows: dict[str, list[Any]] = {
        name: []
        for name in ("request", "time", "scene", "item", "source", "version", "score", "age", "tags", "ours")
    }
    for number in range(requests):
        for item in range(int(rng.integers(1, 40))):
            source = ("live", "organic", "nobody")[rng.choice(3, p=[0.4, 0.55, 0.05])]
            values = {
                "request": f"r{number}",
                "time": number * 7200.0,
                "scene": ("home", "search")[number % 2],
                "item": f"i{item}",
                "source": source,
                "version": "v1" if rng.random() < 0.9 else None,
                "score": float(rng.random() * (100 if source == "live" else 1)),
                "age": float(rng.random() * 20) if rng.random() < 0.9 else None,
                "tags": ["new"] if rng.random() < 0.5 else [],
                "ours": bool(rng.random() < 0.3),
            }
            for name, value in values.items():
                rows[name].append(value)
    order = rng.permutation(len(rows["item"])).tolist()
    return {name: [column[n] for n in order] for name, column in rows.items()}


@pytest.mark.parametrize("more", [{}, SLOTS])
def test_a_replayed_list_is_the_served_one_to_the_bit(more: dict[str, Any]) -> None:
    snap, columns = snapshot(**more), log()
    whole = CandidateLog.of(columns)
    found = replay(whole, snap, 8)
    blender = Blender(snap)
    names = whole.item.decode()
    for number, request in enumerate(whole.request):
        mine = [n for n, one in enumerate(columns["request"]) if one == request]
        asked = {
            name: [column[n] for n in mine]
            for name, column in columns.items()
            if name not in ("request", "time", "scene")
        }
        served = blender.rank(asked, 8, scene=columns["scene"][mine[0]], at=columns["time"][mine[0]])
        rows = found.lists[number]
        rows = rows[rows >= 0]
        assert [names[row] for row in found.rows[rows].tolist()] == [
            asked["item"][row] for row in served.order
        ]
        assert found.score[rows].tobytes() == served.score.tobytes()
        assert found.requests.value[rows].tobytes() == served.value.tobytes()
        assert found.guard[rows].tobytes() == served.guard.tobytes()
        assert found.requests.mask[rows].tolist() == served.mask.tolist()
        again = blender.rank(whole.candidates(number), 8, at=float(whole.time[number]))
        assert again.score.tobytes() == served.score.tobytes()
    assert found.dropped == {"no value": columns["source"].count("nobody")}


def test_second_copies_of_a_candidate_are_left_out_and_counted() -> None:
    columns = log(3)
    for column in columns.values():
        column.append(column[0])
    whole = CandidateLog.of(columns)
    assert whole.dropped == {"candidate twice in a request": 1}
    assert len(whole.score) == len(columns["item"]) - 1


def test_a_log_survives_parquet_in_one_file_or_several(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = log()
    table = arrow.table(columns)
    half = len(table) // 2
    parquet.write_table(table, tmp_path / "whole.parquet")
    (tmp_path / "parts").mkdir()
    parquet.write_table(table.slice(0, half), tmp_path / "parts" / "a.parquet")
    parquet.write_table(table.slice(half), tmp_path / "parts" / "b.parquet")
    plain = replay(CandidateLog.of(columns), snapshot(), 8)
    for path in (tmp_path / "whole.parquet", tmp_path / "parts"):
        found = replay(read_candidates(path), snapshot(), 8)
        assert found.score.tobytes() == plain.score.tobytes()
        assert found.lists.tolist() == plain.lists.tolist()


def test_of_a_long_log_whole_requests_are_sampled(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = log(40)
    order = sorted(range(len(columns["item"])), key=lambda n: int(columns["request"][n][1:]))
    table = arrow.table({name: [column[n] for n in order] for name, column in columns.items()})
    parquet.write_table(table, tmp_path / "c.parquet", row_group_size=50)
    whole = read_candidates(tmp_path / "c.parquet")
    part = read_candidates(tmp_path / "c.parquet", most=300)
    assert 200 < len(part.score) <= 300 < len(whole.score)
    sizes = dict(zip(whole.request, np.diff(whole.start).tolist(), strict=True))
    assert dict(zip(part.request, np.diff(part.start).tolist(), strict=True)).items() <= sizes.items()
    assert part.whole == (len(whole), len(whole.score))
    assert read_candidates(tmp_path / "c.parquet", most=300).request == part.request
    # Not the first ones alone: a log's beginning is no sample of it.
    assert max(whole.request.index(request) for request in part.request) > len(part)


def test_what_is_no_candidate_log_is_told(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    (tmp_path / "text.parquet").write_text("no")
    (tmp_path / "empty").mkdir()
    parquet.write_table(arrow.table({"request": ["a"]}), tmp_path / "few.parquet")
    parquet.write_table(
        arrow.table({**log(1), "odd": [{"a": 1}] * len(log(1)["item"])}), tmp_path / "odd.parquet"
    )
    assert "odd" not in read_candidates(tmp_path / "odd.parquet").columns  # no plan can be for it
    for name in ("text.parquet", "none.parquet", "empty", "few.parquet"):
        with pytest.raises(DataError, match=name.removesuffix(".parquet")):
            read_candidates(tmp_path / name)
    columns = log(2)
    with pytest.raises(DataError, match="no column 'score'"):
        CandidateLog.of({name: column for name, column in columns.items() if name != "score"})
    with pytest.raises(DataError, match="without a request"):
        CandidateLog.of(columns | {"item": [None, *columns["item"][1:]]})
    with pytest.raises(DataError, match="at least one place"):
        replay(CandidateLog.of(columns), snapshot(), 0)
