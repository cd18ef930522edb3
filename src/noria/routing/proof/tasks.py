"""Real questions with exact answers that packages on this machine ship or make: the proof's seven data sets.

digits      scikit-learn's images of handwritten digits, as 64 numbers; which digit?
cells       its breast-cancer measurements, 30 numbers; benign or malignant?
modules     a sentence of the standard library's own documentation; of which module?
functions   the same, with the function's name hidden; which of four functions?
arithmetic  sums and products of `noria.core.models.lm`
letters     reasoning-gym: how often does a letter stand in a passage?
divisors    reasoning-gym: the greatest common divisor
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable

import numpy as np

from noria.core.errors import DataError, require
from noria.core.models.lm import arithmetic
from noria.routing.tables.table import Question

__all__ = ["TASKS", "questions"]

MODULES = (
    "argparse", "asyncio", "calendar", "collections", "csv", "datetime", "decimal", "difflib", "email.message",
    "ftplib",
    "http.client", "inspect", "ipaddress", "logging", "os", "pathlib", "random", "shutil", "smtplib", "socket",
    "statistics", "string", "tarfile", "threading", "turtle", "unittest.mock", "urllib.parse", "zipfile",
)  # fmt: skip


def questions(number: int, *, seed: int, skip: int = 0) -> list[Question]:
    """Draw `number` questions of every data set, or as many as it has.

    Args:
        number: number of questions of each data set.
        seed: seed of the draw.
        skip: number of drawn questions to leave out first; what one call left out another can have.

    Raises:
        MissingExtra: scikit-learn or reasoning-gym is absent.
    """
    drawn = []
    for place, (name, make) in enumerate(TASKS.items()):
        generator = np.random.default_rng([seed, place])
        pairs = dict(make(2 * (number + skip), generator))  # a question that is made twice counts once
        rule = "number" if name in ("arithmetic", "letters", "divisors", "digits") else "exact"
        for n, (text, answer) in enumerate(list(pairs.items())[skip : skip + number], start=skip):
            drawn.append(Question(f"{name}-{n}", name, text, (answer,), rule))
    return drawn


Pairs = list[tuple[str, str]]


def _digits(number: int, generator: np.random.Generator) -> Pairs:
    bunch = require("sklearn.datasets", "proof").load_digits()
    question = "Which digit is drawn here?"
    return [
        (f"{question} {' '.join(str(int(v)) for v in bunch.data[r])}", str(bunch.target[r]))
        for r in generator.permutation(len(bunch.data))[:number]
    ]


def _cells(number: int, generator: np.random.Generator) -> Pairs:
    bunch = require("sklearn.datasets", "proof").load_breast_cancer()
    question, names = "Benign or malignant? A cell nucleus measures", bunch.target_names
    return [
        (f"{question} {' '.join(f'{v:.4g}' for v in bunch.data[r])}", str(names[bunch.target[r]]))
        for r in generator.permutation(len(bunch.data))[:number]
    ]


def _documented() -> list[tuple[str, str, str]]:
    """(module, function, first sentence of its documentation) of the standard library, in a fixed order."""
    drawn = []
    for name in MODULES:
        module = importlib.import_module(name)
        for owner in [module, *(c for _, c in inspect.getmembers(module, inspect.isclass))]:
            for own, thing in inspect.getmembers(owner, inspect.isroutine):
                text = inspect.getdoc(thing) or ""
                sentence = " ".join(text.split("\n\n")[0].split())
                home = getattr(thing, "__module__", None) or ""
                if own.startswith("_") or not 40 <= len(sentence) <= 200 or not home.startswith(name):
                    continue
                drawn.append((name, own, sentence))
    unique = {sentence: (name, own, sentence) for name, own, sentence in drawn}
    if len(unique) < 100:
        raise DataError("the standard library's documentation is missing", mend="run Python without -OO")
    return [unique[sentence] for sentence in sorted(unique)]


def _modules(number: int, generator: np.random.Generator) -> Pairs:
    known = _documented()
    rows = generator.permutation(len(known))[:number]
    return [(f"Which module of Python's library says: {known[r][2]}", known[r][0]) for r in rows]


def _functions(number: int, generator: np.random.Generator) -> Pairs:
    known = _documented()
    names = sorted({own for _, own, _ in known})
    drawn = []
    for r in generator.permutation(len(known))[:number]:
        _, own, sentence = known[r]
        hidden = re.sub(rf"\b{re.escape(own)}\b", "it", sentence)
        others = [str(n) for n in generator.choice([n for n in names if n != own], 3, replace=False)]
        options = [str(n) for n in generator.permutation([own, *others])]
        drawn.append((f"Which function is it, {', '.join(options)}? {hidden}", own))
    return drawn


def _arithmetic(number: int, generator: np.random.Generator) -> Pairs:
    return [
        (p.question, str(p.answer))
        for p in arithmetic(number, seed=int(generator.integers(2**31)), terms=(3, 4))
    ]


def _gym(name: str, **settings: int) -> Callable[[int, np.random.Generator], Pairs]:
    def make(number: int, generator: np.random.Generator) -> Pairs:
        gym = require("reasoning_gym", "proof")
        data = gym.create_dataset(name, size=number, seed=int(generator.integers(2**31)), **settings)
        return [(str(item["question"]), str(item["answer"])) for item in data]

    return make


TASKS: dict[str, Callable[[int, np.random.Generator], Pairs]] = {
    "digits": _digits,
    "cells": _cells,
    "modules": _modules,
    "functions": _functions,
    "arithmetic": _arithmetic,
    "letters": _gym("letter_counting", max_words=12),
    "divisors": _gym("gcd", max_numbers=2, max_value=200),
}
"""Data sets by name: (number, generator) → (question, answer)."""
