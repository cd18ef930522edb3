from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from noria.blending.accounting.cells import accounts, amount
from noria.blending.alignment.anchors import EffectiveCompletion
from noria.blending.alignment.config import FitConfig
from noria.blending.alignment.fitting import fit_alignment
from noria.blending.logs.gathering import GatherConfig, GatherResult, from_rows, partial, to_rows
from noria.blending.logs.reading import log_files
from noria.blending.snapshot import Snapshot
from noria.blending.world.simulate import SINCE, SimulationResult, simulate
from noria.core.errors import DataError

arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("duckdb")

from noria.blending.integrations.duckdb import gather  # noqa: E402

CONFIG = GatherConfig()


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> SimulationResult:
    return simulate(tmp_path_factory.mktemp("world") / "logs", requests=250, candidates=60)


def files(logs: SimulationResult, *names: str) -> list[list[str]]:
    return [log_files(str(logs.folder / name)) for name in names]


def same(one: GatherResult, two: GatherResult) -> None:
    assert one.books.cells == two.books.cells
    assert one.rows == two.rows
    assert dict(one.dropped) == dict(two.dropped)
    assert one.tallies.cells.keys() == two.tallies.cells.keys()
    for cell, histogram in one.tallies.cells.items():
        for field in dataclasses.fields(histogram):
            ours, theirs = (getattr(found, field.name) for found in (histogram, two.tallies.cells[cell]))
            assert ours.tolist() == theirs.tolist()


def test_books_hold_every_exposure_once_and_what_is_left_out_is_told(logs: SimulationResult) -> None:
    found = gather(*files(logs, "exposures", "outcomes"), CONFIG)
    table = parquet.read_table(logs.folder / "exposures").to_pylist()
    pairs = {(row["request"], row["item"]): row for row in table}
    assert found.rows == len(table) == logs.exposures
    assert found.dropped["exposure twice"] == len(table) - len(pairs) > 0
    assert sum(sums[0] for sums in found.books.cells.values()) == len(pairs)
    value = sum(amount(sums, "value") for sums in found.books.cells.values())
    assert value == pytest.approx(sum(row["value"] for row in pairs.values()), rel=1e-12)
    for reason in (
        "outcome twice",
        "outcome too late",
        "outcome before its exposure",
        "no outcome",
        "exposure too young",
    ):
        assert found.dropped[reason] > 0, reason


def test_outcomes_are_those_of_a_plain_loop(logs: SimulationResult) -> None:
    found = gather(*files(logs, "exposures", "outcomes"), CONFIG)
    first: dict[Any, Any] = {}
    for row in parquet.read_table(logs.folder / "outcomes").to_pylist():
        key = row["request"], row["item"]
        if key not in first or row["time"] < first[key]["time"]:
            first[key] = row
    completions = known = 0
    seen = set()
    for row in parquet.read_table(logs.folder / "exposures").to_pylist():
        key = row["request"], row["item"]
        came = first.get(key)
        if key in seen or came is None or not -60 <= came["time"] - row["time"] <= 86_400:
            continue
        seen.add(key)
        known += 1
        completions += came["watch"] >= min(0.5 * came["duration"], 10.0)
    sums = np.sum([list(sums) for sums in found.books.cells.values()], axis=0)
    assert sums[1] == known
    assert amount(sums.tolist(), "outcome") == completions


def test_accounts_from_the_books_close_with_the_log(logs: SimulationResult) -> None:
    found = gather(*files(logs, "exposures", "outcomes"), CONFIG)
    snapshot = Snapshot.load(logs.snapshot)
    plans = {snapshot.digest: [(plan, *snapshot.weight_and_bias(plan)) for plan in snapshot.plans.ids]}
    told, unknown = accounts(found.books, plans)
    assert unknown == {}
    rows = {
        (row["request"], row["item"]): row
        for row in parquet.read_table(logs.folder / "exposures").to_pylist()
    }
    above = sum(row["total"] - row["value"] - row["guard"] for row in rows.values())
    assert sum(plan.spend for plan in told) == pytest.approx(above, rel=1e-11)


