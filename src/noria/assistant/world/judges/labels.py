"""Labels that the judges learn from: `python -m noria.assistant.world.judges.labels FILE` remakes what ships.

Users whom no season and no proof knows ask in the usual words, under skills and models drawn at random; somebody who
knows the oracle's answer says whether each answer serves, and errs in one of ten.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from noria.assistant.parts.protocol import Step
from noria.assistant.parts.skills import with_body
from noria.assistant.world.catalogue import catalogue
from noria.assistant.world.inside import InsideShop
from noria.assistant.world.judges.model import EACH, NAMES
from noria.assistant.world.oracle import checklist
from noria.assistant.world.shop import MODEL, PRICES, SKILLS, TOPICS
from noria.assistant.world.users import SKILLS as RIGHT, User, Wish, Wishes, population
from noria.core.completions.requests import CompletionRequest
from noria.core.files import write_atomic
from noria.core.learning.routes.route import Route
from noria.core.traces.records import SpanKind
from noria.skills.bank.bank import BankFolder
from noria.skills.bank.skill import Skill

SEED = 90_001
"""Seed of the users, whom no season and no proof knows."""
WRONG = 0.1
"""Share of the labels that are wrong."""
_MORE = ("", "\n- Say the price.", "\n- Name the source.", "\n- Answer in one sentence.")


@dataclass
class Given:
    """A part that takes a skill and a model whatever is asked; none where there is no skill."""

    skill: Skill | None
    backend: str = MODEL
    more: str = ""
    kind: SpanKind = "skill"
    artefact: str = ""

    def apply(self, query: CompletionRequest, route: Route) -> Step:
        """Do what :meth:`Part.apply` says."""
        changed = route.model_copy(update={"backend": self.backend})
        if self.skill is None:
            return Step("given", changed, {"none": 1.0}, "none")
        changed = with_body(changed, self.skill.body + self.more)
        tools = frozenset(self.skill.tools) or None
        return Step("given", changed, {self.skill.name: 1.0}, self.skill.name, tools=tools)


def drawn(number: int, seed: int = SEED) -> list[tuple[User, Wish, Given]]:
    """Users with their wishes and what answers them: half of them the right skill, a fifth of them none."""
    bank, wishes = BankFolder(SKILLS).load(), Wishes(seed, catalogue(), TOPICS)
    chance = np.random.default_rng([seed, 17])
    found = []
    for user in population(seed)[:number]:
        wish = wishes.wish(user, 0, 0)
        kind = chance.random()
        name = RIGHT[wish.intent] if kind < 0.5 else str(chance.choice(sorted(bank.skills)))
        skill = None if kind > 0.8 else bank.skills[name]
        found.append(
            (user, wish, Given(skill, str(chance.choice(sorted(PRICES))), str(chance.choice(_MORE))))
        )
    return found


async def labelled(home: Path, number: int = EACH * len(NAMES)) -> list[dict[str, Any]]:
    """Answers with their labels.

    Args:
        home: folder for the shop's files.
        number: number of answers.
    """
    cases = drawn(number)
    async with InsideShop(home) as shop:
        seen = await asyncio.gather(*(shop.answers([wish], [given]) for _, wish, given in cases))
    wrong = np.random.default_rng([SEED, 18]).random(number) < WRONG
    right = [
        bool(checklist(user, wish, one)["right"]) for (user, wish, _), (one,) in zip(cases, seen, strict=True)
    ]
    return [
        {"request": wish.text, "answer": one.text, "serves": bool(was != err)}
        for (_, wish, _), (one,), was, err in zip(cases, seen, right, wrong, strict=True)
    ]


def main() -> None:
    """Write the labels into a file."""
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as home:
        rows = asyncio.run(labelled(Path(home)))
    write_atomic(Path(sys.argv[1]), "".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
