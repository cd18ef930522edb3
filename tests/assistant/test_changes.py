"""What changes between bundles, by their bytes, and whether it promotes by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from noria.assistant.config import AssistantConfig
from noria.assistant.service.changes import changed_kinds, changes
from noria.core.versions.artefacts import ArtefactStore
from tests.assistant.gateways import settings

SHEET = "---\nname: tea\ndescription: For tea.\nallowed-tools: kettle\n---\nBoil it.\n"


def bundle(store: ArtefactStore, folder: Path, sheet: str = SHEET, bank: str = "{}", more: str = "") -> str:
    (folder / "tea").mkdir(parents=True)
    (folder / "tea" / "SKILL.md").write_text(sheet)
    (folder / "bank.json").write_text(bank)
    if more:
        (folder / "tea" / "tool.py").write_text(more)
    route = folder.parent / "route.json"
    route.write_text("a route")
    return store.bundle([store.add("skills", folder).digest, store.add("route", route).digest]).digest


@pytest.mark.parametrize(
    ("change", "kinds"),
    [
        ({}, set()),
        ({"sheet": SHEET.replace("For tea.", "For green tea.")}, {"descriptions"}),
        ({"bank": '{"manual": []}'}, {"descriptions"}),
        ({"sheet": SHEET.replace("Boil it.", "Boil it twice.")}, {"bodies"}),
        ({"sheet": SHEET.replace("kettle", "kettle oven")}, {"bodies"}),
        ({"sheet": SHEET.replace("For tea.", "For all.").replace("Boil", "Burn")}, {"bodies"}),
        ({"sheet": SHEET.replace("description: For tea.", "description: [")}, {"bodies"}),
        ({"more": "print()"}, {"bodies"}),
    ],
)
def test_the_kind_of_a_change_follows_from_the_bytes(
    tmp_path: Path, change: dict[str, str], kinds: set[str]
) -> None:
    store = ArtefactStore(tmp_path / "store")
    before, after = bundle(store, tmp_path / "a"), bundle(store, tmp_path / "b", **change)
    assert changed_kinds(store, before, after) == kinds
    assert changed_kinds(store, after, before) == kinds


def test_a_skill_that_is_new_is_a_kind_of_its_own_and_one_that_is_gone_is_a_body(tmp_path: Path) -> None:
    store = ArtefactStore(tmp_path / "store")
    before = bundle(store, tmp_path / "a")
    (tmp_path / "b" / "coffee").mkdir(parents=True)
    (tmp_path / "b" / "coffee" / "SKILL.md").write_text(SHEET.replace("tea", "coffee"))
    after = bundle(store, tmp_path / "b")
    assert changed_kinds(store, before, after) == {"creation"}
    assert changed_kinds(store, after, before) == {"bodies"}


def test_a_diff_shows_the_lines_that_differ(tmp_path: Path) -> None:
    store = ArtefactStore(tmp_path / "store")
    before = bundle(store, tmp_path / "a")
    (one,) = changes(store, before, bundle(store, tmp_path / "b", SHEET + "Serve it.\n"))
    assert one.name == "tea/SKILL.md"
    assert [line for line in one.diff()[2:] if line[0] in "+-"] == ["+Serve it."]


def test_bodies_ask_even_where_all_else_promotes_by_itself() -> None:
    def made(**changes: object) -> AssistantConfig:
        return AssistantConfig.model_validate(settings("http://127.0.0.1:9/v1") | changes)

    auto = made(promote="auto")
    assert auto.promotion({"route"}) == "auto"
    assert auto.promotion({"descriptions"}) == "auto"
    assert auto.promotion({"bodies"}) == "ask"
    assert auto.promotion({"route", "bodies"}) == "ask"
    assert auto.promotion(set()) == "ask", "what changes nothing that is known is looked at"
    assert made(promote="auto", promote_kinds={"bodies": "auto"}).promotion({"bodies"}) == "auto"
    assert made(promote_kinds={"route": "auto"}).promotion({"route"}) == "auto"
    assert made(promote_kinds={"route": "auto"}).promotion({"route", "plans"}) == "ask"
