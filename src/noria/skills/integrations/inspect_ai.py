"""An inspect_ai task of a bank's routes: the model reads the catalogue and names a skill, or none.

An answer that names neither is unscored, not wrong in silence: its score is NaN, and inspect counts it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from noria.core.chat import Answer
from noria.core.errors import require
from noria.skills.bank.catalogue import catalogue
from noria.skills.bank.skill import Skill
from noria.skills.routing.routers import INSTRUCTION, read_route
from noria.skills.traffic.samples import Sample


def route_task(
    skills: Sequence[Skill], samples: Sequence[Sample], *, name: str = "noria_skills_routes"
) -> Any:
    """A task for `inspect eval`.

    Args:
        skills: skills on offer.
        samples: labelled samples; others are left out.
        name: name of the task.

    Raises:
        MissingExtra: inspect_ai is not installed.
    """
    inspect: Any = require("inspect_ai", "inspect")
    dataset: Any = require("inspect_ai.dataset", "inspect")
    scoring: Any = require("inspect_ai.scorer", "inspect")
    solving: Any = require("inspect_ai.solver", "inspect")
    shown = catalogue(skills)
    rows = [
        dataset.Sample(input=s.query, target=list(s.expected), id=s.id, metadata={"group": s.group})
        for s in samples
        if s.expected
    ]

    @scoring.scorer(metrics=[scoring.accuracy(), scoring.stderr()])  # type: ignore[untyped-decorator]
    def routed() -> Any:
        async def score(state: Any, target: Any) -> Any:
            decision = read_route(Answer(state.output.completion), shown.descriptions)
            if decision.outcome == "error":
                return scoring.Score(value=float("nan"), answer="error", explanation=decision.reason)
            right = decision.label in list(target)
            value = scoring.CORRECT if right else scoring.INCORRECT
            return scoring.Score(value=value, answer=decision.label, explanation=decision.reason)

        return score

    solver = [
        solving.system_message(f"{INSTRUCTION}\n\n{shown.text}".replace("{", "{{").replace("}", "}}")),
        solving.generate(),
    ]
    return inspect.Task(
        dataset=dataset.MemoryDataset(rows, name=name), solver=solver, scorer=routed(), name=name
    )
