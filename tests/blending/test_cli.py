"""The verbs of `noria blending`, run as a user runs them, on simulated logs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from noria.blending.blender import Blender
from noria.blending.plans.plans import load_plans
from noria.blending.snapshot import Snapshot
from noria.blending.world.simulate import SimulationResult, simulate

arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("duckdb")

pytestmark = pytest.mark.usefixtures("here")

Run = Callable[..., SimpleNamespace]


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> SimulationResult:
    return simulate(tmp_path_factory.mktemp("world") / "logs", requests=300, candidates=60)


def results(folder: str) -> dict[str, object]:
    found: dict[str, object] = json.loads((Path("runs/blending") / folder / "results.json").read_text())
    return found


def test_a_world_is_written_once_and_again_when_asked(noria: Run) -> None:
    small = ("--requests", 20, "--candidates", 12)
    done = noria("simulate", "-o", "w", *small)
    assert done.code == 0, done.err
    assert "noria blending fit --exposures w/exposures" in done.out
    assert load_plans(Path("w/plans.yaml")).ids[0] == "cold-start"
    refused = noria("simulate", "-o", "w", *small)
    assert refused.code == 2
    assert "exists already" in refused.err
    assert noria("simulate", "-o", "w", *small, "--overwrite").code == 0


def test_a_fit_writes_the_snapshot_that_serves(noria: Run, logs: SimulationResult) -> None:
    shown, came = logs.folder / "exposures", logs.folder / "outcomes"
    done = noria(
        *("fit", "--exposures", shown, "--outcomes", came, "--plans", logs.folder / "plans.yaml", "-q"),
        *("fit.aligner=auto", "gather.absent=zero"),
    )
    assert done.code == 0, done.err
    assert "outcome too late" in done.out
    first = Snapshot.load(Path("runs/blending/fit/snapshot.json"))
    assert first.version == 1
    columns = {
        "item": ["a", "b"],
        "score": [12.0, 100.0],
        "source": ["organic", "ads"],
        "version": ["v1", "v1"],
    }
    assert len(Blender(first).rank(columns, 2, scene="home")) == 2
    report = Path("runs/blending/fit/report.html").read_text()
    assert "Which aligner the outcomes ask for" in report
    assert "Figures that could be the anchor" in report

    again = noria(
        *("fit", "--exposures", shown, "--outcomes", came, "-q", "-o", "second"),
        *("--previous", "runs/blending/fit/snapshot.json", "--state", "runs/blending/fit"),
    )
    assert again.code == 0, again.err
    second = Snapshot.load(Path("second/snapshot.json"))
    assert second.version == 2
    assert second.plans == first.plans
    assert json.loads(Path("second/results.json").read_text())["exposures"] == 2 * results("fit")["exposures"]  # type: ignore[operator]


def test_thresholds_of_the_anchor_are_fitted_once_and_kept(noria: Run, logs: SimulationResult) -> None:
    head = ("fit", "--exposures", logs.folder / "exposures", "--outcomes", logs.folder / "outcomes", "-q")
    done = noria(*head, "--plans", logs.folder / "plans.yaml", "gather.anchor.rule=quantile")
    assert done.code == 0, done.err
    first = results("fit")["config"]["gather"]["anchor"]  # type: ignore[index]
    assert len(first["thresholds"]) == len(first["edges"]) + 1 > 5
    again = noria(
        *head, "--previous", "runs/blending/fit/snapshot.json", "--config", "runs/blending/fit/settings.yaml"
    )
    assert again.code == 0, again.err
    assert results("fit")["config"]["gather"]["anchor"] == first  # type: ignore[index]
    refused = noria(
        "attribute", logs.snapshot, "--exposures", logs.folder / "exposures", "gather.anchor.rule=quantile"
    )
    assert refused.code == 2
    assert "settings.yaml" in refused.err


def test_a_replay_compares_and_guards_value(noria: Run, logs: SimulationResult) -> None:
    Path("none.yaml").write_text("plans: []\n")
    Path("dear.yaml").write_text("plans: [{id: dear, when: 'category == \"reposts\"', bias: 0.3}]\n")
    head = ("replay", logs.snapshot, "--candidates", logs.folder / "candidates")
    done = noria(*head)
    assert done.code == 0, done.err
    assert "repost-push" in done.out
    better = noria(*head, "--plans", "none.yaml", "--max-value-loss", "0.5")
    assert better.code == 0, better.err
    change = results("replay")["change"]
    assert isinstance(change, dict)
    assert change["value"][1] > 0
    worse = noria(*head, "--plans", "dear.yaml", "--max-value-loss", "0.5")
    assert worse.code == 1
    assert "value lost is above 0.5 %" in worse.err
    assert noria(*head, "--against", logs.snapshot, "--json").code == 0
    assert results("replay")["change"]["value"] == [0.0, 0.0, 0.0]  # type: ignore[index]
    assert noria(*head, "--max-value-loss", "1").code == 2


def test_plans_are_accounted_for(noria: Run, logs: SimulationResult) -> None:
    rng = np.random.default_rng(0)
    users = {
        "variant": ["control", "treatment"] * 100,
        "views": rng.poisson(20, 200),
        "views_before": rng.poisson(20, 200),
    }
    parquet.write_table(arrow.table(users), "users.parquet")
    done = noria(
        *("attribute", logs.folder / "snapshots", "--candidates", logs.folder / "candidates"),
        *("--exposures", logs.folder / "exposures", "--outcomes", logs.folder / "outcomes"),
        *("--gain", "expected_gain", "--cluster", "user", "--users", "users.parquet", "-q", "retire.floor=2"),
    )
    assert done.code == 0, done.err
    found = results("attribute")
    books, returns = found["books"], found["returns"]
    assert isinstance(books, dict)
    assert isinstance(returns, dict)
    assert returns["violations"] == 0
    assert returns["observed"] > 2000
    by_plan = {plan["plan"]: plan for plan in returns["plans"]}
    assert by_plan["repost-push"]["roi"][0] < by_plan["festival"]["roi"][0]
    # Shapley values of a place that is shared sum to what all plans together cost.
    spend = {plan["plan"]: plan["spend"] for plan in books["plans"]}
    assert all(plan["regret"] <= plan["bound"] <= plan["spend"] + 1e-9 for plan in returns["plans"])
    assert sum(spend.values()) > 0
    assert [effect["cuped"] for effect in found["experiment"]["effects"]] == [True]  # type: ignore[index]
    assert "A/B test" in Path("runs/blending/attribute/report.html").read_text()

    alone = noria("attribute", logs.snapshot, "--exposures", logs.folder / "exposures", "-q", "--json")
    assert alone.code == 0, alone.err
    assert "returns" not in json.loads(alone.out)
    assert noria("attribute", logs.snapshot).code == 2
    table = parquet.read_table("users.parquet")
    odd = [None, *([1.0] * (len(table) - 1))]
    parquet.write_table(table.append_column("odd", arrow.array(odd)), "holes.parquet")
    users = noria("attribute", logs.snapshot, "--users", "holes.parquet")
    assert users.code == 0, users.err
    assert "1 of odd" in users.out
    assert (
        noria(
            "attribute", logs.snapshot, "--candidates", logs.folder / "candidates", "--gain", "nothing"
        ).code
        == 2
    )


def test_targets_are_solved_into_a_snapshot(noria: Run, logs: SimulationResult) -> None:
    Path("t.yaml").write_text(
        "plans:\n"
        "  - {id: cold, when: 'source == \"organic\" and age_hours < 12', target: {exposure_share: 0.5}}\n"
        "  - {id: ads, when: 'source == \"ads\"', target: {exposures_per_day: 120000}}\n"
        "  - {id: fest, when: festival, target: {value_share: 0.25}}\n"
    )
    head = ("solve", logs.snapshot, "--candidates", logs.folder / "candidates", "--plans", "t.yaml")
    refused = noria(*head)
    assert refused.code == 2
    assert "--daily-exposures" in refused.err
    done = noria(*head, "--daily-exposures", 1_000_000, "--frontier", "cold")
    assert done.code == 0, done.err
    found = results("solve")
    told = {plan["plan"]: plan for plan in found["plans"]}  # type: ignore[attr-defined]
    assert told["cold"]["reached"] >= 0.5
    assert told["ads"]["target"] == pytest.approx(0.12)
    assert told["fest"]["moves"] == "weight"
    assert found["loss"] < 0.002  # type: ignore[operator]
    snapshot = Snapshot.load(Path("runs/blending/solve/snapshot.json"))
    assert snapshot.version == 2
    assert snapshot.weight_and_bias("cold")[1] == pytest.approx(told["cold"]["price"])
    replayed = noria(
        "replay", "runs/blending/solve/snapshot.json", "--candidates", logs.folder / "candidates"
    )
    assert replayed.code == 0
    shares = {plan["plan"]: plan["share"] for plan in results("replay")["before"]["plans"]}  # type: ignore[index]
    assert shares["cold"] == told["cold"]["reached"]

    Path("far.yaml").write_text("plans: [{id: far, when: festival, target: {exposure_share: 0.99}}]\n")
    far = noria(*head[:-1], "far.yaml")
    assert far.code == 1
    assert "not reached: far" in far.err
    assert noria(*head[:-2]).code == 2


def test_boosts_of_another_system_are_brought_over(noria: Run, logs: SimulationResult) -> None:
    Path("m.yaml").write_text(
        "multipliers:\n"
        "  - {id: all-organic, when: 'source == \"organic\"', boost: 3.0}\n"
        "  - {id: all-live, when: 'source == \"live\"', boost: 3.5}\n"
        "  - {id: all-ads, when: 'source == \"ads\"', boost: 3.2}\n"
        "  - {id: fresh, when: age_hours < 12, boost: 1.4}\n"
    )
    head = ("--snapshot", logs.snapshot, "--candidates", logs.folder / "candidates")
    done = noria("import-legacy", "m.yaml", *head)
    assert done.code == 0, done.err
    found = results("import-legacy")
    assert all(amount > 0 for amount in found["boosts"])  # type: ignore[attr-defined]
    assert found["gap"] <= 0.001  # type: ignore[operator]
    assert load_plans(Path("runs/blending/import-legacy/plans.yaml")).ids == [
        "all-organic",
        "all-live",
        "all-ads",
        "fresh",
    ]
    Snapshot.load(Path("runs/blending/import-legacy/snapshot.json"))

    Path("q.json").write_text(json.dumps({"functions": [{"filter": {"term": {"nowhere": 1}}, "weight": 2}]}))
    refused = noria("import-legacy", "q.json", *head)
    assert refused.code == 2
    assert "'nowhere'" in refused.err


def test_columns_that_plans_ask_for_and_a_log_lacks_are_told(noria: Run, logs: SimulationResult) -> None:
    replayed = noria("replay", logs.snapshot, "--candidates", logs.folder / "exposures")
    assert replayed.code == 0
    assert "no column age_hours, category" in replayed.err
    Path("t.yaml").write_text("plans: [{id: a, when: festival, target: {exposure_share: 0.1}}]\n")
    refused = noria("solve", logs.snapshot, "--candidates", logs.folder / "exposures", "--plans", "t.yaml")
    assert refused.code == 2
    assert "'festival'" in refused.err
    table = parquet.read_table(logs.folder / "candidates")
    parquet.write_table(table.slice(0, 0), "empty.parquet")
    nobody = table.set_column(
        table.column_names.index("score"), "score", arrow.array([None] * len(table), arrow.float64())
    )
    parquet.write_table(nobody, "nobody.parquet")
    for log, why in (("empty", "no rows"), ("nobody", "can be ranked")):
        refused = noria("solve", logs.snapshot, "--candidates", f"{log}.parquet", "--plans", "t.yaml")
        assert (refused.code, why in refused.err) == (2, True)
    replayed = noria("replay", logs.snapshot, "--candidates", "nobody.parquet")
    assert (replayed.code, "none of 18,000 candidates can be ranked" in replayed.err) == (2, True)
    assert noria("replay", logs.snapshot, "--candidates", "nobody.parquet", "--most", 3).code == 2


def test_several_results_make_one_page(noria: Run, logs: SimulationResult) -> None:
    noria("replay", logs.snapshot, "--candidates", logs.folder / "candidates")
    noria("attribute", logs.snapshot, "--candidates", logs.folder / "candidates", "-q")
    done = noria("report", "runs/blending/replay", "runs/blending/attribute", "-o", "page.html")
    assert done.code == 0, done.err
    page = Path("page.html").read_text()
    assert "As served" in page
    assert "Displacement" in page
    assert noria("report", ".").code == 2
    Path("other").mkdir()
    Path("other/results.json").write_text('{"verb": "train"}')
    assert noria("report", "other").code == 2


def test_nothing_that_is_no_result_is_overwritten(noria: Run, logs: SimulationResult) -> None:
    Path("mine").mkdir()
    Path("mine/letter.txt").write_text("dear")
    refused = noria("replay", logs.snapshot, "--candidates", logs.folder / "candidates", "-o", "mine")
    assert refused.code == 2
    assert Path("mine/letter.txt").read_text() == "dear"
    for wrong in ("gather.absent=maybe", "fit.shrink=-1", "nothing=1"):
        done = noria("fit", "--exposures", "x", "--outcomes", "y", "--plans", "z", wrong)
        assert done.code == 2
        assert done.err.count("\n") == 1


def test_a_plans_name_from_a_file_is_text_on_the_page(noria: Run, logs: SimulationResult) -> None:
    table = parquet.read_table(logs.folder / "candidates").slice(0, 60)
    evil = "<script>alert(1)</script>"
    table = table.set_column(table.column_names.index("source"), "source", arrow.array([evil] * 60))
    parquet.write_table(table, "c.parquet")
    Path("m.yaml").write_text(f"multipliers: [{{id: a, when: 'source == \"{evil}\"', boost: 2}}]\n")
    snapshot = Snapshot.load(logs.snapshot)
    from noria.blending.alignment.alignment import Alignment

    snapshot.next(created=0.0, alignment=Alignment.of_scales({evil: 0.1})).save(Path("s.json"))
    done = noria("import-legacy", "m.yaml", "--snapshot", "s.json", "--candidates", "c.parquet")
    assert done.code == 0, done.err
    assert evil not in Path("runs/blending/import-legacy/report.html").read_text()


def test_a_world_is_written_in_blocks_and_is_one_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("noria.blending.world.simulate.ROWS", 400)
    made = simulate(Path("w"), requests=100, candidates=20)
    table = parquet.read_table("w/candidates").to_pydict()
    assert len(table["request"]) == made.candidates == 2000
    assert len(set(table["item"])) == 2000
    assert len(set(table["request"])) == 100
    assert table["time"] == sorted(table["time"])
    shown = parquet.read_table("w/exposures").to_pydict()
    assert set(shown["request"]) <= set(table["request"])
    assert len(set(shown["source"])) == 3


def test_of_a_long_log_a_sample_is_ranked_and_said(noria: Run, logs: SimulationResult) -> None:
    head = ("--candidates", logs.folder / "candidates", "--most", 3000)
    for words in (("replay", logs.snapshot, *head), ("attribute", logs.snapshot, *head)):
        done = noria(*words)
        assert done.code == 0, done.err
        assert "a sample of 50 of 300 requests" in done.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("attribute", "s", "--users", "u", "--memory", "1GB"), "--memory"),
        (("attribute", "s", "--users", "u", "-k", "3"), "--size"),
        (("fit", "--exposures", "e", "--outcomes", "o", "--plans", "p", "fit.tick=60"), "gather.tick"),
        (("serve", "s", "nearline.tick=30"), "nearline"),
    ],
)
def test_options_that_nothing_would_honour_are_refused(noria: Run, words: tuple[str, ...], told: str) -> None:
    done = noria(*words)
    assert done.code == 2
    assert told in done.err
