"""Seasons of one seed in this process, by the functions that the service uses: the loop, and what it is compared with.

Users, wishes and the answers to them are the same in every arm, so that a pair differs in what was promoted alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from noria.assistant.learners.skills.cases import contents_of, dealt
from noria.assistant.learners.skills.repairing import repaired, right_routes
from noria.assistant.parts.protocol import Part
from noria.assistant.parts.skills import NONE, SkillSettings, SkillsPart
from noria.assistant.proof.loop.testing import (
    ASKED,
    Pair,
    experiment,
    rating,
    reading_of,
    stands,
    users_means,
    who_may_rate,
)
from noria.assistant.world.catalogue import catalogue
from noria.assistant.world.inside import AS_IT_IS, InsideShop, Reply, Variant
from noria.assistant.world.oracle import quality
from noria.assistant.world.shop import SKILLS, TOPICS
from noria.assistant.world.users import User, Wishes, opinion, population
from noria.core.experiments.gates import GateConfig, PairedScores, improvement_gate
from noria.core.experiments.lifecycle import CONTROL, TREATMENT, Guardrail, next_step
from noria.core.experiments.splits import widest_contents
from noria.skills.bank.bank import Bank, BankFolder
from noria.skills.traffic.samples import Sample

LOOPS = 3
"""Turns of the wheel; from the second on users speak in the later words, and ask about the new topic."""
EXAM = 900
"""Number of the loop of the exam's wishes, and what is added to the seed for its users."""
EXTRA = 700
"""First loop of the wishes in the usual words that the static arm learns from beside those of the first turn."""


@dataclass(frozen=True)
class Scale:
    """Sizes of what a seed runs.

    Attributes:
        users: users who ask, rate and correct.
        turns: questions of each before a turn of the wheel.
        rounds: most rounds of a test, in each of which every third user asks once.
        guests: users of the exam, who ask twice in the usual and twice in the later words.
        raters: users whose ratings of planted candidates are measured.
        logged: users of the randomised log.
        deals: tests that are dealt again from measured answers.
    """

    users: int
    turns: int
    rounds: int
    guests: int
    raters: int
    logged: int
    deals: int


@dataclass(frozen=True)
class Version:
    """A bank with the settings of its routing."""

    bank: Bank
    settings: SkillSettings = field(default_factory=SkillSettings)

    @property
    def part(self) -> SkillsPart:
        """The part of the pipeline."""
        return SkillsPart(self.bank, self.settings)


@dataclass
class Season:
    """One season of one arm.

    Attributes:
        version: what serves.
        labels: labelled requests so far.
        decisions: what became of each turn.
    """

    version: Version
    labels: list[Sample] = field(default_factory=list)
    decisions: list[str] = field(default_factory=list)


