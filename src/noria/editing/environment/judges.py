"""Judges of plans and pictures: verifiers first, then a model under the defences, and a second model on a sample."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from PIL.Image import Image as Picture

from noria.core.chat import Part
from noria.core.judging.items import Checklist, Judge, Verdict
from noria.core.judging.judges import judged
from noria.editing.checklists.items import EditItem, items_of, part
from noria.editing.checklists.verifiers import Evidence, verified
from noria.editing.data.pictures import Scene
from noria.editing.environment.subjects import cognitive_subject, visual_subject
from noria.editing.safety import with_canaries
from noria.editing.types import Path


@dataclass(frozen=True)
class JudgeSettings:
    """Settings by which judges are asked.

    Attributes:
        in_flight: judgements under way at once.
        seconds: longest time of one judgement.
        attempts: times that a judge is asked whose verdicts are all invalid.
        one_by_one: whether each item is a request of its own: dearer, and less correlated.
        canaries: canary items that are put into every checklist that a model judges.
        cross_share: share of the judgements that the second judge makes, too.
        salt: secret that the canaries' words are made of; not to be shown to the policy.
    """

    in_flight: int = 16
    seconds: float = 60.0
    attempts: int = 2
    one_by_one: bool = False
    canaries: int = 1
    cross_share: float = 0.05
    salt: str = "noria"


@dataclass
class JudgeCounts:
    """Counts of the judges' answers so far, canaries apart.

    Attributes:
        requests: judgements that were asked of a model.
        yes, no, invalid: verdicts of models.
        verified: verdicts of verifiers.
        canaries: judgements whose canary was answered wrongly.
        crossed, agreed: items that two judges answered, and those on which they agree.
    """

    requests: int = 0
    yes: int = 0
    no: int = 0
    invalid: int = 0
    verified: int = 0
    canaries: int = 0
    crossed: int = 0
    agreed: int = 0

    @property
    def yes_rate(self) -> float | None:
        """Share of yes among the valid verdicts of models; None where there is none."""
        return self.yes / (self.yes + self.no) if self.yes + self.no else None


@dataclass(frozen=True)
class PathJudgement:
    """Verdicts on one path of a checklist, canaries among them.

    Attributes:
        checklist: items that were judged, with the canaries.
        verdicts: one an item, in its order.
        seconds: time that it took.
    """

    checklist: Checklist
    verdicts: tuple[Verdict, ...]
    seconds: float = 0.0


@dataclass
class AtomicJudges:
    """The judges of both paths. Use it from one event loop.

    Args:
        cognitive: judge of plans.
        visual: judge of pictures.
        settings: settings of the requests to the judges.
        cross: second judge, which is asked on a sample; agreement is counted and changes no reward.
    """

    cognitive: Judge
    visual: Judge
    settings: JudgeSettings = field(default_factory=JudgeSettings)
    cross: Judge | None = None
    counts: JudgeCounts = field(default_factory=JudgeCounts)

    def __post_init__(self) -> None:
        self._places = asyncio.Semaphore(self.settings.in_flight)

    async def judge_plan(
        self, checklist: Checklist, instruction: str, scene: Scene, plan: str, *, only_required: bool = False
    ) -> PathJudgement:
        """Judge a plan by the cognitive items; by the required ones alone, where only the gate asks."""
        items = part(checklist, "cognitive")
        if only_required:
            items = Checklist(tuple(i for i in items_of(items) if i.required or i.role == "canary"))
        evidence = Evidence(instruction, scene.images, plan=plan)
        subject = cognitive_subject(instruction, scene.parts, plan)
        return await self._judge("cognitive", items, evidence, subject, plan)

    async def judge_picture(
        self, checklist: Checklist, instruction: str, scene: Scene, edited: Picture
    ) -> PathJudgement:
        """Judge an edited picture by the visual items."""
        items = part(checklist, "visual")
        evidence = Evidence(instruction, scene.images, edited=edited)
        # Encoding is work of the processor: the loop goes on meanwhile.
        subject = await asyncio.to_thread(visual_subject, instruction, scene.parts, edited)
        return await self._judge("visual", items, evidence, subject, "")

    async def _judge(
        self, path: Path, items: Checklist, evidence: Evidence, subject: Sequence[Part], plan: str
    ) -> PathJudgement:
        known = await asyncio.to_thread(verified, items, evidence) if _has_verifier(items) else {}
        self.counts.verified += len(known)
        open_items = Checklist(tuple(item for item in items.items if item.id not in known))
        seconds, asked = 0.0, open_items
        if open_items.items:
            asked = with_canaries(open_items, path, self.settings.canaries, salt=self.settings.salt)
            verdicts, seconds = await self._ask(self._judge_of(path), asked, subject)
            self._count(asked, verdicts)
            known |= {one.item: one for one in verdicts}
            if self.cross is not None and self._sampled(asked, evidence, plan):
                again, _ = await self._ask(self.cross, asked, subject)
                self._compare(verdicts, again)
        whole = Checklist((*items.items, *asked.items[len(open_items.items) :]))
        return PathJudgement(whole, tuple(known[item.id] for item in whole.items), seconds)

    def _judge_of(self, path: Path) -> Judge:
        return self.cognitive if path == "cognitive" else self.visual

    async def _ask(
        self, judge: Judge, checklist: Checklist, subject: Sequence[Part]
    ) -> tuple[list[Verdict], float]:
        """Verdicts in the checklist's order, from one request or from one an item."""
        parts = [checklist]
        if self.settings.one_by_one:
            parts = [Checklist((item,)) for item in checklist.items]
        rows = await asyncio.gather(*(self._attempts(judge, one, subject) for one in parts))
        return [verdict for verdicts, _ in rows for verdict in verdicts], max(seconds for _, seconds in rows)

    async def _attempts(
        self, judge: Judge, checklist: Checklist, subject: Sequence[Part]
    ) -> tuple[Sequence[Verdict], float]:
        seconds = 0.0
        for attempt in range(1, self.settings.attempts + 1):
            async with self._places:
                self.counts.requests += 1
                result = await judged(judge, checklist, subject, name="", seconds=self.settings.seconds)
            seconds += result.seconds
            if result.invalid < len(checklist) or attempt == self.settings.attempts:
                break
        return result.verdicts, seconds

    def _count(self, checklist: Checklist, verdicts: Sequence[Verdict]) -> None:
        fooled = False
        for item, verdict in zip(items_of(checklist), verdicts, strict=True):
            if item.role == "canary":
                fooled |= verdict.value not in (item.good, "invalid")
                continue
            setattr(self.counts, verdict.value, getattr(self.counts, verdict.value) + 1)
        self.counts.canaries += fooled

    def _sampled(self, checklist: Checklist, evidence: Evidence, plan: str) -> bool:
        """Whether this judgement is among the sample: by a digest, so that a resumed run samples the same."""
        edited = b"" if evidence.edited is None else evidence.edited.tobytes()
        text = f"{self.settings.salt}\n{checklist.digest}\n{plan}\n".encode("utf-8", "replace")
        number = int.from_bytes(hashlib.sha256(text + edited).digest()[:8], "big")
        return number / 2**64 < self.settings.cross_share

    def _compare(self, one: Sequence[Verdict], other: Sequence[Verdict]) -> None:
        for first, second in zip(one, other, strict=True):
            if "invalid" not in (first.value, second.value):
                self.counts.crossed += 1
                self.counts.agreed += first.value == second.value


def _has_verifier(items: Checklist) -> bool:
    return any(isinstance(item, EditItem) and item.verifier is not None for item in items.items)
