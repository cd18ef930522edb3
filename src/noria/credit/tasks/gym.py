"""Questions of reasoning-gym with worked solutions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from noria.core.errors import ConfigError, require
from noria.credit.tasks.questions import Question

__all__ = ["FAMILIES", "gym"]


def gym(family: str, number: int, *, seed: int, **settings: Any) -> list[Question]:
    """Generate questions of a family of reasoning-gym, checked by its own verifier.

    Args:
        family: name of the family in reasoning-gym.
        number: number of questions.
        seed: seed of the questions.
        settings: settings of the family; those of :data:`FAMILIES` by default.

    Raises:
        ConfigError: there is no such family, or it does not take the settings.
        MissingExtra: reasoning-gym is not installed.
    """
    library: Any = require("reasoning_gym", "reasoning")
    settings = FAMILIES.get(family, {}) | settings
    try:
        dataset = library.create_dataset(family, size=number, seed=seed, **settings)
    except (ValueError, TypeError, AssertionError) as error:
        raise ConfigError(str(error) or "settings out of range", where=f"reasoning-gym {family}") from None

    def question(entry: Mapping[str, Any]) -> Question:
        return Question(
            prompt=str(entry["question"]).strip() + "\n",
            answer=str(entry["answer"]),
            solution=SOLUTIONS[family](entry) if family in SOLUTIONS else "",
            task=family,
            verify=lambda text: float(dataset.score_answer(text, entry)),
        )

    return [question(entry) for entry in dataset]


FAMILIES: dict[str, dict[str, Any]] = {
    "chain_sum": {"min_terms": 2, "max_terms": 4, "min_digits": 1, "max_digits": 1},
    "leg_counting": {"min_animals": 2, "max_animals": 3, "min_instances": 1, "max_instances": 5},
}
"""Families with worked solutions, at the size that the small reasoner is trained on."""


def _chain_sum(entry: Mapping[str, Any]) -> str:
    """The worked solution of `4 - 1 + 5`: `4-1=3; 3+5=8; #### 8`."""
    terms = str(entry["metadata"]["expression"]).split()
    total, lines = int(terms[0]), []
    for sign, term in zip(terms[1::2], terms[2::2], strict=True):
        after = total + int(term) if sign == "+" else total - int(term)
        lines.append(f"{total}{sign}{term}={after}; ")
        total = after
    return f"{''.join(lines)}#### {total}"


def _leg_counting(entry: Mapping[str, Any]) -> str:
    """The worked solution of `2 cats, 1 ant`: `cat 2*4=8; ant 1*6=6; 8+6=14; #### 14`."""
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


SOLUTIONS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "chain_sum": _chain_sum,
    "leg_counting": _leg_counting,
}
