"""Replay tables of others: LLMRouter's rows and preprocessed scores, RouterBench's wide table, RouteLLM's CSVs.

No pickle is opened: RouterBench publishes `.pkl` files, which run code when they are read. Save one as CSV, JSON lines
or Parquet where you trust it, and import that.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from noria.core.chat import Prices, Usage
from noria.core.errors import DataError
from noria.core.records import READERS, json_records, lines, read_json
from noria.routing.tables.fields import answers, name, number, optional_text, shown, text
from noria.routing.tables.table import Cell, Question, Route, Table, read_table, table_of

LARGEST = 2**30
"""Most bytes of a file that is read."""
ASSUMED_TOKENS = 256
"""Tokens of an answer, where a published table has scores and prices but no counts of tokens."""

Rows = Iterator[tuple[Question, Route, Cell, str]]


def import_table(path: Path, *, prices: Mapping[str, Prices] | None = None) -> Table:
    """Read a table, whose format is told by its looks.

    Args:
        path: a table of our own format; LLMRouter's rows (JSON lines) or a folder with its `train.json`,
            `default_query_train.jsonl` and `default_llm.json`; RouterBench's wide table (CSV, JSON lines, Parquet); a
            folder of RouteLLM's CSVs, or one of them.
        prices: prices of a million tokens by model, for tables that count tokens and have no costs.

    Raises:
        DataError: it is none of them, or broken.
    """
    if path.is_dir():
        if (path / "train.json").is_file() and (path / "default_query_train.jsonl").is_file():
            return _filled(path, _llmrouter_folder(path))
        files = sorted(path.glob("*.csv"))
        if files:
            return _filled(path, (row for file in files for row in _routellm(file)))
        raise DataError(
            "a folder without a table that is known", where=str(path), mend="give a file, or see the docs"
        )
    if path.suffix == ".pkl":
        raise DataError(
            "a pickle runs code when it is read",
            where=str(path),
            mend="save it as CSV, JSON lines or Parquet",
        )
    if path.suffix == ".csv":
        columns = next(iter(_csv(path)), ("", {}))[1]
        if "prompt" in columns and "eval_name" not in columns:
            return _filled(path, _routellm(path))
        return _filled(path, _routerbench(_csv(path), path))
    if path.suffix not in READERS:
        raise DataError("not a table", where=str(path), mend=f"give one of .csv, {', '.join(READERS)}")
    first = next(iter(READERS[path.suffix](path)), ("", {}))[1]
    if "performance" in first and "model_name" in first:
        return _filled(path, _llmrouter(path, prices or {}))
    if "eval_name" in first and "prompt" in first:
        return _filled(path, _routerbench(READERS[path.suffix](path), path))
    return read_table(path)


def _filled(path: Path, rows: Iterable[tuple[Question, Route, Cell, str]]) -> Table:
    table = table_of(rows)
    if not table.cells:
        raise DataError("no rows", where=str(path), mend="give a table with questions and scores")
    return table


# -- LLMRouter --------------------------------------------------------------------------------------------------------


def _llmrouter(path: Path, prices: Mapping[str, Prices]) -> Rows:
    """{task_name, query, ground_truth, metric, model_name, response, performance, token_num}."""
    for where, record in READERS[path.suffix](path):
        task, query, model = (
            name(record, "task_name", where),
            *(text(record, field, where) for field in ("query", "model_name")),
        )
        usage = Usage(
            _count(record, where, "input_tokens"), _count(record, where, "output_tokens", "token_num")
        )
        cell = Cell(
            score=_score(record.get("performance"), "performance", where),
            cost=number(prices.get(model, Prices()).cost(usage), "cost", where),
            response=optional_text(record, "response", where),
            prompt_tokens=number(usage.prompt_tokens, "input_tokens", where),
            completion_tokens=number(usage.completion_tokens, "output_tokens", where),
        )
        yield Question(f"{task}:{query}", task, query, _answers(record, where)), Route(model), cell, where


def _llmrouter_folder(folder: Path) -> Rows:
    """Scores by model (`train.json`), joined by text with task names and answers, and with prices.

    There are no counts of tokens. A cost is that of a token for four characters of the question and of
    `ASSUMED_TOKENS` for the answer: it ranks models, and is no bill.
    """
    known: dict[str, Mapping[str, Any]] = {}
    for where, record in json_records(folder / "default_query_train.jsonl", max_bytes=LARGEST):
        known.setdefault(text(record, "query", where), record)
    models = _json(folder / "default_llm.json") if (folder / "default_llm.json").is_file() else {}
    scored = _json(folder / "train.json")
    if not isinstance(scored, list) or not isinstance(models, dict):
        raise DataError("not LLMRouter's files", where=str(folder))
    prices = _prices(models, str(folder / "default_llm.json"))
    for place, entry in enumerate(scored):
        where = f"{folder / 'train.json'}: entry {place + 1}"
        if not isinstance(entry, dict) or not isinstance(entry.get("scores"), dict):
            raise DataError("no question with scores", where=where)
        words = text(entry, "question", where)
        record = known.get(words, {})
        task = (name(record, "task_name", where) or "unknown").removeprefix("agentverse-")
        question = Question(f"{place}", task, words, _answers(record, where))
        for model, value in entry["scores"].items():
            cost = prices.get(model, Prices()).cost(Usage(len(words) // 4, ASSUMED_TOKENS))
            cell = Cell(score=_score(value, f"scores.{model}", where), cost=number(cost, "cost", where))
            yield question, Route(text({"scores": model}, "scores", where)), cell, where


def _prices(models: Mapping[str, Any], where: str) -> dict[str, Prices]:
    """Prices of a million tokens by model."""
    prices = {}
    for model, entry in models.items():
        if not isinstance(entry, dict):
            raise DataError(f"{model}: {shown(entry)} is no model with prices", where=where)
        each = {
            side: number(entry.get(f"{side}_price"), f"{model}: {side}_price", where)
            for side in ("input", "output")
        }
        prices[model] = Prices(**{side: None if math.isnan(price) else price for side, price in each.items()})
    return prices


# -- RouterBench and RouteLLM -----------------------------------------------------------------------------------------


def _routerbench(records: Iterable[tuple[str, Mapping[str, Any]]], path: Path) -> Rows:
    """A row a question: sample_id, prompt, eval_name; and MODEL (the score), MODEL|total_cost, MODEL|model_response."""
    models: list[str] | None = None
    for where, record in records:
        if models is None:
            models = [name.removesuffix("|total_cost") for name in record if name.endswith("|total_cost")]
            models = models or [
                n.removesuffix("|model_response") for n in record if n.endswith("|model_response")
            ]
            if not models:
                raise DataError("no MODEL|total_cost column", where=str(path))
            models = [text({"columns": model}, "columns", where) for model in models]
        words, dataset = text(record, "prompt", where), name(record, "eval_name", where)
        question = Question(name(record, "sample_id", where) or f"{dataset}:{words}", dataset, words)
        for model in models:
            cost = f"{model}|total_cost"
            cell = Cell(
                score=_score(record.get(model), model, where),
                cost=number(_parsed(record.get(cost), cost, where), cost, where),
                response=optional_text(record, f"{model}|model_response", where),
            )
            yield question, Route(model), cell, where


def _routellm(path: Path) -> Rows:
    """Prompt and, for each model, True or False; MODEL_response where there is one. The file's name is the data set."""
    dataset = path.stem.removesuffix("_responses")
    for place, (where, record) in enumerate(_csv(path), start=1):
        question = Question(f"{dataset}-{place}", dataset, text(record, "prompt", where))
        for model, value in record.items():
            if model == "prompt" or model.endswith("_response"):
                continue
            if value not in ("True", "False"):
                raise DataError(f"{model}: {value!r} is neither True nor False", where=where)
            response = record.get(f"{model}_response")
            yield question, Route(model), Cell(score=float(value == "True"), response=response), where


