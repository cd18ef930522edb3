"""A bank of skills on disk: plain folders that a client reads, their versions by content, a ledger, and a lock.

```
<bank>/<name>/SKILL.md …     skills, as any client of Agent Skills reads them
       bank.json             aliases of merged skills, sets, skills that only a person calls, pinned upstreams
       .noria/versions/      every published version, by content
              ledger.jsonl   what happened, append-only
              publish.json   only while a version is being put in place: the next opening finishes it
```

A version is published folder by folder, each exchanged as a whole. A process that is killed in between leaves
`publish.json`, and whoever opens the bank next finishes what was begun, from the version that was already complete.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import Field

from noria.core.config import Config, parse_config
from noria.core.errors import ConfigError, DataError, RunError
from noria.core.files import appearing, disk_errors, lock, read_bytes, remove_folder, write_atomic
from noria.core.records import json_object
from noria.core.versions.artefacts import ArtefactStore, Lineage
from noria.skills.bank.ledger import Ledger
from noria.skills.bank.reading import Verdict, read_skills
from noria.skills.bank.skill import STAGES, Component, Skill, changed_components

KIND = "skills"


class BankSettings(Config):
    """The file `bank.json`: what is true of the bank as a whole."""

    aliases: Mapping[str, str] = Field(
        default_factory=dict, description="Present name by the name before a merge."
    )
    manual: tuple[str, ...] = Field((), description="Skills that only a person calls; no router sees them.")
    sets: Mapping[str, tuple[str, ...]] = Field(default_factory=dict, description="Skills of each project.")
    pins: Mapping[str, str] = Field(
        default_factory=dict, description="Digest of the upstream version of a skill."
    )
    namespaces: Mapping[str, str] = Field(
        default_factory=dict, description="Where a skill came from, by name; same names stay apart."
    )


@dataclass(frozen=True)
class Bank:
    """Skills in memory, by name."""

    skills: Mapping[str, Skill]
    settings: BankSettings = field(default_factory=BankSettings)

    def routed(self, project: str | None = None) -> list[Skill]:
        """Skills that a router may choose, by name: those of a project's set, without those for people only.

        Raises:
            ConfigError: there is no such set.
        """
        names = sorted(self.skills.keys() - set(self.settings.manual))
        if project is not None:
            if project not in self.settings.sets:
                known = ", ".join(self.settings.sets) or "none"
                raise ConfigError(f"there is no set {project!r}", where="bank.json", mend=f"sets: {known}")
            names = [name for name in names if name in self.settings.sets[project]]
        return [self.skills[name] for name in names]

    def present_name(self, name: str) -> str | None:
        """The name that a skill has now, after merges; None where it is not there."""
        for _ in range(len(self.settings.aliases) + 1):
            if name in self.skills:
                return name
            if name not in self.settings.aliases:
                return None
            name = self.settings.aliases[name]
        return None

    def with_skill(self, skill: Skill) -> Bank:
        """The bank with a skill added or replaced."""
        return replace(self, skills={**self.skills, skill.name: skill})

    def without(self, name: str, *, alias: str | None = None) -> Bank:
        """The bank without a skill, whose name may lead to another one."""
        skills = {n: s for n, s in self.skills.items() if n != name}
        settings = self.settings
        if alias is not None:
            settings = settings.model_copy(update={"aliases": {**settings.aliases, name: alias}})
        return replace(self, skills=skills, settings=settings)


class ComponentLockError(DataError):
    """A stage changed a component that is not its own."""


def check_lock(stage: str, before: Bank, after: Bank) -> dict[str, set[Component]]:
    """Prove by hashes that a stage changed only its own component.

    Args:
        stage: `create`, `route` or `refine`.
        before, after: the bank on both sides of the stage.

    Returns:
        The components that changed, by skill.

    Raises:
        ComponentLockError: another component changed, or a skill appeared or went that the stage may not touch.
    """
    allowed, changed = STAGES[stage], {}
    for name in sorted(before.skills.keys() | after.skills.keys()):
        old, new = before.skills.get(name), after.skills.get(name)
        if old is None or new is None:
            gone = old is not None
            aliased = gone and after.present_name(name) is not None
            discarded = gone and stage == "route"
            if not (stage == "create" and not gone) and not (stage == "route" and (aliased or discarded)):
                what = "removed" if gone else "added"
                raise ComponentLockError(f"the stage {stage} {what} a skill", where=name)
            continue
        parts = changed_components(old, new)
        if stage == "create" and parts:
            raise ComponentLockError("the stage create changed a skill that was there", where=name)
        if parts - allowed:
            raise ComponentLockError(
                f"the stage {stage} changed {', '.join(sorted(parts - allowed))}", where=name
            )
        if parts:
            changed[name] = parts
    return changed


class BankFolder:
    """A bank's folder. Reading takes no lock; `writing` does."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.home = self.folder / ".noria"
        self.versions = ArtefactStore(self.home / "versions")
        self.ledger = Ledger(self.home / "ledger.jsonl")
        self._writable = False

    # -- reading ------------------------------------------------------------------------------------------------------

    def verdicts(self) -> list[Verdict]:
        """Every skill in the folder with what is wrong with it."""
        self._exists()
        return list(read_skills(self.folder))

    def _exists(self) -> None:
        if not self.folder.is_dir():
            raise DataError(
                "there is no bank", where=str(self.folder), mend="make one: noria skills init FOLDER"
            )

    def settings(self) -> BankSettings:
        """Settings in bank.json; the defaults where there is none."""
        path = self.folder / "bank.json"
        return (
            parse_config(BankSettings, read_bytes(path), where=str(path)) if path.exists() else BankSettings()
        )

    def load(self) -> Bank:
        """Read the bank; a skill that cannot be used is an error here, and a verdict in `verdicts`.

        Raises:
            DataError: there is no bank, or a skill in it cannot be read.
        """
        self._check_publishing()
        skills = {}
        for verdict in self.verdicts():
            if verdict.skill is None:
                raise DataError(str(verdict.problems[0]), mend=f"noria skills import {self.folder} --check")
            skills[verdict.folder] = verdict.skill
        return Bank(skills, self.settings())

    def version(self, digest: str) -> Bank:
        """Read a published version of the bank.

        Raises:
            DataError: there is none, or it is damaged.
        """
        artefact = self.versions.artefact(self.resolve(digest))
        self.versions.verify(artefact)
        return read_bank(
            self.versions.path(artefact), modes={n: f.executable for n, f in artefact.files.items()}
        )

    def resolve(self, prefix: str) -> str:
        """The whole digest of a version from its first characters, `head`, or `head~2`: two versions back.

        Raises:
            DataError: there is no such version, or several.
        """
        history = self.history()
        name, _, back = prefix.partition("~")
        if name == "head":
            steps = int(back) if back.isdecimal() else 0
            if not 0 <= steps < len(history):
                raise DataError(
                    f"the bank has {len(history)} version{'s' * (len(history) != 1)}",
                    where=prefix,
                    mend="see noria skills diff BANK",
                )
            return history[-1 - steps]
        known = {one.digest for one in self.versions.artefacts(KIND) if one.digest.startswith(prefix)}
        if len(known) != 1 or len(prefix) < 4:
            raise DataError(
                f"{len(known) or 'no'} version begins so", where=prefix, mend="see noria skills diff BANK"
            )
        return known.pop()

    def history(self) -> list[str]:
        """Digests of the versions that were put in place, oldest first."""
        moves = ("publish", "rollback")
        return [str(e.get("version", "")) for e in self.ledger.entries() if e.get("event") in moves]

    # -- writing ------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def writing(self) -> Iterator[BankFolder]:
        """Hold the bank's lock, and finish what a killed process began.

        Raises:
            DataError: there is no bank. RunError: another process writes it.
        """
        self._exists()
        with lock(self.home):
            self._writable = True
            try:
                self._finish()
                yield self
            finally:
                self._writable = False

    def keep(self, bank: Bank, *, by: str = "", receipt: Mapping[str, Any] | None = None) -> str:
        """Store a version without putting it in place; its digest."""
        with tempfile.TemporaryDirectory(prefix="noria-bank-") as temporary:
            write_bank(bank, Path(temporary) / "bank")
            lineage = Lineage(by=by, at=time.time(), receipt=receipt)
            return self.versions.add(KIND, Path(temporary) / "bank", lineage=lineage).digest

    def publish(self, bank: Bank, *, by: str, event: str = "publish", **fields: Any) -> str:
        """Store a version, put it in place, and say so in the ledger.

        Args:
            bank: the bank.
            by: who publishes.
            event: `publish` or `rollback`.
            fields: what the ledger's line holds besides: stage, gate, evidence.

        Raises:
            ValueError: the lock is not held. RunError: the disk refuses.
        """
        if not self._writable:
            raise ValueError("publish inside of `with folder.writing()`")
        digest = self.keep(bank, by=by, receipt=(fields.get("summary") or {}).get("receipt"))
        write_atomic(
            self.home / "publish.json",
            json.dumps({"version": digest, "by": by, "event": event, "fields": fields}, default=str),
        )
        self._finish()
        return digest

    def record(self, before: Bank, after: Bank, **fields: Any) -> None:
        """Publish a bank that a stage changed; of one that it left as it was, say in the ledger what was tried."""
        if after != before:
            self.publish(after, **fields)
        else:
            self.ledger.add("stage", **fields)

    def roll_back(self, to: str, *, by: str, reason: str = "") -> str:
        """Put an earlier version in place, byte for byte; its digest."""
        digest = self.resolve(to)
        bank = self.version(digest)
        return self.publish(bank, by=by, event="rollback", reason=reason, to=digest)

    def _check_publishing(self) -> None:
        if (self.home / "publish.json").exists() and not self._writable:
            try:
                with self.writing():
                    pass
            except RunError:
                raise RunError(
                    "a version is being published", where=str(self.folder), mend="try again"
                ) from None

    def _finish(self) -> None:
        """Put in place what `publish.json` names; doing it again changes nothing."""
        note = self.home / "publish.json"
        if not note.exists():
            return
        values = json_object(note, "a note of what is published")
        digest = str(values["version"])
        bank = self.version(digest)
        put_in_place(bank, self.folder)
        entries = self.ledger.entries()
        if not entries or entries[-1].get("version") != digest or entries[-1].get("event") != values["event"]:
            self.ledger.add(values["event"], version=digest, by=values["by"], **values.get("fields", {}))
        with disk_errors(note):
            note.unlink()


