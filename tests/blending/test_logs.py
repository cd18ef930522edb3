"""Logs as people have them, and as they should not be: read to the same fit, or refused in one line."""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from noria.blending.logs.candidates import read_candidates
from noria.blending.logs.gathering import GatherConfig
from noria.blending.logs.replay import replay
from noria.blending.logs.users import experiment_record
from noria.blending.snapshot import Snapshot
from noria.blending.world.simulate import DAY, SimulationResult, simulate
from noria.core.errors import NoriaError

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("duckdb")

from noria.blending.integrations.duckdb import gather  # noqa: E402

pytestmark = pytest.mark.usefixtures("here")

Run = Callable[..., SimpleNamespace]
MINIMAL = ["request", "item", "time", "source", "score"]
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> SimulationResult:
    return simulate(tmp_path_factory.mktemp("world") / "logs", requests=250, candidates=30)


@pytest.fixture(scope="module")
def rows(logs: SimulationResult) -> dict[str, Rows]:
    return {
        name: parquet.read_table(logs.folder / name).to_pylist()
        for name in ("exposures", "outcomes", "candidates")
    }


def write(name: str, rows: Rows) -> str:
    path = Path(name)
    if path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


def some(rows: Rows, columns: list[str], **changed: Callable[[Any], Any]) -> Rows:
    return [{name: changed.get(name, lambda value: value)(row[name]) for name in columns} for row in rows]


def fit(noria: Run, logs: SimulationResult, exposures: Any, outcomes: Any, *more: Any) -> SimpleNamespace:
    plans = logs.folder / "plans.yaml"
    return noria("fit", "--exposures", exposures, "--outcomes", outcomes, "--plans", plans, "-q", *more)


def refused(done: SimpleNamespace, *words: str) -> None:
    assert done.code == 2, (done.out, done.err)
    assert len(done.err.strip().splitlines()) == 1
    for word in words:
        assert word in done.err
    assert not Path("runs/blending/fit").exists()


def scales() -> dict[str, float]:
    snapshot = Snapshot.load(Path("runs/blending/fit/snapshot.json"))
    return {
        key.source: entry.aligner.scale
        for key, entry in snapshot.alignment.entries.items()
        if key.scene == "*"
    }  # type: ignore[attr-defined]


def iso(zone: str) -> Callable[[float], str]:
    return lambda seconds: datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + zone


# -- logs as people have them -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_minimal_log_of_any_kind_gives_the_same_alignment(
    noria: Run, logs: SimulationResult, rows: dict[str, Rows], kind: str
) -> None:
    assert (
        fit(noria, logs, logs.folder / "exposures", logs.folder / "outcomes", "fit.population=all").code == 0
    )
    whole = scales()
    shown = write(f"e.{kind}", some(rows["exposures"], MINIMAL))
    came = write(f"o.{kind}", some(rows["outcomes"], ["request", "item", "time", "watch", "duration"]))
    done = fit(noria, logs, shown, came)
    assert done.code == 0, done.err
    assert scales() == pytest.approx(whole, rel=1e-6)
    # Without accounts there is nothing to book, and attribute says so.
    asked = noria("attribute", "runs/blending/fit/snapshot.json", "--exposures", shown, "-q")
    assert asked.code == 2
    assert "'value'" in asked.err


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("csv", iso("Z")),
        ("csv", iso("")),
        ("jsonl", iso("+00:00")),
        ("jsonl", lambda seconds: iso("")(seconds).replace("T", " ")),
        ("parquet", iso("Z")),
        ("parquet", lambda seconds: datetime.fromtimestamp(seconds, UTC)),
        ("parquet", lambda seconds: datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)),
    ],
)
def test_times_with_and_without_a_zone_are_seconds(
    noria: Run, logs: SimulationResult, rows: dict[str, Rows], kind: str, change: Callable[[float], Any]
) -> None:
    plain = [write(f"{name}-plain.parquet", rows[name]) for name in ("exposures", "outcomes")]
    assert fit(noria, logs, *plain).code == 0
    whole = scales()
    same = [
        write(f"{name}.{kind}", some(rows[name], list(rows[name][0]), time=change))
        for name in ("exposures", "outcomes")
    ]
    done = fit(noria, logs, *same)
    assert done.code == 0, done.err
    assert scales() == pytest.approx(whole, rel=1e-6)


