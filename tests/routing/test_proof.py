"""The proof: its questions and solvers are real, its arms measure what they say, its claims follow from them."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from noria.core.chat import Answer, ChatRequest
from noria.core.errors import ConfigError
from noria.core.progress import Progress
from noria.core.proofs.catalogue import registered_proofs
from noria.core.proofs.proof import Evidence, ProofContext
from noria.core.proofs.proving import prove
from noria.routing.proof import tuning
from noria.routing.proof.arms import (
    CONDITIONS,
    ESTIMATORS,
    disturbance,
    run_gradients,
    run_record,
    run_training,
)
from noria.routing.proof.bench import by_components, by_rows, published_area, routers
from noria.routing.proof.claims import DEFAULT, SCALES, SEEDS, Scale, claims
from noria.routing.proof.figures import figures
from noria.routing.proof.tuning import TUNING_SEEDS, tuned_weights
from noria.routing.rewards.calibration import calibrate
from noria.routing.rewards.components import Component
from noria.routing.rewards.config import PRESETS, preset
from noria.routing.routers.metrics import aiq
from noria.routing.tables.table import read_table, write_table
from tests.routing.tables import small_table

pytest.importorskip("sklearn")
pytest.importorskip("reasoning_gym")
from noria.routing.proof.solvers import real_pool
from noria.routing.proof.tasks import TASKS, questions


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("proof") / "table.jsonl"
    write_table(path, small_table(120))
    return str(path)


# -- the real pool -----------------------------------------------------------------------------------------------------


def test_questions_are_the_seeds_and_those_asked_were_not_taught() -> None:
    known, asked = questions(20, seed=0), questions(20, seed=0, skip=20)
    assert [q.text for q in known] == [q.text for q in questions(20, seed=0)]
    assert {q.dataset for q in known} == set(TASKS)
    assert len(known) == len(asked) == 140
    assert not {q.text for q in known} & {q.text for q in asked}
    assert not {q.id for q in known} & {q.id for q in asked}


def test_the_exact_solvers_are_exact_and_the_abacus_is_not() -> None:
    pool = real_pool(questions(12, seed=1))
    asked = questions(12, seed=1, skip=12)

    async def share(model: str, dataset: str) -> float:
        own = [q for q in asked if q.dataset == dataset]
        right = []
        for q in own:
            outcome = await pool.models[model].ask(ChatRequest.of(q.text))
            assert isinstance(outcome, Answer)
            right.append(outcome.text == q.answers[0])
        return float(np.mean(right))

    async def all_of() -> list[float]:
        pairs = [
            ("euclid", "divisors"),
            ("scanner", "letters"),
            ("abacus", "arithmetic"),
            ("euclid", "digits"),
        ]
        return [await share(*pair) for pair in pairs]

    euclid, scanner, abacus, wrong = asyncio.run(all_of())
    assert (euclid, scanner, wrong) == (1, 1, 0)
    assert 0.2 < abacus < 1


def test_the_pool_is_recorded(tmp_path: Path) -> None:
    path = tmp_path / "table.jsonl"
    done = run_record(4, str(path))
    table = read_table(path)
    assert done == {"path": str(path), "questions": 28, "failed": 0}
    assert len(table.routes) >= 10
    assert np.isfinite(table.score).all()
    assert np.isfinite(table.cost).all()
    mean = dict(zip([r.label for r in table.routes], table.cost.mean(0), strict=True))
    assert mean["reader | step_by_step"] > 100 * mean["majority"]


# -- arms --------------------------------------------------------------------------------------------------------------


def test_gradients_are_measured_for_every_estimator_and_condition(table: str) -> None:
    weights = {condition: dict.fromkeys(ESTIMATORS, 1.0) for condition in CONDITIONS}
    found = run_gradients(table, weights, 0, 4, 16)
    assert set(found) == set(CONDITIONS)
    for condition in CONDITIONS:
        assert set(found[condition]) == set(ESTIMATORS)
        for values in found[condition].values():
            assert -1 <= values["cosine"] <= 1
            assert 0 < values["evenness"] <= 1
            assert values["rollouts"] == 3 * 4 * 16 * 8
            assert values["settings"] == {"form": 1.0}
    assert found["form"]["gates"]["cosine"] > found["form"]["GRPO"]["cosine"]
    assert found["scale"]["GRPO"]["cosine"] == pytest.approx(found["scale"]["gates"]["cosine"], abs=1e-3)
    assert set(ESTIMATORS.values()) <= set(PRESETS)
    quiet = run_gradients(table, {"form": {"GRPO": 0.0}}, 0, 4, 16)
    assert quiet["form"]["GRPO"]["cosine"] > found["form"]["GRPO"]["cosine"]  # form is noise


def test_each_arm_has_its_own_best_weight(table: str, tmp_path: Path) -> None:
    context = ProofContext("routing", "quick", [10], tmp_path, tmp_path, 1, Progress(quiet=True))
    calls: list[dict[str, Any]] = []

    def measured(function: Any, jobs: dict[str, Any], *, label: str) -> list[Any]:
        calls.extend(jobs.values())
        best = {"GRPO": 0.0, "gates": 0.25}
        return [
            {c: {e: {"cosine": -abs(w - best[e])} for e, w in arms.items()} for c, arms in weights.items()}
            for _, weights, *_ in jobs.values()
        ]

    object.__setattr__(context, "map", measured)
    chosen = tuned_weights(context, "a table", table, ["GRPO", "gates"], 2, 8)
    assert chosen["form"] == chosen["both"] == {"GRPO": 0.0, "gates": 0.25}
    assert chosen["scale"] == {"GRPO": 1.0, "gates": 1.0}
    assert len(calls) == 6 * len(TUNING_SEEDS)
    for seeds in SEEDS.values():
        assert not set(TUNING_SEEDS) & set(seeds)
        assert not {0, 1, 2} & set(seeds)  # the defaults were chosen on these


def test_a_policy_is_trained_in_a_corrupted_environment(table: str) -> None:
    settings = {"form": 0.3, "entropy": 0.03, "lr": 3e-3}
    done = run_training(table, "ReCal", 0, 60, settings)
    assert done["settings"] == settings
    assert done["rollouts"] == 60 * 64 * 8
    assert len(done["curve"]) == 61
    assert done["macro"] > done["curve"][0]
    assert set(done["accuracy"]) == {"sums", "capitals", "colours"}
    assert math.isfinite(done["drawdown"])


def test_conditions_disturb_what_they_say() -> None:
    sets = ["a", "b", "c", "d"]
    assert disturbance("form", sets).form == 0.3
    assert disturbance("scale", sets).form == 0
    assert dict(disturbance("scale", sets).scale) == {"a": 0.2, "b": 1.0, "c": 5.0, "d": 0.2}
    both = disturbance("both", sets)
    assert both.form == 0.3
    assert both.often == (("a", 8.0),)


# -- claims ------------------------------------------------------------------------------------------------------------


def gradients(gain: float) -> list[dict[str, Any]]:
    value = {"GRPO": 0.3, "GDPO": 0.3, "Dr.GRPO": 0.3, "gates": 0.3 + gain, "ReCal": 0.3 + gain}
    value["ReCal without group deviation"] = 0.3 + gain
    return [
        {
            c: {
                e: {
                    "cosine": v + seed / 1000 * (n + 1),
                    "evenness": v + seed / 1000 * (n + 1),
                    "rollouts": 512,
                    "settings": {"form": 1.0},
                }
                for n, (e, v) in enumerate(value.items())
            }
            for c in CONDITIONS
        }
        for seed in range(3)
    ]


def trained() -> dict[str, list[dict[str, Any]]]:
    run = {
        "macro": 0.7,
        "spread": 0.01,
        "drawdown": 0.0,
        "collapsed": False,
        "curve": [0.1, 0.7],
        "accuracy": {"a": 0.7},
        "rollouts": 512,
        "settings": {"form": 1.0, "entropy": 0.1, "lr": 3e-3},
        "baselines": {"best_single": 0.6},
    }
    return {
        arm: [run | {"macro": 0.7 + seed / 1000, "spread": 0.01 + seed / 1000} for seed in range(3)]
        for arm in ("GRPO", "GDPO", "ReCal", DEFAULT)
    }


def test_margins_decide() -> None:
    name = "the recorded pool"
    for gain, verdict in ((0.2, "supported"), (0.05, "refuted")):
        found = {c.id: c for c in claims({name: gradients(gain)}, {}, {})}
        assert found["recorded-gates-over-grpo"].verdict == verdict
        assert found["recorded-recal-combined"].verdict == verdict
    parity = {c.id: c for c in claims({}, {name: trained()}, {})}
    assert parity["recorded-parity"].verdict == "supported"
    assert parity["recorded-steadier"].verdict == "inconclusive"
    assert parity["recorded-over-best-single"].verdict == "supported"
    evidence = Evidence("routing", claims({name: gradients(0.2)}, {name: trained()}, {}), 0.0, {})
    assert evidence.unfair() == {}


TINY = Scale(
    questions=6,
    batches=1,
    prompts=8,
    estimators=SCALES["quick"].estimators,
    steps=4,
    trained=("GRPO", "ReCal"),
    school=3,
    writer_steps=2,
    writer_prompts=2,
    writers=("GRPO", "GDPO", "ReCal"),
)


def test_the_whole_proof_with_a_given_table(
    table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("trl")
    monkeypatch.setitem(SCALES, "full", TINY)
    monkeypatch.setattr(tuning, "TUNING_SEEDS", (100,))  # what is searched is tested above
    monkeypatch.setattr(tuning, "WEIGHTS", (1.0, 0.0))
    monkeypatch.setattr(tuning, "TRAINING", {"form": (1.0, 0.0), "entropy": (0.1,), "lr": (3e-3,)})
    monkeypatch.setattr(tuning, "WRITING", {"form": (1.0,), "lr": (3e-4,)})

    def one_after_another(
        self: ProofContext, function: Any, jobs: dict[str, Any], *, label: str
    ) -> list[Any]:
        return [json.loads(json.dumps(function(*arguments))) for arguments in jobs.values()]

    monkeypatch.setattr(ProofContext, "map", one_after_another)
    entries = list(registered_proofs(["routing"]).values())
    done = prove(entries, scale="full", seeds=[10], out=tmp_path, given={"table": Path(table)},
        progress=Progress(quiet=True),
    )  # fmt: skip
    (evidence,) = done.evidences
    assert evidence.unfair() == {}
    ids = {claim.id for claim in evidence.claims}
    for kind in ("gates-over-grpo", "recal-combined", "over-best-single", "data-sets-even", "steadier"):
        assert {f"recorded-{kind}", f"given-{kind}"} <= ids
    assert {"recorded-parity", "writer-form", "writer-steadier"} <= ids
    assert all(len(v) == 1 for claim in evidence.claims for v in claim.arms.values())
    page = done.report.read_text()
    assert "--table" in page
    assert "120 questions of 3 data sets and 4 routes" in page
    assert "1 seeds of each of GRPO, GDPO, ReCal" in page


def test_figures_hold_every_table(table: str) -> None:
    name = "the recorded pool"
    writer = {
        arm: [
            {
                "curves": {"macro": [0.1, 0.5], "form": [0.5, 1.0], "cost": [1.0, 1.0]},
                "macro": 0.5, "area": 0.3, "malformed_late": 0.1, "drawdown": 0.0, "collapsed": False,
                "rollouts": 512, "settings": {"form": 1.0, "lr": 3e-4},
            }
        ]
        * 3
        for arm in ("GRPO", "GDPO", "ReCal")
    }  # fmt: skip
    shown = figures({name: gradients(0.1)}, {name: trained()}, writer, table)
    titles = [figure.title for figure in shown]
    assert titles[0] == "The recorded pool"
    assert any("Cosine" in t for t in titles)
    assert any("trained by TRL" in t for t in titles)
    ids = [c.id for c in claims({name: gradients(0.1)}, {name: trained()}, writer)]
    assert len(ids) == len(set(ids))
    assert {"writer-learns", "writer-form", "writer-steadier"} <= set(ids)
    for scale in SCALES.values():
        assert set(scale.estimators) | set(scale.trained) | set(scale.writers) <= set(ESTIMATORS)


# -- the bench's peers -------------------------------------------------------------------------------------------------


def test_the_peers_give_our_numbers() -> None:
    generator = torch.Generator().manual_seed(0)
    rewards, group = torch.rand(40, 3, generator=generator), torch.arange(40) // 5
    index = np.array([str(g) for g in group.tolist()], dtype=object)
    plain = preset(
        "gates", {n: Component() for n in "abc"}, epsilon=1e-6, gate="zero", variance={"kind": "none"}
    )
    ours = calibrate(rewards, group, torch.zeros_like(group), names=list("abc"), config=plain).advantages
    torch.testing.assert_close(ours, by_components(rewards, index), atol=1e-5, rtol=1e-4)
    assert by_rows(torch.tensor([0.3]), ["x"]).tolist() == pytest.approx([0.3], abs=1e-5)
    for seed in range(5):
        cost, quality = routers(25, seed=seed)
        area = aiq(cost, quality) * (max(cost) - min(cost))
        assert area == pytest.approx(published_area(cost, quality), abs=1e-9)


def test_presets_that_are_asked_for_wrongly() -> None:
    with pytest.raises(ConfigError):
        preset("nothing")
