"""The proof of the gates: its simulations agree with closed forms, and a gate that lets all pass would be seen."""

from __future__ import annotations

import pytest
from scipy import stats

from noria.assistant.proof.gates import UNEVEN, USERS, checks, claims, power_of_split
from noria.assistant.proof.kills import run_service_kills
from noria.assistant.proof.simulations import (
    EFFECTS,
    ITEMS,
    SPREAD,
    TURNS,
    run_off_policy,
    run_splits,
    run_tests,
    run_turns,
)
from noria.assistant.proof.through_service import run_through_service
from noria.core.proofs.proof import Evidence


def test_a_monotone_gate_takes_the_harmful_as_often_as_the_normal_law_says() -> None:
    result = run_turns("monotone", 300, 1)
    passes = stats.norm.sf(0, -2, SPREAD / ITEMS**0.5)
    assert EFFECTS[2] == -2
    assert result["harmful"] == pytest.approx(TURNS / 3 * passes, abs=0.06)
    assert run_turns("none", 300, 1)["harmful"] == pytest.approx(TURNS / 3, abs=0.4)
    assert run_turns("none", 300, 1)["below"] == pytest.approx(0.42, abs=0.08)


def test_the_paired_gate_takes_the_better_as_often_as_its_bound_says() -> None:
    result = run_turns("bound", 200, 2)
    critical = stats.t.ppf(0.95, ITEMS - 1)
    passes = stats.nct.sf(critical, ITEMS - 1, 2 / (SPREAD / ITEMS**0.5))
    assert result["points"] == pytest.approx(TURNS / 3 * 2 * passes, abs=0.6)


def test_the_power_of_the_split_is_that_of_its_tails() -> None:
    seen = run_splits(UNEVEN, USERS, 400, 3)["last"]
    assert stats.binomtest(round(seen * 400), 400, power_of_split(UNEVEN, USERS)).pvalue > 1e-3
    assert power_of_split(0.5, USERS) < 1e-3
    assert power_of_split(0.52, USERS) > 0.99


@pytest.fixture(scope="module")
def results() -> dict[str, list[dict[str, float]]]:
    seeds = range(4)
    return {
        "no gate": [run_turns("none", 60, seed) for seed in seeds],
        "monotone gate": [run_turns("monotone", 60, seed) for seed in seeds],
        "paired gate": [run_turns("bound", 60, seed) for seed in seeds],
        "equal": [run_tests(0.6, 60, seed) for seed in seeds],
        "harmful": [run_tests(0.54, 60, seed) for seed in seeds],
        "even split": [run_splits(0.5, USERS, 60, seed) for seed in seeds],
        "uneven split": [run_splits(UNEVEN, USERS, 60, seed) for seed in seeds],
        "logs": [run_off_policy(20, seed) for seed in seeds],
        "through the service": [run_through_service(3, 0)],
        "killed services": [run_service_kills(2, 0)],
        "killed turns": [{"kills": 2.0, "same": 2.0, "handed over": 1.0}],
    }


def test_the_arms_are_paid_alike_and_a_gate_that_lets_all_pass_is_seen(
    results: dict[str, list[dict[str, float]]],
) -> None:
    found = {claim.id: claim for claim in claims(results)}
    assert Evidence("gates", list(found.values()), 1.0, {}, config={"seeds": [0, 1, 2, 3]}).unfair() == {}
    assert found["gate-keeps"].effect == pytest.approx(0.42, abs=0.1)
    assert found["looks"].effect > 0.1
    assert found["roll-back"].effect > 0
    assert all(check.holds for check in checks(results, 240))
    open_gate = results | {"paired gate": results["no gate"]}
    broken = {claim.id: claim.verdict for claim in claims(open_gate)}
    assert broken["gate-keeps"] == "refuted"
    assert broken["gate-harmful"] == "refuted"
    alarmed = results | {"even split": [{"ever": 0.1, "last": 0.1}] * 4}
    assert [check.id for check in checks(alarmed, 240) if not check.holds] == ["split-level"]
    unequal = results | {"through the service": [results["through the service"][0] | {"equal": 3.0}]}
    assert [check.id for check in checks(unequal, 240) if not check.holds] == ["service-equal"]
    lost = results | {"killed services": [results["killed services"][0] | {"lost": 1.0}]}
    assert [check.id for check in checks(lost, 240) if not check.holds] == ["kills"]
    other = results | {"killed turns": [{"kills": 2.0, "same": 1.0, "handed over": 1.0}]}
    assert [check.id for check in checks(other, 240) if not check.holds] == ["killed-turns"]
