"""Routers on a table whose specialists are known: baselines, their files, and the policy's."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from noria.core.errors import CheckpointError, ConfigError, DataError
from noria.routing.routers import baselines
from noria.routing.routers.baselines import Fixed, Oracle, fit_router
from noria.routing.routers.features import TextFeatures
from noria.routing.routers.files import load_router, save_router
from noria.routing.routers.metrics import judge
from noria.routing.routers.network import NetworkRouter, PolicyNetwork
from noria.routing.routers.router import Router, utilities
from noria.routing.routers.scores import judge_router
from noria.routing.tables.table import Cell, Question, Route, Table, table_of
from noria.routing.types import BASELINES
from tests.routing.tables import ROUTES, small_table

TRAIN, TEST = small_table(300).split(0.7, seed=0)


def accuracy(router: Router, trade: float = 0.0) -> tuple[float, float]:
    found = judge(router.choose(TEST.texts, TEST.dataset, trade=trade), TEST.score, TEST.cost, TEST.dataset)
    return found.micro, found.cost


def test_baselines_stand_in_their_known_order() -> None:
    found = {kind: accuracy(fit_router(kind, TEST if kind == "oracle" else TRAIN))[0] for kind in BASELINES}
    assert 0.35 < found["random"] < 0.6
    assert found["best_single"] == pytest.approx(accuracy(fit_router("sage | step_by_step", TRAIN))[0])
    for clever in ("best_per_task", "knn", "mf"):
        assert found[clever] > found["best_single"] + 0.1
        assert found[clever] <= found["oracle"]


def failing_table() -> Table:
    """One route is right half of the time, one mostly fails and is right otherwise, one is right on seven of ten."""
    rows = []
    for n in range(60):
        question = Question(f"q{n}", "d", f"question {n % 50}", ("1",), "exact")  # ten texts come twice
        cells = {
            "half": Cell(float(n % 2), 1.0, "1"),
            "rare": Cell(1.0, 0.1, "1") if n % 10 == 0 else Cell(failure="timeout: x"),
            "good": Cell(float(n % 10 < 7), 2.0, "1"),
        }
        rows += [(question, Route(name), cell, "") for name, cell in cells.items()]
    return table_of(rows)


@pytest.mark.parametrize("kind", ["best_single", "best_per_task", "knn", "mf"])
def test_a_route_that_rarely_answers_is_not_the_best(kind: str) -> None:
    table = failing_table()
    router = fit_router(kind, table)
    assert router.quality(table.texts, table.dataset)[:, 1].mean() < 0.3
    assert (router.choose(table.texts, table.dataset) != 1).mean() > 0.8
    rare, oracle = (judge_router(fit_router(k, table), table) for k in ("rare", "oracle"))
    assert (rare.macro, rare.availability) == (0.1, 0.1)
    assert (rare.scored, rare.failed) == (60, 54)
    assert oracle.macro >= judge_router(router, table).macro > rare.macro
    assert oracle.availability == 1
    assert rare.regret == pytest.approx(oracle.micro - rare.micro)


def test_the_oracle_knows_each_of_several_questions_of_one_text() -> None:
    table = failing_table()
    best = judge_router(fit_router("oracle", table), table)
    assert best.micro == pytest.approx(np.nanmax(table.quality, axis=1).mean())
    assert best.regret == 0


def test_neighbours_are_found_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    router = fit_router("knn", TRAIN)
    whole = router.quality(TEST.texts)
    monkeypatch.setattr(baselines, "TOGETHER", 7)
    np.testing.assert_array_equal(router.quality(TEST.texts), whole)


def test_a_trade_buys_cheaper_answers() -> None:
    for kind in ("best_single", "knn", "mf", "oracle"):
        router = fit_router(kind, TEST if kind == "oracle" else TRAIN)
        costs = [accuracy(router, trade)[1] for trade in (0.0, 0.3, 1.0, 50.0)]
        assert costs == sorted(costs, reverse=True)
        assert costs[-1] == 1.0  # the cheapest of all


def test_utilities_with_unknown_costs_and_qualities() -> None:
    quality = np.array([[0.5, 0.6, math.nan]])
    cost = np.array([1.0, 4.0, 2.0])
    assert utilities(quality, cost, 0.4)[0, :2] == pytest.approx([0.5 - 0.1, 0.6 - 0.4])
    assert utilities(quality, np.array([1.0, math.nan, 2.0]), 0.4)[0, :2] == pytest.approx([0.3, 0.2])
    assert utilities(quality, np.full(3, math.nan), 1.0)[0, :2] == pytest.approx([0.5, 0.6])
    router = Fixed(ROUTES[:3], np.array([3.0, 1.0, 2.0]), route=0)
    router.quality = lambda texts, datasets=None: np.array([[0.5, 0.5, math.nan]])  # type: ignore[method-assign]
    assert router.choose(["q"]).tolist() == [1]  # of equals the cheapest, and never an unknown one
    router.quality = lambda texts, datasets=None: np.full((1, 3), math.nan)  # type: ignore[method-assign]
    assert router.choose(["q"]).tolist() == [-1]
    with pytest.raises(DataError, match="no route"):
        router.decide("q")


def test_many_choices_are_those_of_single_decisions() -> None:
    generator = np.random.default_rng(0)
    router = Fixed(ROUTES, np.array([3.0, 1.0, math.nan, 1.0]), route=0)
    quality = generator.integers(0, 3, (200, 4)).astype(float)
    quality[generator.random((200, 4)) < 0.3] = math.nan
    for trade in (0.0, 0.5, 2.0):
        ranked = map(router._ranked, utilities(quality, router.cost, trade))
        assert router.best(quality, trade).tolist() == [order[0] if order else -1 for order in ranked]


def test_a_decision_has_a_ranking_and_a_reason() -> None:
    for kind in BASELINES[:-1]:
        decision = fit_router(kind, TRAIN, trade=0.1).decide("what is 4 plus 17 in numbers", "sums")
        assert decision.route == decision.ranking[0]
        assert len(decision.ranking) == len(ROUTES)
        assert list(decision.utility) == sorted(decision.utility, reverse=True)
        assert decision.reason
    knn = fit_router("knn", TRAIN)
    asked = "what is 4 plus 17 in numbers"
    assert knn.decide(asked).route == Route("adder")
    rest = [route for route in ROUTES if route != Route("adder")]
    assert knn.decide(asked, among=rest).route in rest


def test_random_is_the_questions_own() -> None:
    one, other = fit_router("random", TRAIN, seed=1), fit_router("random", TRAIN, seed=2)
    assert (one.choose(TEST.texts) == one.choose(TEST.texts[::-1])[::-1]).all()
    assert (one.choose(TEST.texts) != other.choose(TEST.texts)).any()


@pytest.mark.parametrize("kind", [*BASELINES[:-1], "atlas"])
def test_a_router_is_the_same_from_its_files(kind: str, tmp_path: Path) -> None:
    router = fit_router(kind, TRAIN, trade=0.05)
    save_router(router, tmp_path / "router")
    again = load_router(tmp_path / "router")
    np.testing.assert_allclose(
        again.quality(TEST.texts, TEST.dataset), router.quality(TEST.texts, TEST.dataset), atol=1e-6
    )
    assert (again.choose(TEST.texts, TEST.dataset) == router.choose(TEST.texts, TEST.dataset)).all()
    assert again.kind == router.kind
    save_router(again, tmp_path / "router")  # and an older one is replaced


def test_a_policy_is_uniform_at_first_and_the_same_from_its_files(tmp_path: Path) -> None:
    features = TextFeatures.fit(TRAIN.texts, width=16)
    network = PolicyNetwork(features.width, 4, hidden=8)
    policy = NetworkRouter(ROUTES, np.array([1.0, 2, 4, math.nan]), features=features, network=network)
    assert policy.quality(["anything"]).tolist()[0] == pytest.approx([0.25] * 4)
    with torch.no_grad():
        network.outer.weight.normal_()
    save_router(policy, tmp_path / "p")
    again = load_router(tmp_path / "p")
    np.testing.assert_allclose(again.quality(TEST.texts), policy.quality(TEST.texts), atol=1e-6)
    assert "probability" in again.decide("what is 1 plus 1").reason
    costs = np.array([1.0, 2, 4, 4])[again.choose(TEST.texts)]
    again.trade = 5.0  # chances differ by less
    assert (again.choose(TEST.texts) == 0).all()
    assert costs.mean() > 1


@pytest.mark.parametrize("name", ["router.json", "router.safetensors", "digests.sha256"])
def test_a_router_with_a_flipped_bit_is_refused(tmp_path: Path, name: str) -> None:
    save_router(fit_router("mf", TRAIN), tmp_path / "r")
    data = bytearray((tmp_path / "r" / name).read_bytes())
    data[len(data) // 3] ^= 4
    (tmp_path / "r" / name).write_bytes(data)
    with pytest.raises(CheckpointError, match="digest"):
        load_router(tmp_path / "r")


def test_files_that_are_no_router(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no router here"):
        load_router(tmp_path)
    save_router(fit_router("mf", TRAIN), tmp_path / "r")
    good = json.loads((tmp_path / "r" / "router.json").read_text())
    (tmp_path / "r" / "digests.sha256").unlink()
    for broken in ("{", "[]", json.dumps(good | {"kind": "magic"}), json.dumps(good | {"routes": []})):
        (tmp_path / "r" / "router.json").write_text(broken)
        with pytest.raises(CheckpointError):
            load_router(tmp_path / "r")
    (tmp_path / "r" / "router.json").write_text(json.dumps(good))
    (tmp_path / "r" / "router.safetensors").write_bytes(b"nonsense")
    with pytest.raises(CheckpointError):
        load_router(tmp_path / "r")
    with pytest.raises(DataError, match="oracle"):
        save_router(Oracle(TEST), tmp_path / "o")
    with pytest.raises(ConfigError, match="no router 'magic'"):
        fit_router("magic", TRAIN)


def test_features_are_unit_vectors_and_read_any_text() -> None:
    features = TextFeatures.fit(TRAIN.texts, width=16, seed=1)
    again = TextFeatures.fit(TRAIN.texts, width=16, seed=1)
    np.testing.assert_array_equal(features.basis, again.basis)
    rows = features([*TEST.texts[:5], "", "ÄÖ 你好 \ud800", "word " * 50_000])
    assert np.linalg.norm(rows[:5], axis=1) == pytest.approx(np.ones(5), abs=1e-5)
    assert np.isfinite(rows).all()
    assert (rows[5] == 0).all()
    with pytest.raises(DataError, match="words"):
        TextFeatures.fit(["", " "])
