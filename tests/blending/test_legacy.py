from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from noria.blending.accounting.attribution import Requests
from noria.blending.columns import NameColumn
from noria.blending.migration.legacy import Multipliers, function_score, read_legacy
from noria.blending.migration.migrate import aligned_after, legacy_lists, migrate, partition
from noria.core.errors import ConfigError, DataError

COLUMNS = {"source": NameColumn.of(["live", "ads", "live", None]), "age": np.array([1.0, 50.0, np.nan, 3.0])}
X = np.array([1.0, 2.0, 3.0, 4.0])
LIVE = {"filter": {"term": {"source.keyword": "live"}}, "weight": 3}
FRESH = {"filter": {"range": {"age": {"lt": 10}}}, "weight": 2}


def boosted(**query: Any) -> list[float]:
    return function_score({"query": {"function_score": query}}).boosted(X, COLUMNS).tolist()


@pytest.mark.parametrize(
    ("mode", "factors"),
    [
        ("multiply", [6, 1, 3, 2]),
        ("sum", [5, 1, 3, 2]),
        ("avg", [1, 1, 1, 1]),
        ("first", [3, 1, 3, 2]),
        ("max", [3, 1, 3, 2]),
        ("min", [2, 1, 3, 2]),
    ],
)
def test_score_modes_combine_constant_weights_as_elasticsearch_does(mode: str, factors: list[float]) -> None:
    assert boosted(functions=[LIVE, FRESH], score_mode=mode) == (X * factors).tolist()


def test_boost_modes_and_limits() -> None:
    functions = [LIVE]
    assert boosted(functions=functions, boost_mode="replace") == [3, 1, 3, 1]
    assert boosted(functions=functions, boost_mode="sum") == [4, 3, 6, 5]
    assert boosted(functions=functions, boost_mode="avg") == [2, 1.5, 3, 2.5]
    assert boosted(functions=functions, boost_mode="max") == [3, 2, 3, 4]
    assert boosted(functions=functions, boost_mode="min") == [1, 1, 3, 1]
    assert boosted(functions=functions, max_boost=2) == [2, 2, 6, 4]
    assert boosted(functions=functions, min_score=3.5) == [-np.inf, -np.inf, 9, 4]
    assert boosted(functions=[]) == X.tolist()
    assert boosted(weight=2) == (2 * X).tolist()


@pytest.mark.parametrize(
    ("condition", "text"),
    [
        ({"match_all": {}}, "true"),
        ({"term": {"source": {"value": "live"}}}, 'source == "live"'),
        ({"terms": {"source": ["live", "ads"]}}, 'source in ["live", "ads"]'),
        ({"range": {"age": {"gte": 1, "lt": 5}}}, "age >= 1 and age < 5"),
        ({"exists": {"field": "age"}}, "age is not missing"),
        (
            {"bool": {"must": {"exists": {"field": "age"}}, "must_not": [{"term": {"source": "ads"}}]}},
            '(age is not missing) and not (source == "ads")',
        ),
        (
            {"bool": {"should": [{"term": {"source": "ads"}}, {"range": {"age": {"gt": 2}}}]}},
            '((source == "ads") or (age > 2))',
        ),
    ],
)
def test_filters_become_targeting_expressions(condition: dict[str, Any], text: str) -> None:
    found = function_score({"functions": [{"filter": condition, "weight": 2}]})
    assert found.boosts == [("function-1", text)]
    assert found.plans().ids == ["function-1"]


