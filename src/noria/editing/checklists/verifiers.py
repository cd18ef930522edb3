"""Verifier programs: registered functions that answer items beside the judges.

An item names a verifier; the name is looked up here. Data never brings code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from noria.core.errors import DataError
from noria.core.judging.items import Checklist, Verdict
from noria.editing.checklists.items import EditItem

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Evidence:
    """Request, plan and pictures that a verifier may read.

    Attributes:
        instruction: what the user asks for.
        sources: pictures of the request.
        plan: the plan; None where a picture is judged.
        edited: the edited picture; None where a plan is judged.
    """

    instruction: str
    sources: Sequence[Image]
    plan: str | None = None
    edited: Image | None = None


Verifier: TypeAlias = Callable[[EditItem, Evidence], bool | None]
"""Answers an item with yes or no; None where it cannot tell."""
_REGISTERED: dict[str, Verifier] = {}


def register_verifier(name: str) -> Callable[[Verifier], Verifier]:
    """Register a verifier under a name that items may use; a later one of the same name replaces it."""

    def add(function: Verifier) -> Verifier:
        _REGISTERED[name] = function
        return function

    return add


def verifier(name: str) -> Verifier:
    """The verifier of that name.

    Raises:
        DataError: none is registered.
    """
    if name not in _REGISTERED:
        known = ", ".join(sorted(_REGISTERED)) or "none is registered"
        raise DataError(f"no verifier {name!r}", where="verifier", mend=f"known: {known}")
    return _REGISTERED[name]


def verified(checklist: Checklist, evidence: Evidence) -> dict[str, Verdict]:
    """Verdicts of the items that name a verifier, by id. One that raises is invalid, with its reason."""
    verdicts = {}
    for item in checklist.items:
        if not isinstance(item, EditItem) or item.verifier is None:
            continue
        judge = f"verifier {item.verifier}"
        program = verifier(item.verifier)
        try:
            answer = program(item, evidence)
        except Exception as error:  # one broken program makes its own items invalid, and no others
            verdicts[item.id] = Verdict(item.id, "invalid", f"it failed: {type(error).__name__}", judge)
            continue
        if answer is None:
            verdicts[item.id] = Verdict(item.id, "invalid", "it cannot tell", judge)
        else:
            verdicts[item.id] = Verdict(item.id, "yes" if answer else "no", "", judge)
    return verdicts
