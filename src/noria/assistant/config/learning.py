"""Settings of turns of learning: which learners, who judges, whose word counts, and what a turn may take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from noria.core.config import Config
from noria.core.experiments.gate_config import GateConfig
from noria.core.learning.scheduling.schedule import ScheduleConfig

LearnerName = Literal[
    "routes", "descriptions", "bodies", "creation", "router", "plans", "heads", "planner", "student"
]
"""Names of the learners that a turn can ask."""
JUDGELESS = ("descriptions", "plans", "heads", "planner", "student")
"""Learners whose gate asks nothing of the operator's checklist, and rests on no ratings."""


class HeadsConfig(Config):
    """Heads of multi-token prediction for a local model, trained on the answers that its backend gave."""

    model: str = Field(min_length=1, description='Folder of the model that the backend serves, or "small".')
    backend: str = Field(min_length=1, description="Backend that serves the model.")
    settings: dict[str, Any] = Field(
        default_factory=dict, description="Settings of noria mtp train, such as steps and length."
    )
    gamma: int = Field(3, ge=1, le=16, description="Drafts of a round at the gate.")
    prompts: int = Field(60, ge=2, description="Most prompts that the gate decodes.")
    tokens: int = Field(64, ge=1, description="New tokens that the gate decodes behind each prompt.")


class PlannerConfig(Config):
    """The planner of a tool that edits, trained over its frozen editor on the edits that people asked for (DDA)."""

    tool: str = Field(min_length=1, description="Tool of the kind edit whose planner learns.")
    model: str = Field(
        min_length=1, description="Folder of the planner that the tool serves before one was learnt."
    )
    editor: dict[str, Any] = Field(
        default_factory=dict,
        description="Frozen editor that renders plans, as options of noria editing train: editor_url, pipeline, world.",
    )
    imitate: dict[str, Any] | None = Field(
        None,
        description="Settings of noria editing sft on the edits that people rated well; left out by default.",
    )
    reinforce: dict[str, Any] | None = Field(
        None,
        description="Settings of noria editing train on the edits that were asked for; left out by default.",
    )
    credit: str | None = Field(
        None,
        description="Credit of tokens by noria credit, such as flow, while reinforcing; none by default.",
    )
    good: float = Field(0.7, ge=0, le=1, description="Score from which an edit is worth imitating.")
    tasks: int = Field(
        200,
        ge=1,
        description="Most edits that get a checklist to be reinforced on: the corrected, then the worst.",
    )
    edits: int = Field(60, ge=2, description="Most edits that the gate renders by both planners.")
    tokens: int = Field(2048, ge=4, description="Most tokens of an output at the gate.")

    @model_validator(mode="after")
    def _learns(self) -> PlannerConfig:
        if self.imitate is None and self.reinforce is None:
            raise ValueError("nothing is learnt: give imitate, reinforce, or both")
        if self.credit is not None and self.reinforce is None:
            raise ValueError("credit: only reinforce weighs tokens")
        return self


class StudentConfig(Config):
    """A student of few steps for a tool that makes pictures, distilled from the model that the tool serves (CDM)."""

    tool: str = Field(min_length=1, description="Tool of the kind generate whose model is distilled.")
    model: str = Field(
        min_length=1,
        description="Folder of the diffusers pipeline, or the small model's .safetensors, that it serves.",
    )
    steps: int = Field(50, ge=1, le=1000, description="Steps in which the tool draws by the model.")
    guidance: float = Field(1.0, ge=1, le=30, description="Guidance with which the tool draws by the model.")
    settings: dict[str, Any] = Field(
        default_factory=dict, description="Settings of noria distill train, such as preset and iterations."
    )
    margin: float = Field(
        0.05, gt=0, lt=1, description="Largest difference of quality, from 0 to 1, that counts as equal."
    )
    prompts: int = Field(60, ge=2, description="Most prompts that the gate draws by both.")


class LearningConfig(Config):
    """Turns of learning: who judges, and what a turn may take."""

    judge: str | None = Field(None, description="Backend that judges while a learner estimates.")
    gate_judge: str | None = Field(
        None,
        description="Backend that judges at the gate; learners that ask a judge need another one as judge.",
    )
    learner: LearnerName = Field(
        "routes",
        description="What learns: the choice of route and prompt, the descriptions of the skills from corrections "
        "named skill, their bodies from judged answers, a skill that is missing, the model router, the order of "
        "products from choices, heads of a local model, the planner of edits, or a student that draws in few steps.",
    )
    learners: tuple[LearnerName, ...] = Field(
        (),
        description="Learners in the order in which they are asked; the first with a candidate proposes it. The one "
        "of learner by default.",
    )
    rubric: Path | None = Field(
        None,
        description="Rubric of the learner of bodies, as of noria skills refine; the default one without rules.",
    )
    users: str = Field(
        "helpful",
        min_length=1,
        description="Name of the rating by which users say what they think of an answer.",
    )
    agree: tuple[LearnerName, ...] = Field(
        ("bodies",),
        description="Learners whose candidates are promoted only where users and judges agree that they are better.",
    )
    heads: HeadsConfig | None = Field(None, description="Model whose heads the learner heads trains.")
    planner: PlannerConfig | None = Field(None, description="Tool whose planner the learner planner trains.")
    student: StudentConfig | None = Field(None, description="Tool whose model the learner student distils.")
    writer: str | None = Field(
        None, description="Backend that writes prompts, bodies and checklists of edits; nobody by default."
    )
    callers: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(
        default_factory=dict,
        description="Weight of the ratings of a caller's users, from 0, which leaves them out, to 1, the default.",
    )
    most_unnamed: int = Field(
        100,
        ge=1,
        description="People as many as whom all those whom a caller does not name count together in an arm of a test "
        "at most.",
    )
    most_traces: int = Field(
        100_000, ge=1, description="Most traces that a turn learns from, the newest ones."
    )
    least_rated: int = Field(
        100, ge=0, description="Rated traces below which a turn of routes is underpowered."
    )
    most_items: int = Field(400, ge=1, description="Most requests that are replayed.")
    money: float | None = Field(
        None, ge=0, description="Most that a turn may cost, in the currency of the prices."
    )
    seconds: float | None = Field(None, gt=0, description="Longest time of a turn.")
    gate: GateConfig = Field(
        GateConfig(), description="Evidence that a candidate needs; its level follows from the turns before."
    )
    experiment: dict[str, Any] = Field(
        default_factory=dict, description="Settings of the experiment that follows, such as planned."
    )
    schedule: ScheduleConfig | None = Field(
        None, description="What starts a turn without anybody's word: volume, or a drift. Nothing by default."
    )

    @property
    def order(self) -> tuple[LearnerName, ...]:
        """Learners in the order in which they are asked."""
        return self.learners or (self.learner,)

    @model_validator(mode="after")
    def _judged(self) -> LearningConfig:
        if len(set(self.learners)) < len(self.learners):
            raise ValueError("a learner is named twice")
        if self.gate.alpha != GateConfig().alpha:
            raise ValueError("the level of a gate follows from the turns before: leave gate.alpha out")
        asking = [name for name in self.order if name not in JUDGELESS]
        if self.schedule is not None and asking and self.gate_judge is None:
            raise ValueError("a schedule needs a gate_judge: a turn without one could not gate")
        return self
