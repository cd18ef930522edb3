"""A learner of skill descriptions: requests that went to the wrong skill redraw the descriptions (SkillChain, stage 2).

The evidence is what people said: a correction named `skill`, whose text is the skill that it should have been, or
`none`. The candidate is a bank that differs in descriptions alone, with thresholds that are fitted anew. The gate
compares where both banks send the labelled requests of other leakage groups; nothing is asked of a model.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from noria.assistant.config import AssistantConfig
from noria.assistant.learners.around import Around
from noria.assistant.learners.skills.banks import KIND, written_bank
from noria.assistant.learners.skills.repairing import ROUTES, repaired, right_routes
from noria.assistant.parts.skills import SkillsPart, read_settings
from noria.core.errors import ConfigError, needing
from noria.core.experiments.gates import PairedScores
from noria.core.experiments.splits import widest_contents
from noria.core.learning.dataset import Dataset, Row
from noria.core.learning.in_order import Way
from noria.core.learning.learner import Candidate, Comparison, LearnerRun, Parent

with needing("skills"):
    from noria.skills.bank.bank import Bank, read_bank
    from noria.skills.proposing.templates import TemplateProposer
    from noria.skills.stages.gates import GateSettings
    from noria.skills.stages.route_optimizer import RouteConfig
    from noria.skills.traffic.samples import Sample
    from noria.skills.traffic.sources import sample_of

LABEL = "skill"
"""Name of the corrections that say which skill it should have been."""


def check(config: AssistantConfig) -> None:
    """Check that the learner has what it needs.

    Raises:
        ConfigError: there are no skills.
    """
    if config.parts.skills is None:
        raise ConfigError("there are no skills to learn", where="parts.skills", mend="name a bank")


def open_learner(around: Around) -> Way:
    """The learner, and what compares its candidates.

    Its test is decided by what people correct, unless the configuration names another figure: a better description
    changes the skill of an answer, which a correction tells at once and a rating only in part. The rating stays a
    guardrail.
    """
    learning = around.config.learning
    decided = {"primary": "uncorrected", "guardrails": [{"name": learning.users}]}
    own = {} if "primary" in learning.experiment else decided | learning.experiment
    return Way(DescriptionLearner(), RouteAccuracy(), own)


@dataclass(frozen=True)
class DescriptionLearner:
    """Proposes a bank whose descriptions are repaired.

    Attributes:
        config: settings of the optimizer.
        gate_settings: settings of the gate over the folds of the training split.
    """

    config: RouteConfig = ROUTES
    gate_settings: GateSettings = field(default_factory=GateSettings)
    name: str = "skill descriptions"
    gate: Literal["improvement", "equivalence"] = "improvement"

    def settings(self) -> Mapping[str, Any]:
        """Do what :meth:`Learner.settings` says."""
        return {
            "config": self.config.model_dump(mode="json"),
            "gate": self.gate_settings.model_dump(mode="json"),
            "proposer": TemplateProposer.name,
        }

    async def propose(self, data: Dataset, parent: Parent, run: LearnerRun) -> Candidate | None:
        """Do what :meth:`Learner.propose` says; None where nobody corrected a skill, or nothing passes its gate."""
        folder = parent.folder(KIND)
        samples = labelled(data.rows("train"))
        if folder is None or not samples:
            run.reasons.append("the bundle has no skills" if folder is None else "nobody corrected a skill")
            return None
        run.spending.check()
        return await asyncio.to_thread(self._propose, folder, samples, run)

    def _propose(self, folder: Path, samples: Sequence[Sample], run: LearnerRun) -> Candidate | None:
        bank, before = read_bank(folder), read_settings(folder)
        repair = repaired(
            bank,
            before,
            samples,
            salt=f"descriptions {run.seed}",
            config=self.config,
            gate=self.gate_settings,
        )
        if repair.bank == bank:
            run.reasons.append(f"of {len(samples)} corrected requests, {repair.why}")
            return None
        target = written_bank(repair.bank, repair.settings, run)
        notes = {
            **repair.notes,
            "labelled requests": len(samples),
            "evidence": _evidence(bank, repair.bank, samples),
        }
        return Candidate(KIND, target, notes=notes)


@dataclass(frozen=True)
class RouteAccuracy:
    """Compares where two banks send the labelled requests: 1 for a skill that is right, 0 for another."""

    def settings(self) -> Mapping[str, Any]:
        """Do what :meth:`Evaluator.settings` says."""
        return {"scores": "the labelled skill"}

    async def compare(
        self, rows: Sequence[Row], parent: Parent, candidate: Candidate, run: LearnerRun
    ) -> Comparison:
        """Do what :meth:`Evaluator.compare` says, on the labelled requests; the others say nothing of a route."""
        folder = parent.folder(KIND)
        assert folder is not None, "the learner proposes no bank where there was none"
        samples = labelled(rows)
        contents = {row.view.trace.id: row.example.contents for row in rows if row.example is not None}
        before, after = [
            await asyncio.to_thread(right_routes, SkillsPart(read_bank(one), read_settings(one)), samples)
            for one in (folder, candidate.folder)
        ]
        scores = PairedScores(
            [one.id for one in samples],
            [one.group for one in samples],
            before,
            after,
            [one.expected[0] for one in samples],
            contents=widest_contents([contents.get(one.id, ()) for one in samples]),
        )
        return Comparison(scores, notes={"labelled requests": len(samples), "of": len(rows)})


def _evidence(before: Bank, after: Bank, samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """For each skill whose description changed, the corrected requests that went wrong about it."""
    changed = sorted(name for name in after.skills if after.skills[name] != before.skills.get(name))
    found = []
    for name in changed:
        wrong = [s for s in samples if (s.route == name) != (name in s.expected)]
        say = f"{len(wrong)} corrected requests went to another skill, or came here wrongly"
        found.append(
            {"skill": name, "dimension": "routing", "say": say, "traces": [s.id for s in wrong[:50]]}
        )
    return found


def labelled(rows: Sequence[Row]) -> list[Sample]:
    """Requests whose right skill somebody named; of several corrections by one person the last one counts."""
    samples = []
    for row in rows:
        sample = sample_of(row.view)
        said = {
            one.by: one.text for one in row.view.feedback if one.kind == "correction" and one.name == LABEL
        }
        names = tuple(dict.fromkeys(text.strip() for text in said.values() if text and text.strip()))
        if sample is not None and (names or sample.expected):
            group = sample.group if row.example is None else row.example.group
            samples.append(replace(sample, group=group, expected=names or sample.expected))
    return samples
