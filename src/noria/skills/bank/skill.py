"""A skill: what triggers it (description), what it makes the assistant do (body), and what it brings along.

The folder is the public Agent Skills format: a `SKILL.md` whose frontmatter is YAML between `---` lines, and files
beside it. The bytes of `SKILL.md` are kept, and an edit replaces only the lines of the component it is about, so that
what is written back is what was read.

| component | bytes | who may change it |
| --- | --- | --- |
| `description` | lines of the frontmatter's `description` | stage 2, the Route Optimizer |
| `body` | all after the frontmatter | stage 3, the Body Refiner |
| `operators` | lines of `allowed-tools` | a person |
| `static` | every other file, with its mode | stage 1, the Skill Creator |
| `frame` | the rest of the frontmatter | stage 1 |
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from noria.core.errors import DataError

Component = Literal["description", "body", "operators", "static", "frame"]
COMPONENTS: tuple[Component, ...] = ("description", "body", "operators", "static", "frame")
STAGES: Mapping[str, frozenset[Component]] = {
    "create": frozenset(COMPONENTS),
    "route": frozenset({"description"}),
    "refine": frozenset({"body"}),
}
"""Components of an existing skill that each stage may change; `create` only adds skills."""

FIELDS = ("name", "description", "license", "compatibility", "metadata", "allowed-tools")
_KEY = re.compile(rb"([A-Za-z_][\w-]*)[ \t]*:(?:[ \t]|$)")


@dataclass(frozen=True)
class SkillFile:
    """A file of a skill beside its SKILL.md: path with slashes, content, and whether it may be executed."""

    path: str
    data: bytes
    executable: bool = False


@dataclass(frozen=True)
class Skill:
    """A skill of a bank.

    Attributes:
        folder: name of its folder, which is its name in the bank.
        source: bytes of SKILL.md.
        header: values of the frontmatter by key.
        files: the other files, by path.
    """

    folder: str
    source: bytes
    header: Mapping[str, Any] = field(hash=False)
    files: tuple[SkillFile, ...] = ()

    @property
    def name(self) -> str:
        """Name by which the bank and the catalogue know the skill."""
        return self.folder

    @property
    def description(self) -> str:
        """Text that decides when the skill is triggered."""
        return str(self.header.get("description") or "").strip()

    @property
    def tools(self) -> tuple[str, ...]:
        """Names of the tools that the skill may call."""
        allowed = self.header.get("allowed-tools") or ""
        return tuple(map(str, allowed)) if isinstance(allowed, list) else split_tools(str(allowed))

    @cached_property
    def body(self) -> str:
        """Instructions below the frontmatter."""
        return self.source[frontmatter_end(self.source) :].decode("utf-8", "replace").lstrip("\r\n")

    @cached_property
    def components(self) -> dict[Component, str]:
        """SHA-256 of each component's bytes."""
        parts: dict[Component, bytes] = dict.fromkeys(COMPONENTS, b"")
        for key, piece in header_pieces(self.source):
            part: Component = {"description": "description", "allowed-tools": "operators"}.get(key, "frame")  # type: ignore[assignment]
            parts[part] += piece
        parts["body"] = self.source[frontmatter_end(self.source) :]
        listed = [[f.path, hashlib.sha256(f.data).hexdigest(), f.executable] for f in self.files]
        parts["static"] = json.dumps(sorted(listed)).encode()
        return {name: hashlib.sha256(data).hexdigest() for name, data in parts.items()}

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all components."""
        return hashlib.sha256(json.dumps([self.folder, *self.components.items()]).encode()).hexdigest()

    def with_description(self, text: str) -> Skill:
        """The skill with another description; every other byte stays."""
        line = b"description: " + _yaml_string(text).encode() + line_end(self.source)
        pieces = list(header_pieces(self.source))
        if not any(key == "description" for key, _ in pieces):
            raise DataError("the frontmatter has no description", where=f"{self.folder}/SKILL.md")
        head = b"".join(line if key == "description" else piece for key, piece in pieces)
        source = head + self.source[frontmatter_end(self.source) :]
        return replace(self, source=source, header={**self.header, "description": text})

    def with_body(self, text: str) -> Skill:
        """The skill with another body; the frontmatter stays byte for byte."""
        end = line_end(self.source)
        data = text.replace("\r\n", "\n").strip("\n").encode()
        body = end + data.replace(b"\n", end) + end
        return replace(self, source=self.source[: frontmatter_end(self.source)] + body)


def split_tools(text: str) -> tuple[str, ...]:
    """Names in `allowed-tools`, apart by blanks or commas; blanks inside of round brackets belong to the name."""
    return tuple(part for part in re.findall(r"(?:[^\s,(]|\([^)]*\))+", text) if part)


def make_skill(
    name: str,
    description: str,
    body: str,
    *,
    tools: Iterable[str] = (),
    metadata: Mapping[str, str] | None = None,
    files: Iterable[SkillFile] = (),
) -> Skill:
    """Write a skill: a model gives texts, and this code gives the form."""
    header: dict[str, Any] = {"name": name, "description": description}
    if metadata:
        header["metadata"] = dict(metadata)
    allowed = " ".join(tools)
    if allowed:
        header["allowed-tools"] = allowed
    lines = ["---"]
    for key, value in header.items():
        if isinstance(value, dict):
            lines += [f"{key}:", *(f"  {_yaml_string(k)}: {_yaml_string(v)}" for k, v in value.items())]
        else:
            lines.append(f"{key}: {value if key == 'name' else _yaml_string(value)}")
    text = "\n".join([*lines, "---", "", body.strip("\n"), ""])
    return Skill(name, text.encode(), header, tuple(sorted(files, key=lambda f: f.path)))


def changed_components(before: Skill, after: Skill) -> set[Component]:
    """Components whose bytes differ between two versions of a skill."""
    return {name for name in COMPONENTS if before.components[name] != after.components[name]}


# -- the bytes of SKILL.md --------------------------------------------------------------------------------------------


def line_end(source: bytes) -> bytes:
    r"""The line end of a file: that of its first line, "\n" or "\r\n"."""
    return b"\r\n" if source[: source.find(b"\n") + 1].endswith(b"\r\n") else b"\n"


def frontmatter_end(source: bytes) -> int:
    """Place after the line that closes the frontmatter; 0 where there is none."""
    lines = source.removeprefix(b"\xef\xbb\xbf").splitlines(keepends=True)
    at = len(source) - sum(map(len, lines))
    if not lines or lines[0].rstrip() != b"---":
        return 0
    at += len(lines[0])
    for line in lines[1:]:
        at += len(line)
        if line.rstrip() == b"---":
            return at
    return 0


def header_pieces(source: bytes) -> Iterable[tuple[str, bytes]]:
    """The frontmatter in pieces that join to it: each top-level key with its lines; "" for lines before and after."""
    end = frontmatter_end(source)
    lines = source[:end].splitlines(keepends=True)
    key, piece = "", b""
    for number, line in enumerate(lines):
        match = _KEY.match(line) if 0 < number < len(lines) - 1 else None
        if match or number == len(lines) - 1:
            yield key, piece
            key, piece = (match[1].decode() if match else ""), b""
        piece += line
    if piece:
        yield key, piece


def _yaml_string(text: Any) -> str:
    """A text as a quoted YAML scalar in one line; JSON's strings are YAML's."""
    return json.dumps(str(text), ensure_ascii=False).replace("\x7f", "\\u007f").replace("\x85", "\\u0085")
