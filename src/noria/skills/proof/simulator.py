"""A causal simulation: an assistant that obeys what its body states, a judge with bias and noise, proposers that harm.

By construction a need is met with probability .95 where the body says its sentence, .75 where the body names the fault,
and .35 else; these are settings of the world and no claim. Judges name faults in three wordings each and never the
sentence. Answers are real texts with calls and cards, so that the whole product runs on them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from noria.skills.bank.bank import Bank
from noria.skills.bank.editing import Edit
from noria.skills.judging.judges import Opinion
from noria.skills.judging.rubric import DIMENSIONS, all_score
from noria.skills.proof.world import NEEDS, TOOLS, chance, rubric
from noria.skills.proposing.protocols import EditTask
from noria.skills.proposing.templates import TemplateProposer
from noria.skills.traffic.samples import NO_SKILL, Call, Response, Sample

RATES = {"said": 0.95, "named": 0.75, "": 0.35}
"""Chance that a need is met by how the body states it: in its own sentence, as a named fault, or not at all."""
SPOILT = 0.10
HARM = "Keep every answer as short as can be and leave out what was not asked."
"""A sentence that sounds good and makes an assistant leave out reasons, next steps and names."""
SPURIOUS = (
    "use warmer words",
    "avoid passive voice",
    "mention the brand",
    "repeat the question",
    "shorter sentences",
)


@dataclass(frozen=True)
class ObedientAssistant:
    """Answers by the needs that it obeys.

    Attributes:
        seed: seed of its whims.
    """

    seed: int
    name: str = "simulated"

    def answer(self, samples: Sequence[Sample], skills: Sequence[str | None], bank: Bank) -> list[Response]:
        """One response a sample."""
        return [self._one(s, k, bank) for s, k in zip(samples, skills, strict=True)]

    def _one(self, sample: Sample, skill: str | None, bank: Bank) -> Response:
        body = bank.skills[skill].body if skill is not None and skill in bank.skills else ""
        harmed = HARM in body
        met = {}
        for need in NEEDS:
            how = need.stated(body)
            rate = SPOILT if harmed and not need.structural else RATES[how]
            met[need.id] = chance(self.seed, sample.id, skill, need.id, how, harmed) < rate
        words = [f"here is what was found about the {sample.evidence.get('found')}"]
        words += [need.token for need in NEEDS if need.token and met[need.id] and need.id != "source"]
        if met["source"]:
            words.append("[source]")
        calls = (Call(TOOLS[skill], {}),) if met["tool"] and skill in TOOLS else ()
        cards = ({"title": str(sample.evidence.get("found")), "price": 5},) if met["cards"] else ()
        return Response(" ".join(words), calls, cards, "", skill)


def truth(sample: Sample, response: Response) -> dict[str, float | None]:
    """True points of an answer by dimension; a wrong skill serves the wrong need, whatever its form."""
    words = response.text.split()
    wrong = response.skill is None or response.skill not in sample.expected
    if response.skill is None and NO_SKILL not in sample.expected:
        wrong = False  # an assistant without skills answers in its own way
    met = {need.id: need.token in words for need in NEEDS if need.token}
    content = sum(met[n.id] for n in NEEDS if n.dimension == "CQ") / 3
    points: dict[str, float | None] = {
        "TCR": 10.0 if response.calls else 3.0,
        "CCC": (10.0 if response.cards else 0.0) if sample.cards else None,
        "CQ": 20.0 * content,
        "CA": 10.0 * (met["source"] + met["caution"]) / 2,
    }
    if wrong:
        points = {name: None if value is None else 0.25 * value for name, value in points.items()}
    return points


def true_score(sample: Sample, response: Response) -> float:
    """True J_all of an answer, in percent."""
    score = all_score(truth(sample, response), rubric(), cards=bool(sample.cards))
    assert score is not None
    return score


@dataclass(frozen=True)
class NoisyJudge:
    """A judge that sees the truth with bias and noise, misses gaps, and makes some up.

    Attributes:
        seed: seed of its noise.
        noise: standard deviation of its noise, as a share of the points.
        bias: what it adds, as a share of the points.
        blind: whether it gives points alone.
        loves_length: points that a hundred further characters add, as a share.
        name: name of the judge.
    """

    seed: int
    noise: float = 0.15
    bias: float = 0.05
    blind: bool = False
    loves_length: float = 0.0
    name: str = "noisy"

    def judge(
        self, cases: Sequence[tuple[Sample, Response]], bodies: Mapping[str, str] | None
    ) -> list[Opinion]:
        """One opinion a case."""
        return [self._one(sample, response) for sample, response in cases]

    def _one(self, sample: Sample, response: Response) -> Opinion:
        maxima = rubric().dimensions
        generator = np.random.default_rng(int(chance(self.seed, self.name, sample.id, response.text) * 2**52))
        points: dict[str, float | None] = {}
        for name, value in truth(sample, response).items():
            top = maxima[name].points  # type: ignore[index]
            seen = None if value is None else value + top * (self.bias + self.noise * generator.normal())
            seen = None if seen is None else seen + top * self.loves_length * len(response.text) / 100
            points[name] = None if seen is None else float(np.clip(np.rint(seen), 0, top))
        if self.blind:
            return Opinion(points)
        words = response.text.split()
        gaps = [
            str(generator.choice(n.faults))
            for n in NEEDS
            if not n.structural and n.token not in words and generator.random() < 0.6
        ]
        if generator.random() < 0.3:
            gaps.append(str(generator.choice(SPURIOUS)))
        return Opinion(points, {"CQ": tuple(gaps)})


class HarmfulProposer(TemplateProposer):
    """A proposer of which a share of the repairs harms.

    Args:
        generator: draws which.
        share: share that harms.
    """

    name = "harmful"

    def __init__(self, generator: np.random.Generator, share: float = 0.3) -> None:
        super().__init__()
        self._generator, self.share = generator, share

    def edits(self, task: EditTask) -> list[Edit]:
        """Edits of a body, or the one that harms."""
        found = super().edits(task)
        if found and self._generator.random() < self.share:
            return [replace(found[0], text=f"- {HARM}")]
        return found


def points_of(values: Mapping[str, float | None]) -> list[float]:
    """Points in the order of the dimensions, NaN where missing."""
    return [float("nan") if (value := values.get(name)) is None else value for name in DIMENSIONS]
