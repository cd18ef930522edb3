"""A learner of the order of products: what people chose aligns the scores of searches to one unit (Uniboost).

Exposures are the items of lists that somebody chose from, and their outcome is whether it was chosen. The aligners of
the snapshot are fitted anew, so that a point of one search is worth as many choices as a point of another; its plans
and what controllers set stay as they are. No model is asked: the gate orders the shown items of other requests again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from noria.assistant.config import AssistantConfig
from noria.assistant.learners.around import Around
from noria.assistant.learners.products.choices import ShownList, gains, shown_lists
from noria.core.errors import ConfigError, DataError, needing
from noria.core.experiments.gates import PairedScores
from noria.core.experiments.splits import widest_contents
from noria.core.files import remove_folder
from noria.core.learning.dataset import Dataset, Row
from noria.core.learning.in_order import Way
from noria.core.learning.learner import Candidate, Comparison, Gate, LearnerRun, Parent

with needing("blending"):
    from noria.assistant.parts.blending import FILE, open_ranker
    from noria.blending.alignment.anchors import EffectiveCompletion
    from noria.blending.alignment.config import FitConfig
    from noria.blending.alignment.fitting import FitNote, fit_alignment
    from noria.blending.logs.gathering import JOINED, GatherConfig, partial
    from noria.blending.snapshot import Snapshot

KIND = "plans"
_CHOSEN = 1.0  # of the anchor's measure, of which half is enough


def check(config: AssistantConfig) -> None:
    """Check that the learner has what it needs.

    Raises:
        ConfigError: there is no snapshot that orders products.
    """
    if config.parts.blending is None:
        raise ConfigError(
            "there is no order of products to learn",
            where="parts.blending",
            mend="name a snapshot by noria blending fit",
        )


def open_learner(around: Around) -> Way:
    """The learner, and the order of chosen items that compares its candidates."""
    return Way(PlanLearner(), ChoiceOrder())


@dataclass(frozen=True)
class PlanLearner:
    """Proposes a snapshot whose aligners are fitted to what people chose.

    Attributes:
        fit: settings of the fit.
        gather: rules by which choices become outcomes.
        least: lists that people chose from, below which nothing is fitted.
    """

    fit: FitConfig = field(
        default_factory=lambda: FitConfig(aligner="auto", half_life=None, population="all", maturity=0.0)
    )
    gather: GatherConfig = field(
        default_factory=lambda: GatherConfig(
            anchor=EffectiveCompletion(rule="seconds", seconds=_CHOSEN / 2), maturity=0.0
        )
    )
    least: int = 50
    name: str = "plans"
    gate: Gate = "improvement"

    def settings(self) -> Mapping[str, Any]:
        """Do what :meth:`Learner.settings` says."""
        return {
            "fit": self.fit.model_dump(mode="json"),
            "gather": self.gather.model_dump(mode="json"),
            "least": self.least,
        }

    async def propose(self, data: Dataset, parent: Parent, run: LearnerRun) -> Candidate | None:
        """Do what :meth:`Learner.propose` says; None where few lists were chosen from, or nothing can be fitted."""
        folder = parent.folder(KIND)
        if folder is None:
            run.reasons.append("the bundle orders no products")
            return None
        lists = shown_lists(data.rows("train"))
        if len(lists) < self.least:
            run.reasons.append(f"people chose from {len(lists)} lists, {self.least} needed")
            return None
        run.spending.check()
        try:
            return await asyncio.to_thread(self._propose, folder, lists, run)
        except DataError as error:
            run.reasons.append(f"nothing can be fitted: {error.what}")
            return None

    def _propose(self, folder: Path, lists: Sequence[ShownList], run: LearnerRun) -> Candidate | None:
        before = Snapshot.load(folder / FILE)
        now = max(one.at for one in lists)  # of the log: the clock has no say in what is learnt
        gathered = partial(exposures(lists), self.gather, now)
        alignment, notes = fit_alignment(
            gathered.tallies, self.fit, now=now, previous=before.alignment, jump=before.plans.guards.jump
        )
        after = before.next(created=now, alignment=alignment)
        target = run.folder / "snapshot"
        remove_folder(target)  # of a run that was killed: the same choices give the same snapshot
        target.mkdir(parents=True)
        after.save(target / FILE)
        return Candidate(
            KIND,
            target,
            notes={
                "lists": len(lists),
                "exposures": gathered.rows,
                "chosen": sum(len(one.chosen) for one in lists),
                "left out": dict(gathered.dropped),
                "aligners": [_note(note) for note in notes],
                "version": after.version,
            },
        )


@dataclass(frozen=True)
class ChoiceOrder:
    """Compares where two snapshots put what people chose, among the items that they were shown."""

    def settings(self) -> Mapping[str, Any]:
        """Do what :meth:`Evaluator.settings` says."""
        return {"scores": "discounted gain of what was chosen"}

    async def compare(
        self, rows: Sequence[Row], parent: Parent, candidate: Candidate, run: LearnerRun
    ) -> Comparison:
        """Do what :meth:`Evaluator.compare` says, on the lists of which some items were chosen and others not."""
        folder = parent.folder(KIND)
        assert folder is not None, "the learner proposes no order where there was none"
        known = [one for one in shown_lists(rows) if 0 < len(one.chosen) < len(one.items)]
        old, new = [
            await asyncio.to_thread(gains, open_ranker(one, ""), known) for one in (folder, candidate.folder)
        ]
        scores = PairedScores(
            [one.trace for one in known],
            [one.group for one in known],
            np.array(old, np.float64),
            np.array(new, np.float64),
            [one.tool for one in known],
            contents=widest_contents([one.contents for one in known]),
        )
        notes = {
            "lists": len(known),
            "lists in another order": sum(a != b for a, b in zip(old, new, strict=True)),
        }
        return Comparison(scores, notes=notes)


def exposures(lists: Sequence[ShownList]) -> dict[str, Any]:
    """Items with a score and a source, and whether each was chosen, as the joined columns of a log of blending."""
    rows: list[dict[str, Any]] = [
        {
            "request": one.trace, "time": one.at, "scene": one.tool, "source": str(item["source"]), "version": "",
            "score": float(item["score"]), "outcome_time": one.at,
            "watch": _CHOSEN * (item["id"] in one.chosen),
        }
        for one in lists
        for item in one.items
        if item.get("score") is not None and item.get("source") is not None
    ]  # fmt: skip
    columns: dict[str, Any] = {}
    for name in JOINED:
        default: Any = {"control": False, "mask": 0, "account": 0.0, "copy": 1.0, "user_rows": 1.0}.get(name)
        if default is None:
            default = "" if name in ("scene", "version", "snapshot") else np.nan
        columns[name] = [row.get(name, default) for row in rows]
    return columns


def _note(note: FitNote) -> dict[str, Any]:
    return {
        "scene": note.key.scene, "source": note.key.source, "kind": note.kind, "origin": note.origin,
        "exposures": note.exposures, "rate": note.rate, "why": note.why,
    }  # fmt: skip
