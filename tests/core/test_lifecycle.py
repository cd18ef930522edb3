"""Experiments: an equal challenger is seldom promoted, a harmful one leaves at once, and bad splits decide nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from noria.core.experiments.assignment import assign
from noria.core.experiments.lifecycle import (
    CONTROL,
    TREATMENT,
    Estimate,
    ExperimentConfig,
    Guardrail,
    Reading,
    Step,
    next_step,
)

CONFIG = ExperimentConfig(
    name="e",
    champion="a",
    challenger="b",
    salt="saltsalt",
    guardrails=(Guardrail(name="errors", tolerance=0.01),),
)


def reading(
    control: int, treatment: int, effect: float = math.nan, error: float = math.nan, **more
) -> Reading:  # type: ignore[no-untyped-def]
    units = {CONTROL: control, TREATMENT: treatment}
    return Reading(units, more.pop("assigned", units), Estimate(effect, error), **more)


def test_the_stages_follow_each_other() -> None:
    assert next_step(CONFIG, "shadow", reading(0, 0, shadowed=99)).stage == "shadow"
    assert next_step(CONFIG, "shadow", reading(0, 0, shadowed=100)).stage == "canary"
    assert next_step(CONFIG, "canary", reading(1881, 99)).stage == "canary"
    assert next_step(CONFIG, "canary", reading(1900, 100)).stage == "ab"
    assert next_step(CONFIG, "ab", reading(500, 500, 0.2, 0.01)).stage == "promoted"
    assert next_step(CONFIG, "ab", reading(500, 500, 0.0, 0.03)).stage == "ab"
    assert next_step(CONFIG, "ab", reading(1000, 1000, 0.0, 0.03)).stage == "futile"
    assert next_step(CONFIG, "promoted", reading(1000, 1000, -1.0, 0.01)).stage == "promoted"


@pytest.mark.parametrize("stage", ["canary", "ab"])
def test_worse_leaves_at_once(stage) -> None:  # type: ignore[no-untyped-def]
    assigned = {CONTROL: 1900, TREATMENT: 100} if stage == "canary" else {CONTROL: 500, TREATMENT: 500}
    worse = next_step(CONFIG, stage, reading(500, 200, -0.3, 0.02, assigned=assigned))
    assert (worse.stage, worse.reason.split(",")[0]) == ("rolled back", "helpful is worse")
    broken = next_step(
        CONFIG,
        stage,
        reading(500, 200, 0.3, 0.02, assigned=assigned, guardrails={"errors": Estimate(-0.2, 0.01)}),
    )
    assert (broken.stage, broken.reason.split(",")[0]) == ("rolled back", "errors is worse")
    allowed = reading(500, 200, assigned=assigned, guardrails={"errors": Estimate(-0.005, 0.0001)})
    assert next_step(CONFIG, stage, allowed).stage != "rolled back"
    few = next_step(CONFIG, stage, reading(500, 99, -0.3, 0.02, assigned=assigned))
    assert few.stage == stage


def test_a_split_that_was_not_planned_decides_nothing() -> None:
    step = next_step(CONFIG, "ab", reading(700, 500, 0.3, 0.01))
    assert (step.stage, step.comparable) == ("ab", False)
    assert "not comparable: 500 challenger and 700 champion" in step.reason


def test_missing_readings_never_promote() -> None:
    assert next_step(CONFIG, "ab", reading(900, 900)).stage == "ab"
    assert next_step(CONFIG, "ab", reading(1000, 1000)).stage == "futile"


def test_users_of_the_canary_stay_with_the_challenger() -> None:
    canary, ab = CONFIG.arms("canary"), CONFIG.arms("ab")
    assert canary is not None
    assert ab is not None
    assert CONFIG.arms("shadow") is CONFIG.arms("promoted") is None
    users = [f"user {n}" for n in range(4000)]
    first = {user for user in users if assign(canary, user).arm == TREATMENT}  # type: ignore[union-attr]
    then = {user for user in users if assign(ab, user).arm == TREATMENT}  # type: ignore[union-attr]
    assert len(first) == pytest.approx(200, abs=50)
    assert len(then) == pytest.approx(2000, abs=120)
    assert first < then


def outcome(rate: float, rng: np.random.Generator) -> str:
    """Plays an A/B test of yes/no answers with a look every 50 users."""
    control = rng.random(1000) < 0.6
    treatment = rng.random(1000) < rate
    for n in range(25, 1001, 25):
        a, b = control[:n], treatment[:n]
        error = math.sqrt((a.var(ddof=1) + b.var(ddof=1)) / n)
        step = next_step(CONFIG, "ab", reading(n, n, b.mean() - a.mean(), error))
        if step.stage != "ab":
            return step.stage
    raise AssertionError("it has no end")


def test_equal_ones_are_seldom_promoted_and_harmful_ones_rolled_back() -> None:
    rng = np.random.default_rng(0)
    equal = [outcome(0.6, rng) for _ in range(600)]
    assert equal.count("promoted") / 600 < 0.03
    worse = [outcome(0.5, rng) for _ in range(150)]
    assert worse.count("promoted") == 0
    assert worse.count("rolled back") / 150 > 0.85


def test_a_winner_waits_until_the_other_figure_agrees_and_is_futile_where_it_never_does() -> None:
    config = ExperimentConfig(
        name="n", champion="a", challenger="b", salt="saltsalt", least=10, planned=1000, agrees=("score",)
    )
    units = {CONTROL: 200, TREATMENT: 200}

    def step(effect: float, number: int = 200) -> Step:
        both = dict.fromkeys(units, number)
        reading = Reading(both, both, Estimate(0.5, 0.01), agrees={"score": Estimate(effect, 0.01)})
        return next_step(config, "ab", reading)

    assert step(0.1).stage == "promoted"
    assert step(-0.1).stage == "ab"
    assert "score does not agree (-0.1)" in step(-0.1).reason
    assert step(0.0).stage == "ab", "a tie is no agreement"
    assert "nobody knows score" in step(float("nan")).reason, "what nobody knows does not agree"
    assert step(-0.1, 500).stage == "futile"
