"""Training of the policy that chooses: it learns, it resumes to the bit, and its gradient is what it should be."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from noria.core.config import load_config
from noria.core.errors import CheckpointError, ConfigError, DataError
from noria.core.runs.run import Run
from noria.routing.config import NetworkTraining, WriterTraining
from noria.routing.routers.baselines import fit_router
from noria.routing.routers.features import TextFeatures
from noria.routing.routers.learn import NetworkTrainer
from noria.routing.routers.metrics import judge
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
from noria.routing.tables.table import Cell, Question, Route, table_of
from noria.routing.verbs.train import TrainConfig, resolve
from tests.routing.tables import small_table

TABLE = small_table(150)
SMALL = {"width": 16, "hidden": 16, "prompts": 32, "group": 8, "eval_every": 10, "lr": 1e-2}


def training(**settings: Any) -> NetworkTraining:
    return NetworkTraining(**SMALL | settings)


def weights(trainer: NetworkTrainer) -> list[torch.Tensor]:
    return [p.detach().clone() for p in trainer.network.parameters()]


@pytest.mark.parametrize("calibration", ["recal", "grpo", "gdpo", "recal_uniform"])
def test_it_learns_whom_to_ask(calibration: str) -> None:
    trainer = NetworkTrainer(TABLE, training(calibration=calibration, steps=150, thrift=0.0))
    start = trainer.evaluate()
    for _ in range(150):
        trainer.advance()
    end = trainer.evaluate()
    single = fit_router("best_single", trainer.train)
    best = judge(
        single.choose(trainer.held.texts), trainer.held.score, trainer.held.cost, trainer.held.dataset
    )
    assert end.micro > start.micro + 0.2
    assert end.micro > best.micro + 0.05


def test_thrift_chooses_the_cheaper_of_two_that_are_right() -> None:
    rows = [
        (q, route, Cell(1.0, price), "")
        for q in TABLE.questions
        for route, price in ((Route("dear"), 16.0), (Route("cheap"), 1.0))
    ]
    equal = table_of(rows)

    def cost(thrift: float) -> float:
        trainer = NetworkTrainer(equal, training(thrift=thrift, entropy=0.0))
        for _ in range(40):
            trainer.advance()
        chances = trainer.router().quality(trainer.held.texts).mean(0)
        return float(chances @ np.array([16.0, 1.0]))

    assert cost(0.0) == pytest.approx(8.5)  # nothing to tell them apart
    assert cost(0.3) < 2.0


def test_killed_it_goes_on_to_the_bit(tmp_path: Path) -> None:
    config = training(steps=12, checkpoint_every=4)
    whole = NetworkTrainer(TABLE, config)
    with Run.open(tmp_path / "whole", config={}) as run:
        whole.run(run)
    part = NetworkTrainer(TABLE, config)

    class Killed(Exception):
        pass

    def kill(step: int, figures: object) -> None:
        if step == 7:
            raise Killed

    with Run.open(tmp_path / "part", config={}) as run, pytest.raises(Killed):
        part.run(run, on_step=kill)
    again = NetworkTrainer(TABLE, config)
    with Run.open(tmp_path / "part", config={}) as run:
        assert again.resume(run)
        assert again.step == 4
        again.run(run)
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(again), strict=True))
    assert again.calibrator.state_dict() == whole.calibrator.state_dict()
    read = lambda name: (tmp_path / name / "metrics.jsonl").read_text()  # noqa: E731
    assert read("whole") == read("part")
    other = NetworkTrainer(TABLE, training(hidden=8))
    with Run.open(tmp_path / "part", config={}) as run, pytest.raises(CheckpointError, match="network"):
        other.resume(run)


def test_it_learns_to_leave_a_route_that_fails() -> None:
    """One route is right half of the time, one always fails, one is right six times in ten."""
    generator = np.random.default_rng(0)
    rows = [
        (Question(f"q{n}", "d", f"what is {n}", ("1",), "exact"), Route(name), cell, "")
        for n in range(300)
        for name, cell in (
            ("half", Cell(float(generator.random() < 0.5), 1.0, "1")),
            ("dead", Cell(failure="timeout: no answer")),
            ("most", Cell(float(generator.random() < 0.6), 1.0, "1")),
        )
    ]
    trainer = NetworkTrainer(table_of(rows), training(steps=60))
    for _ in range(60):
        trainer.advance()
    assert trainer.router().quality(trainer.train.texts)[:, 1].mean() < 0.05
    end = trainer.evaluate()
    assert (end.availability, end.failed) == (1, 0)
    assert end.scored == end.questions == 60


def test_thrift_without_a_cost_is_refused() -> None:
    free = table_of((q, r, Cell(1.0, response="x"), "") for q in TABLE.questions for r in TABLE.routes)
    with pytest.raises(DataError, match="no cost is known"):
        NetworkTrainer(free, training(thrift=0.3))
    NetworkTrainer(free, training())


def test_the_default_settings_are_those_of_the_proof() -> None:
    """LLMRouter's table loses to its best single model where thrift is paid and entropy is not."""
    config = NetworkTraining()
    assert (config.thrift, config.entropy) == (0.0, 0.1)
    assert WriterTraining().thrift == 0.0


