"""Replay tables: files that come back as they were, other people's tables, and what is wrong with one."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from noria.core.chat import Prices
from noria.core.errors import DataError
from noria.routing.tables.imports import import_table
from noria.routing.tables.table import Cell, Question, Route, read_table, table_of, write_table
from tests.routing.tables import small_table

PUBLISHED = Path(__file__).parents[2] / ".data"


def lines(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


ROW = {
    "id": "1",
    "dataset": "d",
    "query": "q\u2028",
    "answers": ["a"],
    "rule": "exact",
    "model": "m",
    "score": 1,
}


def test_a_table_comes_back_as_it_was(tmp_path: Path) -> None:
    table = small_table()
    odd = table_of(
        [
            (
                Question("x", "", "a\u2028b\nc", ("é",), "f1"),
                Route("m", "tool"),
                Cell(failure="timeout: no answer"),
                "",
            ),
            (
                Question("x", "", "a\u2028b\nc", ("é",), "f1"),
                Route("n"),
                Cell(0.25, math.nan, "so\u2028"),
                "",
            ),
        ]
    )
    for number, one in enumerate((table, odd)):
        path = tmp_path / f"{number}.jsonl"
        write_table(path, one)
        again = read_table(path)
        assert again.questions == one.questions
        assert set(again.routes) == set(one.routes)
        order = [again.routes.index(route) for route in one.routes]
        np.testing.assert_array_equal(again.score[:, order], one.score)
        np.testing.assert_array_equal(again.cost[:, order], one.cost)
        write_table(tmp_path / "again.jsonl", again)
        assert sorted((tmp_path / "again.jsonl").read_text().split("\n")) == sorted(
            path.read_text().split("\n")
        )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"query": ""}, r"t.jsonl:2: query"),
        ({"model": None}, "model: no text"),
        ({"score": 1.5}, "not from 0 to 1"),
        ({"score": -1}, "not from 0 to 1"),
        ({"score": "yes"}, "no number"),
        ({"cost": -1}, "cost"),
        ({"answers": 3}, "list of strings"),
        ({}, "there is twice|is there twice"),
        ({"query": "other", "model": "n"}, "another question"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    path = lines(tmp_path / "t.jsonl", ROW, ROW | change)
    with pytest.raises(DataError, match=told):
        read_table(path)


def test_missing_is_not_zero(tmp_path: Path) -> None:
    path = lines(tmp_path / "t.jsonl", ROW | {"score": None}, ROW | {"model": "n", "cost": 0})
    table = read_table(path)
    assert math.isnan(table.score[0, 0])
    assert math.isnan(table.cost[0, 0])
    assert table.cost[0, 1] == 0


def test_a_failure_serves_nobody(tmp_path: Path) -> None:
    dead = {"score": None, "response": None, "failure": "timeout: no answer"}
    refused = {"score": None, "response": "I cannot", "failure": "refused"}
    path = lines(
        tmp_path / "t.jsonl",
        ROW,
        ROW | {"model": "dead"} | dead,
        ROW | {"id": "all", "model": "dead", "query": "anybody?"} | dead,
        # Nobody scored what was said here, so that the failure alone does not stand for the question.
        ROW | {"id": "open", "query": "how?", "score": None},
        ROW | {"id": "open", "query": "how?", "model": "dead"} | dead,
        ROW | {"id": "no", "query": "no?", "model": "dead"} | refused,
    )
    table = read_table(path)
    assert [route.model for route in table.routes] == ["m", "dead"]
    nan = math.nan
    np.testing.assert_array_equal(table.available, [[1, 0], [nan, 0], [1, 0], [nan, 1]])
    np.testing.assert_array_equal(table.quality, [[1, 0], [nan, 0], [nan, nan], [nan, nan]])
    np.testing.assert_array_equal(table.score, [[1, nan], [nan, nan], [nan, nan], [nan, nan]])
    with pytest.raises(DataError, match=r"t.jsonl:1: score: 1 for a failure"):
        read_table(lines(path, ROW | {"response": None, "failure": "timeout"}))


def test_what_was_asked_again_replaces_the_failure(tmp_path: Path) -> None:
    failed = ROW | {"score": None, "response": None, "failure": "timeout"}
    assert read_table(lines(tmp_path / "t.jsonl", failed, failed, ROW)).quality.tolist() == [[1]]
    with pytest.raises(DataError, match="is there twice"):
        read_table(lines(tmp_path / "t.jsonl", ROW, failed))


def test_a_split_keeps_every_data_set_and_is_the_seeds() -> None:
    table = small_table()
    one, other = table.split(0.8, seed=3)
    again, _ = table.split(0.8, seed=3)
    assert one.questions == again.questions
    assert len(one.questions) + len(other.questions) == 90
    assert not {q.id for q in one.questions} & {q.id for q in other.questions}
    assert {name: other.dataset.count(name) for name in set(other.dataset)} == dict.fromkeys(
        ("sums", "capitals", "colours"), 6
    )
    with pytest.raises(DataError, match="do not part"):
        table.split(1.0, seed=0)


def test_llmrouters_rows(tmp_path: Path) -> None:
    row = {
        "task_name": "nq",
        "query": "who?",
        "ground_truth": "me",
        "metric": "em",
        "model_name": "qwen",
        "response": "Me.",
        "performance": 1.0,
        "input_tokens": 100,
        "output_tokens": 10,
        "embedding_id": 0,
    }
    path = lines(tmp_path / "t.jsonl", row, row | {"model_name": "llama", "performance": 0.0})
    table = import_table(path, prices={"qwen": Prices(input=1.0, output=2.0)})
    assert table.dataset == ["nq"]
    assert table.score.tolist() == [[1, 0]]
    assert table.cost[0, 0] == pytest.approx(120e-6)
    assert math.isnan(table.cost[0, 1])


def test_routerbenchs_wide_table(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(
        "sample_id,prompt,eval_name,gpt,gpt|model_response,gpt|total_cost,mix,mix|model_response,mix|total_cost\n"
        'a,"one, or\ntwo?",mmlu,1.0,A,0.01,0.0,B,0.001\nb,three?,gsm8k,0.5,C,,True,D,0.002\n'
    )
    table = import_table(path)
    assert [q.id for q in table.questions] == ["a", "b"]
    assert table.questions[0].text == "one, or\ntwo?"
    assert table.score.tolist() == [[1, 0], [0.5, 1]]
    assert math.isnan(table.cost[1, 0])
    assert table.cost[1, 1] == 0.002


def test_routellms_tables(tmp_path: Path) -> None:
    (tmp_path / "mmlu_law.csv").write_text("prompt,mix,gpt\nq1,True,False\nq2,False,True\n")
    (tmp_path / "gsm8k_responses.csv").write_text(
        "prompt,mix,gpt,mix_response,gpt_response\nq,True,True,1,2\n"
    )
    table = import_table(tmp_path)
    assert sorted(set(table.dataset)) == ["gsm8k", "mmlu_law"]
    assert table.score.shape == (3, 2)
    assert {cell.response for cell in table.cells.values()} == {None, "1", "2"}


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("t.pkl", b"\x80\x04", "pickle"),
        ("t.txt", b"x", "not a table"),
        ("t.csv", b"prompt,a\nq,maybe\n", "neither True nor False"),
        ("t.csv", b"prompt,eval_name\nq,e\n", "total_cost"),
        ("t.csv", b"prompt,a\nq\n", "number of columns"),
        ("t.jsonl", b"", "no rows"),
        ("t.jsonl", b'{"query": "q"', "not JSON"),
        ("t.jsonl", b"\xff\xfe", "UTF-8"),
    ],
)
def test_files_that_are_no_table(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=told):
        import_table(tmp_path / name)


@pytest.mark.skipif(
    not (PUBLISHED / "llmrouter").is_dir(), reason="the published tables are not on this machine"
)
def test_the_published_tables() -> None:
    """Counts and means as their publishers' files give them."""
    table = import_table(PUBLISHED / "llmrouter")
    assert table.score.shape == (5608, 9)
    assert len(set(table.dataset)) == 14
    mean = dict(zip([r.label for r in table.routes], table.score.mean(0).round(3).tolist(), strict=True))
    assert mean["llama-3.1-nemotron-51b-instruct"] == 0.621
    assert mean["llama3-chatqa-1.5-8b"] == 0.175
    assert table.score.max(1).mean() == pytest.approx(0.802, abs=5e-4)
    two = import_table(PUBLISHED / "routellm")
    assert two.score.shape == (15361, 2)
    assert not np.isnan(two.score).any()
