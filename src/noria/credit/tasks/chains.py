"""Chains of additions, generated with a known answer and known dead branches.

Two letters start at a digit and are moved by signed digits, modulo ten. A solution works out both, step by step in the
order of the question and with fillers in between; the answer is the end of one of them. So of every number in a
solution it is known whether it leads to the answer or to a dead branch.

    : x3 y7; A x+4 B y-2 C y+3 D x+9; x?
    A x+4 x3 = x7; so B y-2 y7 = y5; well then C y+3 y5 = y8; D x+9 x7 = x6; #### x6
"""

from __future__ import annotations

import re

import numpy as np

from noria.credit.tasks.questions import Question

__all__ = ["CHAIN_ANSWER", "chains", "labels_of_chain"]

LETTERS, LABELS = "wxyz", "ABCDEFGHIJKLMNOP"
FILLERS = ("so", "well", "then", "now", "hm", "ok", "next", "right")


def chains(
    number: int, *, seed: int, steps: tuple[int, int] = (2, 4), filler: float = 0.4, slip: float = 0.0
) -> list[Question]:
    """Generate questions of two chains.

    Args:
        number: number of questions.
        seed: seed of the questions.
        steps: least and most steps of each chain.
        filler: chance of a filler before a step.
        slip: chance that a step of the solution has a wrong result, which the next steps use; `answer` is right.
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
"""The finder of a chain's answer: the digit, without the letter before it, which repeats the question."""

STEP = re.compile(r"([a-z])([+-])(\d) \1(\d) = \1(\d);")


def labels_of_chain(text: str, asked: str) -> list[str]:
    """The role of each character of a chain's solution.

    Args:
        text: the solution.
        asked: letter that the question asks for.

    Returns:
        `relevant` for numbers of the chain that is asked for, `dead` for those of the other, `filler` for fillers,
        and `form` for the rest: letters, signs, the answer's line.
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
