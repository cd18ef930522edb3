"""What a proposer is asked for: a new skill, the cause of a misroute, a description, edits of a body."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from pydantic import Field

from noria.core.config import Config
from noria.skills.bank.editing import Edit
from noria.skills.bank.skill import Skill
from noria.skills.judging.attribution import Note
from noria.skills.traffic.samples import Response, Sample

Cause = Literal["boundary", "missing", "visual"]


class TaskSpec(Config):
    """One intent in a task specification."""

    name: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=64, description="Name of the skill.")
    purpose: str = Field(min_length=10, max_length=500, description="What the skill is for, in a sentence.")
    tools: tuple[str, ...] = Field((), description="Names of the tools that it may call.")
    format: tuple[str, ...] = Field((), description="What the answer looks like, a sentence each.")
    rules: tuple[str, ...] = Field((), description="Constraints, a sentence each.")
    not_for: tuple[str, ...] = Field((), description="Descriptions of the other skills.")
    reference: str = Field("", description="Name of a skill of the bank to learn from.")


class Specification(Config):
    """The file of task specifications."""

    tasks: tuple[TaskSpec, ...] = Field(min_length=1, description="Intents that a skill is wanted for.")
    tools: tuple[str, ...] = Field((), description="Names of every tool that there is.")


@dataclass(frozen=True)
class Brief:
    """Material for a new skill: the task, good and bad cases, a reference, and faults of the last draft."""

    task: TaskSpec
    good: Sequence[tuple[Sample, Response | None]]
    bad: Sequence[tuple[Sample, Response | None]]
    reference: Skill | None = None
    faults: Sequence[str] = ()
    draft: Skill | None = None
    others: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Draft:
    """Texts of a skill; its form, name and tools are written by code."""

    description: str
    body: str


@dataclass(frozen=True)
class Misroute:
    """A sample that went wrong: where it should have gone, where it went, and how close the best score was."""

    sample: Sample
    expected: str
    chosen: str
    score: float = 0.0


@dataclass(frozen=True)
class DescribeTask:
    """A request to redraw the boundary of a skill.

    Attributes:
        skill: the skill.
        others: description of every other skill by name.
        missed: queries that should have come here (Case A).
        taken: queries that came here and should not have, with where they belong.
        kept: queries that came here rightly (Case B): the edit must not lose them.
        most: most characters.
        attempt: number of the attempt, from 0; another one may choose otherwise.
    """

    skill: Skill
    others: Mapping[str, str]
    missed: Sequence[Sample]
    taken: Sequence[tuple[Sample, str]]
    kept: Sequence[Sample]
    most: int = 1024
    attempt: int = 0


@dataclass(frozen=True)
class EditTask:
    """A request to repair a body: the notes, the good answers to protect, and how many edits are allowed."""

    skill: Skill
    notes: Sequence[Note]
    good: Sequence[tuple[Sample, Response]]
    most: int = 5
    attempt: int = 0


class Proposer(Protocol):
    """Something that proposes changes. It never writes hashes, names or lists of tools."""

    name: str

    def author(self, brief: Brief) -> Draft | None:
        """Texts of a new skill; None where it has nothing to propose."""
        ...

    def causes(self, misroutes: Sequence[Misroute], descriptions: Mapping[str, str]) -> list[Cause | None]:
        """Cause of each misroute; None where it cannot tell."""
        ...

    def describe(self, task: DescribeTask) -> str | None:
        """A new description; None where it has nothing to propose."""
        ...

    def edits(self, task: EditTask) -> list[Edit]:
        """Edits of a body; empty where it has nothing to propose."""
        ...
