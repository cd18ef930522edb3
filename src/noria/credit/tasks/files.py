"""Questions from JSON lines and Parquet files, and by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from noria.core.errors import DataError
from noria.core.records import read_records
from noria.credit.responses.answers import Finder, finder
from noria.credit.tasks.chains import chains
from noria.credit.tasks.gym import gym
from noria.credit.tasks.questions import Question

__all__ = ["read_questions"]


# -- by name, and from files ------------------------------------------------------------------------------------------


def read_questions(source: str, *, number: int, seed: int = 0) -> list[Question]:
    """Questions that a user names: a file, `chains`, or `gym:FAMILY`.

    A record of a file has `prompt` (or `question`; text, or the messages of a chat), `answer` (of a worked one the last
    counts) and, for traces and mask tests, perhaps a `response`.

    Args:
        source: the file or name.
        number: of questions that are made; the most that are read of a file.
        seed: of those made.

    Raises:
        DataError: with file and line, a record that is none of these.
        ConfigError: no such task.
    """
    if source == "chains":
        return chains(number, seed=seed)
    if source.startswith("gym:"):
        return gym(source.removeprefix("gym:"), number, seed=seed)
    found = []
    for where, record in read_records(Path(source), "questions"):
        found.append(question_of(record, where))
        if len(found) == number:
            break
    if not found:
        raise DataError("no questions in it", where=source)
    return found


def question_of(record: Mapping[str, Any], where: str, find: Finder | None = None) -> Question:
    """The question of a record.

    Raises:
        DataError: it has none, or no answer that can be compared.
    """
    prompt = record.get("prompt", record.get("question"))
    if isinstance(prompt, list):
        if not all(isinstance(m, Mapping) and {"role", "content"} <= m.keys() for m in prompt):
            raise DataError("a message without role or content", where=where)
        prompt = tuple({"role": str(m["role"]), "content": str(m["content"])} for m in prompt)
    if not isinstance(prompt, str | tuple) or not prompt:
        raise DataError("no prompt (or question): text or messages", where=where)
    answer, solution = record.get("answer"), record.get("response", record.get("solution", ""))
    if isinstance(answer, bool) or not isinstance(answer, str | int | float):
        raise DataError("no answer: text or a number", where=where)
    text = str(answer)
    span = (find or finder("auto"))(text)
    if len(text) > 40 and span is not None:  # a worked answer, as GSM8K's
        solution, text = solution or text, text[slice(*span)]
    solution = solution if isinstance(solution, str) else ""
    return Question(prompt, text, solution, given=bool(solution))
