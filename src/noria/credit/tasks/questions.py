"""Questions whose answers can be checked, and of which it is known what in a solution leads to the answer.

Chains: two letters start at a digit and are moved by signed digits, modulo ten. A solution works out both, step by step
in the order of the question and with words that say nothing in between; the answer is the end of one of them. So every
number of a solution is known to lead to the answer or to be a dead branch.

    : x3 y7; A x+4 B y-2 C y+3 D x+9; x?
    A x+4 x3 = x7; so B y-2 y7 = y5; well then C y+3 y5 = y8; D x+9 x7 = x6; #### x6

Families of reasoning-gym: its questions as they are, its own verifiers, and solutions worked here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from noria.core.errors import DataError

__all__ = ["LABELS", "LETTERS", "Question", "digest_of", "prompt_ids"]

LETTERS, LABELS = "wxyz", "ABCDEFGHIJKLMNOP"


@dataclass(frozen=True)
class Question:
    """A question with an answer.

    Attributes:
        prompt: as the model reads it, or the messages of a chat.
        answer: that is right, as text.
        solution: a worked one that ends in it, or a response that came with the data; empty where there is none.
        task: name of its family.
        verify: scores an answer that was given, 0 … 1; equality as text or number by default.
        asked: of a chain: the letter that is asked for.
        given: whether the data brought the response.
    """

    prompt: str | tuple[Mapping[str, str], ...]
    answer: str
    solution: str = ""
    task: str = "data"
    verify: Callable[[str], float] | None = field(default=None, repr=False, compare=False)
    asked: str = ""
    given: bool = False

    def score(self, given: str | None) -> float:
        """How right an answer is; none at all is wrong."""
        if given is None:
            return 0.0
        if self.verify is not None:
            return float(self.verify(given))
        return float(same(given, self.answer))


def same(given: str, answer: str) -> bool:
    """Whether two answers are one: as text without blanks and case, or as numbers."""
    if "".join(given.split()).lower() == "".join(answer.split()).lower():
        return True
    numbers = [_number(text) for text in (given, answer)]
    return numbers[0] is not None and numbers[0] == numbers[1]


def _number(text: str) -> float | None:
    try:
        return float(text.replace(",", "").replace("$", "").strip().rstrip("."))
    except ValueError:
        return None


def prompt_ids(question: Question, tokenizer: Any) -> list[int]:
    """A question's prompt as ids; a chat by the tokenizer's own template, up to where the answer begins.

    Raises:
        DataError: a chat, and the tokenizer has no template; a prompt without a token.
    """
    if isinstance(question.prompt, str):
        ids = list(tokenizer(question.prompt)["input_ids"])
    elif getattr(tokenizer, "chat_template", None) is None:
        raise DataError(
            "the prompt is a chat, and the tokenizer has no template", where="prompt", mend="give it as text"
        )
    else:
        text = tokenizer.apply_chat_template(
            list(question.prompt), tokenize=False, add_generation_prompt=True
        )
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
