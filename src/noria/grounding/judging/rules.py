"""The judge without a model: words, times and opposites."""

from __future__ import annotations

from collections.abc import Sequence

from noria.core.judging import Item, RuleJudge
from noria.grounding.corpus.cues import claims_of, conflicts, cues, direction, mentions
from noria.grounding.corpus.records import Observation
from noria.grounding.judging.cases import Case, side

__all__ = ["rule_judge"]


def rule_judge(case: Case, name: str = "rules") -> RuleJudge:
    """A judge of one case by its words: cues, times, directions. It knows opposites and a few synonyms, no more."""
    claims = claims_of(case.text)
    borne = [_borne_out(claim, case.observations) for claim in claims]
    lean = direction(case.text, case.trait)

    def answer(item: Item, _: Sequence[object]) -> bool:
        kind, _, number = item.id.partition(".")
        if kind == "ec":
            return mentions(case.text, case.evidence[int(number)].description)
        if item.id == "lc.reason":
            return any(cues(claim) for claim in claims)
        if item.id == "lc.leads":
            return case.said is not None and lean == side(case.said)
        if item.id == "lc.contradicts":
            return lean is None and direction(case.text, case.trait, any_way=True) == 2
        if item.id in ("ga.none", "ga.some"):
            return bool(borne) and (item.id == "ga.some" or not all(borne))
        if kind == "ga":
            return borne[int(number)]
        return lean == side(case.true)  # who argues for no side does not argue for this one

    return RuleJudge(answer, name)


def _borne_out(claim: str, observations: Sequence[Observation]) -> bool:
    from noria.grounding.corpus.questions import spans_in, times_in

    spans = spans_in(claim) or [(t, t) for t in times_in(claim)]
    for one in observations:
        late = spans and all(b < one.start_time - 1 or a > one.end_time + 1 for a, b in spans)
        if not late and mentions(one.description, claim, least=0.6) and not conflicts(one.description, claim):
            return True
    return False
