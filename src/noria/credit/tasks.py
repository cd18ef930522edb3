"""Questions whose answers can be checked, and of which it is known what in a solution leads to the answer.

Chains: two letters start at a digit and are moved by signed digits, modulo ten. A solution works out both, step by step
in the order of the question and with words that say nothing in between; the answer is the end of one of them. So every
number of a solution is known to lead to the answer or to be a dead branch.

    : x3 y7; A x+4 B y-2 C y+3 D x+9; x?
    A x+4 x3 = x7; so B y-2 y7 = y5; well then C y+3 y5 = y8; D x+9 x7 = x6; #### x6

Families of reasoning-gym: its questions as they are, its own verifiers, and solutions worked here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from noria.core.errors import ConfigError, DataError, require
from noria.core.records import read_records
from noria.credit.answers import Finder, finder

__all__ = [
    "CHAIN_ANSWER",
    "FAMILIES",
    "Question",
    "chains",
    "gym",
    "labels_of_chain",
    "prompt_ids",
    "read_questions",
]

FILLERS = ("so", "well", "then", "now", "hm", "ok", "next", "right")
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


def chains(
    number: int, *, seed: int, steps: tuple[int, int] = (2, 4), filler: float = 0.4, slip: float = 0.0
) -> list[Question]:
    """Questions of two chains.

    Args:
        number: of questions.
        seed: of them.
        steps: least and most of each chain.
        filler: the chance of a word of no meaning before a step.
        slip: the chance that a step of the solution has a wrong result, with which it goes on; `answer` is right.
    """
    generator = np.random.default_rng(seed)
    return [_chain(generator, steps, filler, slip) for _ in range(number)]


def _chain(generator: np.random.Generator, steps: tuple[int, int], filler: float, slip: float) -> Question:
    first, second = (LETTERS[i] for i in generator.choice(len(LETTERS), 2, replace=False))
    values = {first: int(generator.integers(10)), second: int(generator.integers(10))}
    prompt = " ".join(f"{letter}{value}" for letter, value in values.items())
    counts = generator.integers(steps[0], steps[1] + 1, size=2)
    order = [first] * int(counts[0]) + [second] * int(counts[1])
    generator.shuffle(order)
    written = dict(values)
    moves, lines = [], []
    for place, letter in enumerate(order):
        sign, by = "+-"[int(generator.integers(2))], int(generator.integers(1, 10))
        label = LABELS[place]
        moves.append(f"{label} {letter}{sign}{by}")
        move = by if sign == "+" else -by
        values[letter] = (values[letter] + move) % 10
        before = written[letter]
        written[letter] = (before + move) % 10
        if slip and generator.random() < slip:
            written[letter] = (written[letter] + int(generator.integers(1, 10))) % 10
        words = []
        while generator.random() < filler:
            words.append(FILLERS[int(generator.integers(len(FILLERS)))] + " ")
        step = f"{label} {letter}{sign}{by} {letter}{before} = {letter}{written[letter]}; "
        lines.append("".join(words) + step)
    asked = first if generator.random() < 0.5 else second
    value = str(values[asked])
    answer = f"{asked}{value}"
    prompt = f": {prompt}; {' '.join(moves)}; {asked}?\n"
    return Question(
        prompt,
        answer,
        f"{''.join(lines)}#### {asked}{written[asked]}",
        "chains",
        verify=lambda given: float(given.strip().removeprefix(asked) == value),
        asked=asked,
    )


CHAIN_ANSWER = r"regex:####\s*[w-z](\d)"
"""The finder of a chain's answer: the digit. The letter before it repeats the question."""
STEP = re.compile(r"([a-z])([+-])(\d) \1(\d) = \1(\d);")


def labels_of_chain(text: str, asked: str) -> list[str]:
    """What each character of a chain's solution is.

    Returns:
        `relevant` and `dead` for the numbers of the chain that is asked for and of the other; `filler` for words of no
        meaning; `form` for the rest: letters, signs, the answer's line.
    """
    labels = ["form"] * len(text)
    end = text.find("####")
    body = text if end < 0 else text[:end]
    for word in re.finditer("|".join(sorted(FILLERS, key=len, reverse=True)), body):
        labels[word.start() : word.end()] = ["filler"] * (word.end() - word.start())
    for step in STEP.finditer(body):
        kind = "relevant" if step[1] == asked else "dead"
        for part in (3, 4, 5):
            labels[step.start(part)] = kind
    return labels


# -- reasoning-gym ----------------------------------------------------------------------------------------------------


def gym(family: str, number: int, *, seed: int, **settings: Any) -> list[Question]:
    """Questions of a family of reasoning-gym, checked by its own verifier.

    Args:
        family: its name there.
        number: of questions.
        seed: of them.
        settings: of the family; those of :data:`FAMILIES` by default.

    Raises:
        ConfigError: no such family, or settings that it does not take.
        MissingExtra: reasoning-gym is not installed.
    """
    library: Any = require("reasoning_gym", "reasoning")
    try:
        found = library.create_dataset(family, size=number, seed=seed, **FAMILIES.get(family, {}) | settings)
    except (ValueError, TypeError, AssertionError) as error:
        raise ConfigError(str(error) or "settings out of range", where=f"reasoning-gym {family}") from None
    work = SOLUTIONS.get(family, _unworked)

    def verifier(entry: Mapping[str, Any]) -> Callable[[str], float]:
        return lambda given: float(found.score_answer(given, entry))

    return [
        Question(
            str(entry["question"]).strip() + "\n",
            str(entry["answer"]),
            work(entry),
            family,
            verifier(entry),
        )
        for entry in found
    ]


FAMILIES: dict[str, dict[str, Any]] = {
    "chain_sum": {"min_terms": 2, "max_terms": 4, "min_digits": 1, "max_digits": 1},
    "leg_counting": {"min_animals": 2, "max_animals": 3, "min_instances": 1, "max_instances": 5},
}
"""Families with worked solutions, at the size that the small reasoner is trained on."""


def _chain_sum(entry: Mapping[str, Any]) -> str:
    """`4 - 1 + 5`: `4-1=3; 3+5=8; #### 8`."""
    terms = str(entry["metadata"]["expression"]).split()
    total, lines = int(terms[0]), []
    for sign, term in zip(terms[1::2], terms[2::2], strict=True):
        after = total + int(term) if sign == "+" else total - int(term)
        lines.append(f"{total}{sign}{term}={after}; ")
        total = after
    return f"{''.join(lines)}#### {total}"


def _leg_counting(entry: Mapping[str, Any]) -> str:
    """`2 cats, 1 ant`: `cat 2*4=8; ant 1*6=6; 8+6=14; #### 14`."""
    animals: Any = require("reasoning_gym.arithmetic.leg_counting", "reasoning").ANIMALS
    lines, counts = [], []
    for animal, count in entry["metadata"]["animals"].items():
        legs = int(animals[animal])
        counts.append(count * legs)
        lines.append(f"{animal} {count}*{legs}={counts[-1]}; ")
    total = counts[0]
    for more in counts[1:]:
        lines.append(f"{total}+{more}={total + more}; ")
        total += more
    return f"{''.join(lines)}#### {total}"


def _unworked(entry: Mapping[str, Any]) -> str:
    return ""


SOLUTIONS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "chain_sum": _chain_sum,
    "leg_counting": _leg_counting,
}


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
