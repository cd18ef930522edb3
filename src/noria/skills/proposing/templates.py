"""A proposer without a model: terms that tell for descriptions, the rules' own sentences for bodies.

It is what the proofs use, what a team without a server starts with, and the arm that a model has to beat.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from noria.skills.bank.editing import Edit
from noria.skills.bank.text import plain
from noria.skills.proposing.protocols import Brief, Cause, DescribeTask, Draft, EditTask, Misroute
from noria.skills.proposing.terms import telling_terms
from noria.skills.traffic.samples import NO_SKILL

USE, NOT = "Use when the user asks: ", "Not for: "
_OURS = re.compile(r"(?:^|(?<=\s))(?:Use when the user asks: |Not for: ).*?(?:\.(?=\s|$)|$)", re.DOTALL)


class TemplateProposer:
    """Proposes changes from counts of terms and of broken rules.

    Args:
        terms: most terms that a description names.
        against: most terms that it names under "Not for"; 0 leaves them out.
        use_kept: whether queries that are routed rightly are looked at (Case B).
    """

    name = "templates"

    def __init__(self, *, terms: int = 14, against: int = 0, use_kept: bool = True) -> None:
        self.terms, self.against, self.use_kept = terms, against, use_kept

    def author(self, brief: Brief) -> Draft | None:
        """A description of the purpose and of terms that tell; a body of the task's sentences."""
        task = brief.task
        own = [sample.query for sample, _ in brief.good]
        rest = [sample.query for sample, _ in brief.bad]
        terms = telling_terms(own, rest, most=self.terms)
        description = _description(task.purpose, terms, list(task.not_for), 1024)
        parts = [f"# {task.name.replace('-', ' ').capitalize()}", "", task.purpose, ""]
        for title, lines in (("Answer", task.format), ("Rules", task.rules)):
            if lines:
                parts += [f"## {title}", "", *(f"- {plain(line)}" for line in lines), ""]
        if task.tools:
            parts += ["## Tools", "", f"Use {', '.join(task.tools)}.", ""]
        return Draft(description, "\n".join(parts))

    def causes(self, misroutes: Sequence[Misroute], descriptions: Mapping[str, str]) -> list[Cause | None]:
        """`missing` where no skill of the bank is expected, `visual` where the picture was misread, else `boundary`."""
        return [
            "visual"
            if one.sample.evidence.get("seen") not in (None, one.sample.evidence.get("shown"))
            else "missing"
            if one.expected not in descriptions and one.expected != NO_SKILL
            else "boundary"
            for one in misroutes
        ]

    def describe(self, task: DescribeTask) -> str | None:
        """The purpose, with terms of the queries that belong here and not to the rivals."""
        own = [s.query for s in task.missed] + ([s.query for s in task.kept] if self.use_kept else [])
        rest = [s.query for s, _ in task.taken]
        terms = telling_terms(own, rest, most=self.terms + 2 * task.attempt)
        if not terms:
            return None
        against = telling_terms(rest, own, most=self.against) if self.against else []
        text = _description(_OURS.sub("", task.skill.description).strip(), terms, against, task.most)
        return None if text == task.skill.description else text

    def edits(self, task: EditTask) -> list[Edit]:
        """Each note as a line of its section, unless the body says it; a judge's complaint as a fault to avoid."""
        present = " ".join(task.skill.body.casefold().split())
        return [
            Edit(
                "append",
                note.section,
                f"- {sentence}" if note.source == "rule" else f"- Avoid this fault: {sentence}.",
                support=note.support,
                why=f"{note.dimension}: {note.key}",
            )
            for note in task.notes[: task.most]
            if (sentence := plain(note.say)) and " ".join(sentence.casefold().split()) not in present
        ]


def _description(purpose: str, terms: Sequence[str], against: Sequence[str], most: int) -> str:
    """A description within `most` characters: the terms at the end fall out first."""
    terms, against = list(terms), list(against)
    while True:
        text = " ".join(plain(purpose).split())
        text = text if not text or text.endswith((".", "。", "!", "?")) else f"{text}."
        if terms:
            text += f" {USE}{'; '.join(terms)}."
        if against:
            text += f" {NOT}{'; '.join(against)}."
        text = text.strip()
        if len(text) <= most or not (terms or against):
            return text[:most]
        (against or terms).pop()