def test_a_table_without_scores_is_refused() -> None:
    nothing = table_of((q, r, Cell(), "") for q in TABLE.questions for r in TABLE.routes)
    with pytest.raises(DataError, match="no score"):
        NetworkTrainer(nothing, training())


# -- gradients ---------------------------------------------------------------------------------------------------


def replay(**disturbance: Any) -> Replay:
    features = TextFeatures.fit(TABLE.texts, width=16)
    return Replay(TABLE, features(TABLE.texts), disturbance=Disturbance(**disturbance))


def network() -> PolicyNetwork:
    made = PolicyNetwork(16, 4, hidden=8)
    torch.manual_seed(1)
    torch.nn.init.normal_(made.outer.weight, std=0.3)
    return made


def test_the_exact_gradient_is_that_of_the_macro_accuracy() -> None:
    """Against a finite difference of the accuracy computed with NumPy alone."""
    r, n = replay(), network()

    def value() -> float:
        with torch.no_grad():
            chances = n(r.features).softmax(-1).double().numpy()
        each = (chances * TABLE.score).sum(1)
        names = np.array(TABLE.dataset)
        return float(np.mean([each[names == name].mean() for name in sorted(set(names))]))

    gradient = exact_gradient(n, r)
    direction = torch.randn(len(gradient), generator=torch.Generator().manual_seed(0))
    direction /= direction.norm()
    step = 1e-2

    def move(by: float) -> None:
        at = 0
        for p in n.parameters():
            p.data += by * direction[at : at + p.numel()].view_as(p)
            at += p.numel()

    move(step)
    up = value()
    move(-2 * step)
    down = value()
    assert (up - down) / (2 * step) == pytest.approx(float(gradient @ direction), rel=0.02, abs=1e-5)


def test_many_rollouts_point_along_the_exact_gradient() -> None:
    """Dr.GRPO's centring is unbiased up to scale, so the sum over batches turns to the exact gradient."""
    r, n = replay(), network()
    exact = exact_gradient(n, r)
    total, single = torch.zeros_like(exact), []
    for seed in range(60):
        rolled = r.roll(n, prompts=64, group=8, generator=torch.Generator().manual_seed(seed))
        answer = rolled.rewards[:, 1].reshape(64, 8)
        centred = (answer - answer.mean(1, keepdim=True)).flatten().float()
        g = -flat_gradient(n, policy_gradient(n, r, rolled, centred))
        single.append(cosine(g, exact))
        total += g
    assert cosine(total, exact) > 0.97 > np.mean(single)


