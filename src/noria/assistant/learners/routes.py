"""The learner of routes: the best of the configured routes, and of prompts that a backend writes."""

from __future__ import annotations

from noria.assistant.config import AssistantConfig
from noria.assistant.learners.around import Around, check_two_judges
from noria.core.learning.in_order import Way
from noria.core.learning.routes.learner import RouteLearner


def check(config: AssistantConfig) -> None:
    """Check that the learner has what it needs.

    Raises:
        ConfigError: it has no judge of its own.
    """
    check_two_judges(config)


def open_learner(around: Around) -> Way:
    """The learner, and the replay that compares its candidates, each with a judge of its own."""
    learning = around.config.learning
    assert learning.judge is not None
    assert learning.gate_judge is not None
    learner = RouteLearner(
        list(around.config.routes.values()),
        around.replay(learning.judge),
        around.backends[learning.writer] if learning.writer else None,
    )
    return Way(learner, around.replay(learning.gate_judge))
