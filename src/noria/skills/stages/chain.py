"""The chain as a whole on a bank's folder: create, then route, then refine, each published by itself when accepted.

Corrections never flow back: descriptions are repaired before bodies, because a body that is never triggered helps
nobody. A chain that is killed finds its finished stages in `chain.json` when the same command runs again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from noria.core.experiments.gates import Receipt
from noria.core.files import write_atomic
from noria.core.records import json_object, json_values
from noria.skills.bank.bank import Bank, BankFolder
from noria.skills.routing.routers import Router, Routing
from noria.skills.stages.gates import Event
from noria.skills.stages.route_optimizer import RouteResult
from noria.skills.traffic.samples import Sample, to_json

Change = tuple[Bank, dict[str, Any]]


class Chain:
    """Runs stages on a folder under one lock, and remembers which are finished.

    Args:
        folder: the bank's folder.
        key: digest of everything that decides the chain: settings and data.
        by: who runs it.
        dry: whether nothing is published.
    """

    def __init__(self, folder: BankFolder, key: str, *, by: str, dry: bool = False) -> None:
        self.folder, self.key, self.by, self.dry = folder, key, by, dry
        self.path = folder.home / "chain.json"
        self.events: list[Event] = []
        known = json_object(self.path, "the state of a chain") if self.path.exists() else {}
        self.done: dict[str, Any] = dict(known.get("stages", {})) if known.get("key") == key else {}

    def listen(self, event: Event) -> None:
        """Keep an event until its stage is published."""
        self.events.append(event)

    def stage(self, name: str, bank: Bank, run: Callable[[Bank], Change]) -> Change:
        """Run a stage unless it is finished, publish its bank, and write what happened to the ledger.

        Args:
            name: name of the stage.
            bank: the bank before it.
            run: makes the bank after it, and a summary of JSON values.
        """
        if name in self.done:
            version = self.done[name]["version"]
            return (self.folder.version(version) if version else bank), dict(self.done[name]["summary"])
        self.events.clear()
        after, summary = run(bank)
        if self.dry:
            return after, summary
        for event in self.events:
            self.folder.ledger.add(
                "proposal", by=self.by, stage=event.stage, round=event.round, **dict(event.fields)
            )
        version = None
        if after != bank:
            version = self.folder.publish(after, by=self.by, stage=name, receipt=summary.get("receipt"))
        self.done[name] = {"version": version, "summary": json_values(summary)}
        write_atomic(self.path, json.dumps({"key": self.key, "stages": self.done}, ensure_ascii=False) + "\n")
        return after, summary


def chain_key(settings: Mapping[str, Any], samples: Sequence[Sample], bank: Bank) -> str:
    """Digest of settings, samples, and the bank that a chain starts from."""
    digest = hashlib.sha256(json.dumps(json_values(dict(settings)), sort_keys=True).encode())
    for sample in samples:
        digest.update(json.dumps(to_json(sample), sort_keys=True, default=str).encode())
    digest.update("".join(sorted(bank.skills)).encode())
    return digest.hexdigest()


def routed(
    router: Router, samples: Sequence[Sample]
) -> tuple[list[tuple[Sample, str | None]], list[Routing]]:
    """Samples with the skill that each is routed to, drawn once; router errors are left out of the first list."""
    decisions = router.route(samples)
    pairs = [(s, d.skill) for s, d in zip(samples, decisions, strict=True) if d.outcome == "skill"]
    return pairs, decisions


def route_summary(result: RouteResult) -> dict[str, Any]:
    """JSON values of stage 2, for the ledger and the page."""
    receipts: list[Receipt] = [receipt for one in result.rounds for receipt in one.receipts]
    return json_values(  # type: ignore[no-any-return]
        {
            "before": scores_json(result.before),
            "after": scores_json(result.after),
            "rounds": [
                {
                    "round": one.number,
                    "macro_f1_pool": one.macro_f1,
                    "causes": dict(one.causes),
                    "accepted": [operation.to_json() for operation in one.accepted],
                    "proposed": [operation.to_json() for operation in one.proposed],
                    "refused": [list(pair) for pair in one.refused],
                    "receipts": [receipt.to_json() for receipt in one.receipts],
                }
                for one in result.rounds
            ],
            "missing": {label: len(found) for label, found in result.missing.items()},
            "visual": len(result.visual),
            "few": dict(result.few),
            "receipt": receipts[-1].to_json() if receipts else None,
        }
    )


def scores_json(scores: Any) -> dict[str, Any]:
    """JSON values of the scores of a router."""
    return {
        "macro_f1": scores.macro_f1,
        "accuracy": scores.accuracy,
        "errors": scores.errors,
        "unstable": scores.unstable,
        "calibration": scores.calibration,
        "labels": list(scores.labels),
        "matrix": np.asarray(scores.matrix).tolist(),
        "f1": dict(scores.f1),
        "samples": len(scores.rows),
    }


def ledger_folder(folder: Path) -> BankFolder:
    """The bank in a folder."""
    return BankFolder(folder)