def test_what_goes_wrong_goes_wrong_as_often_as_told() -> None:
    n = network()
    rolled = replay(form=0.3, lost=0.2).roll(
        n, prompts=150, group=20, generator=torch.Generator().manual_seed(0)
    )
    assert float(rolled.rewards[:, 0].mean()) == pytest.approx(0.7, abs=0.03)
    lost = rolled.rewards[:, 2].isnan()  # what a failure costs nobody knows
    assert float(lost.double().mean()) == pytest.approx(0.2, abs=0.03)
    assert (rolled.rewards[lost, 1] == 0).all()  # and it serves nobody
    assert rolled.rewards[:, 0].isfinite().all()
    scaled = replay(scale=(("sums", 5.0),), often=(("sums", 8.0),))
    many = scaled.roll(n, prompts=100, group=2, generator=torch.Generator().manual_seed(0))
    assert many.dataset.count("sums") / len(many.dataset) > 0.4
    assert set(many.rewards[[d == "sums" for d in many.dataset], 1].tolist()) <= {0.0, 5.0}


def test_energies_of_parts_and_cosines() -> None:
    r, n = replay(), network()
    rolled = r.roll(n, prompts=30, group=8, generator=torch.Generator().manual_seed(0))
    found = energies(n, r, rolled, torch.randn(240), ["sums", "capitals", "colours", "nobody's"])
    assert all(found[name] > 0 for name in ("sums", "capitals", "colours"))
    assert found["nobody's"] == 0
    a = torch.tensor([1.0, 0.0])
    assert cosine(a, torch.tensor([1.0, 1.0])) == pytest.approx(math.sqrt(0.5))
    assert math.isnan(cosine(a, torch.zeros(2)))


# -- settings ----------------------------------------------------------------------------------------------------


def given(*settings: str) -> TrainConfig:
    return load_config(TrainConfig, overrides=settings)


def test_settings_and_folders(tmp_path: Path) -> None:
    config, folder = resolve(given("table=data/t.jsonl", "calibration=grpo", "thrift=0"))
    assert (config.calibration, config.thrift) == ("grpo", 0)
    assert folder == Path("runs/routing/t-network-grpo")
    assert config.calibrated().components["thrift"].weight == 0
    changed = NetworkTraining(changes={"variance": {"kind": "power"}, "scale": "none"})
    assert changed.calibrated().variance.kind == "power"
    assert changed.calibrated().dataset.kind == "rms"
    louder = NetworkTraining(thrift=0.1, changes={"components": {"form": {"weight": 0.5}}}).calibrated()
    assert {name: c.weight for name, c in louder.components.items()} == {
        "form": 0.5,
        "answer": 1,
        "thrift": 0.1,
    }
    assert louder.components["answer"].parents == {"form": 0.5}
    writer, _ = resolve(given("policy=writer", "table=t.jsonl", "model=small"))
    assert isinstance(writer, WriterTraining)
    for overrides, told in (
        (["calibration=magic"], "calibration"),
        (["changes={gate: often}"], "gate"),
        (["changes={nonsense: 1}"], "nonsense"),
        (["group=1"], "group"),
        (["changes={components: {shape: {weight: 1}}}"], "no component"),
        (["form=2"], "--policy network: it has no setting 'form'"),
        (["policy=writer", "model=small", "trade=0.1"], "--policy writer: it has no setting 'trade'"),
        (["policy=writer", "model=small", "eval_every=3"], "no setting 'eval_every'"),
        (["policy=writer", "model=small", "budget=3"], "budget: recorded answers cost nothing"),
        (["policy=writer", "model=small", "cache=there"], "cache: recorded answers cost nothing"),
    ):
        with pytest.raises(ConfigError, match=told):
            resolve(given("table=t.jsonl", *overrides))
    with pytest.raises(ConfigError, match="no table"):
        resolve(given())
    with pytest.raises(ConfigError, match="no model"):
        resolve(given("policy=writer", "table=t.jsonl"))
