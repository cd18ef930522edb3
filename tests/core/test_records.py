"""Records of files: every place is named, and nothing odd passes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from noria.core import records
from noria.core.errors import DataError
from noria.core.records import json_records, json_values, lines, parquet_records, read_records


def test_lines_end_only_at_newlines_and_know_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone\u2028still\nétwo\r\n\nlast".encode())
    assert list(lines(path)) == [
        (f"{path}:1", "one\u2028still"),
        (f"{path}:2", "étwo\r"),
        (f"{path}:3", ""),
        (f"{path}:4", "last"),
    ]


def test_json_and_parquet_give_the_same_records(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [{"a": 1, "b": "x"}, {"a": 2}]
    (tmp_path / "r.jsonl").write_text("\n\n".join(map(json.dumps, rows)))
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "r.parquet")
    one, other = (list(read_records(tmp_path / f"r.{kind}")) for kind in ("jsonl", "parquet"))
    assert [record for _, record in one] == [record for _, record in other] == rows
    assert [where.rpartition("r.")[2] for where, _ in (*one, *other)] == [
        "jsonl:1",
        "jsonl:3",
        "parquet: row 1",
        "parquet: row 2",
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"a": 1}\n{"a"', r":2: not JSON: .* at character"),
        (b"[" * 100_000, ":1: nested more than 100 deep"),
        (b"[1]", r":1: not a JSON object"),
        (b'{"a": 1}\n"\xff"', r":2: not UTF-8: byte 2 of the line is 0xff"),
    ],
)
def test_what_is_no_record(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=words):
        list(json_records(path))


def test_limits_and_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "0123456789"}\n' * 3)
    assert len(list(json_records(path, max_bytes=69))) == 3
    with pytest.raises(DataError, match="larger than 68 bytes"):
        list(json_records(path, max_bytes=68))
    monkeypatch.setattr(records, "LONGEST_LINE", 10)
    with pytest.raises(DataError, match="a line of more than 10 bytes"):
        list(json_records(path))
    with pytest.raises(DataError, match="No such file"):
        list(json_records(tmp_path / "none.jsonl"))
    with pytest.raises(DataError, match=r"cats of kind '.csv' are not known.*\.jsonl, \.parquet"):
        read_records(tmp_path / "a.csv", "cats")


def test_a_file_that_is_no_parquet(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    path = tmp_path / "a.parquet"
    path.write_text("no")
    with pytest.raises(DataError, match="not a Parquet file that can be read"):
        list(parquet_records(path))


def test_what_json_has_no_value_for_is_missing_or_refused() -> None:
    given = {"a": np.float32(0.5), 2: [math.nan, -math.inf, True], "c": np.arange(2), "d": (None, "x")}
    assert json_values(given) == {"a": 0.5, "2": [None, None, True], "c": [0, 1], "d": [None, "x"]}
    with pytest.raises(TypeError, match="a object cannot be written as JSON"):
        json_values({"a": object()})
