"""Several learners in one turn: asked in their order, the cheapest first, until one has a candidate.

A candidate changes one kind of artefact, so that its gate and its experiment say what that kind is worth. What a gate
rejected for the same parent is not proposed again; the next learner has its turn instead.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from noria.core.errors import ConfigError, DataError
from noria.core.learning.dataset import Dataset, Row
from noria.core.learning.learner import Candidate, Comparison, Evaluator, Gate, Learner, LearnerRun, Parent
from noria.core.versions.artefacts import content_digest


@dataclass(frozen=True)
class Way:
    """A learner, and what compares its candidates with their parent.

    Attributes:
        learner: makes candidates.
        evaluator: compares them with their parent.
        experiment: settings of the experiments of its candidates that go before those of the turn.
    """

    learner: Learner
    evaluator: Evaluator
    experiment: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class InOrder:
    """Learner and evaluator of a turn that has several ways to a candidate.

    Attributes:
        ways: ways by the order in which they are tried.
        refused: content hashes of candidates that are not proposed again.

    Raises:
        ConfigError: there is no way, or two learners have one name.
    """

    ways: Sequence[Way]
    refused: Collection[str] = ()

    def __post_init__(self) -> None:
        names = [way.learner.name for way in self.ways]
        if not names or len(set(names)) < len(names):
            raise ConfigError("a turn needs learners of different names", where="learners")

    @property
    def name(self) -> str:
        """Names of the learners, in order."""
        return ", ".join(way.learner.name for way in self.ways)

    @property
    def gate(self) -> Gate:
        """Gate of the first learner; each candidate names its own."""
        return self.ways[0].learner.gate

    def settings(self) -> Mapping[str, Any]:
        """What decides candidates and scores: learners and evaluators in their order, and what is not tried again."""
        ways = [
            {
                "learner": way.learner.name,
                "settings": dict(way.learner.settings()),
                "evaluator": dict(way.evaluator.settings()),
                "experiment": dict(way.experiment),
            }
            for way in self.ways
        ]
        return {"ways": ways, "refused": sorted(self.refused)}

    async def propose(self, data: Dataset, parent: Parent, run: LearnerRun) -> Candidate | None:
        """The first candidate that a learner has; None where no learner has one.

        Each learner works in a folder of its own. Why those before it proposed nothing stands in the notes.
        """
        for way in self.ways:
            name = way.learner.name
            folder = run.folder / name.replace(" ", "-")
            folder.mkdir(exist_ok=True)
            own = replace(run, folder=folder, reasons=[])
            found = await way.learner.propose(data, parent, own)
            if found is None:
                run.reasons.append(f"{name}: {'; '.join(own.reasons) or 'nothing promises to be better'}")
            elif content_digest(found.kind, found.folder, found.requires) in self.refused:
                run.reasons.append(f"{name}: its candidate was rejected before")
            else:
                notes = {**found.notes, **({"asked before": list(run.reasons)} if run.reasons else {})}
                experiment = {**way.experiment, **found.experiment}
                return replace(
                    found, by=name, gate=found.gate or way.learner.gate, notes=notes, experiment=experiment
                )
        return None

    async def compare(
        self, rows: Sequence[Row], parent: Parent, candidate: Candidate, run: LearnerRun
    ) -> Comparison:
        """The comparison by the evaluator that belongs to the candidate's learner.

        Raises:
            DataError: the candidate is of none of these learners.
        """
        for way in self.ways:
            if way.learner.name == candidate.by:
                return await way.evaluator.compare(rows, parent, candidate, run)
        raise DataError(f"no learner {candidate.by!r} is among those of this turn", where="learners")
