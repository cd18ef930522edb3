"""The arms of the proof: estimators on equal rollouts, policies trained by each, and a router that writes.

Every function here is a job of its own: JSON values in, JSON values out.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from noria.core.runs.workers import report
from noria.routing.config import NetworkTraining
from noria.routing.pool.record import record
from noria.routing.proof.solvers import real_pool
from noria.routing.proof.tasks import questions
from noria.routing.rewards.calibrator import Calibrator
from noria.routing.rewards.components import FORM_ANSWER_COST, Component
from noria.routing.rewards.config import preset
from noria.routing.routers.baselines import fit_router
from noria.routing.routers.features import TextFeatures
from noria.routing.routers.learn import NetworkTrainer
from noria.routing.routers.metrics import collapsed, drawdown, gradient_shares, spread_at_end
from noria.routing.routers.network import PolicyNetwork
from noria.routing.routers.replay import (
    Disturbance,
    Replay,
    cosine,
    energies,
    exact_gradient,
    flat_gradient,
    policy_gradient,
)
from noria.routing.routers.scores import judge_router
from noria.routing.tables.imports import import_table

ESTIMATORS = {
    "GRPO": "grpo",
    "Dr.GRPO": "dr_grpo",
    "GDPO": "gdpo",
    "gates": "gates",
    "gates and variance": "no_dataset",
    "gates and data sets": "no_variance",
    "no decomposition": "no_decomposition",
    "ReCal": "recal",
    "ReCal without group deviation": "recal_dr",
    "ReCal, data sets alike": "recal_uniform",
}
"""Calibrations by the name that is shown."""
CONDITIONS = ("form", "scale", "both")
"""Three of ten rollouts unreadable; rewards × 0.2, 1 or 5 by data set; both, and a quarter of the data sets eight times
as often."""
FACTORS = (0.2, 1.0, 5.0)
OFTEN = 8.0
ENTROPIES = (0.5, 0.25, 0.1)
"""Policies at which gradients are measured: shares of the entropy of the uniform one."""
GROUP = 8
"""Rollouts of a question."""


def run_record(number: int, path: str) -> dict[str, Any]:
    """Train the real pool on `number` questions of every data set, and record it on as many others.

    Returns:
        The table's file, and the mean score and cost of every route.
    """
    pool = real_pool(questions(number, seed=0))
    held = questions(number, seed=0, skip=number)
    total, count = len(held) * len(pool.routes), itertools.count(1)

    def on_cell(*cell: Any) -> None:
        number = next(count)
        if not number % 50:
            report(number, total)

    Path(path).unlink(missing_ok=True)
    result = asyncio.run(record(pool, held, Path(path), on_cell=on_cell))
    return {"path": path, "questions": len(result.table.questions), "failed": result.failed}


def run_gradients(
    table_file: str, weights: Mapping[str, Mapping[str, float]], seed: int, batches: int, prompts: int
) -> dict[str, Any]:
    """Measure how well each estimator's gradient points along the exact gradient of macro accuracy.

    All see the same rollouts of the same policies, which are on the way that the exact gradient takes.

    Args:
        table_file: file or folder of the table.
        weights: by condition and estimator, the weight λ of the form component.
        seed: seed of the split, of the policies and of the rollouts.
        batches: number of batches at each policy.
        prompts: number of questions of a batch.

    Returns:
        {condition: {estimator: {cosine, evenness, rollouts, settings}}}: means over policies and batches, what was paid
        and the weight; evenness is of the data sets' shares of the squared gradient.
    """
    table, _ = import_table(Path(table_file)).split(0.8, seed=seed)
    features = TextFeatures.fit(table.texts, seed=seed)(table.texts)
    sets = sorted(set(table.dataset))
    replays = {c: Replay(table, features, disturbance=disturbance(c, sets)) for c in weights}
    policies = _on_the_way(Replay(table, features), seed)
    results: dict[str, Any] = {}
    count, total = itertools.count(1), len(policies) * sum(map(len, weights.values()))
    for condition, replay in replays.items():
        estimators = weights[condition]
        kept: dict[str, dict[str, list[float]]] = {e: {"cosine": [], "evenness": []} for e in estimators}
        for place, network in enumerate(policies):
            exact = exact_gradient(network, replay)
            seeds = [(seed * 10 + place) * 100_000 + n for n in range(batches)]
            rolled = [
                replay.roll(network, prompts=prompts, group=GROUP, generator=torch.Generator().manual_seed(s))
                for s in seeds
            ]
            for name, weight in estimators.items():
                calibrator = Calibrator(preset(ESTIMATORS[name], components(weight)))
                energy = dict.fromkeys(sets, 0.0)
                for n, batch in enumerate(rolled):
                    names = Replay.names
                    a = calibrator.calibrate(
                        batch.rewards, batch.group, batch.dataset, names=names
                    ).advantages
                    gradient = -flat_gradient(network, policy_gradient(network, replay, batch, a))
                    kept[name]["cosine"].append(cosine(gradient, exact))
                    if not n % 4:
                        for key, value in energies(network, replay, batch, a, sets).items():
                            energy[key] += value
                kept[name]["evenness"].append(gradient_shares(energy)[1])
                report(next(count), total)
        results[condition] = {
            name: {what: float(np.nanmean(values)) for what, values in both.items()}
            | {
                "rollouts": len(policies) * batches * prompts * GROUP,
                "settings": {"form": estimators[name]},
            }
            for name, both in kept.items()
        }
    return results


def components(form: float) -> dict[str, Component]:
    """Components form, at a weight, and answer; thrift is left out of what is measured against accuracy."""
    weights = {"form": form, "thrift": 0.0}
    own = {name: FORM_ANSWER_COST[name].model_copy(update={"weight": w}) for name, w in weights.items()}
    return FORM_ANSWER_COST | own


def disturbance(condition: str, sets: Sequence[str]) -> Disturbance:
    """Disturbance of the rollouts in a condition."""
    scale = tuple((name, FACTORS[n % 3]) for n, name in enumerate(sets))
    often = tuple((name, OFTEN) for name in sets[: max(1, len(sets) // 4)])
    if condition == "form":
        return Disturbance(form=0.3)
    if condition == "scale":
        return Disturbance(scale=scale)
    return Disturbance(form=0.3, scale=scale, often=often)


def _on_the_way(replay: Replay, seed: int) -> list[PolicyNetwork]:
    """Policies where the exact gradient, followed with Adam, has brought the entropy down to each share."""
    routes = len(replay.table.routes)
    network = PolicyNetwork(replay.features.shape[1], routes, hidden=32, seed=seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    policies, left = [], list(ENTROPIES)
    for _ in range(2000):
        with torch.no_grad():
            logp = network(replay.features).log_softmax(-1)
            share = float(-(logp.exp() * logp).sum(1).mean()) / math.log(routes)
        while left and share <= left[0]:
            policies.append(copy.deepcopy(network))
            left.pop(0)
        if not left:
            break
        gradient, at = exact_gradient(network, replay), 0
        for p in network.parameters():
            p.grad = -gradient[at : at + p.numel()].view_as(p).clone()
            at += p.numel()
        optimizer.step()
    return policies


def run_training(
    table_file: str, estimator: str, seed: int, steps: int, settings: Mapping[str, float]
) -> dict[str, Any]:
    """Train a policy in an environment that corrupts three of ten rollouts and loses one of ten.

    Args:
        table_file: file or folder of the table.
        estimator: name of the calibration.
        seed: seed of the split, of the policy and of the rollouts.
        steps: number of steps.
        settings: weight of the `form` component, reward for `entropy`, and `lr`.

    Returns:
        The curve of macro accuracy on questions that it did not see, the accuracy of each data set at the end, and what
        the curve says of stability.
    """
    weight = {"components": {"form": {"weight": settings["form"]}}}
    config = NetworkTraining(
        calibration=ESTIMATORS[estimator],
        steps=steps,
        seed=seed,
        entropy=settings["entropy"],
        lr=settings["lr"],
        changes=weight,
    )
    return _train(table_file, config, Disturbance(form=0.3, lost=0.1), settings)


def run_default(table_file: str, seed: int) -> dict[str, Any]:
    """Train a policy as `noria routing train` does by default, beside baselines that need no training.

    Returns:
        What `run_training` returns, and `baselines`: macro accuracy of each, fitted and judged on the same questions.
    """
    config = NetworkTraining(seed=seed)
    result = _train(table_file, config, None, {"entropy": config.entropy, "lr": config.lr})
    train, held = import_table(Path(table_file)).split(1 - config.held_out, seed=seed)
    fitted = {kind: fit_router(kind, train) for kind in ("best_single", "best_per_task", "knn")}
    return result | {"baselines": {kind: judge_router(r, held).macro for kind, r in fitted.items()}}


def _train(
    table_file: str, config: NetworkTraining, wrong: Disturbance | None, settings: Mapping[str, float]
) -> dict[str, Any]:
    torch.set_num_threads(1)
    steps = config.steps
    trainer = NetworkTrainer(import_table(Path(table_file)), config, disturbance=wrong)
    curve = [trainer.evaluate().macro]
    every = max(1, steps // 40)
    while trainer.step < steps:
        trainer.advance()
        if not trainer.step % every:
            curve.append(trainer.evaluate().macro)
            report(trainer.step, steps, f"macro {curve[-1]:.3f}")
    end = trainer.evaluate()
    return {
        "curve": curve,
        "macro": end.macro,
        "accuracy": dict(end.accuracy),
        "cost": end.cost,
        "rollouts": steps * config.prompts * config.group,
        "settings": dict(settings),
        **stability(curve),
    }


def stability(curve: Sequence[float]) -> dict[str, Any]:
    """Figures of a curve's stability: its spread at the end, its deepest fall, and whether it collapsed."""
    return {"spread": spread_at_end(curve), "drawdown": drawdown(curve), "collapsed": collapsed(curve)}