@pytest.mark.parametrize("rows", [1000, 7, 100])
def test_batches_of_any_size_give_the_same(
    logs: SimulationResult, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = files(logs, "exposures", "outcomes")
    whole = gather(*both, CONFIG)
    monkeypatch.setattr("noria.blending.integrations.duckdb.BATCH", rows)
    if rows == 7:
        both = [one[:1] for one in both]
        monkeypatch.setattr("noria.blending.integrations.duckdb.BATCH", 1 << 19)
        whole = gather(*both, CONFIG)
        monkeypatch.setattr("noria.blending.integrations.duckdb.BATCH", rows)
    same(gather(*both, CONFIG), whole)


def test_days_gathered_alone_add_up(logs: SimulationResult) -> None:
    shown, came = files(logs, "exposures", "outcomes")
    now = SINCE + 3 * 86_400.0
    whole = gather(shown, came, CONFIG, now=now)
    days = [gather([one], came, CONFIG, now=now) for one in shown]
    merged = days[0].merge(*days[1:])
    # Every part counts all outcomes, those of the other days as outcomes of no exposure.
    reasons = dict(merged.dropped) | {"outcome twice": whole.dropped["outcome twice"]}
    assert reasons.pop("outcome of no exposure") > 0
    merged = dataclasses.replace(merged, dropped=reasons)
    same(merged, whole)


def test_rows_of_a_state_come_back_added_up_or_not(logs: SimulationResult) -> None:
    found = gather(*files(logs, "exposures", "outcomes"), CONFIG)
    same(from_rows(to_rows(found), found.now), found)
    twice = from_rows({name: column * 2 for name, column in to_rows(found).items()}, found.now)
    same(twice, found.merge(found))
    with pytest.raises(DataError, match="no column"):
        from_rows({}, 0.0)


def test_an_absent_outcome_is_missing_or_zero_as_is_said(logs: SimulationResult) -> None:
    both = files(logs, "exposures", "outcomes")
    missing, zero = (gather(*both, CONFIG.model_copy(update={"absent": how})) for how in ("missing", "zero"))
    lost = missing.dropped["no outcome"]
    counts = [np.sum(list(one.books.cells.values()), axis=0)[1] for one in (missing, zero)]
    assert counts[1] - counts[0] == lost
    assert "no outcome" not in zero.dropped


def test_without_outcomes_there_are_books_and_no_tallies(logs: SimulationResult) -> None:
    found = gather(files(logs, "exposures")[0], None, CONFIG)
    assert not found.tallies.cells
    assert found.books.cells
    with pytest.raises(DataError, match="no effective completion"):
        fit_alignment(found.tallies, FitConfig(), now=found.now)


def test_one_user_counts_no_more_than_he_may(logs: SimulationResult) -> None:
    both = files(logs, "exposures", "outcomes")
    free, held = (gather(*both, CONFIG.model_copy(update={"per_user": cap})) for cap in (None, 3.0))
    weigh = [sum(h.n.sum() for h in one.tallies.cells.values()) / 4096 for one in (free, held)]
    assert weigh[1] <= 97 * 3 + 1 < weigh[0]


def test_the_alignment_fitted_on_a_log_finds_the_one_that_made_it(logs: SimulationResult) -> None:
    found = gather(*files(logs, "exposures", "outcomes"), CONFIG)
    served = Snapshot.load(logs.snapshot).alignment
    config = FitConfig(population="all", half_life=None, shrink=0)
    fitted, _ = fit_alignment(found.tallies, config, now=found.now)
    for key, entry in served.entries.items():
        if key.scene == "":
            continue
        scale = fitted.entries[key].aligner.scale  # type: ignore[attr-defined]
        assert scale == pytest.approx(entry.aligner.scale, rel=0.35)  # type: ignore[attr-defined]


def test_files_are_found_by_name_folder_or_pattern(logs: SimulationResult, tmp_path: Path) -> None:
    folder = str(logs.folder / "exposures")
    assert len(log_files(folder)) == len(log_files(f"{folder}/*.parquet")) == 3
    assert len(log_files(f"{folder}/day-0.parquet")) == 1
    with pytest.raises(DataError, match=r"no \.parquet, \.csv, \.jsonl file"):
        log_files(str(tmp_path))
    (tmp_path / "x.parquet").write_text("no")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        gather([str(tmp_path / "x.parquet")], None, CONFIG)
    parquet.write_table(arrow.table({"request": ["a"]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="no column"):
        gather([str(tmp_path / "x.parquet")], None, CONFIG)
    table = parquet.read_table(logs.folder / "exposures").drop_columns(["user"])
    parquet.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(DataError, match="'user'"):
        gather([str(tmp_path / "x.parquet")], None, GatherConfig(per_user=1.0))


def test_a_mask_of_all_64_plans_survives(tmp_path: Path, logs: SimulationResult) -> None:
    table = parquet.read_table(logs.folder / "exposures").slice(0, 5)
    mask = arrow.array(np.full(5, 2**64 - 1, np.uint64))
    table = table.set_column(table.column_names.index("mask"), "mask", mask)
    parquet.write_table(table, tmp_path / "m.parquet")
    found = gather([str(tmp_path / "m.parquet")], None, CONFIG)
    assert {key.mask for key in found.books.cells} == {2**64 - 1}
    assert {key.mask for key in from_rows(to_rows(found), 0.0).books.cells} == {2**64 - 1}


def test_an_empty_batch_comes_to_nothing() -> None:
    from noria.blending.columns import NameColumn
    from noria.blending.logs.gathering import JOINED, NAMES

    columns = {
        name: NameColumn((), np.empty(0, np.int32)) if name in NAMES else np.empty(0) for name in JOINED
    }
    found = partial(columns, CONFIG, 0.0)
    assert (found.rows, found.tallies.cells, found.books.cells, found.dropped) == (0, {}, {}, {})
    assert EffectiveCompletion() == CONFIG.anchor


@pytest.mark.slow
def test_spark_gives_the_same_integers(logs: SimulationResult) -> None:
    """One session for the whole file: starting Java takes most of the time."""
    pytest.importorskip("pyspark")
    if shutil.which("java") is None:
        pytest.skip("no Java here")
    from noria.blending.integrations import spark

    both = [one[:1] for one in files(logs, "exposures", "outcomes")]
    quick = {"spark.sql.codegen.wholeStage": "false", "spark.sql.adaptive.enabled": "false"}
    session = spark.local_session(1, quick)
    try:
        found = spark.gather(*both, CONFIG, session=session)
        same(found, gather(*both, CONFIG))
        with pytest.raises(DataError, match="no column"):
            spark.gather(both[1], None, CONFIG, session=session)
    finally:
        session.stop()


@pytest.mark.parametrize("part", [200, 1000])
def test_requests_joined_part_by_part_give_the_same(
    logs: SimulationResult, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = files(logs, "exposures", "outcomes")
    for config in (CONFIG, GatherConfig(per_user=3.0)):
        monkeypatch.undo()
        whole = gather(*both, config)
        monkeypatch.setattr("noria.blending.integrations.duckdb.PART", part)
        same(gather(*both, config), whole)
