"""The frozen data of a turn: traces with what was said about them, as Parquet, a file for each split.

```
<folder>/dataset.json     digests and counts; its own SHA-256 names the data set
         train.parquet gates.parquet final.parquet    chats and requests of tools by themselves, by leakage group
         left-out.parquet    those that lie in no split, since they share a content with another one
         rest.parquet        all other traces, such as failed requests
```

Later stages read nothing else, so that what arrives meanwhile changes no result. The split `final` lies in a file of
its own, which a turn never opens. The files of rows go when the turn ends; their counts and digests stay.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from noria.core.config import Config
from noria.core.errors import DataError, MissingExtra, needing
from noria.core.experiments.splits import LEFT_OUT
from noria.core.files import write_atomic
from noria.core.learning.trust import Trusted, robust_score, trusted
from noria.core.records import json_object
from noria.core.traces.datasets import Example, examples
from noria.core.traces.records import Feedback, JudgementRecord, Trace, decode, encode
from noria.core.traces.store import TraceView

SPLITS = ("train", "gates", "final")
REST = "rest"
SHADOW = "shadow"
"""Label of traces whose answers nobody saw; they are left out."""
_COLUMNS = ("trace", "group", "split", "score", "record", "said")


class FreezeConfig(Config):
    """The split of the data, its window, and the feedback that is left out."""

    salt: str = Field("noria", min_length=1, description="Text that deals people and contents to the splits.")
    train: float = Field(0.6, gt=0, lt=1, description="Share of the people to learn from.")
    gates: float = Field(0.3, gt=0, lt=1, description="Share of the people for gates; the rest is final.")
    most_by_one: int = Field(
        200, ge=1, description="Feedback of one person beyond which all of theirs is left out."
    )
    most_deviations: float = Field(
        6.0,
        gt=0,
        description="Robust deviations of the logarithm of a person's number of feedbacks beyond which all of theirs "
        "is left out.",
    )
    most_traces: int = Field(
        100_000,
        ge=1,
        description="Most traces that are frozen, the newest ones; all of them are in memory at once.",
    )
    distrusted: tuple[str, ...] = Field((), description="Keys of people whose feedback is left out.")
    callers: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(
        default_factory=dict,
        description="Weight of people's ratings by caller; 1 by default, and 0 leaves all out.",
    )

    @property
    def splits(self) -> dict[str, float]:
        """Share of each split."""
        return {"train": self.train, "gates": self.gates, "final": max(0.0, 1 - self.train - self.gates)}


@dataclass(frozen=True)
class Row:
    """A trace of a data set; `asked` is None where nothing was asked that one could learn from."""

    view: TraceView
    asked: Example | None

    @property
    def example(self) -> Example | None:
        """The trace as a chat to learn from; None where it is none."""
        return None if self.asked is None or self.asked.tool else self.asked


class Dataset:
    """A frozen data set in a folder.

    Args:
        folder: folder that :func:`freeze` wrote.

    Raises:
        DataError: there is no data set, or it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.about = json_object(self.folder / "dataset.json", "a data set")
        self.digest = _sha256((self.folder / "dataset.json").read_bytes())
        self._read: dict[str, list[Row]] = {}

    @property
    def there(self) -> bool:
        """Whether its rows are there: they go when what learns from them ends, or somebody is erased."""
        return any(self.folder.glob("*.parquet"))

    @property
    def counts(self) -> Mapping[str, Any]:
        """Counts of traces, ratings and verdicts."""
        counts: Mapping[str, Any] = self.about["counts"]
        return counts

    def rows(self, split: str) -> list[Row]:
        """Every trace of a split (`train`, `gates`), in no split (`left out`) or of none (`rest`), oldest first.

        Raises:
            DataError: there is no such split, it is `final`, or its file is not what was frozen.
        """
        if split == "final":
            raise DataError("the final split is for proofs", where=str(self.folder), mend="call `final`")
        return list(self._rows(split))

    def final(self) -> list[Row]:
        """The traces of the final split: for a proof, once, and for no decision of a turn."""
        return list(self._rows("final"))

    def examples(self, split: str) -> list[Example]:
        """The chats of a split as something to learn from."""
        return [row.example for row in self.rows(split) if row.example is not None]

    def _rows(self, split: str) -> list[Row]:
        if split not in self._read:
            self._read[split] = self._read_rows(split)
        return self._read[split]

    def _read_rows(self, split: str) -> list[Row]:
        entry = self.about["files"].get(split)
        if entry is None:
            raise DataError(f"no split {split!r}", where=str(self.folder), mend=f"one of {', '.join(SPLITS)}")
        path = _file(self.folder, split)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise DataError("the rows are gone: what learnt from them has ended", where=str(path)) from None
        except OSError as error:
            raise DataError(f"cannot be read ({error.strerror})", where=str(path)) from error
        if _sha256(content) != entry["sha256"]:
            raise DataError("it is not what was frozen", where=str(path), mend="start another turn")
        with needing("parquet"):
            import pyarrow.parquet as pq
        table = pq.read_table(io.BytesIO(content)).to_pylist()
        views = [_view(row) for row in table]
        placed = {row["trace"]: (row["group"], row["split"], row["score"]) for row in table}
        made = {one.trace: one for one in examples(views, salt="", splits={"any": 1.0}, tools=True)}
        return [Row(view, _placed(made.get(view.trace.id), *placed[view.trace.id])) for view in views]


