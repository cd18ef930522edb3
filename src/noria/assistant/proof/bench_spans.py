"""The time of grouping millions of spans: sealed segments in the real columns, made of random numbers, under the real
query.

    python -m noria.assistant.proof.bench_spans --folder FOLDER --spans 5000000

Only the making of the rows is short-cut (columns from numpy and no journal behind them); files, views and query are
those of `noria.core.traces`.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from noria.core.errors import needing
from noria.core.files import write_atomic
from noria.core.storage.journal import Journal
from noria.core.traces.columns import TABLES, schema
from noria.core.traces.queries import query
from noria.core.traces.segments import FRAMES, Manifest, Segment

SPANS_A_TRACE = 5
GROUPED = (
    "SELECT kind, name, count(*) AS spans, count(error_kind) AS failed, avg(seconds) AS mean,"
    " quantile_cont(seconds, 0.95) AS p95 FROM spans GROUP BY kind, name ORDER BY kind, name"
)
_KINDS = np.array(["skill", "model", "chat", "tool", "judge"])
_NAMES = np.array([f"model-{n}" for n in range(12)])


def make_segments(folder: Path, spans: int, rng: np.random.Generator) -> Manifest:
    """Make a folder with at least that many spans in sealed segments, and an empty journal beside.

    Args:
        folder: folder to make them in.
        spans: number of spans.
        rng: generator of the rows.
    """
    with needing("traces"):
        import pyarrow.parquet as pq
    with Journal(folder):
        pass
    segments = []
    for number in range(-(-spans // (FRAMES * SPANS_A_TRACE))):
        first = 1 + number * FRAMES
        table = _spans(first, rng)
        digest = hashlib.sha256(rng.bytes(32)).hexdigest()
        rows = dict.fromkeys(TABLES, 0) | {"spans": table.num_rows}
        segment = Segment(first, first + FRAMES - 1, digest, 0, 0, 0, rows)
        path = folder / "segments" / segment.name / "spans.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(table, path, compression="zstd", version="2.6", row_group_size=2048 * SPANS_A_TRACE)
        segments.append(segment)
    manifest = Manifest(segments=tuple(segments))
    write_atomic(folder / "segments" / "manifest.json", msgspec.json.encode(manifest))
    return manifest


def _spans(first: int, rng: np.random.Generator) -> Any:
    """The spans of one segment as an Arrow table."""
    import pyarrow as pa

    count = FRAMES * SPANS_A_TRACE
    began = 1_790_000_000_000_000_000 + first * 1_000_000 + np.arange(count)
    seconds = rng.lognormal(-1.0, 1.0, count)
    ids = np.array([rng.bytes(16).hex() for _ in range(FRAMES)])
    kinds = np.tile(_KINDS, FRAMES)
    names = _NAMES[rng.integers(0, len(_NAMES), count)]
    failed = rng.random(count) < 0.02
    sides = np.array([rng.bytes(60).hex() for _ in range(997)])
    values: dict[str, Any] = {
        "sequence": first + np.arange(count) // SPANS_A_TRACE,
        "trace": np.repeat(ids, SPANS_A_TRACE),
        "id": np.char.add(np.repeat(ids, SPANS_A_TRACE), kinds),
        "kind": kinds,
        "name": names,
        "began": began,
        "ended": began + (seconds * 1e9).astype(np.int64),
        "seconds": seconds,
        "input": sides[rng.integers(0, len(sides), count)],
        "output": sides[rng.integers(0, len(sides), count)],
        "attributes": np.full(count, "{}"),
        "chosen": names,
        "propensity": rng.random(count),
        "error_kind": ["timeout" if one else None for one in failed],
        "error_message": ["no answer in time" if one else None for one in failed],
        "blobs": [[]] * count,
        "candidates": [[]] * count,
    }
    arrays = [
        pa.array(values[field.name], field.type) if field.name in values else pa.nulls(count, field.type)
        for field in schema("spans")
    ]
    return pa.Table.from_arrays(arrays, schema=schema("spans"))


def main() -> None:
    """Make the segments in a temporary folder, group their spans several times, and print the times."""
    parser = argparse.ArgumentParser(description="Time the grouping of spans in sealed segments.")
    parser.add_argument("--folder", type=Path, required=True, help="Folder to make the segments in.")
    parser.add_argument("--spans", type=int, default=5_000_000, help="Number of spans.")
    parser.add_argument("--times", type=int, default=7, help="Number of times to group them.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as place:
        folder = Path(place)
        manifest = make_segments(folder, options.spans, np.random.default_rng(0))
        size = sum(path.stat().st_size for path in folder.rglob("*.parquet"))
        spans = sum(segment.rows["spans"] for segment in manifest.segments)
        print(f"{spans:,} spans in {len(manifest.segments)} segments of {size / 1e6:,.0f} MB")
        times = [query(folder, GROUPED).seconds for _ in range(options.times)]
        print(f"{statistics.median(times):.2f} s ({min(times):.2f}–{max(times):.2f}) over {len(times)} times")


if __name__ == "__main__":
    main()
