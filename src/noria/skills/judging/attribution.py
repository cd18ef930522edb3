"""From judged answers to what a body is to blame for: blame in order, Poor shares, and repair notes with support.

Blame goes to the first that explains a failure: routing (another skill was right), a tool (a call failed), the
infrastructure (no answer), safety (an injection or a broken safety rule), and only then the body; a Poor answer without
a skill is unserved. An outage therefore never edits prose. Nothing is edited for one answer: a dimension is repaired
where

    n_s ≥ 50   and   p_{s,d} = #Poor / #answers to which d applies  > θ_d      (SkillChain, arXiv 2606.12984)

Answers that have no points count in the denominator and are reported; they are never counted as Poor or as Good.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from noria.core.statistics.intervals import proportion_interval
from noria.skills.bank.text import commands, words
from noria.skills.judging.judges import Judged
from noria.skills.judging.rubric import CARDS, DIMENSIONS, Rubric

Blame = Literal["none", "routing", "tool", "infrastructure", "safety", "body", "unserved", "unjudged"]
BLAMES: tuple[Blame, ...] = (
    "routing",
    "tool",
    "infrastructure",
    "safety",
    "body",
    "unserved",
    "unjudged",
    "none",
)


def blame(judged: Judged) -> Blame:
    """What is to blame for a Poor answer; `none` where no dimension is Poor."""
    sample, response = judged.sample, judged.response
    if sample.expected and response.skill is not None and response.skill not in sample.expected:
        return "routing"
    if any(not call.ok for call in response.calls):
        return "tool" if response.error or "Poor" in judged.tiers.values() else "none"
    if response.error:
        return "infrastructure"
    if judged.unsafe or (commands(sample.query) and "Poor" in judged.tiers.values()):
        return "safety"
    if "Poor" in judged.tiers.values():
        return "body" if response.skill is not None else "unserved"
    return "unjudged" if judged.score is None else "none"


@dataclass(frozen=True)
class PoorShare:
    """The Poor share of a skill in one dimension.

    Attributes:
        skill, dimension: name of what is meant.
        answers: answers of the skill for whose body it is judged: all but those blamed on something else.
        applies: those to which the dimension applies.
        poor: those of them that are Poor.
        missing: those of them without points.
        threshold: share above which the body is repaired.
        low, high: 95 % interval of the share.
        least: answers that a repair needs.
    """

    skill: str
    dimension: str
    answers: int
    applies: int
    poor: int
    missing: int
    threshold: float
    low: float
    high: float
    least: int

    @property
    def share(self) -> float:
        """Poor answers over those to which the dimension applies; NaN where there is none."""
        return self.poor / self.applies if self.applies else math.nan

    @property
    def triggered(self) -> bool:
        """Whether the body is repaired."""
        return self.answers >= self.least and self.share > self.threshold


def poor_shares(judged: Sequence[Judged], rubric: Rubric) -> list[PoorShare]:
    """Poor shares by skill and dimension; answers blamed on routing, tools, outages or safety are left out."""
    by_skill: dict[str, list[Judged]] = defaultdict(list)
    for one in judged:
        if one.response.skill is not None and blame(one) in ("none", "body", "unjudged"):
            by_skill[one.response.skill].append(one)
    made = []
    for skill, answers in sorted(by_skill.items()):
        for name in DIMENSIONS:
            own = [a for a in answers if name != CARDS or a.sample.cards]
            poor = sum(a.tiers.get(name) == "Poor" for a in own)
            lacking = sum(name not in a.tiers for a in own)
            interval = proportion_interval(poor, len(own)) if own else None
            low, high = (interval.low, interval.high) if interval else (math.nan, math.nan)
            threshold = rubric.dimensions[name].trigger
            made.append(
                PoorShare(
                    skill,
                    name,
                    len(answers),
                    len(own),
                    poor,
                    lacking,
                    threshold,
                    low,
                    high,
                    rubric.least_answers,
                )
            )
    return made


@dataclass(frozen=True)
class Note:
    """A repair note: an imperative sentence without anything of a single request, and what supports it.

    Attributes:
        skill, dimension: name of what is meant.
        say: what the body should state.
        section: section of the body where it belongs.
        support: ids of the answers behind it.
        groups: number of leakage groups among them.
        source: `rule` or `judge`.
        key: rule id, or the words that its gaps share.
    """

    skill: str
    dimension: str
    say: str
    section: str
    support: tuple[str, ...]
    groups: int
    source: Literal["rule", "judge"]
    key: str


def induce(
    judged: Sequence[Judged],
    rubric: Rubric,
    skill: str,
    dimensions: Sequence[str],
    *,
    least_groups: int,
    most: int = 5,
) -> list[Note]:
    """What fails and keeps failing, as notes with support from several leakage groups.

    Args:
        judged: answers of the pool.
        rubric: the rubric, whose rules say what a body should state.
        skill: name of the skill.
        dimensions: dimensions whose Poor share is above its threshold.
        least_groups: leakage groups that a note needs.
        most: most notes.
    """
    by_id = {rule.id: rule for rule in rubric.rules}
    support: dict[tuple[str, str, str], list[Judged]] = defaultdict(list)
    said: dict[tuple[str, str, str], Counter[str]] = defaultdict(Counter)
    for one in judged:
        if one.response.skill != skill or blame(one) != "body":
            continue
        for violation in one.rules.violations:
            if violation.dimension in dimensions and one.tiers.get(violation.dimension) == "Poor":
                support["rule", violation.dimension, violation.rule].append(one)
        for name in dimensions:
            for gap in one.gaps.get(name, ()) if one.tiers.get(name) == "Poor" else ():
                place = ("judge", name, gap_key(gap))
                support[place].append(one)
                said[place][gap] += 1
    notes = []
    for (source, name, key), cases in support.items():
        groups = len({c.sample.group for c in cases})
        if groups < least_groups or not key:
            continue
        ids = tuple(dict.fromkeys(c.sample.id for c in cases))
        if source == "rule":
            rule = by_id[key]
            notes.append(Note(skill, name, rule.say, rule.section, ids, groups, "rule", key))
        else:
            gap = said[source, name, key].most_common(1)[0][0]
            notes.append(Note(skill, name, gap, "Rules", ids, groups, "judge", key))
    return sorted(notes, key=lambda n: (-n.groups, n.key))[:most]


_EMPTY = frozenset(
    words("a an the is are was of to in on for and or not no does do did it its be by with that this")
)


def gap_key(gap: str) -> str:
    """The content words of a gap, sorted: the same complaint in another order is the same one."""
    kept = sorted(
        {re.sub(r"(?:ing|ed|es|s)$", "", w) for w in words(gap) if w not in _EMPTY and not w.isdigit()}
    )
    return " ".join(kept[:8])
