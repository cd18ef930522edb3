from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noria.blending import Alignment, Blender, Candidates, Plans, Setting, Snapshot, load_plans
from noria.blending.boosting.scoring import PlanTables, contributions, score, top
from noria.blending.boosting.slots import Rule, place
from noria.core.errors import ConfigError, DataError

PLANS = {
    "plans": [
        {"id": "live", "when": 'source == "live"', "bias": 0.2},
        {"id": "cold", "when": "age < 10", "weight": 0.5, "cap": 0.3},
        {"id": "old", "when": "age >= 50", "weight": -0.2},
    ],
    "guards": {"total_cap": 0.4, "floor": 0.05},
}


def snapshot(plans: dict[str, Any] = PLANS, **more: Any) -> Snapshot:
    return Snapshot.of(
        Alignment.of_scales({"live": 0.01, "organic": 1.0}, mean_value=0.4),
        Plans.model_validate(plans),
        **more,
    )


def request(count: int, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    source = rng.integers(2, size=count)
    return {
        "item": [f"i{n}" for n in range(count)],
        "score": (rng.random(count) * np.array([100.0, 1.0])[source]).tolist(),
        "source": [("live", "organic")[s] for s in source],
        "age": (rng.random(count) * 100).tolist(),
    }


@st.composite
def boosts(draw: st.DrawFn) -> tuple[Any, Any, PlanTables]:
    plans = draw(st.integers(0, 64))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = draw(st.integers(1, 40))
    caps = [None if rng.random() < 0.5 else float(rng.random()) for _ in range(plans)]
    tables = PlanTables.of(
        rng.normal(size=plans).round(1),
        rng.normal(size=plans).round(1) / 4,
        caps,
        total_cap=None if rng.random() < 0.5 else 0.5,
        floor=None if rng.random() < 0.5 else 0.2,
        mean_value=0.4,
    )
    mask = rng.integers(2**63, size=count, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    if plans < 64:
        mask &= np.uint64((1 << plans) - 1)
    return rng.random(count), mask, tables


@given(boosts())
def test_the_account_of_every_score_closes(case: Any) -> None:
    y, mask, tables = case
    r, taken = score(y, mask, tables)
    s = contributions(y, mask, tables)
    np.testing.assert_allclose(y + s.sum(axis=1) + taken, r, rtol=0, atol=1e-13 * (1 + np.abs(s).sum()))


@given(boosts())
def test_the_guards_hold_and_take_nothing_where_they_need_not(case: Any) -> None:
    y, mask, tables = case
    r, taken = score(y, mask, tables)
    s = contributions(y, mask, tables)
    most = tables.total_cap * np.maximum(y, tables.mean_value)
    assert (r - y <= most + 1e-12).all()
    assert (r[y < tables.floor] <= y[y < tables.floor] + 1e-12).all()
    harmless = (np.abs(s) <= tables.cap).all(axis=1) & (s.sum(axis=1) <= most - 1e-12) & (y >= tables.floor)
    assert (taken[harmless] == 0).all()


@given(boosts(), st.integers(0, 63))
def test_a_plan_never_touches_another_plans_contribution(case: Any, which: int) -> None:
    y, mask, tables = case
    if len(tables) == 0:
        return
    which %= len(tables)
    other = PlanTables.of(
        np.where(np.arange(len(tables)) == which, 7.0, tables.weight),
        tables.bias,
        mean_value=tables.mean_value,
    )
    kept = np.arange(len(tables)) != which
    before, after = contributions(y, mask, tables), contributions(y, mask, other)
    assert (before[:, kept] == after[:, kept]).all()  # to the bit


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(0, 35), st.integers(0, 9))
def test_the_best_are_those_of_a_full_sort_with_ties_by_value_then_place(
    r: list[int], size: int, seed: int
) -> None:
    y = np.random.default_rng(seed).integers(2, size=len(r)).astype(float)
    wanted = sorted(range(len(r)), key=lambda n: (-r[n], -y[n], n))[:size]
    assert top(np.array(r, float), y, size).tolist() == wanted


def test_a_plans_cap_bounds_boosts_and_demotions() -> None:
    tables = PlanTables.of([2.0, -2.0], [0.0, 0.0], [0.5, 0.5], mean_value=0.4)
    r, taken = score(np.array([0.9, 0.9, 0.9]), np.array([1, 2, 3], np.uint64), tables)
    assert r == pytest.approx([0.9 + 0.2, 0.9 - 0.2, 0.9])
    assert taken == pytest.approx([0.2 - 1.8, 1.8 - 0.2, 0.0])


def test_a_list_carries_its_account() -> None:
    ranked = Blender(snapshot()).rank(request(300), 20)
    assert len(ranked) == 20
    total = ranked.value + ranked.contributions.sum(axis=1) + ranked.guard
    np.testing.assert_allclose(total, ranked.score, rtol=0, atol=1e-14)
    assert (np.diff(ranked.score) <= 0).all()
    assert (ranked.guard != 0).any()
    for rank in range(20):
        told = ranked.explain(rank)
        assert told["value"] + sum(told["plans"].values()) + told["guard"] == pytest.approx(
            told["score"], abs=1e-14
        )
        assert json.loads(json.dumps(told)) == told


def test_without_plans_the_list_is_by_value_whatever_scale_the_scores_are_on() -> None:
    columns = request(200)
    first = Blender(snapshot({})).rank(columns, 200)
    columns["score"] = [
        x * (1000 if s == "live" else 1) for x, s in zip(columns["score"], columns["source"], strict=True)
    ]
    scaled = Snapshot.of(Alignment.of_scales({"live": 0.00001, "organic": 1.0}), Plans())
    assert Blender(scaled).rank(columns, 200).order.tolist() == first.order.tolist()


def test_what_has_no_score_or_no_alignment_is_left_out_and_counted() -> None:
    columns = request(6)
    columns["score"][:3] = [float("nan"), float("inf"), None]
    columns["source"] = ["live", "live", "live", "nobody", None, "live"]
    ranked = Blender(snapshot()).rank(columns, 10)
    assert ranked.order.tolist() == [5]
    assert ranked.dropped == {"score not finite": 3, "source without alignment": 1, "source missing": 1}


def test_an_empty_request_has_an_empty_list() -> None:
    for columns in ({"item": [], "score": [], "source": []}, request(0)):
        ranked = Blender(snapshot()).rank(columns, 10)
        assert len(ranked) == 0
        assert ranked.contributions.shape == (0, 3)


def test_a_request_of_100_000_candidates_is_ranked_and_one_more_is_refused() -> None:
    columns = {"item": np.arange(100_000), "score": np.arange(100_000.0), "source": ["organic"] * 100_000}
    assert Blender(snapshot({})).rank(columns, 3).order.tolist() == [99_999, 99_998, 99_997]
    with pytest.raises(DataError, match="at most 100,000"):
        Candidates.of({**columns, "item": list(range(100_001))})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"item": ["a", "b", "a"]}, "'a' comes twice"),
        ({"score": [1.0, 2.0]}, "2 values for 3 items"),
        ({"score": ["1", "2", "3"]}, "not numbers"),
        ({"source": [1, 2, 3]}, "not names"),
        ({"item": [["a"], "b", "c"]}, "a list or a mapping"),
        ({"item": "abc"}, "no column"),
        ({"age": ["old", "new", "new"]}, "plan 'cold'"),
    ],
)
def test_columns_that_cannot_be_used_are_said(change: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        Blender(snapshot()).rank(request(3) | change, 3)


@pytest.mark.parametrize("absent", ["item", "score", "source"])
def test_a_column_that_every_request_has_may_not_be_absent(absent: str) -> None:
    columns = request(3)
    del columns[absent]
    with pytest.raises(DataError, match=absent):
        Candidates.of(columns)


def test_a_column_that_only_plans_ask_for_is_missing_where_it_is_absent_and_told() -> None:
    columns = request(3)
    del columns["age"]
    ranked = Blender(snapshot()).rank(columns, 3)
    assert ranked.absent == ("age",)
    assert set(ranked.mask.tolist()) <= {0, 1}
    assert Blender(snapshot()).rank(columns | {"age": [None] * 3}, 3).mask.tolist() == ranked.mask.tolist()


@pytest.mark.parametrize("size", [-1, 100_001])
def test_a_list_of_no_size_is_refused(size: int) -> None:
    with pytest.raises(DataError, match="size"):
        Blender(snapshot()).rank(request(3), size)


def test_slot_rules_hold_and_what_they_displace_is_booked() -> None:
    rule = {"id": "gap", "when": 'source == "live"', "gap": 2, "first": 2, "at_most": 3}
    free = Blender(snapshot({"plans": PLANS["plans"][:1]})).rank(request(200), 12)
    ranked = Blender(snapshot({"plans": PLANS["plans"][:1], "slots": [rule]})).rank(request(200), 12)
    live = [place for place, mask in enumerate(ranked.mask.tolist()) if mask & 1]
    assert live[0] >= 1
    assert len(live) == 3
    assert np.diff(live).min() >= 3
    assert ranked.slot_cost == pytest.approx(free.score.sum() - ranked.score.sum())
    assert ranked.slot_cost > 0
    total = ranked.value + ranked.contributions.sum(axis=1) + ranked.guard
    np.testing.assert_allclose(total, ranked.score, atol=1e-14)
    assert (ranked.natural != np.arange(12)).any()


@given(st.integers(0, 10**6), st.integers(1, 25))
def test_places_are_filled_as_by_trying_every_candidate_in_turn(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 20))
    rules = [
        Rule(
            rng.random(count) < 0.5,
            gap=int(rng.integers(3)),
            at_most=[None, 1, 3][rng.integers(3)],
            first=int(rng.integers(1, 4)),
            run=[None, 1, 2][rng.integers(3)],
        )
        for _ in range(int(rng.integers(4)))
    ]
    order = rng.permutation(count)
    chosen: list[int] = []

    def fits(candidate: int) -> bool:
        for rule in rules:
            if not rule.about[order[candidate]]:
                continue
            places = [at for at, one in enumerate(chosen) if rule.about[order[one]]]
            at = len(chosen)
            streak = 0
            while streak < at and rule.about[order[chosen[at - 1 - streak]]]:
                streak += 1
            if (
                at + 1 < rule.first
                or (places and rule.gap and at - places[-1] <= rule.gap)
                or (rule.at_most is not None and len(places) >= rule.at_most)
                or (rule.run is not None and streak >= rule.run)
            ):
                return False
        return True

    while len(chosen) < size:
        left = [n for n in range(count) if n not in chosen and fits(n)]
        if not left:
            break
        chosen.append(left[0])
    assert place(order, rules, size).tolist() == chosen


