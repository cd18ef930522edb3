"""The proof's claims: arms are paid alike, every claim can fail, and what must hold is a check."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("sklearn")

from noria.core.proofs.proof import Evidence
from noria.grounding.corpus.records import each_question
from noria.grounding.proof.arms import share_right
from noria.grounding.proof.claims import SCALES, SEEDS, checks, claims, reader_claims
from noria.grounding.proof.reading import ARMS
from noria.grounding.proof.tuning import SEEDS as TUNING, SPACES, TUNED, chosen, tries
from noria.grounding.proof.unseeing import train_blind
from noria.grounding.synth.config import Knobs
from noria.grounding.synth.world import make_corpus

SEEING = {"T1": 0.9, "T3": 0.9, "T3 grounding": 0.95, "PR": 0.02, "HR": 0.9}
WORDS = {"T1": 0.2, "T3": 0.17, "T3 grounding": 0.17, "PR": 0.95, "HR": 0.01}
ARM_NAMES = (
    "seer", "seer, black frames", "seer, another clip's frames", "seer, frames reversed", "blind classifier",
    "prejudiced", "prejudiced, colours at random",
)  # fmt: skip


def world(seed: int, **changed: dict[str, float]) -> dict[str, Any]:
    """Figures of a world as they should be, with a little noise; `changed` are those of an arm that are not."""
    generator = np.random.default_rng(seed)
    arms = {name: dict(WORDS) for name in ARM_NAMES} | {"seer": dict(SEEING)}
    arms["prejudiced"] |= {"T1": 0.9}
    for name, figures in changed.items():
        arms[name.replace("_", " ")] |= figures
    table = {str(cell): 0.0 for cell in range(8)}
    results: dict[str, Any] = {
        name: {
            "figures": {k: v + 0.002 * float(generator.normal()) for k, v in figures.items()},
            "states": {"ok": 40},
            "table": table | {"0": 1.0},
            "constant": 0.24,
        }
        for name, figures in arms.items()
    }
    return results | {"words": 0.17 + 0.002 * float(generator.normal())}


def written(seed: int, last: float = 0.18) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    first, after, rival = (x + 0.002 * float(generator.normal()) for x in (0.55, last, 0.35))
    return {"first": first, "last": after, "random": rival, "rewritten": [100 + seed]}


def evidence(**changed: dict[str, float]) -> Evidence:
    seeds = SEEDS["quick"]
    judged = claims([world(s, **changed) for s in seeds], [written(s) for s in seeds], SCALES["quick"])
    return Evidence("grounding", judged, 0.0, {}, config={"seeds": seeds})


def test_arms_are_paid_alike_and_tuned_on_other_seeds() -> None:
    readers = [{arm: {"grounding": 0.2 + n / 100} for n, arm in enumerate(ARMS)} for _ in range(3)]
    found = evidence()
    found.claims.extend(reader_claims(readers, passes=3))
    assert found.unfair() == {}
    assert not set(TUNING) & {*SEEDS["quick"], *SEEDS["full"]}
    assert {model: len(tries(model)) for model in SPACES} == dict.fromkeys(SPACES, 6)
    assert all(dict(TUNED[model]) in tries(model) for model in SPACES)
    assert chosen("seer", [[0.1], [0.9], [0.2], [0.3], [0.4], [0.5]]) == tries("seer")[1]


def test_overlapping_splits_are_no_independent_seeds() -> None:
    readers = [
        {arm: {"grounding": 0.4 - 0.2 * (n > 0) + s / 100 * (n == 0)} for n, arm in enumerate(ARMS)}
        for s in range(3)
    ]
    found = reader_claims(readers, passes=3)
    assert len(found) == 2
    assert {claim.overlap for claim in found} == {0.25}


def test_all_claims_hold_where_they_should() -> None:
    assert set(evidence().verdicts.values()) == {"supported"}


@pytest.mark.parametrize(
    ("claim", "changed"),
    [
        ("sees", {"blind classifier": {"T3 grounding": 0.8}}),
        ("black-frames", {"seer, black frames": {"T3": 0.3}}),
        ("shuffled-frames", {"seer, another clip's frames": {"T3": 0.3}}),
        ("prejudiced-rates", {"prejudiced": {"T1": 0.3}}),
        ("prejudice-convicts", {"prejudiced": {"PR": 0.2}}),
        ("holistic-where-rating-does-not", {"prejudiced": {"HR": 0.8}}),
        ("no-confounder-no-rating", {"prejudiced, colours at random": {"T1": 0.4}}),
    ],
)
def test_every_claim_can_fail(claim: str, changed: dict[str, dict[str, float]]) -> None:
    assert evidence(**changed).verdicts[claim] == "refuted"


def test_a_tell_in_the_words_and_a_lazy_adversary_are_found() -> None:
    """The blind arm is a classifier that learns: with a tell it answers, and the claim of no tell fails."""
    seeds = SEEDS["quick"]
    told = [world(s) | {"words": 0.8 + s / 1000} for s in seeds]
    found = Evidence("g", claims(told, [written(s, 0.34) for s in seeds], SCALES["quick"]), 0.0, {})
    assert found.verdicts["blind-is-chance"] == "refuted"
    assert found.verdicts["adversary"] == "refuted"
    learned, asked = (make_corpus(60, Knobs(solvable=0.9), seed=seed)[1] for seed in (1, 2))
    blind = train_blind(learned, [asked], auditor="options", seed=0)
    assert share_right(blind, asked) > 0.6
    assert len(blind.answers) == len(
        {(q.question, tuple(o.text for o in q.options)) for _, _, q in each_question(asked)}
    )


def test_checks_find_what_must_not_be() -> None:
    leak = {p: {"figures": {"T1": t1}, "states": {"ok": 6}} for p, t1 in (("unified", 0.9), ("staged", 0.2))}
    table = {"a": 1.0, "b": 0, "c": 0, "d": 0, "e": 2.0, "f": 0, "g": 1.0, "h": 5.0}
    arm = {"figures": {"HR": 5 / 9, "PR": 3 / 8}, "states": {"ok": 9}, "table": table}
    held = checks([{"seer": arm, "words": 0.2}], [leak | {"medium": 0.2}])
    assert [check.holds for check in held] == [True, True, True]
    lost = arm | {"states": {"ok": 8, "error": 1}, "figures": {"HR": 0.5, "PR": 3 / 8}}
    assert [c.holds for c in checks([{"seer": lost}], [leak | {"medium": 0.3}])] == [False, False, False]
