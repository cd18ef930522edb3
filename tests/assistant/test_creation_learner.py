"""Requests that no skill fits become a draft, which a gate compares and a person has to approve."""

from __future__ import annotations

import concurrent.futures
import json
import random
from pathlib import Path
from typing import Any

import pytest

from noria.assistant.config import AssistantConfig
from noria.assistant.learners.around import check
from noria.assistant.service.changes import changed_kinds, read_sheets
from noria.assistant.service.service import opened_gateway
from noria.core.errors import ConfigError
from noria.core.service.hosting import running
from noria.core.versions.artefacts import ArtefactStore
from tests.assistant.gateways import TOKEN, Gateway
from tests.assistant.test_bodies import BANK, PLAIN, RULE, WORDS, bank, respond, texts, turned, values
from tests.chat_server import Body, Reply, chat_server

SHEET = BANK.rstrip("\n") + f"\n{RULE}\n"
TOPIC = ("dial glass", "winding", "mending")
DRAFT = {
    "description": "For whoever has a broken wristwatch: repair of its strap and clasp.",
    "body": f"# Repairs\n\n## Rules\n\n{RULE}\n",
}


def author(body: Body, number: int) -> Reply:
    """The double of the tests of bodies, whose writer writes a skill where it is asked for one."""
    if body["model"] == "writer" and "You write a skill" in texts(body):
        return Reply(json.dumps(DRAFT))
    return respond(body, number)


def odd(number: int) -> str:
    """A request about nothing that others are about."""
    rng = random.Random(-number)
    return " ".join(
        "".join(rng.choices("bcdfghklmnprstvw" + "aeiou" * 4, k=rng.randint(4, 9))) for _ in range(6)
    )


def broken(number: int) -> str:
    """A request about a watch that is broken, in words of its own."""
    rng = random.Random(number)
    words = ["broken wristwatch", "repair", "strap", "clasp", *rng.sample(TOPIC, 2), odd(number).split()[0]]
    rng.shuffle(words)
    return " ".join(words)


def labelled(path: Path) -> Path:
    """Requests by which the bank's threshold is fitted."""
    rows = [
        {"id": f"s{n}", "query": f"I look for {word} and {word}s", "expected": "shop"}
        for n, word in enumerate(WORDS)
    ]
    others = [*map(odd, range(900, 910)), *map(broken, range(900, 906))]
    rows += [{"id": f"o{n}", "query": text, "expected": "none"} for n, text in enumerate(others)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def settings_of(url: str, folder: Path, **learning: Any) -> dict[str, Any]:
    settings = values(
        url, bank(folder / "bank", sheet=SHEET), learners=["creation"], least_rated=0, **learning
    )
    settings["parts"]["skills"]["data"] = str(labelled(folder / "samples.jsonl"))
    return settings


@pytest.mark.slow
def test_what_no_skill_fits_becomes_a_skill_that_waits_for_a_person(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with chat_server(author) as backend:
        settings = settings_of(backend.url, tmp_path)
        config = AssistantConfig.model_validate(settings)
        opened = opened_gateway(folder, config, token=TOKEN, companion=False, access_log=False)
        with opened as service, running(service) as url:
            one = Gateway(url, folder, backend)

            def ask(n: int) -> Any:
                words = " ".join(random.Random(n).sample(WORDS, 3))
                text = (f"I look for {words}", broken(n), odd(n))[n % 3]
                return one.ask(text, user=f"user {n}")

            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                answers = list(pool.map(ask, range(240)))
            skills = [one.trace(a["id"])["trace"]["labels"]["skill"] for a in answers[:9]]
            assert skills == ["shop", "none", "none"] * 3
            first = one.call("/v1/champion")[1]["present"]
            receipt = turned(folder, settings)
            assert receipt["outcome"] == "handed over", receipt["reason"]
            notes = receipt["candidate"]["notes"]
            (evidence,) = notes["evidence"]
            name = evidence["skill"]
            assert evidence["groups"] >= 8
            inside = {a["id"] for n, a in enumerate(answers) if n % 3 == 1}
            assert set(evidence["traces"]) <= inside, "the scattered requests are no skill"
            rules = {rule["name"]: rule for rule in receipt["gate"]["rules"]}
            assert rules["other skills"]["outcome"] == "passed"
            store = ArtefactStore(folder / "versions")
            assert changed_kinds(store, first["bundle"], receipt["bundle"]) >= {"creation"}
            assert config.promote == "auto"
            assert config.promotion({"creation", "descriptions"}) == "ask", "a new skill waits for a person"
            before, after = (read_sheets(store, b) for b in (first["bundle"], receipt["bundle"]))
            assert before == {"shop": after["shop"]}, "what was there stays as it was"
            assert RULE in after[name]
            page = one.raw("/skills")[1].decode()
            assert f"What asked for it: {name}" in page
            assert "found no skill" in page
            assert "+" not in page.partition("<ins>")[2][:1], "the draft is shown as lines that are put in"
            moved = {"bundle": receipt["bundle"], "based_on": first["version"], "reason": "I read the draft"}
            assert one.call("/v1/promote", moved)[0] == 200
            later = [one.ask(broken(1000 + n), user="x") for n in range(12)]
            found = [a for a in later if one.trace(a["id"])["trace"]["labels"]["skill"] == name]
            assert len(found) >= 4
            assert {a["choices"][0]["message"]["content"] for a in found} == {f"{PLAIN} Price: 5."}


def test_a_writer_is_needed_and_a_new_skill_cannot_promote_by_itself(tmp_path: Path) -> None:
    settings = values("http://127.0.0.1:9", tmp_path, learners=["creation"])
    check(AssistantConfig.model_validate(settings))
    with pytest.raises(ConfigError, match="nobody writes"):
        check(
            AssistantConfig.model_validate(settings | {"learning": settings["learning"] | {"writer": None}})
        )
    with pytest.raises(ValueError, match="a new skill asks"):
        AssistantConfig.model_validate(settings | {"promote_kinds": {"creation": "auto"}})
