"""A learner of skill descriptions: requests that went to the wrong skill redraw the descriptions (SkillChain, stage 2).

The evidence is what people said: a correction named `skill`, whose text is the skill that it should have been, or
`none`. The candidate is a bank that differs in descriptions alone, with thresholds that are fitted anew. The gate
compares where both banks send the labelled requests of other leakage groups; nothing is asked of a model.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from noria.assistant.parts.skills import SETTINGS, SkillSettings, SkillsPart, write_artefact
from noria.core.config import parse_config
from noria.core.errors import needing
from noria.core.experiments.gates import PairedScores
from noria.core.files import read_bytes
from noria.core.learning.dataset import Dataset, Row
from noria.core.learning.learner import Candidate, Comparison, LearnerRun, Parent

with needing("skills"):
    from noria.skills.bank.bank import Bank, read_bank
    from noria.skills.proposing.templates import TemplateProposer
    from noria.skills.routing.routers import EmbeddingRouter
    from noria.skills.stages.chain import route_summary
    from noria.skills.stages.gates import GateSettings
    from noria.skills.stages.route_optimizer import RouteConfig, optimize_routes
    from noria.skills.traffic.pools import deal_pools
    from noria.skills.traffic.samples import Sample
    from noria.skills.traffic.sources import sample_of

KIND = "skills"
LABEL = "skill"
"""Name of the corrections that say which skill it should have been."""
_SHARES = {"pool": 0.6, "gate": 0.4}  # of the turn's training groups: evidence, and the optimizer's own gate


@dataclass(frozen=True)
class DescriptionLearner:
    """Proposes a bank whose descriptions are repaired.

    Attributes:
        config: settings of the optimizer.
        gate_settings: settings of the optimizer's own gate, within the training split.
    """

    config: RouteConfig = field(default_factory=RouteConfig)
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
            return None
        run.spending.check()
        return await asyncio.to_thread(self._propose, folder, samples, run)

    def _propose(self, folder: Path, samples: Sequence[Sample], run: LearnerRun) -> Candidate | None:
        bank, settings = read_bank(folder), read_settings(folder)
        pools = deal_pools(samples, salt=f"descriptions {run.seed}", shares=_SHARES)

        def router(bank: Bank) -> EmbeddingRouter:
            return SkillsPart(bank, settings).router.fitted(pools["pool"])

        result = optimize_routes(
            bank, pools["pool"], pools["gate"], router, TemplateProposer(), self.config, self.gate_settings
        )
        if result.bank == bank:
            return None
        target = run.folder / "bank"
        shutil.rmtree(
            target, ignore_errors=True
        )  # of a run that was killed: the same samples give the same bank
        target.mkdir(parents=True)
        write_artefact(result.bank, target, settings.fitted(router(result.bank)))
        notes = route_summary(result) | {"labelled requests": len(samples)}
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
        groups = {row.view.trace.id: row.example.group for row in rows if row.example is not None}
        before, after = [
            await asyncio.to_thread(right_routes, SkillsPart(read_bank(one), read_settings(one)), samples)
            for one in (folder, candidate.folder)
        ]
        scores = PairedScores(
            [one.id for one in samples],
            [groups.get(one.id, one.group) for one in samples],
            before,
            after,
            [one.expected[0] for one in samples],
        )
        return Comparison(scores, notes={"labelled requests": len(samples), "of": len(rows)})


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
            samples.append(replace(sample, expected=names or sample.expected))
    return samples


def right_routes(part: SkillsPart, samples: Sequence[Sample]) -> np.ndarray:
    """[samples] 1 where the part chooses a skill that is right, 0 where not."""
    chosen = part.router.choose([sample.query for sample in samples])
    return np.array(
        [float((name or "none") in one.expected) for name, one in zip(chosen, samples, strict=True)]
    )


def read_settings(folder: Path) -> SkillSettings:
    """Settings of a bank's artefact."""
    path = folder / SETTINGS
    return (
        parse_config(SkillSettings, read_bytes(path), where=str(path)) if path.exists() else SkillSettings()
    )
