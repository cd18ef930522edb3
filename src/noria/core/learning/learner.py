"""The contract of what learns: a candidate from frozen data, and its comparison with what it would replace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from noria.core.experiments.gates import PairedScores, Rule
from noria.core.learning.attribution import Attribution
from noria.core.learning.dataset import Dataset, Row
from noria.core.learning.spending import Spending
from noria.core.versions.artefacts import Artefact, ArtefactStore, Bundle

Gate = Literal["improvement", "equivalence", "noninferiority"]
"""Whether a candidate must be better, the same within a bound, or not worse while it is cheaper."""


@dataclass(frozen=True)
class Parent:
    """The bundle that a candidate would change."""

    bundle: Bundle
    store: ArtefactStore

    def artefact(self, kind: str) -> Artefact | None:
        """The bundle's artefact of a kind; None where it has none."""
        digest = self.bundle.artefacts.get(kind)
        return None if digest is None else self.store.artefact(digest)

    def folder(self, kind: str) -> Path | None:
        """Folder of the bundle's artefact of a kind, to be read only."""
        artefact = self.artefact(kind)
        return None if artefact is None else self.store.path(artefact)


@dataclass(frozen=True)
class LearnerRun:
    """Folder, seed, payments and failures of one run of a learner.

    Attributes:
        folder: folder that stays when the turn is killed; a learner resumes from what it left there.
        seed: seed of its random generators.
        spending: what it pays with; it calls `check` between steps of its own.
        failures: failures of the traces to learn from, each with its one cause. A learner mends its own causes only.
        reasons: a learner that proposes nothing adds why, in words.
    """

    folder: Path
    seed: int
    spending: Spending
    failures: Sequence[Attribution] = ()
    reasons: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Candidate:
    """A change that a learner proposes.

    Attributes:
        kind: kind of the artefact.
        folder: folder of its files.
        requires: digest of the artefact of another kind that it only works with, by kind.
        cost: cost of making the candidate, beyond the payments of its run; None where that is not known.
        notes: how it came about, as JSON values, for the receipt. The same run gives the same notes.
        by: name of the learner that made it; the turn's by default.
        gate: gate that it has to pass; the one of the turn's learner by default.
        evidence: settings of its gate that go before those of the turn, such as the bound of what counts as equal.
        experiment: settings of its experiment that go before those of the turn.
        tested: whether an experiment on traffic can tell it from its parent; else it is registered, and waits for a
            person.
    """

    kind: str
    folder: Path
    requires: Mapping[str, str] = field(default_factory=dict)
    cost: float | None = 0.0
    notes: Mapping[str, Any] = field(default_factory=dict)
    by: str = ""
    gate: Gate | None = None
    evidence: Mapping[str, float] = field(default_factory=dict)
    experiment: Mapping[str, Any] = field(default_factory=dict)
    tested: bool = True


@dataclass(frozen=True)
class Comparison:
    """Parent and candidate on the same items of the gates' split.

    Attributes:
        scores: paired scores.
        rules: further rules, such as one on costs, that must pass, too.
        notes: JSON values for the receipt.
    """

    scores: PairedScores
    rules: tuple[Rule, ...] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)


class Learner(Protocol):
    """Makes a candidate. Killed and called again with the same data it proposes the same, byte for byte."""

    @property
    def name(self) -> str:
        """Name in lineages and receipts."""
        ...

    @property
    def gate(self) -> Gate:
        """Gate that its candidates have to pass."""
        ...

    def settings(self) -> Mapping[str, Any]:
        """What decides its candidates, as JSON values: a turn resumes with the same ones only."""
        ...

    async def propose(self, data: Dataset, parent: Parent, run: LearnerRun) -> Candidate | None:
        """Propose a candidate from the split `train`; None where nothing promises to be better."""
        ...


class Evaluator(Protocol):
    """Compares a candidate with its parent on the gates' split, which the learner has not seen."""

    def settings(self) -> Mapping[str, Any]:
        """What decides the scores, as JSON values: a turn resumes with the same ones only."""
        ...

    async def compare(
        self, rows: Sequence[Row], parent: Parent, candidate: Candidate, run: LearnerRun
    ) -> Comparison:
        """Score both on the same items; a score that could not be had is NaN."""
        ...
