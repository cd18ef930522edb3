"""What the proof makes of its arms' results: each claim points the right way."""

from __future__ import annotations

from typing import Any

import pytest

from noria.core.proofs.proof import Evidence
from noria.credit.proof.arms import RL_ARMS, SCORES, judged_questions, run_separation
from noria.credit.proof.claims import SCALES, SEEDS, checks, claims, paid_policies, rl_claims
from noria.credit.proof.figures import figures, notes
from noria.credit.proof.tuning import POLICY_SPACES, SCORE_SETTINGS, SCORE_SPACES, TUNING_SEEDS, tries_of


def audit(
    seed: int, *, flow: float = 0.8, others: float = 0.6, top: float = 0.9, random: float = 0.4
) -> dict[str, Any]:
    names = (
        "flow",
        "flow, all layers",
        "flow, answer tokens",
        "rollout",
        "answer attention",
        "FAI",
        "entropy",
        "random",
    )
    areas = {
        name: {"dead": (flow if name == "flow" else others) + seed / 100, "filler": 0.7} for name in names
    }
    rates = {
        name: {
            "top": {"changed": (random if name == "random" else top) + seed / 100, "flipped": 0.1},
            "bottom": {"changed": 0.1 + seed / 200, "flipped": 0.0},
        }
        for name in names
    }
    told = {"conservation": 1e-6, "fallback": 0.0, "path_length": 5.0}
    return {"rates": rates, "areas": areas, "flow": {"flow": told}, "right": 0.97, "rows": 40, "tokens": 50.0}


def policy(after: float, seed: int) -> dict[str, Any]:
    return {
        "before": 0.4,
        "after": after + seed / 100,
        "area": after - 0.1 + seed / 100,
        "reward": [0.4, after],
        "entropy": [0.5, 0.4],
        "fallback": 0.0,
        "seconds": 1.0,
    }


def test_the_papers_order_would_be_supported_and_the_reverse_refuted() -> None:
    chains = [audit(seed) for seed in (1, 2, 3)]
    gym = [{k: v for k, v in audit(seed).items() if k != "areas"} for seed in (1, 2, 3)]
    found = claims({"chains": chains, "chain_sum": gym})
    verdicts = {claim.id: claim.verdict for claim in found}
    assert set(verdicts.values()) == {"supported"}
    assert {
        "mask-top-over-random",
        "mask-random-over-bottom",
        "chain_sum-mask-top-over-random",
        "dead-branch-over-rollout",
        "dead-branch-over-answer-attention",
        "dead-branch-over-fai",
        "dead-branch-over-entropy",
        "middle-over-all-layers",
        "flow-over-flow-answer-tokens",
        "dead-branch-over-random",
    } <= verdicts.keys()
    assert "conservation" not in verdicts  # it could not fail: a check
    evidence = Evidence("credit", found, 0.0, {}, config={"seeds": SEEDS["quick"]})
    assert evidence.unfair() == {}
    assert "dead-branch-over-oar-p" not in verdicts  # its arm was not run
    turned = [audit(seed, flow=0.5, top=0.3) for seed in (1, 2, 3)]
    refuted = {claim.id for claim in claims({"chains": turned}) if claim.verdict == "refuted"}
    assert {"mask-top-over-random", "dead-branch-over-rollout", "middle-over-all-layers"} <= refuted
    # Far more than random is more than the paper's 16.4 points: 10 are not enough.
    near = [audit(seed, top=0.5) for seed in (1, 2, 3)]
    (masked,) = (claim for claim in claims({"chains": near}) if claim.id == "mask-top-over-random")
    assert masked.verdict == "refuted"


