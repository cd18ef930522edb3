"""The proof end to end at a toy size, its claims on made-up results, and its speed figures."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from noria.core.proofs.arms import TRIES
from noria.core.proofs.catalogue import registered_proofs
from noria.core.proofs.proving import prove
from noria.distill.config import DistillConfig
from noria.distill.proof import bench, claims as proof
from noria.distill.proof.arms import ARMS, CHOSEN, FOREIGN, LADDER, sampling_grids, settings_of
from noria.distill.proof.running import ClassPrompts
from noria.distill.proof.tuning import trials

GRIDS = (*map(str, LADDER), FOREIGN)


def made_up(distance: float, **at: float) -> dict[str, Any]:
    """A result whose Fréchet distance is `distance` on every grid but those named."""
    return {"metrics": {grid: {"frechet": at.get(grid, distance)} for grid in GRIDS}, "spent": 1000.0}


def settings(arms: Iterable[str]) -> dict[str, dict[str, Any]]:
    return {arm: trials(arm)[0] for arm in arms}


def test_the_ladders_distance_is_the_geometric_mean_over_all_grids() -> None:
    result = {"metrics": {grid: {"frechet": 2.0**n} for n, grid in enumerate(GRIDS)}}
    assert proof.ladder_distance(result["metrics"]) == pytest.approx(2 ** ((len(GRIDS) - 1) / 2))


def test_claims_follow_the_figures_whichever_way_they_fall() -> None:
    noise = [1.0, 1.1, 0.9]
    table = {arm: [made_up(2.0 * n) for n in noise] for arm in ("Teacher", *ARMS)}
    table["CDM"] = [made_up(1.0 * n, **{"4": 8.0 * n}) for n in noise]
    verdicts = {claim.id: claim.verdict for claim in proof.claims(table, settings(ARMS))}
    assert verdicts["ladder-dmd2"] == verdicts["velocity-renoise"] == verdicts["cdm-term"] == "supported"
    assert verdicts["four-dmd2"] == verdicts["four-euler"] == "refuted"
    table["CDM"] = [made_up(2.0), made_up(1.0), made_up(4.0)]
    assert {claim.verdict for claim in proof.claims(table, settings(ARMS))} == {"inconclusive"}


def test_claims_need_both_their_arms() -> None:
    table = {arm: [made_up(1.0)] * 2 for arm in ("Teacher", *proof.QUICK_ARMS)}
    ids = {claim.id for claim in proof.claims(table, settings(proof.QUICK_ARMS))}
    assert ids == proof.CLAIMS.keys() - {"velocity-renoise", "cdm-term", "schedule", "schedule-cdm"}


def test_every_arm_is_paid_and_tuned_alike() -> None:
    table = {arm: [made_up(1.0)] * 2 for arm in ("Teacher", *ARMS)}
    judged = proof.SEEDS
    for claim in proof.claims(table, settings(ARMS)):
        assert claim.unfair(judged) == []
    assert {len(trials(arm)) for arm in ARMS} == {TRIES}
    table["DMD2"][0]["spent"] = 1500.0
    unlike = {claim.id for claim in proof.claims(table, settings(ARMS)) if claim.unfair(judged)}
    assert unlike == {"ladder-dmd2", "four-dmd2", "four-released"}, "a test that can fail"


def test_a_quick_proof_knows_the_settings_of_its_arms() -> None:
    for arm in proof.QUICK_ARMS:
        assert CHOSEN[arm] in trials(arm), arm


def test_arms_differ_in_their_recipe_and_their_free_settings_only() -> None:
    shared = {"seed", "batch_size", "iterations", "ema_decay", "student"}
    for name, recipe in ARMS.items():
        assert not shared & recipe.overrides.keys(), name
        assert all(
            section in ("student", "critic", "objective")
            for section in (key.split(".")[0] for key in recipe.space)
        ), name
    assert set(proof.QUICK_ARMS) <= ARMS.keys()


def test_rivals_as_published_are_the_published_ones() -> None:
    """DMD2's release but for its GAN; CDM's release: what each says of itself, value by value."""
    scale = proof.SCALES["quick"]
    dmd2 = DistillConfig(**settings_of("DMD2", scale, {}))
    assert dmd2.update_ratio == 5
    assert dmd2.schedule.stochastic, "it simulates by re-noising"
    assert dmd2.schedule.kind == "fixed"
    assert ARMS["DMD2"].renoises, "and it samples so"
    assert (dmd2.critic.source, dmd2.critic.merge) == ("anchor_x0", 0.0)
    assert (dmd2.objective.dm_guidance, dmd2.objective.min_norm) == (scale.guidance, 0.0)
    released = DistillConfig(**settings_of("CDM, as released", scale, {}))
    assert (released.schedule.low, released.schedule.high) == (0.25, 0.95)
    assert (released.critic.source, released.critic.merge) == ("anchor_x0", 0.001)
    assert (released.objective.ca_tau, released.update_ratio) == ("capped", 2)
    ours, small = DistillConfig(**settings_of("CDM", scale, {})), DistillConfig(preset="cdm-small")
    for section, key in (
        ("objective", "ca_tau"),
        ("critic", "source"),
        ("schedule", "low"),
        ("schedule", "high"),
    ):
        assert getattr(getattr(ours, section), key) == getattr(getattr(small, section), key), (
            "the product's own"
        )


def test_the_foreign_grid_is_four_steps_shifted_by_three() -> None:
    from noria.core.models.flow import SigmaContract

    wanted = SigmaContract(3.0).grid([1, 0.75, 0.5, 0.25])[:-1]
    assert sampling_grids()[FOREIGN] == pytest.approx(wanted.tolist())
    assert {len(grid) for grid in sampling_grids().values()} == set(LADDER)
    assert "50" in sampling_grids(teacher=True)


def test_prompts_depend_on_seed_and_iteration_alone() -> None:
    one, other = ClassPrompts(10), ClassPrompts(10)
    one.batch(1, 5, 64)
    assert one.batch(1, 6, 64) == other.batch(1, 6, 64)
    assert one.batch(1, 6, 64) != one.batch(1, 7, 64)
    assert one.batch(1, 6, 64) != one.batch(2, 6, 64)
    counts = np.bincount([int(p) for p in one.batch(0, 0, 20_000)], minlength=10)
    assert abs(counts - 2000).max() < 200


@pytest.mark.slow
def test_a_small_proof_is_whole_and_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chromium: str
) -> None:
    """Every arm trains and is measured; evidence and page are written and the page draws itself."""
    from playwright.sync_api import sync_playwright

    small = replace(proof.SCALES["quick"], budget=200, samples=60, batch_size=4, max_steps=3)
    monkeypatch.setitem(proof.SCALES, "quick", small)
    monkeypatch.setattr(proof, "QUICK_ARMS", tuple(ARMS))
    monkeypatch.setattr(proof, "CHOSEN", settings(ARMS))
    prove(
        list(registered_proofs(["distill"]).values()),
        scale="quick",
        seeds=[0, 1],
        out=tmp_path / "out",
        data=tmp_path,
        workers=1,
    )
    (system,) = json.loads((tmp_path / "out" / "evidence.json").read_text())
    assert system["system"] == "distill"
    claims = {claim["id"]: claim for claim in system["claims"]}
    assert claims.keys() == proof.CLAIMS.keys()
    for claim in claims.values():
        assert claim["verdict"] in ("supported", "refuted", "inconclusive")
        assert all(
            len(values) == 2 and all(math.isfinite(v) and v > 0 for v in values)
            for values in claim["arms"].values()
        )
    distances = [tuple(claim["arms"][claim["baseline"]]) for claim in claims.values()]
    assert len(set(distances)) > 6, "recipes are applied"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        complaints: list[str] = []
        page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto((tmp_path / "out" / "report.html").as_uri())
        page.wait_for_selector("html[data-drawn]", timeout=30_000)
        assert complaints == []
        assert page.locator(".drawing svg.marks").count() == 2
        assert page.locator("img[src^='data:image/png']").count() == 4
        browser.close()


def test_the_speed_figures_are_of_both_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "BATCH", 4)
    forwards, samples = bench.benchmarks(rounds=2).rows
    assert (forwards.name, samples.name) == ("rollout forwards", "training samples")
    assert 1.0 < forwards.ratio < 4.0
    assert samples.ours > 0
    assert samples.theirs > 0
    assert (forwards.goal, samples.goal) == (1.8, 1.4)
