"""Any value in any column of any file that a verb reads: it is of the right kind, or one line says what is wrong."""

from __future__ import annotations

import contextlib
import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from noria.core.errors import CheckpointError, DataError, NoriaError
from noria.routing.config import NetworkTraining
from noria.routing.pool.record import read_questions
from noria.routing.routers.baselines import fit_router
from noria.routing.routers.files import load_router, save_router
from noria.routing.routers.learn import NetworkTrainer, train_network
from noria.routing.routers.page import write_run_page
from noria.routing.routers.router import Router
from noria.routing.routers.scores import judge_router, table_digest
from noria.routing.tables.imports import import_table
from noria.routing.tables.table import row_of, write_table
from tests.routing.tables import small_table

VALUES = (
    None, True, 0, -1, 3, 0.5, 1e308, 10**400, float("nan"), float("inf"), "", " ", "x", "1e999", "\ud800", "a\nb",
    "\0", [], [1], ["a"], [["a"]], {}, {"a": 1}, [None], [1, 2, 3, 4], [{"model": 1}] * 4, {"sums": [1]},
)  # fmt: skip

OWN = [
    {
        "id": f"q{n}", "dataset": "d", "query": f"words {n}", "answers": ["1"], "rule": "exact", "model": model,
        "strategy": "direct", "response": "1", "score": 1.0, "cost": 0.1, "prompt_tokens": 1, "completion_tokens": 1,
        "seconds": 1.0, "failure": None,
    }
    for n in range(2) for model in "ab"
]  # fmt: skip
LLMROUTER = [
    {
        "task_name": "d", "query": f"words {n}", "ground_truth": "1", "metric": "em", "model_name": model,
        "response": "1", "performance": 1.0, "input_tokens": 3, "output_tokens": 3, "token_num": 2,
    }
    for n in range(2) for model in "ab"
]  # fmt: skip
ROUTERBENCH = [
    {
        "sample_id": f"q{n}", "prompt": f"words {n}", "eval_name": "d", "a": 1.0, "a|model_response": "1",
        "a|total_cost": 0.1, "b": 1.0, "b|model_response": "1", "b|total_cost": 0.1,
    }
    for n in range(2)
]  # fmt: skip
FORMATS = {"own": OWN, "llmrouter": LLMROUTER, "routerbench": ROUTERBENCH}
QUESTIONS = [{"id": f"q{n}", "query": f"{n}?", "answers": ["1"], "rule": "exact"} for n in range(2)]


def is_used_or_refused(use: Callable[[], Any]) -> None:
    with contextlib.suppress(NoriaError):  # whose text is one line
        use()


def use_table(path: Path) -> None:
    table = import_table(path)
    table_digest(table)
    for kind in ("best_single", "best_per_task", "oracle", "random"):
        judge_router(fit_router(kind, table), table)
    for (q, r), cell in table.cells.items():
        json.dumps(row_of(table.questions[q], table.routes[r], cell))
    words = [word for q in table.questions for word in (q.id, q.dataset, q.text, *q.answers)]
    "".join([*words, *(route.label for route in table.routes)]).encode()  # what pages and terminals show


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("name", FORMATS)
def test_any_value_in_any_column_of_a_table(name: str, tmp_path: Path) -> None:
    path, rows = tmp_path / "t.jsonl", FORMATS[name]
    for column in rows[0]:
        for value in VALUES:
            for everywhere in (False, True):
                changed = [row | {column: value} if everywhere or row is rows[-1] else row for row in rows]
                write_lines(path, changed)
                is_used_or_refused(lambda: use_table(path))
        write_lines(path, [{k: v for k, v in row.items() if k != column} for row in rows])
        is_used_or_refused(lambda: use_table(path))


