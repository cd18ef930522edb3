"""Replay tables of others: LLMRouter's rows and preprocessed scores, RouterBench's wide table, RouteLLM's CSVs.

No pickle is opened: RouterBench publishes `.pkl` files, which run code when they are read. Save one as CSV, JSON lines
or Parquet where you trust it, and import that.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from noria.core.chat import Prices, Usage
from noria.core.errors import DataError
from noria.core.records import READERS, json_records, lines, read_json
from noria.routing.tables.table import Cell, Question, Route, Table, optional_text, read_table, table_of

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
            return table_of(_llmrouter_folder(path))
        files = sorted(path.glob("*.csv"))
        if files:
            return table_of(row for file in files for row in _routellm(file))
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
            return table_of(_routellm(path))
        return table_of(_routerbench(_csv(path), path))
    if path.suffix not in READERS:
        raise DataError("not a table", where=str(path), mend=f"give one of .csv, {', '.join(READERS)}")
    first = next(iter(READERS[path.suffix](path)), ("", {}))[1]
    if "performance" in first and "model_name" in first:
        return table_of(_llmrouter(path, prices or {}))
    if "eval_name" in first and "prompt" in first:
        return table_of(_routerbench(READERS[path.suffix](path), path))
    return read_table(path)


# -- LLMRouter --------------------------------------------------------------------------------------------------------


def _llmrouter(path: Path, prices: Mapping[str, Prices]) -> Rows:
    """{task_name, query, ground_truth, metric, model_name, response, performance, token_num}."""
    for where, record in READERS[path.suffix](path):
        task, query, model = (str(record.get(name) or "") for name in ("task_name", "query", "model_name"))
        if not query or not model:
            raise DataError("no query or no model_name", where=where)
        usage = Usage(_count(record, "input_tokens"), _count(record, "output_tokens", "token_num"))
        cost = prices.get(model, Prices()).cost(usage)
        cell = Cell(
            score=_unit(record.get("performance"), where),
            cost=_float(cost, where),
            response=optional_text(record.get("response")),
            prompt_tokens=_float(usage.prompt_tokens, where),
            completion_tokens=_float(usage.completion_tokens, where),
        )
        yield Question(f"{task}:{query}", task, query, _answers(record)), Route(model), cell, where


def _llmrouter_folder(folder: Path) -> Rows:
    """Scores by model (`train.json`), joined by text with task names and answers, and with prices.

    There are no counts of tokens. A cost is that of a token for four characters of the question and of
    `ASSUMED_TOKENS` for the answer: it ranks models, and is no bill.
    """
    known: dict[str, Mapping[str, Any]] = {}
    for _, record in json_records(folder / "default_query_train.jsonl", max_bytes=LARGEST):
        known.setdefault(str(record.get("query")), record)
    models = _json(folder / "default_llm.json") if (folder / "default_llm.json").is_file() else {}
    scored = _json(folder / "train.json")
    if not isinstance(scored, list) or not isinstance(models, dict):
        raise DataError("not LLMRouter's files", where=str(folder))
    for number, entry in enumerate(scored):
        where = f"{folder / 'train.json'}: entry {number + 1}"
        if not isinstance(entry, dict) or not isinstance(entry.get("scores"), dict):
            raise DataError("no question with scores", where=where)
        text = str(entry.get("question"))
        record = known.get(text, {})
        task = str(record.get("task_name") or "unknown").removeprefix("agentverse-")
        question = Question(f"{number}", task, text, _answers(record))
        for model, value in entry["scores"].items():
            price = models.get(model) or {}
            prices = Prices(input=price.get("input_price"), output=price.get("output_price"))
            cost = _float(prices.cost(Usage(len(text) // 4, ASSUMED_TOKENS)), where)
            yield question, Route(model), Cell(score=_unit(value, where), cost=cost), where


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
        text = str(record.get("prompt") or "")
        if not text:
            raise DataError("no prompt", where=where)
        name = str(record.get("eval_name") or "")
        question = Question(str(record.get("sample_id") or f"{name}:{text}"), name, text)
        for model in models:
            cell = Cell(
                score=_unit(record.get(model), where),
                cost=_float(record.get(f"{model}|total_cost"), where),
                response=optional_text(record.get(f"{model}|model_response")),
            )
            yield question, Route(model), cell, where


def _routellm(path: Path) -> Rows:
    """Prompt and, for each model, True or False; MODEL_response where there is one. The file's name is the data set."""
    dataset = path.stem.removesuffix("_responses")
    for number, (where, record) in enumerate(_csv(path), start=1):
        text = str(record.get("prompt") or "")
        if not text:
            raise DataError("no prompt", where=where)
        question = Question(f"{dataset}-{number}", dataset, text)
        for model, value in record.items():
            if model == "prompt" or model.endswith("_response"):
                continue
            if value not in ("True", "False"):
                raise DataError(f"{model}: {value!r} is neither True nor False", where=where)
            response = record.get(f"{model}_response")
            yield question, Route(model), Cell(score=float(value == "True"), response=response), where


def _csv(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    text = "\n".join(line for _, line in lines(path, max_bytes=LARGEST))
    csv.field_size_limit(2**27)
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
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


def _answers(record: Mapping[str, Any]) -> tuple[str, ...]:
    truth = record.get("ground_truth")
    return () if truth in (None, "") else (str(truth),)


def _unit(value: Any, where: str) -> float:
    score = _float(value, where)
    if score < 0 or score > 1:
        raise DataError(f"a score of {score:g} is not from 0 to 1", where=where)
    return score


def _float(value: Any, where: str) -> float:
    if value in (None, ""):
        return math.nan
    try:
        number = float({"True": 1, "False": 0}.get(value, value) if isinstance(value, str) else value)
    except (TypeError, ValueError):
        raise DataError(f"{value!r} is no number", where=where) from None
    return number if math.isfinite(number) else math.nan


def _count(record: Mapping[str, Any], *names: str) -> int | None:
    for name in names:
        value = record.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf:
            return int(value)
    return None
