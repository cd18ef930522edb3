"""Reading skill folders: leniently, with a verdict on every one, and nothing dropped without a reason.

Strict is the written standard of Agent Skills (agentskills.io/specification). Where the public checker `skills-ref`
0.1.1 differs: it ends the frontmatter at the first `---` anywhere, also inside of a value; it refuses legal YAML (flow
lists, anchors, comments after quoted text); and it takes lower-case letters of every script for a name, where the
standard says a-z, 0-9 and hyphens.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from noria.core.errors import ConfigError, DataError
from noria.core.files import input_errors, read_bytes
from noria.core.yaml_values import parse_yaml
from noria.skills.bank.skill import FIELDS, Skill, SkillFile, frontmatter_end, header_pieces
from noria.skills.bank.text import commands, hidden_characters

LARGEST_MD = 1_000_000
LARGEST_FILE = 16 * 2**20
LARGEST_SKILL = 64 * 2**20
MOST_FILES = 1000
NAME = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
BODY_LINES = 500
_LINK = re.compile(r"\]\(<?([^)\s>]+)>?\)|`((?:\.\.?/)*[\w.-]+/[\w./-]+\.\w{1,8})`")
Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Problem:
    """Something wrong with a skill.

    Attributes:
        skill: name of its folder.
        line: line of SKILL.md, or None for the folder.
        rule: short name of the rule.
        what: what is wrong, in words.
        severity: `error` breaks the standard or is unsafe; `warning` is advice.
        mend: what a repair would do; empty where only a person can.
    """

    skill: str
    line: int | None
    rule: str
    what: str
    severity: Severity = "error"
    mend: str = ""

    def __str__(self) -> str:
        place = f"{self.skill}/SKILL.md" + (f":{self.line}" if self.line else "")
        return f"{place}: {self.what}" + (f"; {self.mend}" if self.mend else "")


@dataclass(frozen=True)
class Verdict:
    """Result of reading one folder: the skill, or None where it cannot be used, and every problem."""

    folder: str
    skill: Skill | None
    problems: tuple[Problem, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the skill follows the standard."""
        return self.skill is not None and all(p.severity != "error" for p in self.problems)


@dataclass(frozen=True)
class Limits:
    """Bounds on what is read."""

    md: int = LARGEST_MD
    file: int = LARGEST_FILE
    skill: int = LARGEST_SKILL
    files: int = field(default=MOST_FILES)


def skill_folders(root: Path) -> list[Path]:
    """Folders right below `root` that hold a SKILL.md, or `root` itself where it is one, by name.

    Raises:
        DataError: the folder cannot be read.
    """
    with input_errors(root):
        if (root / "SKILL.md").exists():
            return [root.resolve()]
        if not root.is_dir():
            raise DataError("no folder of skills", where=str(root), mend="give a folder with NAME/SKILL.md")
        home = root / "skills" if not any(root.glob("*/SKILL.md")) and (root / "skills").is_dir() else root
        return sorted(
            p for p in home.iterdir() if not p.name.startswith(".") and os.path.lexists(p / "SKILL.md")
        )


def read_skills(root: Path, *, limits: Limits | None = None) -> Iterator[Verdict]:
    """Read every skill below a folder, each with its verdict."""
    for folder in skill_folders(root):
        yield read_skill(folder, limits=limits)


def read_skill(folder: Path, *, limits: Limits | None = None) -> Verdict:
    """Read one skill folder. What is wrong is in the verdict; only the disk's refusal of the folder raises."""
    limits = limits or Limits()
    name = folder.name
    try:
        files, problems = _files(folder, limits)
        source = read_bytes(folder / "SKILL.md", limit=limits.md)
    except DataError as error:
        return Verdict(name, None, (Problem(name, None, "unreadable", error.what),))
    skill, more = parse_skill(name, source, files)
    problems += more
    return Verdict(name, skill, tuple(problems))


