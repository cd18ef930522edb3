"""Skills learn from corrections: a turn redraws descriptions behind a paired gate, and the better bank is tested."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import random
from pathlib import Path
from typing import Any

import pytest

from noria.assistant.config import AssistantConfig
from noria.assistant.learners.skills import repairing
from noria.assistant.learning import opened_turn
from noria.assistant.parts.skills import SkillSettings, SkillsPart, open_part
from noria.assistant.service.bundles import EXPERIMENT
from noria.core.errors import ConfigError
from noria.core.storage.control import SQLiteControl
from noria.core.versions.artefacts import ArtefactStore
from noria.skills.bank.bank import read_bank
from noria.skills.proposing.protocols import DescribeTask
from noria.skills.proposing.templates import TemplateProposer
from noria.skills.traffic.samples import Sample
from tests.assistant.gateways import Gateway, gateway, settings

WORDS = {
    "cut-out": ("background", "mask", "silhouette", "transparent", "outline", "isolate", "contour", "crop"),
    "recipes": ("eggs", "flour", "oven", "boil", "pasta", "simmer", "broth", "knead"),
    "style-search": ("jacket", "denim", "floral", "sneakers", "blouse", "vintage", "stripes", "linen"),
}
VAGUE = {
    "cut-out": "Helps with pictures.",
    "recipes": "Helps with food.",
    "style-search": "Helps with fashion.",
}


TOLD = {name: f"For requests about {', '.join(words)}." for name, words in WORDS.items()}


def vague_bank(folder: Path) -> Path:
    return bank(folder, VAGUE)


def bank(folder: Path, descriptions: dict[str, str]) -> Path:
    for name, description in descriptions.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "SKILL.md").write_text(
            f"---\nname: {name}\ndescription: {description}\n---\nDo {name}.\n"
        )
    return folder


def corrected(one: Gateway, number: int, *, wrong: float = 0.0) -> None:
    """Requests whose right skill people name; with probability `wrong` they name another one."""
    rng = random.Random(5)
    asked = []
    for n in range(number):
        skill = list(WORDS)[n % 3]
        text = " ".join(rng.sample(WORDS[skill], 4))
        said = rng.choice(list(WORDS)) if rng.random() < wrong else skill
        asked.append((n, f"please {text}", said))

    def ask(item: tuple[int, str, str]) -> None:
        n, text, said = item
        trace = one.ask(text, user=f"user {n}")["id"]
        fields = {"target": trace, "kind": "correction", "name": "skill", "text": said, "user": f"user {n}"}
        assert one.call("/v1/feedback", fields)[0] == 202

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, asked))


def turned(folder: Path, values: dict[str, Any]) -> dict[str, Any]:
    async def run() -> dict[str, Any]:
        config = AssistantConfig.model_validate(values)
        async with opened_turn(folder, config, by="ann", reason="test") as (turn, _):
            return await turn.run()

    return asyncio.run(run())


def test_corrections_redraw_the_descriptions_and_the_better_bank_goes_into_a_test(tmp_path: Path) -> None:
    parts = {"skills": {"bank": str(vague_bank(tmp_path / "bank"))}}
    learning = {"learner": "descriptions", "experiment": {"planned": 200}}
    folder = tmp_path / "data"
    with gateway(folder, parts=parts, learning=learning) as one:
        corrected(one, 900)
        receipt = turned(folder, settings(one.backend.url, parts=parts, learning=learning))
        assert receipt["outcome"] == "handed over", receipt["reason"]
        assert receipt["gate"]["accepted"]
        store = ArtefactStore(folder / "versions")
        bundle = store.load_bundle(receipt["bundle"])
        assert bundle.artefacts.keys() == {"route", "skills"}
        part = open_part(store.path(store.artefact(bundle.artefacts["skills"])), "", ["m"])
        rng = random.Random(6)
        fresh = {
            f"please {' '.join(rng.sample(words, 4))}": name
            for name, words in WORDS.items()
            for _ in range(40)
        }

        def share(one: SkillsPart) -> float:
            chosen = one.router.choose(list(fresh))
            return sum(a == b for a, b in zip(chosen, fresh.values(), strict=True)) / len(fresh)

        before = open_part(
            store.path(
                store.artefact(
                    store.load_bundle(one.call("/v1/champion")[1]["present"]["bundle"]).artefacts["skills"]
                )
            ),
            "",
            [],
        )
        print(
            share(before),
            share(part),
            receipt["gate"]["reason"],
            [part.bank.skills[n].description for n in WORDS],
        )
        assert share(part) > share(before) + 0.3
        assert part.router.calibration.thresholds.keys() == WORDS.keys(), (
            "the thresholds are those of the new bank"
        )
        assert {name: part.bank.skills[name].body for name in WORDS} == {
            name: f"Do {name}.\n" for name in WORDS
        }
        control = SQLiteControl(folder / "control.sqlite")
        (document,) = control.read_all(EXPERIMENT)
        assert document.value is not None
        test = document.value["config"]
        assert test["challenger"] == receipt["bundle"]
        assert (test["primary"], test["planned"]) == ("uncorrected", 200), "what people correct decides"
        assert [one["name"] for one in test["guardrails"]] == ["helpful"]
        again = turned(folder, settings(one.backend.url, parts=parts, learning=learning))
        assert again["outcome"] in ("nothing", "rejected", "registered", "handed over")
        control.close()


def test_corrections_that_are_noise_change_nothing(tmp_path: Path) -> None:
    """The bank sends every request to a skill already: one that abstains would lose to any guess, a third of
    which the noise calls right."""
    parts = {"skills": {"bank": str(bank(tmp_path / "bank", TOLD))}}
    learning = {"learner": "descriptions"}
    folder = tmp_path / "data"
    with gateway(folder, parts=parts, learning=learning) as one:
        corrected(one, 300, wrong=1.0)
        receipt = turned(folder, settings(one.backend.url, parts=parts, learning=learning))
        assert receipt["outcome"] in ("nothing", "rejected"), receipt["reason"]


LATER = {
    "cut-out": ("backdrop", "trim", "excise", "halo", "edges", "alpha", "stencil", "lift"),
    "recipes": ("dinner", "supper", "stew", "roast", "saute", "dough", "whisk", "garnish"),
    "style-search": ("outfit", "trousers", "pleated", "corduroy", "loafers", "retro", "checked", "wool"),
}


def test_after_a_drift_descriptions_hold_both_vocabularies_and_are_told_from_later_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The later requests stand behind more than 200 usual ones of other skills."""
    rng = random.Random(7)
    samples = [
        Sample(f"{n}", " ".join(rng.sample(words[skill], 3)), f"user {n}", (skill,))
        for words, number in ((WORDS, 420), (LATER, 240))
        for n, skill in ((f"{number}-{n}", list(WORDS)[n % 3]) for n in range(number))
    ]
    seen: list[DescribeTask] = []

    class Spy(TemplateProposer):
        def describe(self, task: DescribeTask) -> str | None:
            seen.append(task)
            return super().describe(task)

    plain = repairing.proposer()
    monkeypatch.setattr(repairing, "proposer", lambda: Spy(terms=plain.terms))
    present = read_bank(bank(tmp_path / "bank", TOLD))
    repair = repairing.repaired(present, SkillSettings(), samples, salt="s")
    part = SkillsPart(repair.bank, repair.settings)
    right = repairing.right_routes(part, samples)
    assert right[:420].mean() > 0.9, "the usual words are kept"
    assert right[420:].mean() > 0.9, "the later ones are learnt"
    told = {one.name: one.description for one in repair.bank.routed()}
    assert max(text.count(";") for text in told.values()) >= 14, (
        "more terms than the 14 of a single vocabulary"
    )
    assert any(len(task.taken) > 200 for task in seen), "all requests of the other skills are seen"


def test_without_corrections_or_skills_it_says_so(tmp_path: Path) -> None:
    parts = {"skills": {"bank": str(vague_bank(tmp_path / "bank"))}}
    learning: dict[str, Any] = {"learner": "descriptions"}
    folder = tmp_path / "data"
    with gateway(folder, parts=parts, learning=learning) as one:
        one.ask("please jacket denim")
        receipt = turned(folder, settings(one.backend.url, parts=parts, learning=learning))
        assert receipt["outcome"] in ("nothing", "blocked")
        with pytest.raises(ConfigError, match="no skills to learn"):
            turned(folder, settings(one.backend.url, learning=learning))
    assert (
        json.loads((folder / "turns" / "000001" / "receipt.json").read_text())["outcome"]
        == receipt["outcome"]
    )