class Seasons:
    """Seasons of a seed.

    Args:
        seed: seed of users and wishes.
        scale: sizes.
        shop: the shop.
    """

    def __init__(self, seed: int, scale: Scale, shop: InsideShop) -> None:
        self.seed, self.scale, self.shop = seed, scale, shop
        self.wishes = Wishes(seed, catalogue(), TOPICS)
        self.start = Version(BankFolder(SKILLS).load())
        self.users = population(seed)[: scale.users]
        self.guests = population(seed + EXAM)[: scale.guests]

    async def loop(self, users: Sequence[User]) -> tuple[Season, Version]:
        """A season of the loop; and the version that served halfway through the drift."""
        season, half = Season(self.start), self.start
        for number in range(LOOPS):
            self.collect(season, users, number, later=bool(number))
            await self._turn(season, users, number)
            if number == LOOPS - 2:
                half = season.version
        return season, half

    async def once(self, users: Sequence[User]) -> Season:
        """One training on as many labels as the loop's, all of them before the drift."""
        season = Season(self.start)
        for loop in (0, *(EXTRA + extra for extra in range(1, LOOPS))):
            self.collect(season, users, loop, later=False)
        await self._turn(season, users, 0)
        return season

    def collect(self, season: Season, users: Sequence[User], loop: int, *, later: bool) -> None:
        """Labels of a loop."""
        for user in users:
            for turn in range(self.scale.turns):
                wish = self.wishes.wish(user, loop, turn, wording=int(later), new_intent=later)
                # what it should have been does not depend on the answer
                skill = opinion(user, wish, 0.5).skill
                if skill is not None:
                    season.labels.append(Sample(wish.name, wish.text, f"user {user.number}", (skill,)))

    def dealt(self, season: Season) -> tuple[list[Sample], list[Sample]]:
        """The labels to learn from, and those of the gate; no user and no request is in both, as in a turn."""
        pools = dealt(season.labels, {"learn": 0.6, "gate": 0.4}, salt=f"labels {self.seed}")
        return pools["learn"], pools["gate"]

    def repaired(self, before: Version, samples: Sequence[Sample], salt: str) -> Version:
        """What the learner of descriptions makes of a version and labelled requests."""
        repair = repaired(before.bank, before.settings, samples, salt=salt)
        return before if repair.bank == before.bank else Version(repair.bank, repair.settings)

    async def _turn(self, season: Season, users: Sequence[User], number: int) -> None:
        """Propose, gate, test on users, and promote what won."""
        learnt, gated = self.dealt(season)
        before = season.version
        after = self.repaired(before, learnt, f"{self.seed} {number}")
        if after is before:
            season.decisions.append("nothing")
            return
        scores = PairedScores(
            [one.id for one in gated], [one.group for one in gated],
            right_routes(before.part, gated), right_routes(after.part, gated), [one.expected[0] for one in gated],
            contents=widest_contents([contents_of(one) for one in gated]),
        )  # fmt: skip
        if not improvement_gate(scores, GateConfig()).accepted:
            season.decisions.append("rejected")
            return
        stage = await self._test(before, after, users, number)
        season.decisions.append(stage)
        if stage == "promoted":
            season.version = after

    async def _test(self, before: Version, after: Version, users: Sequence[User], number: int) -> str:
        """An A/B test as the learner of descriptions asks for it, read after every round; how it ended.

        Corrections decide, and the ratings are a guardrail.
        """
        rail = Guardrail(name="helpful")
        config = experiment(f"turn-{number}", (rail,), primary="uncorrected", planned=ASKED)
        parts = {CONTROL: before.part, TREATMENT: after.part}
        uncorrected: dict[str, dict[int, list[float]]] = {arm: {} for arm in parts}
        rated: dict[str, dict[int, list[float]]] = {arm: {} for arm in parts}
        for turn in range(self.scale.rounds):
            for arm, part in parts.items():
                own = [
                    user
                    for user in users[turn % 3 :: 3]
                    if (user.number * 7919 + self.seed) % 2 == (arm == TREATMENT)
                ]
                asked = self.pairs(own, 100 + number, turn, later=number > 0)
                chosen = part.router.choose([wish.text for _, wish in asked])
                for pair, skill in zip(asked, chosen, strict=True):
                    uncorrected[arm].setdefault(pair[0].number, []).append(stands(*pair, skill or NONE))
                for pair, said in await self.heard(own, 100 + number, turn, [part], later=number > 0):
                    rated[arm].setdefault(pair[0].number, []).append(said)
            seen = reading_of(users_means(uncorrected), {rail.name: users_means(rated)})
            stage = next_step(config, "ab", seen).stage
            if stage != "ab":
                return stage
        return "undecided"

    async def heard(
        self, users: Sequence[User], loop: int, turn: int, parts: Sequence[Part], *, later: bool = False
    ) -> list[tuple[Pair, float]]:
        """Who said something of the answers to a wish of each user, and what."""
        pairs = who_may_rate(self.pairs(users, loop, turn, later=later))
        seen = await self.shop.answers([wish for _, wish in pairs], parts)
        said = [(pair, rating(*pair, one)) for pair, one in zip(pairs, seen, strict=True)]
        return [(pair, value) for pair, value in said if not np.isnan(value)]

    def pairs(self, users: Sequence[User], loop: int, turn: int, *, later: bool = False) -> list[Pair]:
        """Users with their wishes of a turn."""
        return [
            (user, self.wishes.wish(user, loop, turn, wording=int(later), new_intent=later)) for user in users
        ]

    def exam(self, *, later: bool) -> list[Pair]:
        """The guests, who teach nobody, with the wishes of the exam."""
        return [
            pair for turn in range(2) for pair in self.pairs(self.guests, EXAM + later, turn, later=later)
        ]

    async def examined(
        self, parts: Sequence[Part], *, later: bool, variant: Variant = AS_IT_IS
    ) -> tuple[list[Pair], list[Reply]]:
        """The exam with the answers to it."""
        pairs = self.exam(later=later)
        return pairs, await self.shop.replies([wish for _, wish in pairs], parts, variant)

    async def quality(self, *parts: Part, later: bool) -> float:
        """Mean quality of the answers to the exam."""
        pairs, replies = await self.examined(parts, later=later)
        return float(np.mean([quality(*pair, one.seen) for pair, one in zip(pairs, replies, strict=True)]))


async def run_seasons(seasons: Seasons) -> tuple[dict[str, Any], Season]:
    """All seasons of a seed.

    Returns:
        Quality on the exam of each arm in the usual words, in the later ones and halfway through the drift, with the
        decisions of the loop with hostile users and without them; and the season of the loop.
    """
    loop, half = await seasons.loop(seasons.users)
    clean, _ = await seasons.loop(population(seasons.seed, hostile=0.0)[: seasons.scale.users])
    once = await seasons.once(seasons.users)
    found: dict[str, Any] = {
        "loop, half": await seasons.quality(half.part, later=True),
        "static, half": await seasons.quality(once.version.part, later=True),
    }
    parts: dict[str, Sequence[Part]] = {
        "loop": [loop.version.part], "static": [once.version.part], "bundle 0": [seasons.start.part],
        "without skills": [],
    }  # fmt: skip
    for name, own in parts.items():
        for later, words in ((False, "usual"), (True, "later")):
            found[f"{name}, {words}"] = await seasons.quality(*own, later=later)
    return found | {"decisions": loop.decisions, "decisions without hostile users": clean.decisions,
                    "decisions of the static arm": once.decisions}, loop  # fmt: skip