def test_columns_may_have_names_of_their_own(
    noria: Run, logs: SimulationResult, rows: dict[str, Rows]
) -> None:
    names = {"request": "session_id", "watch": "seconds watched", "source": "model"}
    renamed = {name: [{names.get(k, k): v for k, v in row.items()} for row in rows[name]] for name in rows}
    options = [f"columns.{ours}={theirs}" for ours, theirs in names.items()]
    shown, came = write("e.parquet", renamed["exposures"]), write("o.csv", renamed["outcomes"])
    refused(fit(noria, logs, shown, came), "'request'", "columns.request=NAME")
    done = fit(noria, logs, shown, came, *options)
    assert done.code == 0, done.err
    candidates = write("c.jsonl", renamed["candidates"])
    replayed = noria("replay", logs.snapshot, "--candidates", candidates, *options[::2])
    assert replayed.code == 0, replayed.err
    unused = noria("replay", logs.snapshot, "--candidates", candidates, *options)
    assert unused.code == 2
    assert "no log has a column 'seconds watched'" in unused.err


def test_candidates_of_any_kind_are_ranked_alike(
    noria: Run, logs: SimulationResult, rows: dict[str, Rows]
) -> None:
    shares = []
    for kind in ("parquet", "csv", "jsonl"):
        path = write(f"c.{kind}", rows["candidates"])
        done = noria("replay", logs.snapshot, "--candidates", path, "--json")
        assert done.code == 0, done.err
        shares.append([plan["share"] for plan in json.loads(done.out)["before"]["plans"]])
    assert shares[0] == shares[1] == shares[2]


@pytest.mark.parametrize(
    ("kind", "column", "value", "where"),
    [
        ("csv", "score", "high", "e.csv:4"),
        ("csv", "score", "0,5", "e.csv:4"),
        ("csv", "time", "yesterday", "e.csv:4"),
        ("jsonl", "score", "0.5", "e.jsonl:3"),
        ("jsonl", "time", "1700000000", "e.jsonl:3"),
        ("jsonl", "score", True, "e.jsonl:3"),
        ("jsonl", "request", ["r"], "e.jsonl:3"),
        ("jsonl", "mask", 1.5, "e.jsonl:3"),
        ("jsonl", "control", "no", "e.jsonl:3"),
        ("csv", "time", 1.7e12, "e.csv:4"),
    ],
)
def test_a_value_of_another_kind_is_refused_with_file_and_line(
    noria: Run, logs: SimulationResult, rows: dict[str, Rows], kind: str, column: str, value: Any, where: str
) -> None:
    changed = [row | ({column: value} if number == 2 else {}) for number, row in enumerate(rows["exposures"])]
    refused(fit(noria, logs, write(f"e.{kind}", changed), logs.folder / "outcomes"), where, f"{column!r}")


def test_numbers_as_text_in_parquet_are_refused_with_the_file(
    noria: Run, logs: SimulationResult, rows: dict[str, Rows]
) -> None:
    shown = write("e.parquet", some(rows["exposures"], MINIMAL, score=str))
    refused(
        fit(noria, logs, shown, logs.folder / "outcomes"),
        "e.parquet, row 1, column 'score'",
        "numbers, not text",
    )


def test_large_whole_ids_stay_apart(noria: Run, logs: SimulationResult, rows: dict[str, Rows]) -> None:
    large = {item: 2**53 + number for number, item in enumerate({row["item"] for row in rows["candidates"]})}
    changed = [row | {"item": large[row["item"]], "author": large[row["item"]]} for row in rows["candidates"]]
    for kind in ("parquet", "jsonl", "csv"):
        path = write(f"c.{kind}", changed)
        done = noria("replay", logs.snapshot, "--candidates", path, "--json")
        if kind == "jsonl":
            assert done.code == 2
            assert "'author'" in done.err
            continue
        assert done.code == 0, done.err
        assert json.loads(done.out)["candidates"] == len(changed)
        assert json.loads(done.out)["before"]["dropped"] == {}


