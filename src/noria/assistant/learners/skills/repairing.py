"""Descriptions repaired from labelled requests, and whether the repair holds on people and requests that it never saw.

The evidence is too dear to set a part of it aside: where people corrected a few hundred requests, four tenths of them
for a gate leave some skill without the misroutes that a new description needs, and descriptions compete, so that one
that stays behind loses its requests to the others. So the repair is cross-validated. Each fold's people are routed by
descriptions that were drawn from other people's requests, none of which asks what the fold asks; all scores together
pass the gate, or not; and what is proposed is drawn from all requests. The turn's own gate then decides on traffic that
neither saw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from noria.assistant.learners.skills.cases import contents_of
from noria.assistant.parts.skills import NONE, SkillSettings, SkillsPart
from noria.core.errors import needing
from noria.core.experiments.gates import PairedScores, Receipt, Rule
from noria.core.experiments.splits import cross_folds, widest_contents

with needing("skills"):
    from noria.skills.bank.bank import Bank
    from noria.skills.proposing.templates import TemplateProposer
    from noria.skills.routing.confusion import RouteScores, score_routes
    from noria.skills.routing.routers import EmbeddingRouter, Routing
    from noria.skills.stages.chain import scores_json
    from noria.skills.stages.gates import GateSettings, decide
    from noria.skills.stages.route_optimizer import RouteConfig, optimize_routes
    from noria.skills.traffic.samples import Sample

FOLDS = 5
"""Parts of the people, each of which is routed by what was drawn from the others."""
TERMS = 44
"""Most terms of a description, about as many as 1,024 characters hold: after a drift of words it serves both
vocabularies. Chosen by routing on a seed of the shop that no proof judges, where 14 gave up the usual words."""

ROUTES = RouteConfig(rivals=1_000_000)
"""Settings of the optimizer. Requests are in the order of time: after a drift the first 200 would show a proposer no
request of another skill in later words."""


@dataclass(frozen=True)
class Routed:
    """A bank with the settings of its routing."""

    bank: Bank
    settings: SkillSettings

    @property
    def part(self) -> SkillsPart:
        """The part of the pipeline."""
        return SkillsPart(self.bank, self.settings)


@dataclass(frozen=True)
class Repair:
    """A bank whose descriptions are repaired.

    Attributes:
        bank: the bank; the one before where no repair held.
        settings: settings of its routing, with thresholds fitted anew.
        notes: how it came about, as JSON values.
        why: why nothing more was repaired, in words.
    """

    bank: Bank
    settings: SkillSettings
    notes: Mapping[str, Any]
    why: str


def repaired(
    bank: Bank,
    settings: SkillSettings,
    samples: Sequence[Sample],
    *,
    salt: str,
    config: RouteConfig | None = None,
    gate: GateSettings | None = None,
) -> Repair:
    """Repair descriptions from labelled requests, round by round, as long as each round holds on what it never saw.

    Args:
        bank: the bank.
        settings: settings of its routing.
        samples: labelled requests, whose groups are people.
        salt: text that deals the people to the folds.
        config: settings of the optimizer; ROUTES by default.
        gate: settings of the gate over all folds.
    """
    config, gate = config or ROUTES, gate or GateSettings()
    contents = [contents_of(one) for one in samples]
    held, others = cross_folds([one.group for one in samples], contents, FOLDS, salt=salt)
    pools = [[samples[n] for n in own] for own in others]
    whole = Routed(bank, settings)
    parts = [whole] * FOLDS
    scores = [_scores(samples, held, parts)]
    rounds: list[dict[str, Any]] = []
    why = "no other description sends more to the right skill"
    for number in range(1, config.route_rounds + 1):
        drawn = _drawn(whole, samples, config)
        if drawn.bank == whole.bank:
            break
        fresh = [_drawn(one, pool, config) for one, pool in zip(parts, pools, strict=True)]
        after = _scores(samples, held, fresh)
        receipt = _decided(samples, scores[-1], after, gate, number)
        rounds.append({"round": number, "receipt": receipt.to_json()})
        if not receipt.accepted:
            why = f"what was drawn did not hold on people and requests that it had not seen: {receipt.reason}"
            break
        whole, parts = drawn, fresh
        scores.append(after)
        why = "all rounds are done"
    notes = {
        "before": scores_json(scores[0]),
        "after": scores_json(scores[-1]),
        "rounds": rounds,
        "folds": FOLDS,
    }
    return Repair(whole.bank, whole.settings, notes, why)


def proposer() -> TemplateProposer:
    """What draws descriptions."""
    return TemplateProposer(terms=TERMS)


def right_routes(part: SkillsPart, samples: Sequence[Sample]) -> np.ndarray:
    """[samples] 1 where the part chooses a skill that is right, 0 where not."""
    chosen = part.router.choose([sample.query for sample in samples])
    return np.array(
        [float((name or NONE) in one.expected) for name, one in zip(chosen, samples, strict=True)]
    )


def _drawn(before: Routed, pool: Sequence[Sample], config: RouteConfig) -> Routed:
    """What one round of the optimizer makes of a bank, without a gate."""
    made: dict[tuple[tuple[str, str], ...], EmbeddingRouter] = {}

    def router(one: Bank) -> EmbeddingRouter:
        """The fitted router of a bank, which follows from its descriptions: the stage asks for some several times."""
        shown = tuple((skill.name, skill.description) for skill in one.routed(before.settings.project))
        if shown not in made:
            made[shown] = SkillsPart(one, before.settings).router.fitted(pool)
        return made[shown]

    once = config.model_copy(update={"route_rounds": 1})
    bank = optimize_routes(before.bank, pool, pool, router, proposer(), once, GateSettings(gate="off")).bank
    return before if bank == before.bank else Routed(bank, before.settings.fitted(router(bank)))


def _scores(samples: Sequence[Sample], held: Sequence[int], parts: Sequence[Routed]) -> RouteScores:
    """Scores of all samples, each routed by the bank of its fold."""
    routed: dict[int, Routing] = {}
    for fold, one in enumerate(parts):
        own = [n for n, at in enumerate(held) if at == fold]
        chosen = one.part.router.choose([samples[n].query for n in own])
        found = (Routing("none") if name in (None, NONE) else Routing("skill", name) for name in chosen)
        routed |= zip(own, found, strict=True)
    names = list(dict.fromkeys(skill.name for one in parts for skill in one.bank.routed()))
    return score_routes(samples, [[routed[n] for n in range(len(samples))]], names)


def _decided(
    samples: Sequence[Sample], before: RouteScores, after: RouteScores, gate: GateSettings, number: int
) -> Receipt:
    scores = PairedScores(
        [one.id for one in samples],
        [one.group for one in samples],
        before.right(),
        after.right(),
        [one.expected[0] for one in samples],
        contents=widest_contents([contents_of(one) for one in samples]),
    )
    outcome: Literal["passed", "failed"] = "passed" if after.macro_f1 >= before.macro_f1 else "failed"
    rule = Rule("macro F1", outcome, f"{before.macro_f1:.3f} before, {after.macro_f1:.3f} after")
    return decide(scores, gate, number=number, rules=[rule])