def test_policies_are_compared_with_every_control() -> None:
    trained = {
        arm: [policy(after, seed) for seed in (1, 2, 3)]
        for arm, after in (
            ("GRPO", 0.6),
            ("flow", 0.7),
            ("flow, bottom 40 %", 0.5),
            ("random 40 %", 0.65),
            ("KTAE", 0.75),
        )
    }
    paid = paid_policies(SCALES["full"], {arm: tries_of(POLICY_SPACES, arm)[0] for arm in trained})
    judged = rl_claims(trained, paid)
    assert Evidence("credit", judged, 0.0, {}, config={"seeds": SEEDS["full"]}).unfair() == {}
    found = {claim.id: claim for claim in judged}
    assert found["rl-flow-over-grpo"].effect == pytest.approx(0.1)
    assert found["rl-grpo-over-flow-bottom-40"].effect == pytest.approx(0.1)
    assert found["rl-flow-over-random-40"].verdict == "supported"
    assert found["rl-flow-over-ktae"].verdict == "refuted"
    assert "rl-flow-over-flow-bottom-40" not in found  # it would follow from two others
    assert found["rl-ends-over-grpo"].effect == pytest.approx(0.1)
    assert found["rl-learns"].effect == pytest.approx(0.22)  # 0.6 against 0.4, seed by seed
    (learns,) = rl_claims(trained, paid, compared=False)  # too few steps to compare
    assert learns.id == "rl-learns"


def test_every_arm_with_a_free_setting_tries_six_the_usual_one_first_on_seeds_that_are_not_judged() -> None:
    assert set(TUNING_SEEDS).isdisjoint([*SEEDS["quick"], *SEEDS["full"]])
    for spaces in (SCORE_SPACES, POLICY_SPACES):
        for name in spaces:
            tried = tries_of(spaces, name)
            assert len(tried) == 6
            assert tried[0] == {key: values[0] for key, values in spaces[name].items()}
    assert tries_of(SCORE_SPACES, "entropy") == []
    assert POLICY_SPACES.keys() == RL_ARMS.keys()
    assert SCORE_SETTINGS.keys() == SCORE_SPACES.keys() <= SCORES.keys()
    assert all(SCORE_SETTINGS[name] in tries_of(SCORE_SPACES, name) for name in SCORE_SPACES)


@pytest.mark.parametrize("task", ["chains", "leg_counting"])
def test_seeds_have_questions_of_their_own(task: str) -> None:
    sets = [{str(q.prompt) for q in judged_questions(task, 40, seed)} for seed in SEEDS["full"][:3]]
    assert all(len(own) > 30 for own in sets)
    assert len(set.union(*sets)) > sum(map(len, sets)) - 10


def test_the_table_of_settings_is_what_the_search_finds() -> None:
    """On few questions, and for one score: the full proof searches for all."""
    tried = tries_of(SCORE_SPACES, "WAAD")
    by_seed = [run_separation(seed, 12, "WAAD", tried) for seed in TUNING_SEEDS]
    means = [sum(column) / len(column) for column in zip(*by_seed, strict=True)]
    assert means[tried.index(SCORE_SETTINGS["WAAD"])] >= max(means) - 0.03


def test_what_must_hold_is_checked() -> None:
    chains = {"chains": [audit(seed) for seed in (1, 2, 3)]}
    assert [check.holds for check in checks(chains, [], 1e-4)] == [True, True]
    assert [check.holds for check in checks(chains, [], 0.1)] == [True, False]
    chains["chains"][1]["flow"]["flow"]["conservation"] = 1e-3
    assert [check.holds for check in checks(chains, [], 0.0)] == [False, True]


def test_what_is_shown_and_said() -> None:
    chains = {"chains": [audit(seed) for seed in (1, 2, 3)]}
    gym = [{k: v for k, v in audit(seed).items() if k != "areas"} for seed in (1, 2, 3)]
    trained = {arm: [policy(0.6, seed) for seed in (1, 2, 3)] for arm in ("GRPO", "flow")}
    assert len(figures(chains | {"chain_sum": gym}, trained, [])) == 4
    words = " ".join(notes("quick", SCALES["quick"], chains, trained, []))
    assert "intervals are over those, not over trained models" in words
    assert "5 steps" in words
    words = " ".join(notes("full", SCALES["full"], chains, trained, []))
    assert "SmolLM2-135M was not tested" in words