# -- logs as they should not be ---------------------------------------------------------------------------------------


def test_scores_that_no_aligner_takes_are_refused_with_the_reason(
    noria: Run, logs: SimulationResult, rows: dict[str, Rows]
) -> None:
    shown = write(
        "e.parquet",
        some(rows["exposures"], list(rows["exposures"][0]), score=lambda x: float(np.log(x / 1000))),
    )
    refused(
        fit(noria, logs, shown, logs.folder / "outcomes"),
        "no source has an aligner",
        "not above zero in the mean",
    )
    assert fit(noria, logs, shown, logs.folder / "outcomes", "fit.aligner=affine").code == 0


def test_a_source_without_an_aligner_is_refused_or_let_be(
    noria: Run, logs: SimulationResult, rows: dict[str, Rows]
) -> None:
    changed = [
        row | ({"score": -row["score"]} if row["source"] == "ads" else {}) for row in rows["exposures"]
    ]
    shown = write("e.parquet", changed)
    refused(fit(noria, logs, shown, logs.folder / "outcomes"), "source 'ads'", "not above zero in the mean")
    assert fit(noria, logs, shown, logs.folder / "outcomes", "fit.without=[ads]").code == 0


def test_a_source_whose_outcomes_are_all_missing_is_refused(
    noria: Run, logs: SimulationResult, rows: dict[str, Rows]
) -> None:
    new = [rows["exposures"][0] | {"source": "new", "item": f"new{n}"} for n in range(5)]
    shown = write("e.parquet", rows["exposures"] + new)
    refused(fit(noria, logs, shown, logs.folder / "outcomes"), "source 'new'", "none of its exposures")


@pytest.mark.parametrize("count", [10**9, 100])
@pytest.mark.parametrize("log", ["exposures", "outcomes"])
@pytest.mark.parametrize("factor", [1e3, 1e6])
def test_times_in_milliseconds_are_refused(
    noria: Run, logs: SimulationResult, rows: dict[str, Rows], count: int, log: str, factor: float
) -> None:
    changed = [row | ({"time": row["time"] * factor} if n < count else {}) for n, row in enumerate(rows[log])]
    both = dict(rows) | {log: changed}
    paths = [write(f"{name}.parquet", both[name]) for name in ("exposures", "outcomes")]
    refused(fit(noria, logs, *paths), "milliseconds", log)


@pytest.mark.parametrize("count", [10**9, 100])
@pytest.mark.parametrize("columns", [("watch", "duration"), ("watch",), ("duration",)])
def test_watch_and_duration_in_milliseconds_are_refused(
    noria: Run, logs: SimulationResult, rows: dict[str, Rows], count: int, columns: tuple[str, ...]
) -> None:
    changed = [
        row | ({name: row[name] * 1000 for name in columns} if n < count else {})
        for n, row in enumerate(rows["outcomes"])
    ]
    refused(fit(noria, logs, logs.folder / "exposures", write("o.parquet", changed)), "milliseconds")


@pytest.mark.parametrize(("days", "count"), [(365, 1), (-3000, 1), (3650, 1), (365, 100)])
def test_rows_far_from_the_rest_are_refused(
    noria: Run, logs: SimulationResult, rows: dict[str, Rows], days: int, count: int
) -> None:
    far = [row | {"time": row["time"] + days * DAY} for row in rows["exposures"][-count:]]
    shown = write("e.parquet", [*rows["exposures"][:-count], *far])
    refused(fit(noria, logs, shown, logs.folder / "outcomes"), "exposures, column 'time'")