def test_100_000_candidates_under_rules_that_forbid_most_of_them_are_placed_at_once() -> None:
    about = np.ones(100_000, np.bool_)
    about[-1000:] = False
    rules = [Rule(about, at_most=3)]
    assert len(place(np.arange(100_000), rules, 100_000)) == 1003


def test_a_rule_that_nothing_satisfies_ends_the_list() -> None:
    rule = {"id": "none", "when": "true", "at_most": 4}
    assert len(Blender(snapshot({"slots": [rule]})).rank(request(50), 10)) == 4


def test_plans_rest_by_switch_by_setting_by_schedule_and_all_together() -> None:
    columns = request(50)
    plan = {"id": "live", "when": "true", "bias": 0.2}
    on = {"plans": [plan]}
    off = {"plans": [plan | {"enabled": False}]}
    everything = {"plans": [plan], "guards": {"only_value": True}}
    late = {"plans": [plan | {"schedule": {"start": "2026-01-01T00:00Z"}}]}
    assert (Blender(snapshot(on)).rank(columns, 5).mask == 1).all()
    assert (Blender(snapshot(off)).rank(columns, 5).mask == 0).all()
    assert (Blender(snapshot(everything)).rank(columns, 5).mask == 0).all()
    resting = snapshot(on, settings={"live": Setting(0.0, 0.3, resting=True)})
    assert (Blender(resting).rank(columns, 5).mask == 0).all()
    assert (Blender(snapshot(late)).rank(columns, 5, at=1.7e9).mask == 0).all()
    assert (Blender(snapshot(late)).rank(columns, 5, at=1.8e9).mask == 1).all()
    with pytest.raises(ConfigError, match="no time"):
        Blender(snapshot(late)).rank(columns, 5)


