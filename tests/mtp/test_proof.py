"""What the proof makes of its arms' results: each claim points the right way."""

from __future__ import annotations

from typing import Any

import pytest

from noria.mtp.proof import claims, figures, loss_a_nat, rl_claims, rl_figures


def scored(length: float, target: float, slope: float) -> dict[str, Any]:
    """A result whose accept length falls by `slope` a nat around 1 nat."""
    return {
        "scores": {
            name: {
                "entropy": nats,
                "length": {
                    "rejection": length - slope * (nats - 1),
                    "target_only": target - 2 * slope * (nats - 1),
                },
                "prefix": {"rejection": [0.9, 0.8, 0.7], "target_only": [0.8, 0.7, 0.6]},
            }
            for name, nats in (("0.5", 0.5), ("1.0", 1.0), ("1.25", 1.6))
        }
    }


def table() -> dict[str, list[dict[str, Any]]]:
    def seeds(length: float, slope: float) -> list[dict[str, Any]]:
        return [scored(length + n / 1000, 2.4 + n / 2000, slope + n / 1000) for n in range(3)]

    return {"CE": seeds(3.0, 0.5), "KL": seeds(3.1, 0.4), "TV": seeds(3.2, 0.2), "e2e TV": seeds(3.3, 0.01)}


def run(length: tuple[float, float], rollout: float) -> dict[str, Any]:
    steps = 8
    lengths = [length[0] + (length[1] - length[0]) * s / (steps - 1) for s in range(steps)]
    return {
        "accept_length": lengths,
        "entropy": [0.2] * steps,
        "reward": [0.5] * steps,
        "tokens": [100.0] * steps,
        "rollout_seconds": [rollout] * steps,
        "score_seconds": [0.001] * steps,
        "learn_seconds": [1.0] * steps,
    }


def test_the_papers_order_would_be_supported_and_the_reverse_refuted() -> None:
    verdicts = {claim.id: claim.verdict for claim in claims(table())}
    assert set(verdicts.values()) == {"supported"}
    assert {"rejection-over-target-only", "e2e-over-tv", "kl-over-ce", "entropy-free"} <= verdicts.keys()
    assert "exact-over-product" not in verdicts  # its arm was not run
    turned = table()
    turned["e2e TV"], turned["CE"] = turned["CE"], turned["e2e TV"]
    refuted = {claim.id for claim in claims(turned) if claim.verdict == "refuted"}
    assert {"e2e-over-tv", "e2e-over-ce", "kl-over-ce", "entropy-loss", "entropy-free"} <= refuted
    assert loss_a_nat(scored(3, 2.4, 0.25), "rejection") == pytest.approx(0.25)
    assert len(figures(table())) == 2


def test_runs_of_reinforcement_learning() -> None:
    trained = {
        arm: [run((3.5, last + n / 100), rollout * (1 + n / 50)) for n in range(3)]
        for arm, last, rollout in (
            ("no drafts", 3.5, 2.0),
            ("frozen e2e TV", 3.4, 1.0),
            ("frozen CE", 3.0, 1.0),
            ("online e2e TV", 3.6, 1.0),
            ("frozen e2e TV, entropy up", 3.3, 1.0),
            ("frozen CE, entropy up", 2.5, 1.0),
            ("frozen e2e TV, entropy down", 3.4, 1.0),
            ("frozen CE, entropy down", 3.0, 1.0),
        )
    }
    found = {claim.id: claim for claim in rl_claims(trained)}
    assert len(found) == 6
    # Arms vary alike over the seeds, so that each paired effect is certain but for rounding.
    effects = {name: claim.effect for name, claim in found.items()}
    assert effects["rl-rollout-time"] == pytest.approx(0.6931, abs=1e-3)  # log 2
    assert 0 < (effects["rl-step-time"] or 0) < 0.6931
    assert all((effect or 0) > 0 for effect in effects.values())
    assert len(rl_figures(trained)) == 4
