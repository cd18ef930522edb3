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
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from noria.blending.logs.schema import CANDIDATES, EXPOSURES, OUTCOMES, Kind
from noria.blending.service.journal.events import Decision, Impression, Outcome, Sample, unpack
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
    names = ("exposures.parquet", "outcomes.parquet", "candidates.parquet")
    check_output(output, source, overwrite=overwrite, marks=names[:2])
    done = ExportResult(output)
    scan = Scan()
    with appearing(output) as folder, contextlib.ExitStack() as stack:
        exposures = stack.enter_context(_Table(folder / names[0], EXPOSURES))
        outcomes = stack.enter_context(_Table(folder / names[1], OUTCOMES))
        samples = stack.enter_context(_Samples(folder / names[2], source))
        size = 0
        lists: dict[str, tuple[Decision, dict[str, int], set[int]]] = {}
        for frame in read_journal(source, scan=scan):
            for event in unpack(frame.payload):
                if isinstance(event, Decision):
                    known = lists.get(event.request)
                    if known is not None and known[2]:
                        done.left["requests decided again after they were shown"] += 1
                        continue
                    places = {item: place for place, item in reversed(list(enumerate(event.items)))}
                    size += _bytes(event) - (_bytes(known[0]) if known else 0)
                    lists[event.request] = event, places, set(range(event.shown))
                    _expose(exposures, event, range(event.shown), event.at)
                    while size > MOST_OPEN:
                        size -= _bytes(lists.pop(next(iter(lists)))[0])
                elif isinstance(event, Impression):
                    known = lists.get(event.request)
                    if known is None:
                        done.left["impressions of unknown requests"] += len(event.items)
                        continue
                    decision, places, shown = known
                    fresh = []
                    for item in event.items:
                        place = places.get(item)
                        if place is None or place in shown:
                            done.left["impressions twice, or of items not in the list"] += 1
                        else:
                            shown.add(place)
                            fresh.append(place)
                    _expose(exposures, decision, fresh, event.at)
                elif isinstance(event, Outcome):
                    outcomes.add(
                        request=event.request,
                        item=event.item,
                        time=event.at,
                        watch=event.watch,
                        duration=event.duration,
                        gain=event.gain,
                    )
                else:
                    samples.add(event)
    done.rows = Counter(exposures=exposures.rows, outcomes=outcomes.rows, candidates=samples.rows)
    aside = len(list(source.glob("*.log.aside")))
    counts = (("damaged bytes", scan.damaged), ("frames lost", scan.lost), ("segments set aside", aside))
    for what, number in counts:
        if number:
            done.left[what] = number
    return done


def _expose(table: _Table, decision: Decision, places: Iterable[int], at: float) -> None:
    source, model = decision.names("source"), decision.names("model")
    numbers = {name: decision.column(name) for name in ("score", "value", "guard", "total")}
    for place in places:
        table.add(
            request=decision.request,
            time=at,
            scene=decision.scene,
            item=decision.items[place],
            rank=place,
            source=source[place],
            version=model[place],
            mask=int(decision.masks[place]),
            snapshot=decision.snapshot,
            control=decision.control,
            **{name: float(column[place]) for name, column in numbers.items()},
        )


def _arrow_type(kind: Kind) -> Any:
    pa: Any = require("pyarrow", "blending")
    return pa.type_for_alias("float64" if kind == "time" else kind)


class _Table:
    """A Parquet file that is written in blocks."""

    def __init__(self, path: Path, kinds: Mapping[str, Kind]) -> None:
        self.pa, parquet = require("pyarrow", "blending"), require("pyarrow.parquet", "blending")
        self.schema = self.pa.schema([(name, _arrow_type(kind)) for name, kind in kinds.items()])
        self.writer = parquet.ParquetWriter(path, self.schema, compression="zstd")
        self.block: list[dict[str, Any]] = []
        self.rows = 0

    def __enter__(self) -> _Table:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()
        self.writer.close()

    def add(self, **values: Any) -> None:
        self.block.append(values)
        self.rows += 1
        if len(self.block) == ROWS:
            self.flush()

    def flush(self) -> None:
        self.writer.write_table(self.pa.Table.from_pylist(self.block, self.schema))
        self.block.clear()


def _bytes(decision: Decision) -> int:
    """About what a kept list takes: its columns, and an object for each of its items."""
    return (
        1024
        + sum(len(part) for part in (decision.score, decision.value, decision.total))
        + 256 * len(decision.items)
    )


class _Samples:
    """Sampled requests, which may differ in their columns: a column that a request lacks is missing there.

    A first pass over the log finds the columns of all, so that no more than one request is held.
    """

    def __init__(self, path: Path, log: Path) -> None:
        pa: Any = require("pyarrow", "blending")
        parquet: Any = require("pyarrow.parquet", "blending")
        schemas: dict[Any, Any] = {}
        for frame in read_journal(log):
            for event in unpack(frame.payload):
                if isinstance(event, Sample):
                    schema = _sampled(event).schema
                    schemas[str(schema)] = schema
        known = pa.schema([(name, _arrow_type(kind)) for name, kind in CANDIDATES.items()])
        try:
            self.schema = pa.unify_schemas(list(schemas.values()) or [known], promote_options="permissive")
        except pa.ArrowException as error:
            raise DataError(f"sampled requests whose columns do not fit together ({error})") from None
        self.writer = parquet.ParquetWriter(path, self.schema, compression="zstd")
        self.waiting: list[Any] = []
        self.rows = self.held = 0

    def __enter__(self) -> _Samples:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()
        self.writer.close()

    def add(self, sample: Sample) -> None:
        pa: Any = require("pyarrow", "blending")
        table = _sampled(sample)
        columns = [
            table[name].cast(kind) if name in table.column_names else pa.nulls(len(table), kind)
            for name, kind in zip(self.schema.names, self.schema.types, strict=True)
        ]
        self.waiting.append(pa.table(columns, schema=self.schema))
        self.rows += len(table)
        self.held += len(table)
        if self.held >= ROWS:
            self.flush()

    def flush(self) -> None:
        if self.waiting:
            pa: Any = require("pyarrow", "blending")
            self.writer.write_table(pa.concat_tables(self.waiting))
        self.waiting, self.held = [], 0


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
