"""Simulated turns, A/B tests and logs: what a gate, an experiment and an estimate do where the truth is known.

Every figure comes from the functions that a service calls; only the data are simulated. Scores are normal with the
spread of judged answers (sd 20 points), a candidate is better, equal or worse by two points with a third each, and
answers of an A/B test are yes or no.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from noria.core.experiments.gates import GateConfig, PairedScores, improvement_gate, monotone_gate
from noria.core.experiments.lifecycle import (
    CONTROL,
    TREATMENT,
    Estimate,
    ExperimentConfig,
    Reading,
    next_step,
)
from noria.core.experiments.off_policy import off_policy
from noria.core.experiments.sequential import SPLIT_ALPHA, split_evidence
from noria.core.runs.workers import report

TURNS = 12
EFFECTS = (2.0, 0.0, -2.0)
"""Points by which candidates are better, equal or worse, a third each."""
SPREAD = 20.0
"""Standard deviation of the paired difference of an item, in points."""
ITEMS = 400
"""Judged items of a gate; each is a leakage group of its own."""
RATE = 0.6
"""Share of answers that help, in A/B tests."""
HORIZON = 4000
"""Users of both arms at which an A/B test ends."""
LOOK = 100
"""New users of both arms between two looks."""
Policy = Literal["none", "monotone", "bound"]


def run_turns(policy: Policy, runs: int, seed: int) -> dict[str, float]:
    """Simulate runs of twelve turns under a gate.

    Args:
        policy: `none` takes every candidate, `monotone` one with a mean gain of at least 0, `bound` one whose lower
            bound is above 0.
        runs: number of runs.
        seed: seed of the random generator; every policy sees the same candidates and the same scores.

    Returns:
        Share of runs that end below their start, points gained at the end, and harmful candidates taken a run.
    """
    rng = np.random.default_rng(seed)
    names = [str(n) for n in range(ITEMS)]
    level = np.zeros(runs)
    harmful = 0
    for run in range(runs):
        for _ in range(TURNS):
            effect = EFFECTS[rng.integers(3)]
            gains = rng.normal(effect, SPREAD, ITEMS)
            if policy == "none" or _passes(policy, names, gains):
                level[run] += effect
                harmful += effect < 0
        if run % 20 == 0:
            report(run, runs)
    return {
        "below": float((level < 0).mean()),
        "points": float(level.mean()),
        "harmful": harmful / runs,
    }


def _passes(policy: Policy, names: list[str], gains: np.ndarray) -> bool:
    scores = PairedScores(names, names, np.zeros(len(gains)), gains)
    gate = monotone_gate if policy == "monotone" else improvement_gate
    # The floor of a slice guards skills; here all items are one skill, whose mean the gain already is.
    return gate(scores, GateConfig(floor=1e9)).accepted


def run_tests(rate: float, runs: int, seed: int) -> dict[str, float]:
    """Simulate A/B tests of a challenger, read after every hundred users in three ways.

    Args:
        rate: share of the challenger's answers that help; the champion's is .6.
        runs: number of tests.
        seed: seed of the random generator.

    Returns:
        Share of tests that the experiment's own steps promoted and rolled back, share that Student's t decided (either
        way) at any look and at the last look alone, and mean number of users until the experiment ended.
    """
    rng = np.random.default_rng(seed)
    config = ExperimentConfig(
        name="simulated", champion="a", challenger="b", salt="simulated", planned=HORIZON, least=LOOK
    )
    looks = np.arange(LOOK, HORIZON // 2 + 1, LOOK // 2)
    promoted = rolled_back = peeked = once = users = 0
    for run in range(runs):
        control = np.cumsum(rng.random(HORIZON // 2) < RATE)[looks - 1]
        treatment = np.cumsum(rng.random(HORIZON // 2) < rate)[looks - 1]
        effects = (treatment - control) / looks
        means = np.stack([control, treatment]) / looks
        errors = np.sqrt((means * (1 - means)).sum(0) / (looks - 1))
        z = effects / errors
        peeked += bool((abs(z) > 1.96).any())
        once += bool(abs(z[-1]) > 1.96)
        for n, effect, error in zip(looks.tolist(), effects.tolist(), errors.tolist(), strict=True):
            units = {CONTROL: n, TREATMENT: n}
            step = next_step(config, "ab", Reading(units, units, Estimate(effect, error)))
            if step.stage != "ab":
                break
        promoted += step.stage == "promoted"
        rolled_back += step.stage == "rolled back"
        users += 2 * n
        if run % 20 == 0:
            report(run, runs)
    shares = {
        "promoted": promoted,
        "rolled back": rolled_back,
        "peeked": peeked,
        "once": once,
        "users": users,
    }
    return {name: count / runs for name, count in shares.items()}


def run_splits(share: float, users: int, runs: int, seed: int) -> dict[str, float]:
    """Simulate how users are dealt out when an even split was planned, looked at ten times on the way.

    Args:
        share: true share of the challenger.
        users: number of users at the last look.
        runs: number of experiments.
        seed: seed of the random generator.

    Returns:
        Share of experiments that are alarmed at any look, and at the last one.
    """
    rng = np.random.default_rng(seed)
    step = users // 10
    treated = np.cumsum(rng.binomial(step, share, (runs, 10)), axis=1)
    planned = {CONTROL: 0.5, TREATMENT: 0.5}
    bound = -math.log(SPLIT_ALPHA)
    alarms = np.array(
        [
            [
                split_evidence({CONTROL: step * (k + 1) - int(t), TREATMENT: int(t)}, planned) > bound
                for k, t in enumerate(row)
            ]
            for row in treated
        ]
    )
    return {"ever": float(alarms.any(1).mean()), "last": float(alarms[:, -1].mean())}


def run_off_policy(runs: int, seed: int) -> dict[str, float]:
    """Estimate another policy from logs of a randomised one, where its worth is known.

    Returns:
        Share of intervals that hold the truth, by estimator.
    """
    rng = np.random.default_rng(seed)
    rewards = np.array([0.3, 0.5, 0.7])
    logged, policy = np.array([0.6, 0.3, 0.1]), np.array([0.1, 0.3, 0.6])
    truth = float(policy @ rewards)
    covered = dict.fromkeys(("ips", "snips", "dr"), 0)
    for run in range(runs):
        action = rng.choice(3, size=600, p=logged)
        reward = (rng.random(600) < rewards[action]).astype(float)
        predicted = np.array([0.4, 0.5, 0.6])
        estimate = off_policy(
            reward, logged[action], policy[action], generator=rng, predicted=predicted[action],
            predicted_policy=np.full(600, float(policy @ predicted)), resamples=400,
        )  # fmt: skip
        for name in covered:
            interval: Any = getattr(estimate, name)
            covered[name] += interval.low <= truth <= interval.high
        if run % 20 == 0:
            report(run, runs)
    return {name: count / runs for name, count in covered.items()}
