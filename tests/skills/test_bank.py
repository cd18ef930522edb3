"""A bank of skills: bytes that survive, components under lock, versions that come back, hostile folders refused."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from noria.core.errors import DataError, NoriaError
from noria.skills.bank.bank import Bank, BankFolder, ComponentLockError, check_lock, read_bank, write_bank
from noria.skills.bank.editing import merge
from noria.skills.bank.reading import check_skill, read_skill, repaired
from noria.skills.bank.skill import Skill, changed_components, make_skill

ODD = (
    b"---\r\n# a comment\r\nname: odd\r\ndescription: >-\r\n  Folds lines\r\n  as YAML does.\r\nlicense: MIT\r\n"
    b"x-own: [1, 2]\r\n"
    b"---\r\n\r\n# Title\r\n\r\nBody with --- in it.\r\n---\r\nnot a header\r\n"
)


def skill(
    name: str = "search",
    description: str = "Finds pictures. Use it for pictures.",
    body: str = "# S\n\nLook.\n",
) -> Skill:
    return make_skill(name, description, body, tools=["image_search"])


def folder(tmp_path: Path, source: bytes, name: str = "odd") -> Path:
    place = tmp_path / name
    place.mkdir(parents=True)
    (place / "SKILL.md").write_bytes(source)
    return place


def test_a_folder_comes_back_byte_for_byte(tmp_path: Path) -> None:
    place = folder(tmp_path / "in", ODD)
    (place / "scripts").mkdir()
    (place / "scripts" / "run.sh").write_text("echo hi\n")
    (place / "scripts" / "run.sh").chmod(0o755)
    bank = read_bank(tmp_path / "in")
    write_bank(bank, tmp_path / "out")
    assert (tmp_path / "out" / "odd" / "SKILL.md").read_bytes() == ODD
    assert os.access(tmp_path / "out" / "odd" / "scripts" / "run.sh", os.X_OK), (
        "modes are kept; nothing is run"
    )
    assert bank.skills["odd"].header["x-own"] == [1, 2], "unknown keys stay"
    assert bank.skills["odd"].body.startswith("# Title"), "a line of dashes in the body closes nothing"


@settings(max_examples=60)
@given(
    st.text(st.characters(codec="utf-8", exclude_characters="\r"), min_size=1, max_size=200).filter(str.strip)
)
def test_another_description_changes_that_component_alone(text: str) -> None:
    before = skill()
    after = before.with_description(text)
    assert changed_components(before, after) <= {"description"}
    assert after.body == before.body
    assert after.header["description"] == text
    body = before.with_body("Other.")
    assert changed_components(before, body) == {"body"}
    assert body.description == before.description


def test_a_stage_cannot_change_what_is_not_its_own() -> None:
    bank = Bank({"search": skill()})
    described = bank.with_skill(skill().with_description("Another one."))
    assert check_lock("route", bank, described) == {"search": {"description"}}
    with pytest.raises(ComponentLockError, match="body"):
        check_lock("route", bank, bank.with_skill(skill().with_body("Other.")))
    with pytest.raises(ComponentLockError, match="description"):
        check_lock("refine", bank, described)
    armed = make_skill("search", skill().description, skill().body, tools=["image_search", "shell_exec"])
    for stage in ("route", "refine"):
        with pytest.raises(ComponentLockError):
            check_lock(stage, bank, bank.with_skill(armed))


def test_every_version_can_be_put_back(tmp_path: Path) -> None:
    write_bank(Bank({"search": skill()}), tmp_path)
    with BankFolder(tmp_path).writing() as place:
        first = place.publish(place.load(), by="ann")
        original = (tmp_path / "search" / "SKILL.md").read_bytes()
        second = place.publish(place.load().with_skill(skill().with_body("Worse.")), by="loop")
        assert first != second
        assert b"Worse." in (tmp_path / "search" / "SKILL.md").read_bytes()
        place.roll_back(first, by="ann", reason="it was worse")
    assert (tmp_path / "search" / "SKILL.md").read_bytes() == original
    assert BankFolder(tmp_path).history()[-1] == first
    with pytest.raises(NoriaError):
        BankFolder(tmp_path).resolve("ffff")


def _hold(
    path: str, held: multiprocessing.synchronize.Event, done: multiprocessing.synchronize.Event
) -> None:
    with BankFolder(Path(path)).writing():
        held.set()
        done.wait(20)


def test_two_runs_do_not_write_one_bank(tmp_path: Path) -> None:
    write_bank(Bank({"search": skill()}), tmp_path)
    context = multiprocessing.get_context("spawn")
    held, done = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(str(tmp_path), held, done))
    process.start()
    try:
        assert held.wait(30)
        with pytest.raises(NoriaError), BankFolder(tmp_path).writing():
            pass
    finally:
        done.set()
        process.join()


@pytest.mark.parametrize(
    "source",
    [
        b"",
        b"no frontmatter at all",
        b"---\nname: odd\n",
        b"---\nname: odd\ndescription: !!python/object:os.system x\n---\nx\n",
        b"---\na: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n---\nx\n",
        b"---\nname: other\ndescription: d\n---\nx\n",
        b"---\nname: odd\ndescription: d\nname: odd\n---\nx\n",
        b"---\nname: odd\ndescription: <b>x</b>\n---\nx\n",
        b"---\nname: odd\ndescription: d\n---\nhidden \xe2\x80\xae text\n",
        b"\xff\xfe---\nname: odd\n",
        b"---\nname: odd\ndescription: d\n---\n" + b"x" * (11 << 20),
    ],
    ids=range(11),
)
def test_a_hostile_skill_has_a_verdict_with_a_reason_and_no_traceback(tmp_path: Path, source: bytes) -> None:
    verdict = read_skill(folder(tmp_path, source))
    assert verdict.problems
    assert all(problem.what for problem in verdict.problems)


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    place = folder(tmp_path, b"---\nname: odd\ndescription: d\n---\nx\n")
    (tmp_path / "secret").write_text("secret")
    (place / "notes.md").symlink_to(tmp_path / "secret")
    verdict = read_skill(place)
    assert verdict.problems
    assert verdict.skill is None or all(b"secret" not in one.data for one in verdict.skill.files)


def test_what_can_be_mended_is_mended_on_request() -> None:
    verdict_before = check_skill(skill())
    assert [problem for problem in verdict_before if problem.severity == "error"] == []
    assert check_skill(repaired(skill())) == verdict_before


def test_two_sides_merge_and_a_conflict_is_said() -> None:
    base = "# A\n\none\n\n# B\n\ntwo\n"
    ours, theirs = base.replace("one", "uno"), base.replace("two", "due")
    merged = merge(base, ours, theirs)
    assert "uno" in merged.text
    assert "due" in merged.text
    assert merged.conflicts == 0
    assert merge(base, base.replace("one", "x"), base.replace("one", "y")).conflicts == 1
    assert merge(base, base, theirs).text == theirs


def test_a_skill_without_a_description_cannot_get_another() -> None:
    bare = make_skill("a", "d", "b")
    broken = type(bare)("a", b"---\nname: a\n---\nb\n", {"name": "a"})
    with pytest.raises(DataError, match="description"):
        broken.with_description("x")
