"""Edits of a body at its section anchors, and the merge of two lines of change.

A section is a heading and what stands below it up to the next heading of the same or a higher level; its anchor is the
heading's text. Headings inside of fenced code are text.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from noria.core.errors import DataError

Operation = Literal["append", "insert_after", "replace", "delete"]
OPERATIONS: tuple[Operation, ...] = ("append", "insert_after", "replace", "delete")
_HEADING = re.compile(r"(#{1,6})[ \t]+(.+?)[ \t#]*$")
_FENCE = re.compile(r"[ \t]{0,3}(```+|~~~+)")


@dataclass(frozen=True)
class Section:
    """A section of a body: its level, its heading, and its lines from `start` to `end`; level 0 is before any."""

    level: int
    title: str
    start: int
    end: int


@dataclass(frozen=True)
class Edit:
    """A typed edit of a body.

    Attributes:
        operation: `append` lines at the end of a section, `insert_after` a line of it, `replace` or `delete` a line.
        section: anchor: text of the heading; a section that is not there is made by `append`.
        text: new text; empty for `delete`.
        target: line that is replaced, deleted or inserted after; empty for `append`.
        support: ids of the evidence.
        why: reason in words.
    """

    operation: Operation
    section: str
    text: str = ""
    target: str = ""
    support: tuple[str, ...] = ()
    why: str = ""

    @classmethod
    def from_json(cls, value: Any) -> Edit:
        """Read an edit as a model proposes it.

        Raises:
            DataError: it is none.
        """
        if not isinstance(value, dict) or value.get("operation") not in OPERATIONS:
            raise DataError("no edit", where="edit", mend=f"operations are {', '.join(OPERATIONS)}")
        support = value.get("support") or []
        if not isinstance(support, list):
            raise DataError("support is no list of ids", where="edit")
        texts = {key: str(value.get(key) or "") for key in ("section", "text", "target", "why")}
        return cls(value["operation"], support=tuple(map(str, support)), **texts)


def sections(body: str) -> list[Section]:
    """Sections of a body in their order; the text before the first heading is a section of level 0."""
    lines, starts, fence = body.split("\n"), [(0, "", 0)], ""
    for number, line in enumerate(lines):
        mark = _FENCE.match(line)
        if mark and (not fence or line.strip().startswith(fence)):
            fence = "" if fence else mark[1][:3]
        match = None if fence or mark else _HEADING.match(line)
        if match:
            starts.append((len(match[1]), match[2].strip(), number))
    found = []
    for place, (level, title, start) in enumerate(starts):
        later = (s for lv, _, s in starts[place + 1 :] if lv <= level or level == 0)
        found.append(Section(level, title, start, next(later, len(lines))))
    return found


def apply_edits(body: str, edits: Sequence[Edit]) -> str:
    """Apply edits one after the other.

    Raises:
        DataError: a section or a target is not there.
    """
    for edit in edits:
        body = _apply(body, edit)
    return body


def _apply(body: str, edit: Edit) -> str:
    title = edit.section.strip().lstrip("#").strip()
    found = next((s for s in sections(body) if s.title.casefold() == title.casefold()), None)
    if edit.operation == "append":
        if found is None:
            return f"{body.rstrip()}\n\n## {title}\n\n{edit.text.strip()}\n"
        lines = body.split("\n")
        end = found.end
        while end > found.start + 1 and not lines[end - 1].strip():
            end -= 1
        blank = [""] if end == found.start + 1 and found.level else []
        return "\n".join([*lines[:end], *blank, *edit.text.strip("\n").split("\n"), *(lines[end:] or [""])])
    if found is None:
        raise DataError(f"there is no section {title!r}", where="edit")
    lines = body.split("\n")
    wanted = edit.target.strip()
    at = next((n for n in range(found.start, found.end) if lines[n].strip() == wanted), None)
    if at is None or not wanted:
        raise DataError(f"the section {title!r} has no line {wanted[:60]!r}", where="edit")
    new = [] if edit.operation == "delete" else edit.text.strip("\n").split("\n")
    keep = [lines[at]] if edit.operation == "insert_after" else []
    return "\n".join([*lines[:at], *keep, *new, *lines[at + 1 :]])


@dataclass(frozen=True)
class Merged:
    """A merge of two versions with a common base: its text, and the places where both changed the same lines."""

    text: str
    conflicts: int


def merge(base: str, ours: str, theirs: str) -> Merged:
    """Three-way merge by lines: a change of one side is taken, the same change of both once, two are a conflict.

    A conflict stands between `<<<<<<< ours`, `=======` and `>>>>>>> theirs`, as in Git.
    """
    lines = [text.splitlines(keepends=True) for text in (base, ours, theirs)]
    sides = [_regions(lines[0], side) for side in lines[1:]]
    anchors = sorted(sides[0].keys() & sides[1].keys())
    out: list[str] = []
    conflicts, at, a, b = 0, 0, 0, 0
    for anchor in [*anchors, len(lines[0])]:
        ends = [side.get(anchor, len(text)) for side, text in zip(sides, lines[1:], strict=True)]
        chunk, one, two = lines[0][at:anchor], lines[1][a : ends[0]], lines[2][b : ends[1]]
        if one == two or two == chunk:
            out += one
        elif one == chunk:
            out += two
        else:
            conflicts += 1
            marked = ["<<<<<<< ours\n", *one, "=======\n", *two, ">>>>>>> theirs\n"]
            out += [line if line.endswith("\n") else line + "\n" for line in marked]
        if anchor < len(lines[0]):
            out.append(lines[0][anchor])
        at, a, b = anchor + 1, ends[0] + 1, ends[1] + 1
    return Merged("".join(out), conflicts)


def _regions(base: Sequence[str], side: Sequence[str]) -> dict[int, int]:
    """Line of the side for each line of the base that both hold."""
    matcher = difflib.SequenceMatcher(None, base, side, autojunk=False)
    return {a + k: b + k for a, b, size in matcher.get_matching_blocks() for k in range(size)}
