"""Cases of judging reasons. A case is one trait's rationale, with a checklist that chat models or rules answer.

Four dimensions (MM-OCEAN, arXiv 2605.22109, Sec. 4.3), each a path of a checklist about one trait's rationale:

* evidence coverage: does it name what the reference rests on?
* logical coherence: does it give reasons, do they lead to its level, does it keep to its word?
* grounding accuracy: is each thing it claims borne out by the verified observations?
* directional accuracy: does it argue for the true level's side? That the level itself is right is read off, not asked.

A dimension's score is 1 + 9 × the share of its items that went well, so 1 … 10. `graded` asks for the four scores
themselves, as the paper does. Either way a reply that cannot be read is missing, and never a low score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from noria.core.chat import Text
from noria.core.judging import Checklist, Item, Verdict, score_paths
from noria.grounding.asking.prompts import observation_lines
from noria.grounding.corpus.cues import alike, claims_of
from noria.grounding.corpus.records import Corpus, Observation, Record
from noria.grounding.corpus.types import DIMENSIONS, LEVELS, TRAITS, Bins, Polarity, level_number
from noria.grounding.scoring.predictions import Prediction

EC, LC, GA, DA = DIMENSIONS
MOST_CLAIMS = 6


@dataclass(frozen=True)
class Case:
    """One trait's rationale, and what it is judged by.

    Attributes:
        video, trait: video and trait of the rationale.
        text: the rationale.
        said: the level that the model gave, 0 … 4, or None.
        true: the true level.
        observations: verified observations of the clip.
        evidence: observations that the reference rests on.
        reference: the reference rationale.
    """

    video: str
    trait: str
    text: str
    said: int | None
    true: int
    observations: tuple[Observation, ...]
    evidence: tuple[Observation, ...]
    reference: str

    @property
    def id(self) -> str:
        """Name of the case."""
        return f"{self.video}/{self.trait}"


def cases_of(
    corpus: Corpus,
    predictions: Mapping[str, Prediction],
    bins: Bins = "paper",
    polarity: Polarity = "as_released",
) -> list[Case]:
    """Every rationale of every video; a trait without one, or without a true level, has no case.

    Args:
        corpus: whole records.
        predictions: predictions by video.
        bins, polarity: rule of the true levels, the same that the answers are scored by.
    """
    cases = []
    for record, levels in zip(corpus, corpus.levels(bins, polarity), strict=True):
        one = predictions.get(record.video_id)
        if one is None:
            continue
        for trait, true in zip(TRAITS, levels.tolist(), strict=True):
            text = one.rationales.get(trait, "").strip()
            if text and true >= 0:
                analysis = record.analysis(trait)
                cases.append(
                    Case(
                        record.video_id,
                        trait,
                        text[:4000],
                        level_number(one.levels.get(trait)),
                        true,
                        record.observations,
                        _evidence(record, trait),
                        analysis.rationale if analysis else "",
                    )
                )
    return cases


def _evidence(record: Record, trait: str) -> tuple[Observation, ...]:
    """The observations that the reference cites; where it cites none (the release), the three most like its words."""
    analysis = record.analysis(trait)
    if analysis is None:
        return ()
    if analysis.evidence:
        return tuple(record.observations[n] for n in analysis.evidence if n < len(record.observations))
    ranked = sorted(record.observations, key=lambda one: -alike(one.description, analysis.rationale))
    return tuple(one for one in ranked[:3] if alike(one.description, analysis.rationale) > 0)


def rubric(case: Case) -> Checklist:
    """The questions about a case. Words that models wrote are in the material; a question gives their numbers."""
    trait = case.trait.capitalize()
    level = "no level" if case.said is None else LEVELS[case.said]
    lean = {-1: "low", 0: "medium", 1: "high"}[side(case.true)]
    items = [
        Item(f"ec.{n}", f"Does the text name cue {n + 1}, in whatever words?", EC)
        for n in range(len(case.evidence))
    ]
    items += [
        Item("lc.reason", "Does the text give at least one thing that is seen or heard as a reason?", LC),
        Item(
            "lc.leads", f"Do the reasons that the text gives lead to its own level of {trait}, {level}?", LC
        ),
        Item("lc.contradicts", f"Does the text contradict itself about {trait}?", LC, good="no"),
    ]
    claims = claims_of(case.text)[:MOST_CLAIMS]
    items += [
        Item(f"ga.{n}", f"Do the observations bear out claim {n + 1} of the text?", GA)
        for n in range(len(claims))
    ]
    made_up = "Does the text claim anything seen or heard that no observation bears out?"
    some = "Does the text claim anything that is seen or heard?"
    items.append(Item("ga.none", made_up, GA, good="no") if claims else Item("ga.some", some, GA))
    items.append(Item("da.side", f"Does the text argue for a {lean} {trait}?", DA))
    return Checklist(tuple(items))


def side(level: int) -> int:
    """Which side of the middle a level is on: 1, −1, or 0 for the middle."""
    return (level > 2) - (level < 2)


def subject(case: Case) -> list[Text]:
    """What a judge reads, besides the questions."""
    level = "none" if case.said is None else LEVELS[case.said]
    claims = claims_of(case.text)[:MOST_CLAIMS]
    parts = [f"The text, about the trait {case.trait}; the level it gives: {level}.\n{case.text}"]
    if claims:
        parts.append("Claims of the text:\n" + _numbered(claims))
    if case.evidence:
        parts.append("Cues:\n" + _numbered([one.description for one in case.evidence]))
    parts.append("Verified observations of the clip:\n" + observation_lines(case.observations))
    return [Text(part) for part in parts]


def _numbered(lines: Sequence[str]) -> str:
    return "\n".join(f"{n}. {' '.join(line.split())}" for n, line in enumerate(lines, start=1))


def dimensions(case: Case, checklist: Checklist, verdicts: Sequence[Verdict]) -> dict[str, float]:
    """{dimension: 1 … 10}; a dimension without a valid verdict is left out.

    So is coverage where the reference rests on nothing that could be covered.
    """
    scores = {}
    for path, score in score_paths(checklist, verdicts).items():
        value = score.value
        if value is not None and path == DA:
            value = 0.5 * value + 0.5 * (case.said == case.true)
        if value is not None:
            scores[path] = 1 + 9 * value
    return scores
