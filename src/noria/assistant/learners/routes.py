"""The learner of routes: the best of the configured routes, and of prompts that a backend writes."""

from __future__ import annotations

from noria.assistant.config import AssistantConfig
from noria.assistant.learners.around import Around
from noria.core.learning.in_order import Way
from noria.core.learning.routes.learner import RouteLearner


def check(config: AssistantConfig) -> None:
    """It needs no more than every judged learner does."""


def open_learner(around: Around) -> Way:
    """The learner, and the replay that compares its candidates, each with a judge of its own."""
    learning = around.config.learning
    assert learning.gate_judge is not None
    learner = RouteLearner(
        list(around.config.routes.values()),
        around.replay(learning.judge or learning.gate_judge),
        around.backends[learning.writer] if learning.writer else None,
    )
    return Way(learner, around.replay(learning.gate_judge))
