"""The proof of the loop: its tests by the service's functions, its claims, its logs, and who does not look."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from noria.assistant.proof.loop.claims import SCALES, harm_claims, other_claims, part_claims, season_claims
from noria.assistant.proof.loop.harm import CHAMPION, length_lover, title_copier
from noria.assistant.proof.loop.imported import _questions, _written
from noria.assistant.proof.loop.logged import agreement
from noria.assistant.proof.loop.looking import GUARD, run_looking
from noria.assistant.proof.loop.tables import notes, tables
from noria.assistant.proof.loop.testing import dealt_again, rating, who_may_rate
from noria.assistant.world.catalogue import catalogue
from noria.assistant.world.oracle import Seen
from noria.assistant.world.shop import TOPICS
from noria.assistant.world.users import Wishes, population
from noria.core.proofs.proof import Claim, Evidence
from noria.core.traces.imports import import_traces


def test_who_is_not_asked_would_have_said_nothing_whatever_the_answer() -> None:
    wishes = Wishes(2, catalogue(), TOPICS)
    pairs = [(user, wishes.wish(user, 0, 0)) for user in population(2)[:600]]
    asked = who_may_rate(pairs)
    assert 0.15 < len(asked) / len(pairs) < 0.3
    names = {wish.name for _, wish in asked}
    answers = [
        Seen(failed=True),
        Seen("Delivery takes 3 days. Shall i do more?"),
        Seen("It is 30 days. " * 20),
    ]
    for user, wish in pairs:
        if wish.name not in names:
            assert all(math.isnan(rating(user, wish, one)) for one in answers)


def test_a_test_dealt_again_promotes_what_is_better_rolls_back_what_is_worse_and_seldom_anything_else() -> (
    None
):
    rng = np.random.default_rng(0)
    said = np.where(rng.random(400) < 0.3, math.nan, rng.random(400))
    better, worse = np.clip(said + 0.4, 0, 1), np.clip(said - 0.4, 0, 1)

    def ends(challenger: Any, **more: Any) -> list[str]:
        return [dealt_again(said, challenger, np.random.default_rng([1, n]), **more) for n in range(40)]

    assert ends(better).count("promoted") == 40
    assert ends(worse).count("rolled back") == 40
    assert ends(said).count("promoted") <= 6
    looks, guesses = np.ones(400), np.zeros(400)
    guarded = {"guarded": {GUARD.name: (looks, guesses)}, "guardrails": (GUARD,)}
    assert ends(better, **guarded).count("rolled back") == 40, "a guardrail that breaks stops what users like"
    kept = {"guarded": {GUARD.name: (looks, looks)}, "guardrails": (GUARD,)}
    assert ends(better, **kept).count("promoted") == 40


def test_who_does_not_look_wins_by_ratings_and_not_with_the_guardrail_and_who_looks_better_wins_with_it() -> (
    None
):
    found = run_looking(3, 120, 12)["looking"]
    blind, better = found["does not look"], found["looks better"]
    assert blind["right"] > found["looks"]["right"]
    assert blind["promoted by ratings alone"] > 0.8
    assert blind["promoted with the guardrail"] == 0
    assert better["promoted with the guardrail"] > 0.8
    assert (blind["grounded"], better["grounded"]) == (0.0, 1.0)


def test_a_refused_estimate_predicts_nothing_and_a_test_without_a_sign_asks_for_none() -> None:
    found = {
        "right": {"estimate": 0.2, "test": 0.3, "error": 0.1},
        "wrong": {"estimate": -0.2, "test": 0.3, "error": 0.1},
        "refused": {"estimate": None, "test": -0.3, "error": 0.1},
        "open": {"estimate": 0.2, "test": -0.1, "error": 0.1},
    }  # fmt: skip
    assert agreement(found) == (1, 3)


def test_planted_answers_copy_a_title_or_say_more() -> None:
    wish = Wishes(0, catalogue(), TOPICS).wish(population(0)[0], 0, 0)
    cards = Seen("Kite costs 3.00 EUR.", ({"kind": "cards", "items": [{"title": "Kite"}]},))
    assert title_copier(wish, cards) == "Kite"
    assert title_copier(wish, replace(cards, shown=())) == wish.text
    assert length_lover(wish, cards).startswith(cards.text)
    assert len(length_lover(wish, cards).split()) > 30


def test_both_logs_are_read_whole_by_the_importer(tmp_path: Path) -> None:
    pairs = _questions(1, 12)
    assert {wish.intent for _, wish in pairs} == {"help"}
    logs = _written(tmp_path, pairs, [f"answer {n}" for n in range(12)])
    read = [one.trace for log in logs for one in import_traces(log)]
    assert len({trace.id for trace in read}) == len({trace.user for trace in read}) == 12
    said = [trace.spans[0].input[-1]["content"] for trace in read]
    assert said == [wish.text for _, wish in pairs]


# -- claims -----------------------------------------------------------------------------------------------------------


def row(seed: int, good: float = 0.2) -> dict[str, Any]:
    """What a seed gives, where the loop gains so much."""
    noise = 0.002 * seed
    arms = {f"{name}, {words}": 0.4 + noise for name in ("bundle 0", "without skills", "static")
            for words in ("usual", "later", "half")}  # fmt: skip
    arms |= {f"loop, {words}": 0.4 + good + 0.003 * seed for words in ("usual", "later", "half")}
    parts = {name: {"quality": 0.5 + noise, "cost": 0.1 - 0.01 * good * seed, "waiting": 2.0} for name in (
        "everything", "without routing of skills", "without bodies", "without tools", "without planner",
        "with the router")}  # fmt: skip
    planted = {
        "effect": -0.1,
        "gate": 0.0,
        "forced, promoted": 0.0,
        "forced, rolled back": 0.9,
        "promoted": 0.0,
    }
    looking = {
        "right": 0.5,
        "grounded": 0.0,
        "promoted by ratings alone": 0.9,
        "promoted with the guardrail": 0.0,
    }
    return arms | {
        "parts": parts, "harm": {CHAMPION: planted | {"effect": 0.0}, "length-lover": planted},
        "bodies": {"before": 0.5 + noise, "after": 0.5 + good, "repaired": ["find-products"]},
        "looking": {"does not look": looking}, "drawing": {"4": 0.1, "16": 0.4},
        "logged": {"all labels": {"estimate": 0.2, "test": 0.3, "error": 0.1}},
        "imported": {"before": 0.2 + noise, "after": 0.2 + good, "stage": "promoted", "traces": 9, "again": 0},
        "decisions": ["promoted", "nothing", "nothing"],
        "decisions without hostile users": ["promoted", "nothing", "nothing"],
    }  # fmt: skip


def judged(rows: list[dict[str, Any]]) -> Evidence:
    claims: list[Claim] = [
        *season_claims(rows, SCALES["quick"]), *harm_claims(rows), *part_claims(rows), *other_claims(rows),
    ]  # fmt: skip
    return Evidence("assistant", claims, 1.0, {}, tables(rows), notes(rows), {"seeds": [5000, 5001]})


def test_arms_are_paid_alike_and_a_loop_that_gains_nothing_is_not_supported() -> None:
    evidence = judged([row(seed) for seed in range(4)])
    assert evidence.unfair() == {}
    assert len({claim.id for claim in evidence.claims}) == len(evidence.claims) == 19
    assert evidence.verdicts["loop"] == "supported"
    assert "not measured" in str(evidence.figures[1]), "what the shop does not have is named, and no zero"
    idle = judged([row(seed, good=0.0) for seed in range(4)])
    assert idle.verdicts["loop"] != "supported"
    assert idle.verdicts["imported"] != "supported"


def test_a_candidate_that_did_no_harm_on_a_seed_is_not_counted_as_harmful() -> None:
    rows = [row(seed) for seed in range(3)]
    rows[0]["harm"]["length-lover"] |= {"effect": 0.1, "promoted": 1.0}
    (harm, *_) = harm_claims(rows)
    assert harm.arms["planted"] == [None, 0.0, 0.0]
    rows[1]["harm"]["length-lover"] |= {"promoted": 1.0}
    assert harm_claims(rows)[0].arms["planted"] == [None, 1.0, 0.0]
    with pytest.raises(KeyError):
        harm_claims([{}])