def test_evidence_that_has_decayed_to_nothing_is_refused(
    noria: Run, logs: SimulationResult, rows: dict[str, Rows]
) -> None:
    last = max(row["time"] for row in rows["exposures"])
    both = (logs.folder / "exposures", logs.folder / "outcomes")
    refused(fit(noria, logs, *both, "--now", str(last + 10 * DAY)), "half-lives")
    refused(fit(noria, logs, *both, "--now", str(last * 1000)), "--now")
    row = rows["exposures"][-1]
    shown = write("e.parquet", [*rows["exposures"], row | {"item": "ahead", "time": last + 10 * DAY}])
    refused(fit(noria, logs, shown, both[1]), "half-lives")
    assert fit(noria, logs, shown, both[1], "fit.half_life=null").code == 0


@pytest.mark.parametrize(("watch", "words"), [(1e9, "100 %"), (0.0, "effective completion")])
def test_a_rate_that_tells_nothing_is_refused(
    noria: Run, logs: SimulationResult, rows: dict[str, Rows], watch: float, words: str
) -> None:
    changed = [row | {"watch": min(watch, row["duration"])} for row in rows["outcomes"]]
    refused(fit(noria, logs, logs.folder / "exposures", write("o.parquet", changed)), words)


def test_outcomes_of_no_exposure_are_counted(
    noria: Run, logs: SimulationResult, rows: dict[str, Rows]
) -> None:
    strange = [row | {"item": f"x{n}"} for n, row in enumerate(rows["outcomes"][:7])]
    came = write("o.parquet", rows["outcomes"] + strange)
    done = fit(noria, logs, logs.folder / "exposures", came)
    assert done.code == 0, done.err
    assert "7 outcome of no exposure" in done.out
    refused_all = fit(noria, logs, logs.folder / "exposures", write("x.parquet", strange), "-o", "other")
    assert refused_all.code == 2


def test_a_missing_mask_is_no_plan(noria: Run, logs: SimulationResult, rows: dict[str, Rows]) -> None:
    changed = [row | ({"mask": None} if n % 10 == 0 else {}) for n, row in enumerate(rows["exposures"])]
    done = noria("attribute", logs.snapshot, "--exposures", write("e.parquet", changed), "-q", "--json")
    assert done.code == 0, done.err
    books = json.loads(done.out)["books"]
    assert books["dropped"]["exposure without a mask"] > len(changed) // 11
    assert books["exposures"] < len(changed) * 0.91
    assert books["unknown"] == {}


def test_a_log_without_a_value_or_of_other_snapshots_is_no_success(
    noria: Run, logs: SimulationResult, rows: dict[str, Rows]
) -> None:
    foreign = write(
        "c.parquet", some(rows["candidates"], list(rows["candidates"][0]), source=lambda _: "else")
    )
    for words in (("replay", logs.snapshot), ("attribute", logs.snapshot)):
        done = noria(*words, "--candidates", foreign)
        assert done.code == 2
        assert "can be ranked" in done.err
    shown = write(
        "e.parquet", some(rows["exposures"], list(rows["exposures"][0]), snapshot=lambda _: "other")
    )
    done = noria("attribute", logs.snapshot, "--exposures", shown, "-q")
    assert done.code == 2
    assert "snapshots that were not given" in done.err


@pytest.mark.parametrize(
    "words",
    [("--outcomes", "o"), ("--gain", "g", "--exposures", "e"), ("--cluster", "u", "--exposures", "e")],
)
def test_an_option_that_nothing_would_honour_is_refused(
    noria: Run, logs: SimulationResult, words: tuple[str, ...]
) -> None:
    done = noria("attribute", logs.snapshot, "--users", "u.parquet", *words)
    assert done.code == 2
    assert "it needs --" in done.err


# -- any type of any column -------------------------------------------------------------------------------------------


