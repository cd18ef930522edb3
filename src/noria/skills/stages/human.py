"""The Human Reflection Gate: a person's yes before a draft enters the bank, at the terminal or by files.

By files, a draft lies in a folder with a `decision.yaml` that a person fills in; the next run reads it. A decision is
about one content: a draft that changed after it was approved is asked about again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from noria.core.config import Config, parse_config
from noria.core.files import read_bytes, write_atomic
from noria.core.yaml_values import yaml_text
from noria.skills.bank.skill import Skill

Answer3 = Literal["approve", "reject", "waiting"]


@dataclass(frozen=True)
class Decision:
    """A person's decision about one content."""

    answer: Answer3
    by: str = ""
    reason: str = ""
    minutes: float | None = None
    content: str = ""

    def to_json(self) -> dict[str, Any]:
        """JSON values of the decision."""
        return asdict(self)


class HumanGate(Protocol):
    """Protocol of a gate at which a person decides."""

    def ask(self, skill: Skill, why: str) -> Decision:
        """Decide about a draft; `why` says what speaks for it."""
        ...


class AnyoneGate:
    """Approves everything in a name: for tests, and for those who have decided not to ask."""

    def __init__(self, by: str) -> None:
        self.by = by

    def ask(self, skill: Skill, why: str) -> Decision:
        """Approve a draft."""
        return Decision("approve", self.by, "approved without reading", None, skill.digest)


class TerminalGate:
    """Shows a draft and asks at the terminal.

    Args:
        show: writes a text.
        prompt: asks for a line.
        by: who decides.
    """

    def __init__(self, show: Callable[[str], object], prompt: Callable[[str], str], by: str) -> None:
        self.show, self.prompt, self.by = show, prompt, by

    def ask(self, skill: Skill, why: str) -> Decision:
        """Ask about a draft."""
        began = time.monotonic()
        self.show(f"--- {skill.name}: {why}\n{skill.source.decode('utf-8', 'replace')}")
        said = self.prompt("approve? yes, no, or later").strip().lower()
        answer: Answer3 = (
            "approve" if said in ("y", "yes") else "reject" if said in ("n", "no") else "waiting"
        )
        reason = self.prompt("reason") if answer == "reject" else ""
        return Decision(answer, self.by, reason, (time.monotonic() - began) / 60, skill.digest)


class _Sheet(Config):
    content: str = ""
    decision: Literal["", "approve", "reject"] = ""
    by: str = ""
    reason: str = ""
    why: str = ""


class FileGate:
    """Puts drafts into a folder and reads decisions from there."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def ask(self, skill: Skill, why: str) -> Decision:
        """The decision about this content, or `waiting` after its sheet was laid out."""
        home = self.folder / skill.name
        path = home / "decision.yaml"
        if path.exists():
            sheet = parse_config(_Sheet, read_bytes(path, limit=100_000), where=str(path))
            if sheet.content == skill.digest and sheet.decision and sheet.by.strip():
                answer: Answer3 = "approve" if sheet.decision == "approve" else "reject"
                return Decision(answer, sheet.by, sheet.reason, None, skill.digest)
            if sheet.content == skill.digest:
                return Decision("waiting", content=skill.digest)
        write_atomic(home / "SKILL.md", skill.source)
        fields = _Sheet(content=skill.digest, why=why).model_dump()
        head = "# Write approve or reject, and your name.\n"
        write_atomic(path, head + yaml_text(fields))
        return Decision("waiting", content=skill.digest)
