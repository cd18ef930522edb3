"""Questions whose answers can be checked, and their prompts as token ids."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import TemplateError

from noria.core.errors import DataError


@dataclass(frozen=True)
class Question:
    """A question with an answer.

    Attributes:
        prompt: text that the model reads, or the messages of a chat.
        answer: right answer, as text.
        solution: worked solution that ends in the answer, or response in the data; empty where there is none.
        task: name of the question's family.
        verify: function that scores an answer, 0 … 1; equality as text or number by default.
        asked: letter that a chain asks for.
        given: whether `solution` is a response in the data.
    """

    prompt: str | tuple[Mapping[str, str], ...]
    answer: str
    solution: str = ""
    task: str = "data"
    verify: Callable[[str], float] | None = field(default=None, repr=False, compare=False)
    asked: str = ""
    given: bool = False

    def score(self, text: str | None) -> float:
        """The score of an answer, 0 … 1; a missing answer scores 0."""
        if text is None:
            return 0.0
        return float(same(text, self.answer) if self.verify is None else self.verify(text))


def same(one: str, other: str) -> bool:
    """Whether two answers are equal, as text without blanks and case or as numbers."""
    if "".join(one.split()).lower() == "".join(other.split()).lower():
        return True
    number = _number(one)
    return number is not None and number == _number(other)


def _number(text: str) -> float | None:
    try:
        return float(text.replace(",", "").replace("$", "").strip().rstrip("."))
    except ValueError:
        return None


def prompt_ids(question: Question, tokenizer: Any) -> list[int]:
    """A question's prompt as token ids; a chat goes through the tokenizer's template.

    Raises:
        DataError: the prompt is a chat and the tokenizer has no template, or one that refuses the messages; or the
            prompt has no token.
    """
    if isinstance(question.prompt, str):
        ids = list(tokenizer(question.prompt)["input_ids"])
    elif getattr(tokenizer, "chat_template", None) is None:
        raise DataError(
            "the prompt is a chat, and the tokenizer has no template", where="prompt", mend="give it as text"
        )
    else:
        try:
            text = tokenizer.apply_chat_template(
                list(question.prompt), tokenize=False, add_generation_prompt=True
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise DataError(
                f"the tokenizer's chat template refuses the messages ({error})", where="prompt"
            ) from None
        ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    if not ids:
        raise DataError("the prompt has no token", where="prompt")
    return ids


def digest_of(questions: Sequence[Question]) -> str:
    """A fingerprint of questions and answers: 16 hex digits."""
    digest = hashlib.sha256()
    for question in questions:
        prompt = question.prompt if isinstance(question.prompt, str) else json.dumps(question.prompt)
        digest.update(f"{len(prompt)}:{prompt}{question.answer}\0".encode())
    return digest.hexdigest()[:16]
