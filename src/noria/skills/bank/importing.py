"""Skills from elsewhere: a verdict on each, repairs on request, namespaces for equal names, updates from upstream."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from noria.skills.bank.bank import Bank, BankSettings
from noria.skills.bank.editing import merge
from noria.skills.bank.reading import Problem, Verdict, parse_skill, repaired
from noria.skills.bank.skill import Skill, SkillFile

State = Literal["added", "same", "updated", "merged", "renamed", "refused", "pinned"]


@dataclass(frozen=True)
class Imported:
    """Outcome of the import of one folder: its state, its name in the bank, why, and what is wrong with it."""

    folder: str
    state: State
    name: str
    why: str
    problems: tuple[Problem, ...]


UNSAFE = ("hidden", "outside", "link")
"""Problems that no import lets through, repaired or not."""


def import_skills(
    bank: Bank,
    verdicts: Iterable[Verdict],
    *,
    namespace: str = "",
    repair: bool = False,
    lenient: bool = False,
    base: Bank | None = None,
    frozen: Sequence[str] = (),
) -> tuple[Bank, list[Imported]]:
    """Take skills into a bank.

    Args:
        bank: the bank.
        verdicts: skills that were read, with their problems.
        namespace: where they are from; a skill of another origin with the same name and other content gets the name
            `<namespace>-<name>`.
        repair: whether what can be mended without judgement is mended.
        lenient: whether skills that break the standard (but are not unsafe) are taken in as they are.
        base: the upstream version that the bank's skills began as, for a three-way merge of what was improved here.
        frozen: names that are not updated.
    """
    made = []
    for verdict in verdicts:
        bank, one = _import(bank, verdict, namespace, repair, lenient, base, frozen)
        made.append(one)
    return bank, made


def _import(
    bank: Bank,
    verdict: Verdict,
    namespace: str,
    repair: bool,
    lenient: bool,
    base: Bank | None,
    frozen: Sequence[str],
) -> tuple[Bank, Imported]:
    skill, problems = verdict.skill, verdict.problems
    unsafe = [p for p in problems if p.rule in UNSAFE]
    if skill is not None and repair and not unsafe and not verdict.ok:
        skill = repaired(skill)
        _, fresh = parse_skill(skill.folder, skill.source, skill.files)
        problems = tuple(fresh)
    errors = [p for p in problems if p.severity == "error"]
    if skill is None or unsafe or (errors and not lenient):
        why = (unsafe or errors or list(problems))[0].what
        return bank, Imported(verdict.folder, "refused", verdict.folder, why, problems)
    name = skill.name
    there = bank.skills.get(name)
    if there is not None and there.digest == skill.digest:
        return bank, Imported(name, "same", name, "nothing differs", problems)
    if name in frozen:
        return bank, Imported(name, "pinned", name, "it is pinned", problems)
    origin = bank.settings.namespaces.get(name, "")
    if there is not None and origin != namespace:
        label = f"{re.sub(r'[^a-z0-9]+', '-', namespace.lower()).strip('-') or 'other'}-{name}"[:64]
        renamed = rename(skill, label)
        bank = _settled(bank.with_skill(renamed), label, namespace, skill.digest)
        return bank, Imported(
            name, "renamed", label, f"{name} of {origin or 'this bank'} stays apart", problems
        )
    start = base.skills.get(name) if base is not None else None
    if there is not None and start is not None and start.digest != there.digest:
        joined, conflicts = merge_skills(start, there, skill)
        if joined is None:
            return bank, Imported(
                name, "refused", name, f"{conflicts} conflicts with what was improved here", problems
            )
        return _settled(bank.with_skill(joined), name, namespace, skill.digest), Imported(
            name, "merged", name, "what was improved here is kept", problems
        )
    state: State = "added" if there is None else "updated"
    return _settled(bank.with_skill(skill), name, namespace, skill.digest), Imported(
        name, state, name, "", problems
    )


def _settled(bank: Bank, name: str, namespace: str, digest: str) -> Bank:
    settings: BankSettings = bank.settings
    pins = {**settings.pins, name: digest}
    spaces = {**settings.namespaces, name: namespace} if namespace else dict(settings.namespaces)
    return replace(bank, settings=settings.model_copy(update={"pins": pins, "namespaces": spaces}))


def rename(skill: Skill, name: str) -> Skill:
    """The skill under another name; every other byte of it stays."""
    source = re.sub(rb"(?m)^name[ \t]*:.*?(\r?)$", b"name: " + name.encode() + rb"\1", skill.source, count=1)
    return replace(skill, folder=name, source=source, header={**skill.header, "name": name})


def merge_skills(base: Skill, ours: Skill, theirs: Skill) -> tuple[Skill | None, int]:
    """Three-way merge of two lines of change of a skill: the skill, or None and the number of conflicts."""
    merged = merge(*(s.source.decode("utf-8", "replace") for s in (base, ours, theirs)))
    conflicts = merged.conflicts
    sides = [{f.path: f for f in s.files} for s in (base, ours, theirs)]
    files: list[SkillFile] = []
    for path in sorted(set().union(*sides)):
        old, one, other = (side.get(path) for side in sides)
        if one == other or other == old:
            chosen = one
        elif one == old:
            chosen = other
        else:
            conflicts += 1
            continue
        if chosen is not None:
            files.append(chosen)
    if conflicts:
        return None, conflicts
    skill, problems = parse_skill(ours.folder, merged.text.encode(), files)
    broken = skill is None or any(p.severity == "error" for p in problems)
    return (None, 1) if broken else (skill, 0)