def parse_skill(
    name: str, source: bytes, files: Iterable[SkillFile] = ()
) -> tuple[Skill | None, list[Problem]]:
    """A skill of its parts, and what is wrong with it."""
    problems: list[Problem] = []

    def add(
        rule: str, what: str, line: int | None = None, severity: Severity = "error", mend: str = ""
    ) -> None:
        problems.append(Problem(name, line, rule, what, severity, mend))

    try:
        text = source.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        add("encoding", f"not UTF-8 (byte {error.start})", source.count(b"\n", 0, error.start) + 1)
        return None, problems
    if source.startswith(b"\xef\xbb\xbf"):
        add("bom", "a byte-order mark before the frontmatter", 1, "warning", "the repair takes it out")
    end = frontmatter_end(source)
    if not end:
        closed = "never closed" if text.startswith("---") else "missing"
        add("frontmatter", f"the frontmatter is {closed}", 1, mend="write `---`, the fields, `---`")
        return None, problems
    header, faults = _header(name, source[:end])
    problems += faults
    if header is None:
        return None, problems
    skill = Skill(name, source, header, tuple(sorted(files, key=lambda f: f.path)))
    problems += check_skill(skill)
    return skill, problems


def _header(name: str, head: bytes) -> tuple[dict[str, Any] | None, list[Problem]]:
    """Values of the frontmatter; where it is no YAML, read line by line as people write it, with a warning."""
    inner = b"\n".join(head.removeprefix(b"\xef\xbb\xbf").splitlines()[1:-1])
    try:
        value = parse_yaml(inner, "SKILL.md").value
    except ConfigError as error:
        match = re.match(r"SKILL\.md:(\d+)", error.where or "")
        line = int(match[1]) + 1 if match else None
        fault = Problem(name, line, "yaml", error.what, mend="the repair quotes the value")
        unsafe = any(word in error.what for word in ("tag", "alias", "values", "nested", "character"))
        return (None if unsafe else _by_line(head)), [fault]
    if not isinstance(value, dict):
        return None, [Problem(name, 2, "yaml", "the frontmatter is no mapping of fields")]
    return value, []


def _by_line(head: bytes) -> dict[str, Any] | None:
    found: dict[str, Any] = {}
    for key, piece in header_pieces(head):
        if key:
            _, _, rest = piece.decode("utf-8", "replace").partition(":")
            text = " ".join(rest.split())
            if text.startswith(("|", ">")):
                text = text[1:].strip()
            found[key] = text.strip("\"'") if text[:1] in "\"'" else text
    return found if "description" in found else None


def check_skill(skill: Skill) -> list[Problem]:
    """Compare a skill with the standard, and look for what is unsafe or hidden in it."""
    where = _lines_of_keys(skill.source)
    problems = [*_check_header(skill, where)]
    text = skill.source.decode("utf-8", "replace").removeprefix("\ufeff")

    def add(rule: str, what: str, line: int | None, severity: Severity = "error") -> None:
        problems.append(Problem(skill.name, line, rule, what, severity))

    for hidden in hidden_characters(text):
        add("hidden", f"column {hidden.column} is {hidden.name}, which is not seen", hidden.line)
    for phrase in commands(text)[:5]:
        line = text.count("\n", 0, text.find(phrase)) + 1
        add("injection", f"it addresses the model: {phrase[:60]!r}", line, "warning")
    first = text[: len(text) - len(skill.body)].count("\n") + 1
    if not skill.body.strip():
        add("body", "the body is empty", first, "warning")
    if skill.body.count("\n") >= BODY_LINES:
        add("long", f"{skill.body.count(chr(10)) + 1} lines of body, {BODY_LINES} advised", first, "warning")
    paths = {file.path for file in skill.files}
    for match in _LINK.finditer(skill.body):
        target = (match[1] or match[2]).partition("#")[0]
        line = first + skill.body.count("\n", 0, match.start())
        if not target or re.match(r"[a-z][a-z0-9+.-]*:|#", target, re.IGNORECASE):
            continue
        if target.startswith("/") or ".." in target.split("/"):
            add("outside", f"{target!r} leaves the folder", line)
        elif match[1] and target.removeprefix("./") not in paths:
            add("dangling", f"{target!r} is not in the folder", line)
        elif target.removeprefix("./").count("/") > 1:
            add("deep", f"{target!r} is more than one level deep", line, "warning")
    return problems