def read_bank(folder: Path, *, modes: Mapping[str, bool] | None = None) -> Bank:
    """Read a stored version; `modes` says which files may be executed, by path."""
    skills = {}
    for verdict in read_skills(folder):
        if verdict.skill is None:
            raise DataError(str(verdict.problems[0]))
        skill = verdict.skill
        if modes is not None:
            files = tuple(
                replace(f, executable=modes.get(f"{skill.name}/{f.path}", False)) for f in skill.files
            )
            skill = replace(skill, files=files)
        skills[skill.name] = skill
    path = folder / "bank.json"
    settings = (
        parse_config(BankSettings, read_bytes(path), where=str(path)) if path.exists() else BankSettings()
    )
    return Bank(skills, settings)


def write_skill(skill: Skill, folder: Path) -> None:
    """Write a skill's folder, which appears whole."""
    with appearing(folder) as partial:
        (partial / "SKILL.md").write_bytes(skill.source)
        for file in skill.files:
            path = partial / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file.data)
            path.chmod(0o755 if file.executable else 0o644)


def write_bank(bank: Bank, folder: Path) -> None:
    """Write all of a bank's files."""
    for skill in bank.skills.values():
        write_skill(skill, folder / skill.name)
    write_atomic(folder / "bank.json", _settings_json(bank.settings))