def _csv(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    csv.field_size_limit(2**27)
    reader = csv.DictReader(f"{line}\n" for _, line in lines(path, max_bytes=LARGEST))
    try:
        columns = list(reader.fieldnames or ())
        if twice := [column for n, column in enumerate(columns) if column in columns[:n]]:
            raise DataError(f"the column {twice[0]!r} is there twice", where=f"{path}:1")
        for record in reader:
            if None in record or None in record.values():
                raise DataError(
                    "another number of columns than the header", where=f"{path}:{reader.line_num}"
                )
            yield f"{path}:{reader.line_num}", record
    except csv.Error as error:
        raise DataError(f"not CSV: {error}", where=f"{path}:{reader.line_num}") from error


def _json(path: Path) -> Any:
    return read_json(path, limit=LARGEST)


def _answers(record: Mapping[str, Any], where: str) -> tuple[str, ...]:
    truth = record.get("ground_truth")
    if isinstance(truth, int | float) and not isinstance(truth, bool):
        truth = shown(truth)
    return answers(() if truth in (None, "") else truth, where)


def _score(value: Any, field: str, where: str) -> float:
    return number(_parsed(value, field, where), field, where, most=1.0)


def _parsed(value: Any, field: str, where: str) -> Any:
    """The number in a text, as CSV has it; None for an empty one and for NaN, which tables write for null."""
    if isinstance(value, str):
        try:
            value = float({"True": "1", "False": "0"}.get(value, value)) if value else None
        except ValueError:
            raise DataError(f"{field}: {shown(value)} is no number", where=where) from None
    return None if isinstance(value, float) and math.isnan(value) else value


def _count(record: Mapping[str, Any], where: str, *fields: str) -> int | None:
    """The first of these fields that is there, as a count."""
    for field in fields:
        count = number(_parsed(record.get(field), field, where), field, where)
        if not math.isnan(count):
            return int(count)
    return None