def _check_header(skill: Skill, where: Mapping[str, int]) -> Iterator[Problem]:
    header = skill.header

    def problem(rule: str, what: str, key: str, severity: Severity = "error", mend: str = "") -> Problem:
        return Problem(skill.name, where.get(key, 1), rule, what, severity, mend)

    name = header.get("name")
    if not isinstance(name, str) or not name:
        yield problem("name", "there is no name", "name", mend="the repair takes the folder's")
    elif len(name) > 64 or not NAME.fullmatch(name):
        yield problem("name", f"the name {name[:70]!r} is not 1 to 64 of a-z, 0-9 and single hyphens", "name")
    elif name != skill.folder:
        yield problem(
            "folder", f"the name {name!r} is not the folder's", "name", mend="the repair takes the folder's"
        )
    description = header.get("description")
    if not isinstance(description, str) or not description.strip():
        yield problem("description", "there is no description", "description")
    elif len(description) > 1024:
        yield problem(
            "description", f"{len(description):,} characters of description, 1,024 allowed", "description"
        )
    elif "<" in description or ">" in description:
        yield problem("markup", "the description holds < or >", "description", "warning")
    compatibility = header.get("compatibility")
    if compatibility is not None and not (isinstance(compatibility, str) and 0 < len(compatibility) <= 500):
        yield problem("compatibility", "compatibility is not 1 to 500 characters", "compatibility")
    metadata = header.get("metadata")
    if metadata is not None and not (
        isinstance(metadata, dict) and all(isinstance(v, str) for v in metadata.values())
    ):
        yield problem(
            "metadata", "metadata does not map texts to texts", "metadata", mend="the repair quotes them"
        )
    for key in ("allowed-tools", "license"):
        if header.get(key) is not None and not isinstance(header[key], str):
            mend = "the repair joins the list" if isinstance(header[key], list) else ""
            yield problem(key, f"{key} is no text", key, mend=mend)
    for key in header:
        if key not in FIELDS:
            yield problem("unknown", f"the standard does not know the field {key!r}", key)


def _lines_of_keys(source: bytes) -> dict[str, int]:
    lines: dict[str, int] = {}
    at = 1
    for key, piece in header_pieces(source):
        lines.setdefault(key, at)
        at += piece.count(b"\n")
    return lines


def repaired(skill: Skill) -> Skill:
    """The skill with what can be mended without judgement: name, quotes, lists of tools, metadata, byte-order mark.

    Unknown fields move under `metadata`, so that nothing is lost.
    """
    from noria.skills.bank.skill import make_skill

    header = dict(skill.header)
    metadata = (
        {str(k): str(v) for k, v in (header.get("metadata") or {}).items()}
        if isinstance(header.get("metadata"), dict)
        else {}
    )
    metadata |= {key: str(header[key]) for key in header if key not in FIELDS}
    made = make_skill(
        skill.folder, skill.description, skill.body, tools=skill.tools, metadata=metadata, files=skill.files
    )
    extra = [f"{key}: {_quoted(header[key])}\n" for key in ("license", "compatibility") if header.get(key)]
    head = made.source[: frontmatter_end(made.source)].removesuffix(b"---\n")
    source = head + "".join(extra).encode() + b"---\n" + made.source[frontmatter_end(made.source) :]
    fresh, _ = parse_skill(skill.folder, source, skill.files)
    return fresh or made


def _quoted(value: Any) -> str:
    import json

    return json.dumps(str(value), ensure_ascii=False)


def _files(folder: Path, limits: Limits) -> tuple[list[SkillFile], list[Problem]]:
    """The files of a folder beside SKILL.md; links and special files are problems and are not followed."""
    files: list[SkillFile] = []
    problems: list[Problem] = []
    size = 0
    with input_errors(folder):
        if folder.is_symlink() or (folder / "SKILL.md").is_symlink():
            raise DataError("a link, which may lead anywhere", where=str(folder))
        for path in sorted(folder.rglob("*")):
            name, mode = path.relative_to(folder).as_posix(), path.lstat().st_mode
            if stat.S_ISDIR(mode) or name == "SKILL.md" or "__pycache__" in path.parts or name == ".DS_Store":
                continue
            if not stat.S_ISREG(mode):
                problems.append(Problem(folder.name, None, "link", f"{name!r} is a link or a special file"))
                continue
            size += path.lstat().st_size
            if len(files) >= limits.files or size > limits.skill:
                raise DataError(
                    f"more than {limits.files} files or {limits.skill:,} bytes", where=str(folder)
                )
            files.append(SkillFile(name, read_bytes(path, limit=limits.file), bool(mode & 0o100)))
    return files, problems
