"""The page of skills: the bank that serves with how each skill goes, and what candidates would change in it, and why.

A candidate's change is shown as a diff against what serves, with the requests that asked for it, so that a person can
say yes or no. What it shows of a turn is in the turn's receipt.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from noria.assistant.folder import TURNS_FOLDER
from noria.assistant.service.bundles import CHAMPION, EXPERIMENT, Bundles
from noria.assistant.service.changes import SKILLS, FileChange, changes, read_sheets, split_sheet
from noria.assistant.service.console.pages import mean_and_spread
from noria.core.errors import DataError
from noria.core.experiments.lifecycle import OPEN
from noria.core.learning.plan import TURN
from noria.core.records import json_object
from noria.core.service.serving import Request
from noria.core.traces.index.scores import scores_by_label
from noria.core.traces.store import TraceStore

LABEL = "skill"
"""Label of the traces that names the skill in force."""
DAYS = 30
MOST = 20_000
"""Newest traces whose quality is shown."""
TURNS = 10
"""Newest turns about skills that are shown."""


class SkillPages:
    """Contents of the page of skills.

    Args:
        store: traces.
        bundles: bundles, pointers and experiments.
    """

    def __init__(self, store: TraceStore, bundles: Bundles) -> None:
        self.store, self.bundles = store, bundles

    def skills(self, request: Request) -> Mapping[str, Any]:
        """The skills that serve, and the candidates of the last turns."""
        move = self.bundles.pointers.present(CHAMPION)
        serving = "" if move is None else move.bundle
        sheets = read_sheets(self.bundles.artefacts, serving) if serving else {}
        return {
            "serving": serving,
            "version": move.version if move else 0,
            "skills": self._going(sheets, serving),
            "days": DAYS,
            "candidates": self._candidates(serving),
        }

    def _going(self, sheets: Mapping[str, str], serving: str) -> list[dict[str, Any]]:
        """Each skill, and the requests without one, with traffic and quality of the bundle that serves."""
        since = int((time.time() - DAYS * 86_400) * 1e9)
        scores = scores_by_label(self.store.index, LABEL, serving, since, most=MOST)
        rows = []
        for name in [*sheets, *(one for one in scores if one not in sheets)]:
            values = scores.get(name, [])
            known = [value for value in values if value is not None]
            mean, spread = mean_and_spread(known)
            header, body = split_sheet(sheets.get(name, ""))
            rows.append(
                {
                    "name": name,
                    "there": name in sheets,
                    "description": str(header.get("description") or ""),
                    "body": body.strip(),
                    "requests": len(values),
                    "judged": len(known),
                    "score": mean,
                    "spread": spread,
                }
            )
        return sorted(rows, key=lambda row: (not row["there"], -row["requests"], row["name"]))

    def _candidates(self, serving: str) -> list[dict[str, Any]]:
        """What the last turns proposed for the skills, the newest first."""
        found = []
        documents = sorted(self.bundles.control.read_all(TURN), key=lambda one: one.key, reverse=True)
        for document in documents:
            receipt = self._receipt(document.key)
            if receipt is not None and (receipt.get("candidate") or {}).get("kind") == SKILLS:
                found.append(self._candidate(receipt, serving))
            if len(found) == TURNS:
                break
        return found

    def _receipt(self, turn: str) -> Mapping[str, Any] | None:
        """The receipt of a turn; None where it has none yet, or another gateway ran it."""
        path = Path(self.store.folder) / TURNS_FOLDER / turn / "receipt.json"
        try:
            return json_object(path, "a receipt") if path.exists() else None
        except DataError:
            return None

    def _candidate(self, receipt: Mapping[str, Any], serving: str) -> dict[str, Any]:
        bundle, gate = receipt.get("bundle"), receipt.get("gate")
        notes = receipt["candidate"]["notes"]
        name = receipt.get("experiment")
        document = self.bundles.control.read(EXPERIMENT, name) if name else None
        experiment = dict(document.value or {}) if document else {}
        return {
            "turn": receipt["turn"]["number"],
            "by": receipt["candidate"].get("by", receipt["turn"]["learner"]),
            "outcome": receipt["outcome"],
            "reason": receipt["reason"],
            "bundle": bundle,
            "serves": bundle == serving,
            "gain": None if not gate else gate["gain"],
            "experiment": name,
            "stage": experiment.get("stage"),
            "open": experiment.get("stage") in OPEN,
            "won": bool(experiment.get("won")),
            "said": experiment.get("reason", ""),
            "evidence": _by_skill(notes.get("evidence", [])),
            "queue": [entry for entry in notes.get("queue", []) if isinstance(entry, Mapping)],
            "changes": self._changes(serving, bundle),
            "diff": "" if bundle else notes.get("diff", ""),
        }

    def _changes(self, serving: str, bundle: str | None) -> list[dict[str, Any]]:
        """The files that differ from what serves, each with its diff; empty where either is not there."""
        if not bundle or not serving or bundle == serving:
            return []
        try:
            differing = changes(self.bundles.artefacts, serving, bundle)
        except DataError:
            return []
        return [_shown(one) for one in differing]


def _shown(change: FileChange) -> dict[str, Any]:
    """A change as lines, each with what it is: taken out, put in, or there on both sides."""
    marks = {"+": "added", "-": "removed", "@": "place"}
    lines = [
        {"is": marks.get(line[:1], "same"), "text": line[1:] if line[:1] in "+- " else line}
        for line in change.diff()[2:]  # the first two name the files
    ]
    skill = change.name.partition("/")[0] if "/" in change.name else change.name
    return {"kind": change.kind, "name": change.name, "skill": skill, "lines": lines}


def _by_skill(evidence: Sequence[Any]) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for one in evidence:
        if isinstance(one, Mapping):
            whole = {"groups": 0, "corrected": [], "traces": [], **one}  # not every learner has all of it
            found.setdefault(str(whole.get("skill", "")), []).append(whole)
    return found
