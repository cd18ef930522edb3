"""Findings of a verification: what is wrong, where, and how much could be checked at all."""

from __future__ import annotations

from typing import Literal

import msgspec

FindingClass = Literal["traceability", "consistency", "completeness", "support", "chart", "contradiction"]


class Finding(msgspec.Struct, frozen=True):
    """Something wrong in a report.

    Attributes:
        kind: class of the finding; the first three are the paper's structural errors.
        what: what is wrong.
        where: line of the Markdown, section, figure, or cell.
    """

    kind: FindingClass
    what: str
    where: str


class Coverage(msgspec.Struct):
    """Counts beside every rate: how many were checked, could not be checked, and were blocked (no source to read)."""

    checked: int = 0
    unchecked: int = 0
    blocked: int = 0


class Verification(msgspec.Struct):
    """Outcome of a verification.

    Attributes:
        findings: what is wrong, in the order of the report.
        coverage: counts by what was checked: `numbers`, `sentences`, `cells`, `sources`, `charts`.
        support: number of sentences by verdict.
    """

    findings: list[Finding] = msgspec.field(default_factory=list)
    coverage: dict[str, Coverage] = msgspec.field(default_factory=dict)
    support: dict[str, int] = msgspec.field(default_factory=dict)

    def find(self, kind: FindingClass, what: str, where: str) -> None:
        """Enter a finding."""
        self.findings.append(Finding(kind, what, where))

    def cover(self, name: str) -> Coverage:
        """Counts of a kind of check."""
        return self.coverage.setdefault(name, Coverage())

    @property
    def unchecked(self) -> int:
        """Number of things that could not be checked."""
        return sum(one.unchecked + one.blocked for one in self.coverage.values())

    @property
    def checked(self) -> int:
        """Number of things that were checked against what they rest on; that a figure has its file is no such check."""
        return sum(one.checked for name, one in self.coverage.items() if name != "figures")

    def exit_code(self, *, strict: bool) -> int:
        """0 where something was checked and nothing is wrong, else 1; with `strict`, what was not checked is wrong."""
        return 1 if self.findings or not self.checked or (strict and self.unchecked) else 0
