"""Descriptions are repaired from all labels, and a repair has to hold on people and requests that it never saw."""

from __future__ import annotations

import random

import pytest

from noria.assistant.learners.skills.repairing import repaired, right_routes
from noria.assistant.parts.skills import SkillSettings, SkillsPart
from noria.skills.bank.bank import Bank
from noria.skills.bank.skill import make_skill
from noria.skills.traffic.samples import Sample
from tests.assistant.test_descriptions import VAGUE, WORDS

BANK = Bank({name: make_skill(name, text, f"Do {name}.\n") for name, text in VAGUE.items()})


def labelled(number: int, *, seed: int = 0, noise: bool = False, people: int = 100) -> list[Sample]:
    rng = random.Random(seed)
    found = []
    for n in range(number):
        skill = list(WORDS)[n % 3]
        text = f"please {' '.join(rng.sample(WORDS[skill], 4))}"
        said = rng.choice(list(WORDS)) if noise else skill
        found.append(Sample(f"s{n}", text, f"user {n % people}", (said,)))
    return found


def test_a_repair_that_holds_is_drawn_from_all_labels_and_routes_new_requests() -> None:
    repair = repaired(BANK, SkillSettings(), labelled(240), salt="s")
    fresh = labelled(90, seed=1)
    before, after = (
        right_routes(SkillsPart(*one), fresh).mean()
        for one in ((BANK, SkillSettings()), (repair.bank, repair.settings))
    )
    assert after > before + 0.3
    (first, *_) = repair.notes["rounds"]
    assert first["receipt"]["gain"]["effect"] == pytest.approx(after - before, abs=0.2), (
        "and the folds say so"
    )
    assert {name: skill.body for name, skill in repair.bank.skills.items()} == {
        n: f"Do {n}.\n" for n in VAGUE
    }


def test_labels_that_are_noise_do_not_hold() -> None:
    always = SkillSettings(
        thresholds=dict.fromkeys(VAGUE, -2.0)
    )  # a bank that says none can only gain by guessing
    for seed in range(4):
        repair = repaired(BANK, always, labelled(240, noise=True, seed=seed), salt="s")
        assert (repair.bank, repair.settings) == (BANK, always)
        assert repair.why


def test_requests_that_all_people_send_prove_nothing() -> None:
    """A template that everybody sends is right in every fold, unless what shares it is kept from the other folds."""
    sentences = {skill: f"please {' '.join(words[:4])}" for skill, words in WORDS.items()}
    samples = [
        Sample(f"s{n}", sentences[skill], f"user {n}", (skill,))
        for n in range(240)
        for skill in [list(WORDS)[n % 3]]
    ]
    repair = repaired(BANK, SkillSettings(), samples, salt="s")
    assert repair.bank == BANK
