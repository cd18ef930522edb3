"""The service's log as Parquet, with the columns of `logs.schema`: what `fit`, `attribute` and `replay` read.

```
<folder>/exposures.parquet    a row a candidate that was shown, the first time
         outcomes.parquet     a row an outcome, also one that came twice or late
         candidates.parquet   a row a candidate of a sampled request
```
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from noria.blending.logs.schema import CANDIDATES, EXPOSURES, OUTCOMES, Kind
from noria.blending.service.journal.events import Decision, Event, Impression, Outcome, Sample, unpack
from noria.blending.service.journal.journal import Scan, read_journal
from noria.core.errors import DataError, require
from noria.core.files import appearing, check_output

ROWS = 1 << 16
"""Number of rows written at a time."""
MOST_OPEN = 256 << 20
"""Most bytes of lists kept for impressions that may still come."""


@dataclass
class ExportResult:
    """Result of an export: rows written by table, and what was left out."""

    folder: Path
    rows: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)


def export_log(state: Path, output: Path, *, overwrite: bool = False) -> ExportResult:
    """Write a service's log as three tables; the service may be running.

    Args:
        state: folder of the service.
        output: folder to write; it appears whole.
        overwrite: an earlier export there may be replaced.

    Raises:
        DataError: there is no log.
        RunError: the folder is in the way, or the disk refuses.
    """
    source = state / "log"
    if not source.is_dir():
        raise DataError("there is no log", where=str(state), mend="give the --state folder of a service")
    marks = ("exposures.parquet", "outcomes.parquet")
    check_output(output, source, overwrite=overwrite, marks=marks)
    done, scan = ExportResult(output), Scan()
    with appearing(output) as folder, contextlib.ExitStack() as stack:
        exposures, outcomes, candidates = (
            stack.enter_context(_Table(folder / f"{name}.parquet", *form))
            for name, form in (
                ("exposures", _rows(EXPOSURES)),
                ("outcomes", _rows(OUTCOMES)),
                ("candidates", _tables(source)),
            )
        )
        lists = _Lists(exposures, done.left)
        for event in _events(source, scan):
            if isinstance(event, Decision):
                lists.decide(event)
            elif isinstance(event, Impression):
                lists.show(event)
            elif isinstance(event, Outcome):
                row = {name: getattr(event, name) for name in OUTCOMES if name != "time"}
                outcomes.add(row | {"time": event.at})
            else:
                table = _sampled(event)
                candidates.add(table, len(table))
    done.rows = Counter(exposures=exposures.rows, outcomes=outcomes.rows, candidates=candidates.rows)
    aside = len(list(source.glob("*.log.aside")))
    counts = (("damaged bytes", scan.damaged), ("frames lost", scan.lost), ("segments set aside", aside))
    done.left.update({what: number for what, number in counts if number})
    return done


def _events(log: Path, scan: Scan | None = None) -> Iterator[Event]:
    for frame in read_journal(log, scan=scan):
        yield from unpack(frame.payload)


class _Lists:
    """Lists for which impressions may still come, within a bound of memory."""

    def __init__(self, table: _Table, left: Counter[str]) -> None:
        self.table, self.left = table, left
        self.size = 0
        self.known: dict[str, tuple[Decision, dict[str, int], set[int]]] = {}  # places by item, places shown

    def decide(self, event: Decision) -> None:
        known = self.known.get(event.request)
        if known is not None and known[2]:
            self.left["requests decided again after they were shown"] += 1
            return
        places = {item: place for place, item in reversed(list(enumerate(event.items)))}
        self.size += _bytes(event) - (_bytes(known[0]) if known else 0)
        self.known[event.request] = event, places, set(range(event.shown))
        self.expose(event, range(event.shown), event.at)
        while self.size > MOST_OPEN:
            self.size -= _bytes(self.known.pop(next(iter(self.known)))[0])

    def show(self, event: Impression) -> None:
        if event.request not in self.known:
            self.left["impressions of unknown requests"] += len(event.items)
            return
        decision, places, shown = self.known[event.request]
        fresh = [places[item] for item in dict.fromkeys(event.items) if item in places]
        fresh = [place for place in fresh if place not in shown]
        if len(fresh) < len(event.items):
            self.left["impressions twice, or of items not in the list"] += len(event.items) - len(fresh)
        shown.update(fresh)
        self.expose(decision, fresh, event.at)

    def expose(self, decision: Decision, places: Iterable[int], at: float) -> None:
        source, model = decision.names("source"), decision.names("model")
        numbers = {name: decision.column(name) for name in ("score", "value", "guard", "total")}
        for place in places:
            row = {
                "time": at,
                "item": decision.items[place],
                "rank": place,
                "source": source[place],
                "version": model[place],
                "mask": int(decision.masks[place]),
            }
            row |= {name: getattr(decision, name) for name in ("request", "scene", "snapshot", "control")}
            self.table.add(row | {name: float(column[place]) for name, column in numbers.items()})


def _bytes(decision: Decision) -> int:
    """About what a kept list takes: its columns, and an object for each of its items."""
    return (
        1024
        + sum(len(part) for part in (decision.score, decision.value, decision.total))
        + 256 * len(decision.items)
    )


# -- Parquet ----------------------------------------------------------------------------------------------------------


class _Table:
    """A Parquet file that is written in blocks.

    Args:
        path: path of the file.
        schema: Arrow schema of the file's rows.
        joined: makes a table of the schema out of the parts of a block.
    """

    def __init__(self, path: Path, schema: Any, joined: Callable[[list[Any]], Any]) -> None:
        parquet: Any = require("pyarrow.parquet", "blending")
        self.writer = parquet.ParquetWriter(path, schema, compression="zstd")
        self.joined = joined
        self.block: list[Any] = []
        self.rows = self.held = 0

    def __enter__(self) -> _Table:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()
        self.writer.close()

    def add(self, part: Any, rows: int = 1) -> None:
        self.block.append(part)
        self.rows += rows
        self.held += rows
        if self.held >= ROWS:
            self.flush()

    def flush(self) -> None:
        self.writer.write_table(self.joined(self.block))
        self.block, self.held = [], 0


def _rows(kinds: Mapping[str, Kind]) -> tuple[Any, Callable[[list[Any]], Any]]:
    """Schema of a table whose parts are rows, and what joins them."""
    pa: Any = require("pyarrow", "blending")
    schema = pa.schema(
        [(name, pa.type_for_alias("float64" if kind == "time" else kind)) for name, kind in kinds.items()]
    )
    return schema, lambda rows: pa.Table.from_pylist(rows, schema)


def _tables(log: Path) -> tuple[Any, Callable[[list[Any]], Any]]:
    """Schema of all sampled requests, and what joins their tables: a column that a request lacks is missing there.

    A first pass over the log finds the columns of all, so that no more than one block is held.
    """
    pa: Any = require("pyarrow", "blending")
    schemas = {_sampled(event).schema: None for event in _events(log) if isinstance(event, Sample)}
    try:
        schema = pa.unify_schemas(list(schemas) or [_rows(CANDIDATES)[0]], promote_options="permissive")
    except pa.ArrowException as error:
        raise DataError(f"sampled requests whose columns do not fit together ({error})") from None
    return schema, lambda tables: pa.concat_tables(
        [schema.empty_table(), *tables], promote_options="permissive"
    )


def _sampled(sample: Sample) -> Any:
    """A sampled request's candidates as a table of Arrow's, each row with its request."""
    pa: Any = require("pyarrow", "blending")
    table = pa.ipc.open_stream(pa.py_buffer(sample.candidates)).read_all()
    plain = [
        column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column
        for column in table.columns
    ]
    head = {
        "request": (sample.request, pa.string()),
        "time": (sample.at, pa.float64()),
        "scene": (sample.scene, pa.string()),
    }
    same = [pa.array([value] * len(table), kind) for value, kind in head.values()]
    return pa.table([*same, *plain], names=[*head, *table.column_names])