def put_in_place(bank: Bank, folder: Path) -> None:
    """Make a bank's folder equal to `bank`: changed skills are exchanged, the others stay untouched."""
    present = {v.folder: v.skill for v in read_skills(folder)} if folder.is_dir() else {}
    for name, skill in bank.skills.items():
        there = present.get(name)
        if there is None or there.digest != skill.digest:
            write_skill(skill, folder / name)
    for name in present.keys() - bank.skills.keys():
        with disk_errors(folder / name):
            remove_folder(folder / name)
    text = _settings_json(bank.settings)
    path = folder / "bank.json"
    if not path.exists() or path.read_text() != text:
        write_atomic(path, text)


def _settings_json(settings: BankSettings) -> str:
    return json.dumps(settings.model_dump(mode="json"), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def diff_banks(before: Bank, after: Bank) -> str:
    """A unified diff of two banks, with the components that changed above each skill."""
    lines: list[str] = []
    for name in sorted(before.skills.keys() | after.skills.keys()):
        old, new = before.skills.get(name), after.skills.get(name)
        if old is not None and new is not None:
            parts = changed_components(old, new)
            if not parts:
                continue
            lines.append(f"# {name}: {', '.join(sorted(parts))}")
        else:
            lines.append(f"# {name}: {'added' if old is None else 'removed'}")
        texts = [[] if s is None else s.source.decode("utf-8", "replace").splitlines() for s in (old, new)]
        lines += difflib.unified_diff(
            texts[0], texts[1], f"a/{name}/SKILL.md", f"b/{name}/SKILL.md", lineterm=""
        )
        lines += _file_lines(old, new)
    if before.settings != after.settings:
        texts = [_settings_json(b.settings).splitlines() for b in (before, after)]
        lines += difflib.unified_diff(texts[0], texts[1], "a/bank.json", "b/bank.json", lineterm="")
    return "\n".join(lines)


def _file_lines(old: Skill | None, new: Skill | None) -> Iterable[str]:
    sides = [{} if s is None else {f.path: f for f in s.files} for s in (old, new)]
    for path in sorted(sides[0].keys() | sides[1].keys()):
        one, other = (side.get(path) for side in sides)
        if one != other:
            yield f"# file {path}: {'added' if one is None else 'removed' if other is None else 'changed'}"