def arrays(rows: int) -> dict[str, Any]:
    """A column of every type of Arrow's that Parquet holds."""
    now = datetime(2025, 11, 25, tzinfo=UTC)
    plain = [
        *(
            (pa.null(), None),
            (pa.bool_(), True),
            (pa.int8(), -1),
            (pa.uint64(), 2**64 - 1),
            (pa.int64(), -(2**63)),
        ),
        *(
            (pa.float16(), np.float16(0.5)),
            (pa.float32(), np.nan),
            (pa.float64(), np.inf),
            (pa.float64(), -1e308),
        ),
        *(
            (pa.decimal128(38, 2), 1),
            (pa.decimal256(70, 0), 10**60),
            (pa.string(), ""),
            (pa.string(), "\x00\ufffe"),
        ),
        *(
            (pa.large_string(), "a"),
            (pa.binary(), b"\xff"),
            (pa.binary(4), b"abcd"),
            (pa.date32(), now.date()),
        ),
        *((pa.time64("us"), now.time()), (pa.duration("s"), 5), (pa.timestamp("ns"), 10**18)),
        *(
            (pa.timestamp("ms", "Europe/Berlin"), now),
            (pa.timestamp("s"), 10**11),
            (pa.list_(pa.string()), ["a", None]),
        ),
        *(
            (pa.list_(pa.int64()), [1]),
            (pa.list_(pa.list_(pa.string())), [["a"]]),
            (pa.struct([("a", pa.int8())]), {"a": 1}),
        ),
        *(
            (pa.map_(pa.string(), pa.int8()), [("a", 1)]),
            (pa.list_(pa.string(), 2), ["a", "b"]),
            (pa.list_(pa.null()), []),
        ),
    ]
    columns = {
        f"{kind} {number}": pa.array([value] * rows, kind) for number, (kind, value) in enumerate(plain)
    }
    columns["dictionary"] = pa.array(["a"] * rows).dictionary_encode()
    columns["dictionary of numbers"] = pa.array([1] * rows).dictionary_encode()
    columns["half missing"] = pa.array([None if n % 2 else "a" for n in range(rows)])
    columns["not UTF-8"] = pa.array([b"\xff\xfe"] * rows).view(pa.string())
    return columns


QUICK = {
    "exposures": ("request", "time", "score", "mask", "control"),
    "outcomes": ("time", "watch"),
    "candidates": ("item", "score", "festival"),
}


def unreadable(logs: SimulationResult, log: str, column: str) -> None:
    """Every type in one column of a log: read, or refused in one line."""
    table = parquet.read_table(logs.folder / log).slice(0, 40)
    paths = {name: str(logs.folder / name / "day-0.parquet") for name in ("exposures", "outcomes")}
    for array in arrays(len(table)).values():
        parquet.write_table(table.set_column(table.column_names.index(column), column, array), "bad.parquet")
        both = paths | {log: "bad.parquet"}
        with contextlib.suppress(NoriaError):
            if log == "candidates":
                replay(read_candidates(Path("bad.parquet")), Snapshot.load(logs.snapshot), 5)
            else:
                gather([both["exposures"]], [both["outcomes"]], GatherConfig())


@pytest.mark.parametrize(("log", "column"), [(log, name) for log, names in QUICK.items() for name in names])
def test_no_type_of_a_column_is_a_traceback(logs: SimulationResult, log: str, column: str) -> None:
    unreadable(logs, log, column)


@pytest.mark.slow
@pytest.mark.parametrize("log", QUICK)
def test_no_type_of_any_column_is_a_traceback(logs: SimulationResult, log: str) -> None:
    for column in parquet.read_schema(logs.folder / log / "day-0.parquet").names:
        if column not in QUICK[log]:
            unreadable(logs, log, column)


def test_no_type_of_a_column_of_users_is_a_traceback(noria: Run, logs: SimulationResult) -> None:
    table = pa.table({"variant": ["a", "b"] * 20, "views": np.arange(40.0), "views_before": np.arange(40.0)})
    for number, name in enumerate(table.column_names):
        for array in arrays(len(table)).values():
            parquet.write_table(table.set_column(number, name, array), "bad.parquet")
            with contextlib.suppress(NoriaError):
                experiment_record(Path("bad.parquet"))
