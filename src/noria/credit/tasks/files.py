"""Questions from JSON lines and Parquet files, and by the name of a task."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

from noria.core.errors import DataError
from noria.core.records import read_records
from noria.credit.responses.answers import auto
from noria.credit.tasks.chains import chains
from noria.credit.tasks.gym import gym
from noria.credit.tasks.questions import Question


def read_questions(source: str, *, number: int, seed: int = 0) -> list[Question]:
    """Read or generate questions.

    A record of a file has `prompt` (or `question`; text, or the messages of a chat), `answer` (text or a number; a
    worked solution counts by its last answer) and optionally a `response`, which traces and mask tests read.

    Args:
        source: a file, `chains`, or `gym:FAMILY`.
        number: number of questions to generate, or most questions to read from a file.
        seed: seed of generated questions.

    Raises:
        DataError: a record has no prompt or no answer; the error names file and line.
        ConfigError: there is no such task.
    """
    if source == "chains":
        return chains(number, seed=seed)
    if source.startswith("gym:"):
        return gym(source.removeprefix("gym:"), number, seed=seed)
    records = islice(read_records(Path(source), "questions"), number)
    questions = [_question(record, where) for where, record in records]
    if not questions:
        raise DataError("no questions in it", where=source)
    return questions


def _question(record: Mapping[str, Any], where: str) -> Question:
    prompt = record.get("prompt", record.get("question"))
    if isinstance(prompt, list):
        if not all(
            isinstance(m, Mapping) and all(isinstance(m.get(key), str) for key in ("role", "content"))
            for m in prompt
        ):
            raise DataError("a message whose role or content is not text", where=where)
        prompt = tuple({"role": m["role"], "content": m["content"]} for m in prompt)
    if not isinstance(prompt, str | tuple) or not prompt:
        raise DataError("no prompt (or question): text or messages", where=where)
    text = _answer(record.get("answer"), where)
    solution = record.get("response") or record.get("solution") or ""
    if not isinstance(solution, str):
        raise DataError("the response (or solution) is not text", where=where, mend="write it as text")
    span = auto(text)
    if len(text) > 40 and span is not None:  # a worked solution, as in GSM8K
        solution, text = solution or text, text[slice(*span)]
    return Question(prompt, text, solution, given=bool(solution))


def _answer(value: Any, where: str) -> str:
    is_number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    if isinstance(value, float | Decimal) and not math.isfinite(value):
        raise DataError(
            f"the answer is {value}, which is no number", where=where, mend="leave the record out"
        )
    if not is_number and not (isinstance(value, str) and value.strip()):
        raise DataError("no answer: text or a number", where=where)
    return str(value)