@pytest.mark.parametrize("name", FORMATS)
def test_any_column_of_a_parquet_table(name: str, tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path, rows = tmp_path / "t.parquet", FORMATS[name]
    for column in rows[0]:
        for value in (datetime.datetime(2026, 1, 1), b"\xff", {"a": 1}, [1], ["a"], True, 1.5, "x", 3):
            columns = {other: [row[other] for row in rows] for other in rows[0]}
            parquet.write_table(arrow.table(columns | {column: [value] * len(rows)}), path)
            is_used_or_refused(lambda: use_table(path))


def test_any_value_in_llmrouters_folder(tmp_path: Path) -> None:
    scores = [{"question": f"words {n}", "scores": {"a": 1.0, "b": 0.0}, "cluster_id": 1} for n in range(2)]
    queries = [{"task_name": "d", "query": f"words {n}", "ground_truth": "1"} for n in range(2)]
    models = {name: {"input_price": 0.1, "output_price": 0.1} for name in "ab"}

    def use(scores: Any = scores, queries: Any = queries, models: Any = models) -> None:
        (tmp_path / "train.json").write_text(json.dumps(scores))
        write_lines(tmp_path / "default_query_train.jsonl", queries)
        (tmp_path / "default_llm.json").write_text(json.dumps(models))
        is_used_or_refused(lambda: use_table(tmp_path))

    for value in VALUES:
        use(scores=value)
        use(scores=[value])
        use(models=value)
        use(models=models | {"a": value})
        for column in scores[0]:
            use(scores=[scores[0], scores[1] | {column: value}])
        for name in ("a", "", "\ud800"):
            use(scores=[scores[0], scores[1] | {"scores": {name: value}}])
        for column in queries[0]:
            use(queries=[queries[0], queries[1] | {column: value}])
        for column in models["a"]:
            use(models=models | {"a": models["a"] | {column: value}})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("prompt,a,a\nq,True,False\n", "the column 'a' is there twice"),
        ("prompt,eval_name,a,a|total_cost\nq,e,0.5,-1\n", "-1 is not 0 or more"),
        ("prompt,eval_name,a,a|total_cost\nq,e,0.5,inf\n", "inf is no number"),
        ("prompt,eval_name,a,a|total_cost\nq,e,2,0\n", "2 is not from 0 to 1"),
        ("prompt,a\n,True\n", "prompt: no text"),
        ("prompt,a\n", "no rows"),
    ],
)
def test_csv_that_would_be_misread(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=told):
        import_table(tmp_path / "t.csv")


def test_any_value_in_any_column_of_questions(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"

    def use() -> None:
        for question in read_questions(path):
            "".join([question.id, question.text, question.dataset, *question.answers]).encode()

    for column in (*QUESTIONS[0], "dataset", "question", "answer"):
        for value in VALUES:
            write_lines(path, [QUESTIONS[0], QUESTIONS[1] | {column: value}])
            is_used_or_refused(use)


ROUTERS = ("adder", "random", "best_single", "best_per_task", "knn", "mf", "policy")


def router_of(kind: str) -> Router:
    table = small_table(30)
    if kind == "policy":
        return NetworkTrainer(table, NetworkTraining(width=8, hidden=8)).router()
    return fit_router(kind, table)


@pytest.mark.parametrize("kind", ROUTERS)
def test_any_value_in_a_routers_files(kind: str, tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    table, folder = small_table(12), tmp_path / "r"
    save_router(router_of(kind), folder)

    def use() -> None:
        router = load_router(folder)
        router.decide("what is 3 plus 4", "sums")
        judge_router(router, table, 0.2)

    use()
    file, tensors = folder / "router.json", folder / "router.safetensors"
    good = json.loads(file.read_text())
    for field in good:
        for value in (*VALUES, 10**9):
            file.write_text(json.dumps(good | {field: value}))
            is_used_or_refused(use)
    file.write_text(json.dumps(good))
    whole = safetensors.load_file(tensors) if tensors.is_file() else {}
    for name, tensor in whole.items():
        for other in (
            None, tensor[:0], tensor[..., :1].contiguous(), torch.full_like(tensor, torch.nan), tensor.long(),
            torch.zeros(3, 3, 3), torch.tensor(1.0),
        ):  # fmt: skip
            rest = {key: value for key, value in whole.items() if key != name}
            safetensors.save_file(rest | ({} if other is None else {name: other}), tensors)
            is_used_or_refused(use)


def test_a_router_of_another_shape_is_refused(tmp_path: Path) -> None:
    save_router(router_of("best_per_task"), tmp_path)
    (tmp_path / "digests.sha256").unlink()  # as in a file that somebody wrote by hand
    good = json.loads((tmp_path / "router.json").read_text())
    for change, told in (
        ({"cost": [1.0]}, "another number of routes"),
        ({"by_task": {"sums": [1.0]}}, "another number of routes"),
        ({"routes": good["routes"][:1] * 4}, "there twice"),
        ({"trade": "dear"}, "trade: "),
        ({"kind": "magic"}, "kind: "),
    ):
        (tmp_path / "router.json").write_text(json.dumps(good | change))
        with pytest.raises(CheckpointError, match=told):
            load_router(tmp_path)


def test_any_value_in_a_runs_score(tmp_path: Path) -> None:
    table = tmp_path / "t.jsonl"
    write_table(table, small_table(30))
    run = tmp_path / "run"
    train_network(NetworkTraining(table=str(table), steps=1, width=8, hidden=8), run)
    file = run / "score.json"
    good = json.loads(file.read_text())
    for value in ("x", [1], 10**400, {"a": 1}):
        for content in (
            value,
            good | {"policy": value},
            good | {"baselines": value},
            good | {"baselines": {"oracle": value}},
            good | {"policy": good["policy"] | {"macro": value}},
            good | {"policy": good["policy"] | {"accuracy": {"sums": value}}},
        ):
            file.write_text(json.dumps(content))
            is_used_or_refused(lambda: write_run_page(run))
    file.write_text(json.dumps(good | {"policy": 3}))
    with pytest.raises(DataError, match=r"score\.json: damaged"):
        write_run_page(run)
