"""Settings of a season of the shop."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from noria.core.config import Config

LearnerName = Literal["descriptions", "bodies", "router", "bodies+router"]


class SeasonConfig(Config):
    """Settings of a season."""

    seed: int = Field(0, ge=0, le=10**6, description="Seed of the users and of what they want.")
    users: int = Field(1800, ge=3, le=1800, description="Users who ask, rate and correct.")
    turns: int = Field(2, ge=1, le=100, description="Questions of each user before a turn of the wheel.")
    rounds: int = Field(
        6, ge=1, le=100, description="Most rounds of a test, in each of which every third user asks once."
    )
    exam: int = Field(80, ge=2, le=600, description="Users of the exam, from whom nobody learns.")
    exam_turns: int = Field(
        2,
        ge=1,
        le=20,
        description="Questions of each user of the exam, in the usual and again in the later words.",
    )
    loops: int = Field(
        1, ge=1, le=20, description="Loops: users ask, the wheel turns; the words drift after the first."
    )
    later_rounds: int = Field(
        1, ge=1, le=100, description="Most rounds of the tests after the first one of a loop."
    )
    learners: tuple[LearnerName, ...] = Field(
        ("descriptions", "bodies+router"),
        description="What learns in each loop: a turn each, in this order. Learners with a + between them are asked in "
        "one turn, and the first with a candidate proposes it.",
    )

    def learning(self) -> dict[str, Any]:
        """Settings of the gateway's learning: the test is on few users."""
        experiment = {
            "shadow_requests": 20, "canary_share": 0.1, "canary_units": 3, "share": 0.5, "planned": 1200, "least": 20,
        }  # fmt: skip
        return {"learners": self.learners[0].split("+"), "experiment": experiment, "most_items": 250}
