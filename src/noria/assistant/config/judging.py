"""Settings of judging: the checklist, the panel that answers it, and whether answers rest on their pictures."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from noria.core.config import Config
from noria.core.judging.items import Checklist, Item


class ChecklistItem(Config):
    """A question of the judges' checklist."""

    id: str = Field(pattern=r"^[\w.-]{1,80}$", description="Name of the question.")
    question: str = Field(min_length=3, max_length=2000, description="Question with the answer yes or no.")
    good: Literal["yes", "no"] = Field("yes", description="Answer that is good.")
    weight: float = Field(1.0, gt=0, description="Weight of the question in the score.")
    path: Literal["", "routing", "tool", "safety", "grounding", "body", "model"] = Field(
        "",
        description="Cause that a bad answer speaks for; one on safety is a hard error, whatever the score.",
    )


class GroundingConfig(Config):
    """Judging whether answers rest on their pictures: the same backend is asked again without them."""

    judge: str = Field(description="Backend that compares the answers; better another one than answers.")
    share: float = Field(0.02, ge=0, le=1, description="Share of the answers to pictures that are judged.")
    budget_per_day: float | None = Field(
        None,
        ge=0,
        description="Most that these comparisons may cost in a day (UTC), beside the budget of the panel.",
    )
    most_cost: float = Field(
        0.1, ge=0, description="Most that one answer's two requests may cost, set aside before they are sent."
    )
    seconds: float = Field(120.0, gt=0, description="Longest time of each of the two requests.")


class ProbesConfig(Config):
    """Probes of a judge: answers that it judges again with nothing but their length changed."""

    answers: int = Field(
        40,
        ge=0,
        description="Answers that the judge of a gate judges again with empty sentences behind them; 0 probes nothing.",
    )
    most_slope: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Most that a judge's score may rise where empty sentences double an answer's length; above it no "
        "candidate passes by that judge.",
    )


class JudgingConfig(Config):
    """Judging of answers: all of them by rules, a share of them by a panel of models."""

    checklist: tuple[ChecklistItem, ...] = Field((), description="Questions that the judges answer.")
    backends: tuple[str, ...] = Field((), description="Backends that judge, each a member of the panel.")
    share: float = Field(0.05, ge=0, le=1, description="Share of the traces that the panel judges.")
    budget_per_day: float | None = Field(
        None, ge=0, description="Most that judging may cost in a day (UTC), in the currency of the prices."
    )

    most_cost: float = Field(
        0.05, ge=0, description="Most that one judge's judgement may cost, set aside before it is asked."
    )
    slow: float = Field(60.0, gt=0, description="Seconds above which the rules call an answer slow.")
    grounding: GroundingConfig | None = Field(
        None, description="Whether answers rest on their pictures; not judged by default."
    )

    human_share: float = Field(
        0.02,
        ge=0,
        le=1,
        description="Chance with which a judged answer is drawn for a person to label in the console.",
    )
    probes: ProbesConfig = Field(ProbesConfig(), description="Whether judges like length.")

    @model_validator(mode="after")
    def _whole(self) -> JudgingConfig:
        if self.backends and not self.checklist:
            raise ValueError("judges need a checklist")
        if len({one.id for one in self.checklist}) < len(self.checklist):
            raise ValueError("two questions of the checklist have the same id")
        if len(set(self.backends)) < len(self.backends):
            raise ValueError("a backend judges twice")
        return self

    def as_checklist(self) -> Checklist:
        """The checklist of the judges."""
        return Checklist(
            tuple(
                Item(one.id, one.question, one.path, weight=one.weight, good=one.good)
                for one in self.checklist
            )
        )
