"""What a randomised log says of a version before its test: the sign of the off-policy estimate beside the test's.

The log takes one of the skills, or none, with equal chances that it notes, whatever the request; a version is a policy
over the same choices. Its worth less the champion's is estimated from the ratings by SNIPS. The test then measures it
on other users.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from noria.assistant.proof.loop.seasons import Season, Seasons, Version
from noria.assistant.proof.loop.testing import Pair, difference, rating, who_may_rate
from noria.assistant.world.judges.labels import Given
from noria.core.experiments.lifecycle import CONTROL, TREATMENT
from noria.core.experiments.off_policy import off_policy

LOGGED, TESTED = 400, 500
"""Loops of the wishes of the log and of the tests."""
DECIDED = 1.96
"""Standard errors from which a test has a sign."""
Policy = Callable[[Sequence[str]], list[str | None]]
"""Names the skill of each request; None for none."""


def policies(seasons: Seasons) -> dict[str, Policy]:
    """Versions that a turn could propose: learnt from few or many labels, from wrong ones, and plainly bad ones."""
    season = Season(seasons.start)
    seasons.collect(season, seasons.users, 0, later=False)
    samples, _ = seasons.dealt(season)
    names = sorted(seasons.start.bank.skills)
    turned = [  # every label is that of the next skill
        type(one)(one.id, one.query, one.group, (names[(names.index(one.expected[0]) + 1) % len(names)],))
        for one in samples
    ]
    versions = {
        "all labels": seasons.repaired(seasons.start, samples, "all"),
        "an eighth of the labels": seasons.repaired(seasons.start, samples[::8], "eighth"),
        "wrong labels": seasons.repaired(seasons.start, turned, "wrong"),
    }
    found = {name: _choosing(one) for name, one in versions.items() if one is not seasons.start}
    for name in ("write-report", "shop-help", "find-products"):
        found[f"always {name}"] = lambda texts, to=name: [to] * len(texts)  # type: ignore[misc]
    found["no skill"] = lambda texts: [None] * len(texts)
    return found


def _choosing(version: Version) -> Policy:
    router = version.part.router
    return lambda texts: list(router.choose(list(texts)))


async def run_logged(seasons: Seasons) -> dict[str, Any]:
    """The estimate and the test of each version against the version that the shop opens with.

    Returns:
        Of each version: estimated and tested difference of ratings with the test's standard error; None where the
        estimate is refused.
    """
    bank = seasons.start.bank
    actions: list[str | None] = [*sorted(bank.skills), None]
    pairs = who_may_rate(
        pair
        for turn in range(2)
        for pair in seasons.pairs(seasons.users[: seasons.scale.logged], LOGGED, turn)
    )
    drawn = np.random.default_rng([seasons.seed, 13]).integers(len(actions), size=len(pairs))
    taken = [actions[n] for n in drawn]
    rewards = np.array(await _ratings(seasons, pairs, taken))
    rated = np.flatnonzero(~np.isnan(rewards))
    texts = [pairs[n][1].text for n in rated]
    champion = _choosing(seasons.start)

    tested = who_may_rate(seasons.pairs(seasons.users, TESTED, 0))
    found: dict[str, Any] = {}
    for name, policy in policies(seasons).items():
        values: list[float] = []
        for one in (policy, champion):
            chosen = one(texts)
            estimate = off_policy(
                rewards[rated],
                np.full(len(rated), 1 / len(actions)),
                [float(chosen[k] == taken[n]) for k, n in enumerate(rated)],
                generator=np.random.default_rng(seasons.seed),
                clusters=[pairs[n][0].number for n in rated],
                resamples=200,
            )
            values.append(math.nan if estimate.snips is None else estimate.snips.effect)
        effect, error = await _tested(seasons, tested, policy, champion)
        gain = values[0] - values[1]
        found[name] = {"estimate": None if math.isnan(gain) else gain, "test": effect, "error": error}
    return {"logged": found}


async def _ratings(seasons: Seasons, pairs: Sequence[Pair], skills: Sequence[str | None]) -> list[float]:
    """What users say of answers under these skills; NaN where nothing."""
    bank = seasons.start.bank
    said = np.full(len(pairs), math.nan)
    for skill in dict.fromkeys(skills):
        places = [n for n, name in enumerate(skills) if name == skill]
        part = Given(None if skill is None else bank.skills[skill])
        seen = await seasons.shop.answers([pairs[n][1] for n in places], [part])
        for n, one in zip(places, seen, strict=True):
            said[n] = rating(*pairs[n], one)
    return [float(one) for one in said]


async def _tested(
    seasons: Seasons, pairs: Sequence[Pair], policy: Policy, champion: Policy
) -> tuple[float, float]:
    """Difference of the ratings in a test of half the users each, and its standard error."""
    values = {}
    for arm, choose in ((CONTROL, champion), (TREATMENT, policy)):
        own = [pair for pair in pairs if (pair[0].number * 104729 + seasons.seed) % 2 == (arm == TREATMENT)]
        said = await _ratings(seasons, own, choose([wish.text for _, wish in own]))
        values[arm] = [one for one in said if not math.isnan(one)]
    estimate = difference(values)
    return estimate.effect, estimate.standard_error


def agreement(found: dict[str, dict[str, float | None]]) -> tuple[int, int]:
    """Number of tests with a sign that the estimate has, too, and of all tests with a sign.

    A refused estimate predicts nothing: it counts as a wrong one.
    """
    signed = [one for one in found.values() if abs(one["test"] or 0) >= DECIDED * (one["error"] or math.inf)]
    right = [
        one for one in signed if one["estimate"] is not None and one["estimate"] * (one["test"] or 0) > 0
    ]
    return len(right), len(signed)