def freeze(folder: Path, views: Iterable[TraceView], config: FreezeConfig) -> Dataset:
    """Write traces as a data set into an empty folder.

    Args:
        folder: folder that is there.
        views: traces with what was said about them, oldest first.
        config: split, window, and what is left out.

    Raises:
        MissingExtra: pyarrow is not installed. RunError: the disk refuses.
    """
    if config.train + config.gates > 1 + 1e-9:
        raise DataError("the splits take more than all groups", where="freeze")
    shown = (view for view in views if is_shown(view.trace))
    newest = sorted(shown, key=lambda view: (view.trace.began, view.trace.id))[-config.most_traces :]
    held = trusted(newest, config)
    kept = held.views
    found = examples(kept, salt=config.salt, splits=config.splits, tools=True)
    made = {one.trace: one for one in found}
    parts: dict[str, list[dict[str, Any]]] = {name: [] for name in (*SPLITS, LEFT_OUT, REST)}
    for view in kept:
        example = made.get(view.trace.id)
        group, split = (example.group, example.split) if example else ("", REST)
        said = [*map(encode, view.feedback), *map(encode, view.judgements)]
        score = robust_score(view, config.callers.get(view.trace.caller, 1.0))
        row = (view.trace.id, group, split, score, encode(view.trace), said)
        parts[split].append(dict(zip(_COLUMNS, row, strict=True)))
    files = {name: _write(_file(folder, name), rows) for name, rows in parts.items()}
    groups = {name: len({row["group"] for row in parts[name]}) for name in SPLITS}
    chats = [one for one in found if not one.tool]
    lost = {
        "chats": len(chats),
        "chats in no split": sum(one.split == LEFT_OUT for one in chats),
        "requests of tools": len(found) - len(chats),
    }
    counts = _counts(kept, held) | lost | {"most traces": config.most_traces, "groups": groups}
    about = {"files": files, "counts": counts, "config": config.model_dump(mode="json")}
    write_atomic(folder / "dataset.json", json.dumps(about, indent=1) + "\n")
    return Dataset(folder)


def is_shown(trace: Trace) -> bool:
    """Whether somebody saw the answer of a trace: one in the shadow is no evidence, and is left out."""
    return SHADOW not in trace.labels


def held_traces(folder: Path) -> frozenset[str] | None:
    """Ids of the traces whose rows a data set holds; None where that cannot be known, as while it is frozen."""
    if not (folder / "dataset.json").exists():
        return None
    try:
        with needing("parquet"):
            import pyarrow.parquet as pq
        tables = [pq.ParquetFile(path).read(columns=["trace"]) for path in folder.glob("*.parquet")]
    except (MissingExtra, OSError, ValueError):  # pyarrow's own errors are of the last two
        return None
    return frozenset(name for table in tables for name in table.column("trace").to_pylist())


def _counts(views: list[TraceView], held: Trusted) -> dict[str, Any]:
    verdicts = [verdict for view in views for one in view.judgements for verdict in one.verdicts]
    return {
        "traces": len(views),
        "rated": sum(robust_score(view) is not None for view in views),
        "verdicts": len(verdicts),
        "invalid": sum(verdict.value == "invalid" for verdict in verdicts),
        "feedback": sum(len(view.feedback) for view in views),
        "feedback left out": held.left_out,
        "raters left out": held.raters,
        "began": [views[0].trace.began, views[-1].trace.began] if views else None,
    }


def _file(folder: Path, split: str) -> Path:
    return folder / f"{split.replace(' ', '-')}.parquet"


def _write(path: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    with needing("parquet"):
        import pyarrow as pa
        import pyarrow.parquet as pq
    kinds = (pa.string(), pa.string(), pa.string(), pa.float64(), pa.binary(), pa.list_(pa.binary()))
    schema = pa.schema(list(zip(_COLUMNS, kinds, strict=True)))
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), buffer)
    content = buffer.getvalue()
    write_atomic(path, content)
    return {"rows": len(rows), "sha256": _sha256(content)}


def _view(row: Mapping[str, Any]) -> TraceView:
    trace = decode(row["record"])
    said = [decode(one) for one in row["said"]]
    if not isinstance(trace, Trace):
        raise DataError("a row without a trace", where="data set")
    return TraceView(
        trace,
        tuple(one for one in said if isinstance(one, Feedback)),
        tuple(one for one in said if isinstance(one, JudgementRecord)),
    )


def _placed(example: Example | None, group: str, split: str, score: float | None) -> Example | None:
    """The example with the group, the split and the score that it had when the data was frozen."""
    return None if example is None else replace(example, group=group, split=split, score=score)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
