"""GEPA as a proposer of descriptions and bodies: its reflective search, inside of this package's locks and gates.

GEPA optimises a dictionary of texts against an evaluation. Here each text is one component of one skill, the evaluation
is the caller's, and what comes out passes the same checks and gates as any other proposal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from noria.core.errors import require
from noria.skills.bank.skill import Skill

Evaluate = Callable[[str, Sequence[Any]], tuple[list[float], list[str]]]
"""Scores a text on examples: a score in [0, 1] and feedback in words, one an example."""


@dataclass(frozen=True)
class Batch:
    """What GEPA's adapter returns of an evaluation."""

    outputs: list[Any]
    scores: list[float]
    trajectories: list[Any] | None
    objective_scores: Any = None
    num_metric_calls: int | None = None


class TextAdapter:
    """An adapter of GEPA for one text.

    Args:
        evaluate: scores a text.
        name: name of the text.
    """

    propose_new_texts = None

    def __init__(self, evaluate: Evaluate, name: str) -> None:
        self._evaluate, self.name = evaluate, name

    def evaluate(self, batch: list[Any], candidate: dict[str, str], capture_traces: bool = False) -> Batch:
        """Evaluate a candidate on a batch."""
        scores, feedback = self._evaluate(candidate[self.name], batch)
        rows = [
            {"example": e, "feedback": f, "score": s} for e, f, s in zip(batch, feedback, scores, strict=True)
        ]
        return Batch(rows, list(scores), rows if capture_traces else None, None, len(batch))

    def make_reflective_dataset(
        self, candidate: dict[str, str], eval_batch: Batch, components_to_update: list[str]
    ) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """Rows that GEPA's model reflects on; texts of users are data and stand under `Inputs`."""
        rows = [
            {"Inputs": str(row["example"])[:1000], "Generated Outputs": "", "Feedback": row["feedback"]}
            for row in eval_batch.trajectories or []
        ]
        return dict.fromkeys(components_to_update, rows)


def improve_text(
    skill: Skill,
    component: str,
    train: Sequence[Any],
    valid: Sequence[Any],
    evaluate: Evaluate,
    reflect: Callable[[str], str],
    *,
    calls: int = 200,
    seed: int = 0,
) -> str:
    """The best text that GEPA finds for a skill's `description` or `body`; a proposal, which no gate has seen yet.

    Args:
        skill: the skill.
        component: `description` or `body`.
        train, valid: examples for reflection and for the choice; neither may be of a gate's pool.
        evaluate: scores a text.
        reflect: asks a model with a prompt.
        calls: evaluations of single examples.
        seed: seed of the search.

    Raises:
        MissingExtra: GEPA is not installed.
    """
    if component not in ("description", "body"):
        raise ValueError("GEPA may propose a description or a body")
    gepa = require("gepa", "gepa")
    start = skill.description if component == "description" else skill.body
    result = gepa.optimize(
        seed_candidate={component: start},
        trainset=list(train),
        valset=list(valid),
        adapter=TextAdapter(evaluate, component),
        reflection_lm=reflect,
        max_metric_calls=calls,
        seed=seed,
        display_progress_bar=False,
    )
    return str(result.best_candidate[component])
