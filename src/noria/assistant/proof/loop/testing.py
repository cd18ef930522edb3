"""A/B tests of the proof: readings, looks and decisions are the functions of the service.

A user of the shop says nothing of most answers, whatever they are, and its draws follow from its wish. So only wishes
of which somebody could say something are answered: what is read is the same as if all had been.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from noria.assistant.world.oracle import Seen, satisfaction
from noria.assistant.world.users import User, Wish, opinion
from noria.core.experiments.lifecycle import (
    CONTROL,
    TREATMENT,
    Estimate,
    ExperimentConfig,
    Guardrail,
    Reading,
    Stage,
    next_step,
)

PLANNED = 400
"""Users who rated, of both arms, at which a test on ratings ends."""
ASKED = 1200
"""Users who asked, of both arms, at which a test on corrections ends."""
LOOK = 50
"""Users who rated between two looks of a test that is dealt again."""
Pair = tuple[User, Wish]


def experiment(
    name: str, guardrails: tuple[Guardrail, ...] = (), *, primary: str = "helpful", planned: int = PLANNED
) -> ExperimentConfig:
    """Settings of a test on users; by default on those who rate."""
    return ExperimentConfig(
        name=name, champion="a" * 64, challenger="b" * 64, salt="the proof's", shadow_requests=0, canary_units=0,
        primary=primary, planned=planned, least=30, guardrails=guardrails,
    )  # fmt: skip


def who_may_rate(pairs: Iterable[Pair]) -> list[Pair]:
    """Those of which something could be said: an answer that is wholly right or wrong is rated most often."""
    return [(user, wish) for user, wish in pairs if opinion(user, wish, 1.0).rating is not None]


def rating(user: User, wish: Wish, seen: Seen) -> float:
    """What a user says of an answer; NaN where it says nothing."""
    said = opinion(user, wish, satisfaction(user, wish, seen)).rating
    return math.nan if said is None else said


def stands(user: User, wish: Wish, skill: str) -> float:
    """Whether the choice of a skill is left as it is: 0 where the user says that it should have been another one."""
    said = opinion(user, wish, 0.5).skill  # which does not depend on the answer
    return float(said is None or said == skill)


def users_means(values: Mapping[str, Mapping[int, Sequence[float]]]) -> dict[str, list[float]]:
    """Means of users by arm, so that each user counts once."""
    return {arm: [float(np.mean(own)) for own in users.values()] for arm, users in values.items()}


def reading_of(
    means: Mapping[str, Sequence[float]], guarded: Mapping[str, Mapping[str, Sequence[float]]] | None = None
) -> Reading:
    """What users' values by arm say, with those of guardrails by their names."""
    counts = {arm: len(own) for arm, own in means.items()}
    rails = {name: difference(values) for name, values in (guarded or {}).items()}
    return Reading(counts, counts, difference(means), rails)


def difference(values: Mapping[str, Sequence[float]]) -> Estimate:
    """Difference of the arms' means with Welch's standard error; NaN below two users in an arm."""
    if min(len(own) for own in values.values()) < 2:
        return Estimate(math.nan, math.nan)
    error = math.sqrt(sum(float(np.var(own, ddof=1)) / len(own) for own in values.values()))
    return Estimate(float(np.mean(values[TREATMENT]) - np.mean(values[CONTROL])), error)


def dealt_again(
    champion: Sequence[float],
    challenger: Sequence[float],
    rng: np.random.Generator,
    guarded: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None,
    guardrails: tuple[Guardrail, ...] = (),
) -> Stage:
    """The end of a test in which users are drawn from measured ones and dealt to the arms.

    Args:
        champion, challenger: [users] what each user says of either answer; NaN where it says nothing.
        rng: draws the users, with replacement, and deals them.
        guarded: values of the users on guardrails, by their names: of the champion's and of the challenger's answer.
        guardrails: the guardrails.
    """
    config = experiment("dealt-again", guardrails)
    users = rng.integers(len(champion), size=8 * PLANNED)
    treated = rng.random(len(users)) < 0.5
    said = np.where(treated, np.asarray(challenger)[users], np.asarray(champion)[users])
    heard = np.flatnonzero(~np.isnan(said))[: PLANNED + LOOK]
    rails = {
        name: np.where(treated, np.asarray(new)[users], np.asarray(old)[users])
        for name, (old, new) in (guarded or {}).items()
    }
    stage: Stage = "ab"
    for end in range(LOOK, len(heard) + 1, LOOK):
        seen = heard[:end]
        means = _by_arm(said, treated, seen)
        whole = np.arange(seen[-1] + 1)
        by_rail = {name: _by_arm(values, treated, whole) for name, values in rails.items()}
        stage = next_step(config, "ab", reading_of(means, by_rail)).stage
        if stage != "ab":
            break
    return stage


def _by_arm(values: np.ndarray, treated: np.ndarray, places: np.ndarray) -> dict[str, list[float]]:
    """Known values at some places, by arm."""
    found = {}
    for arm, mine in ((CONTROL, ~treated), (TREATMENT, treated)):
        own = values[places][mine[places]]
        found[arm] = [float(one) for one in own[~np.isnan(own)]]
    return found
