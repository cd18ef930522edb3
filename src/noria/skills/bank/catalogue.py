"""The catalogue of skills as a client shows it to its model, and what falls out of it.

Clients give the catalogue a budget of characters and cut what does not fit: a skill that the model never sees cannot be
chosen, whatever its description says. Routes are scored on what is shown.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

from noria.skills.bank.skill import Skill


@dataclass(frozen=True)
class Shown:
    """A catalogue: its text, the description that each skill is shown with, and what is missing or cut.

    Attributes:
        text: what the model reads.
        descriptions: description by name, as shown.
        dropped: names that do not fit at all.
        cut: names whose description is shortened.
    """

    text: str
    descriptions: dict[str, str]
    dropped: tuple[str, ...] = ()
    cut: tuple[str, ...] = ()


def catalogue(skills: Sequence[Skill], *, budget: int | None = None, per_skill: int | None = None) -> Shown:
    """The `<available_skills>` block of Agent Skills clients, in the order of the skills.

    Args:
        skills: skills on offer.
        budget: most characters of the whole block; no bound by default.
        per_skill: most characters of one description.
    """
    entries: list[str] = []
    descriptions: dict[str, str] = {}
    dropped, cut = [], []
    used = len("<available_skills>\n</available_skills>")
    for skill in skills:
        text = " ".join(skill.description.split())
        if per_skill is not None and len(text) > per_skill:
            text = text[: max(0, per_skill - 1)].rstrip() + "…"
            cut.append(skill.name)
        entry = (
            f"<skill>\n<name>{html.escape(skill.name)}</name>\n<description>{html.escape(text)}</description>\n"
            f"<location>{html.escape(skill.name)}/SKILL.md</location>\n</skill>\n"
        )
        if budget is not None and used + len(entry) > budget:
            dropped.append(skill.name)
            continue
        used += len(entry)
        entries.append(entry)
        descriptions[skill.name] = text
    kept = tuple(name for name in cut if name in descriptions)
    return Shown(
        f"<available_skills>\n{''.join(entries)}</available_skills>", descriptions, tuple(dropped), kept
    )