def test_a_controllers_setting_is_served_in_place_of_the_files() -> None:
    ranked = Blender(snapshot(settings={"live": Setting(0.0, 0.11)})).rank(request(50), 50)
    hit = (ranked.mask & np.uint64(1)) > 0
    assert (ranked.contributions[hit, 0] == 0.11).all()
    with pytest.raises(ConfigError, match="no plan 'nobody'"):
        snapshot(settings={"nobody": Setting(0.0, 0.1)})


def test_a_snapshot_survives_its_file_and_ranks_to_the_bit_as_before(tmp_path: Path) -> None:
    first = snapshot(settings={"live": Setting(1 / 3, 0.1)}, version=7, created=1.5)
    first.save(tmp_path / "s.json")
    second = Snapshot.load(tmp_path / "s.json")
    assert second.digest == first.digest
    a, b = (Blender(one).rank(request(300), 50) for one in (first, second))
    for name in ("order", "score", "value", "contributions", "guard", "mask"):
        assert getattr(a, name).tobytes() == getattr(b, name).tobytes()
    assert a.snapshot == b.snapshot == first.digest


def test_half_a_snapshot_or_one_that_was_changed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    snapshot().save(path)
    whole = path.read_text()
    for text in (whole[: len(whole) // 2], whole.replace("0.2", "0.3", 1), "[]", "{}", "", '{"format": 3}'):
        assert text != whole
        path.write_text(text)
        with pytest.raises(DataError, match=str(path)):
            Snapshot.load(path)
    with pytest.raises(DataError, match="cannot be read"):
        Snapshot.load(tmp_path / "none.json")


def test_the_next_snapshot_counts_up_and_leaves_the_old_one_as_it_is() -> None:
    first = snapshot()
    second = first.next(created=9.0, settings={"live": Setting(0.0, 0.5)})
    assert (first.version, second.version) == (1, 2)
    assert first.weight_and_bias("live") == (0.0, 0.2)
    assert second.weight_and_bias("live") == (0.0, 0.5)
    assert first.digest != second.digest


@settings(max_examples=25)
@given(st.integers(0, 10**6))
def test_ranking_does_not_depend_on_how_columns_were_given(seed: int) -> None:
    columns = request(40, seed)
    arrays = {
        "item": np.arange(40),
        "score": np.array(columns["score"]),
        "source": columns["source"],
        "age": np.array(columns["age"]),
    }
    a, b = (Blender(snapshot()).rank(one, 10) for one in (columns, arrays))
    assert a.order.tolist() == b.order.tolist()
    assert a.score.tobytes() == b.score.tobytes()


def test_a_plan_file_is_read_and_its_mistakes_are_told_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "plans.yaml"
    path.write_text(
        "plans:\n"
        "  - id: cold-start\n"
        "    owner: growth\n"
        "    when: 'source == \"organic\" and age_hours < 48'\n"
        "    target: {exposure_share: 0.05}\n"
        "    schedule: {days: [sat, sun], hours: 22:00-02:00, zone: Europe/Berlin}\n"
        "guards: {total_cap: 2.0}\n"
    )
    plans = load_plans(path)
    assert plans.ids == ["cold-start"]
    target = plans.plans[0].target
    assert target is not None
    assert (target.moves, target.amount, target.is_share) == ("bias", 0.05, True)
    for wrong, said in (
        ("age_hours < 48", "age_hours <"),
        ("cold-start", "Cold Start"),
        ("exposure_share: 0.05", "exposure_share: 0.05, value_share: 0.1"),
        ("22:00-02:00", "22-2"),
        ("Europe/Berlin", "Europe/Nowhere"),
        ("total_cap: 2.0", "total_cap: -2.0"),
        ("owner", "ownr"),
    ):
        path.write_text(path.read_text().replace(wrong, said))
        with pytest.raises(ConfigError, match=r"plans\.yaml:"):
            load_plans(path)
        path.write_text(path.read_text().replace(said, wrong))


def test_a_plan_comes_once_and_there_are_at_most_64() -> None:
    with pytest.raises(ValueError, match="there twice"):
        Plans.model_validate({"plans": [{"id": "a"}, {"id": "a"}]})
    with pytest.raises(ValueError, match="at most 64"):
        Plans.model_validate({"plans": [{"id": f"p{n}"} for n in range(65)]})


@pytest.mark.parametrize(
    ("schedule", "on", "off"),
    [
        ({"hours": "18:00-20:00"}, "2026-11-25T18:00Z", "2026-11-25T20:00Z"),
        ({"hours": "22:00-02:00", "days": ["wed"]}, "2026-11-26T01:59Z", "2026-11-25T01:59Z"),
        ({"hours": "18:00-24:00"}, "2026-11-25T23:59Z", "2026-11-25T17:59Z"),
        ({"days": ["wed"]}, "2026-11-25T00:00Z", "2026-11-26T00:00Z"),
        ({"days": ["wed"], "zone": "Asia/Shanghai"}, "2026-11-24T16:00Z", "2026-11-25T16:00Z"),
        ({"start": "2026-11-25T00:00+08:00"}, "2026-11-24T16:00Z", "2026-11-24T15:59Z"),
        ({"end": "2026-11-25T00:00Z"}, "2026-11-24T23:59Z", "2026-11-25T00:00Z"),
    ],
)
def test_a_schedule_is_kept(schedule: dict[str, Any], on: str, off: str) -> None:
    from datetime import datetime

    from noria.blending.plans.plans import Schedule

    found = Schedule.model_validate(schedule)
    assert found.is_on(datetime.fromisoformat(on).timestamp())
    assert not found.is_on(datetime.fromisoformat(off).timestamp())