@pytest.mark.parametrize(
    ("functions", "said"),
    [
        ([{"script_score": {}}], "script_score is no constant boost"),
        ([{"field_value_factor": {"field": "likes"}, "weight": 2}], "field_value_factor"),
        ([{"weight": -1}], "weight of -1"),
        ([{"weight": None}], "weight of None"),
        ([{"filter": {"geo_distance": {}}, "weight": 1}], "geo_distance"),
        ([{"filter": {"term": {"a b": 1}}, "weight": 1}], "no column's name"),
        ([{"filter": {"term": {"a": {}}}, "weight": 1}], "cannot be compared"),
        ([{"filter": {"bool": {"minimum_should_match": 2}}, "weight": 1}], "minimum_should_match"),
        ([3], "its kind"),
    ],
)
def test_what_is_no_constant_boost_is_told(functions: list[Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        function_score({"functions": functions})


def test_a_table_multiplies_in_its_order() -> None:
    table = Multipliers.model_validate(
        {
            "multipliers": [
                {"id": "a", "when": 'source == "live"', "boost": 2, "bias": 1},
                {"id": "b", "when": "age < 10", "boost": 3},
            ]
        }
    )
    assert table.boosted(X, COLUMNS).tolist() == [9.0, 2.0, 7.0, 12.0]
    with pytest.raises(ValueError, match="there twice"):
        Multipliers.model_validate({"multipliers": [{"id": "a"}, {"id": "a"}]})


def test_files_are_known_by_their_kind(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text("multipliers: [{id: a, boost: 2}]\n")
    (tmp_path / "q.json").write_text(json.dumps({"query": {"function_score": {"functions": [LIVE]}}}))
    assert read_legacy(tmp_path / "t.yaml").boosts == [("a", "true")]
    assert len(read_legacy(tmp_path / "q.json").boosts) == 1
    for name, text, error in (
        ("x.txt", "", ConfigError),
        ("b.json", "{", DataError),
        ("n.json", "[]", DataError),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(error, match=name.replace(".", r"\.")):
            read_legacy(tmp_path / name)


def pile_up(seed: int) -> tuple[Requests, np.ndarray, np.ndarray, np.ndarray]:
    """Three sources with a broad boost each, and three narrow plans on top."""
    rng = np.random.default_rng(seed)
    requests, candidates = 200, 100
    rows = requests * candidates
    source = rng.integers(3, size=rows)
    y = rng.beta(2, 4, size=rows)
    mask = np.uint64(1) << source.astype(np.uint64)
    factor = np.array([3.0, 3.5, 3.2])[source]
    for plan, boost in enumerate((1.2, 1.5, 1.1), start=3):
        hit = rng.random(rows) < 0.15
        mask |= hit.astype(np.uint64) << np.uint64(plan)
        factor = factor * np.where(hit, boost, 1.0)
    return Requests(y, mask, np.arange(requests + 1) * candidates), y * factor, y * factor - y, source


def test_shares_stay_the_inflation_goes_and_value_is_not_lower() -> None:
    requests, legacy, lifted, source = pile_up(0)
    found = migrate(requests, legacy, lifted, 6, 10, sources=source)
    assert found.gap <= 5e-4
    assert np.abs(found.exposures[0] - found.exposures[1]).max() <= 0.001 * 2000
    before, after = (float(side.sum()) for side in found.boosted)
    assert after < 0.2 * before
    assert found.value[1] >= found.value[0] - 1e-9
    most = int(found.exposures[0][:3].argmax())
    assert found.solved.tables.bias[most] == 0
    assert found.requests[0].sum() == pytest.approx(found.value[0])


def test_boosts_that_part_all_candidates_are_free_in_common() -> None:
    requests, *_ = pile_up(1)
    assert partition(requests.mask, [10, 30, 20, 99, 99, 99]) == 1
    assert partition(requests.mask & np.uint64(0b111011), [10, 30, 20, 1, 1, 1]) is None
    assert partition(np.empty(0, np.uint64), [1]) is None


def test_legacy_lists_leave_out_what_the_old_system_left_out() -> None:
    rows = legacy_lists(np.array([1.0, -np.inf, 2.0]), np.ones(3), np.array([0, 3]), 3)
    assert rows.tolist() == [[2, 0, -1]]


@pytest.mark.parametrize(
    "query",
    [
        {"functions": [{"filter": {"term": {"source": "live"}}, "weight": 0}]},
        {"functions": [{"weight": 2}], "max_boost": 0},
        {"functions": 3},
        {"functions": [{"filter": {"exists": {}}, "weight": 2}]},
        {"functions": [{"filter": {"range": {"age": 3}}, "weight": 2}]},
        {"functions": [{"filter": {"terms": {"age": 3}}, "weight": 2}]},
        {"functions": [{"filter": {"bool": []}, "weight": 2}]},
        {"functions": [{"weight": 2, "_name": "ü"}]},
        {"functions": [{"weight": 2, "_name": "a"}, {"weight": 3, "_name": "a"}]},
        {"functions": [{"weight": 2}], "min_score": "high"},
        {"functions": [{"weight": 2}], "score_mode": ["sum"]},
    ],
)
def test_a_query_that_makes_no_plans_is_refused_in_one_line(tmp_path: Path, query: object) -> None:
    path = tmp_path / "q.json"
    path.write_text(json.dumps({"query": {"function_score": query}}))
    with pytest.raises(DataError, match=r"q\.json"):
        read_legacy(path)


def test_a_source_that_is_boosted_to_nothing_is_refused() -> None:
    ones, sources = np.ones(4), np.array([0, 0, 1, 1])
    with pytest.raises(DataError, match="source 'b'"):
        aligned_after(ones, np.array([1.0, 2.0, -1.0, 0.5]), ones, sources, names=("a", "b"))
    after, _ = aligned_after(ones, np.array([1.0, 2.0, -np.inf, -np.inf]), ones, sources)
    assert after.tolist()[2:] == [-np.inf, -np.inf]
