"""The chain as a whole on a bank's folder: create, then route, then refine, each published by itself when accepted.

Corrections never flow back: descriptions are repaired before bodies, because a body that is never triggered helps
nobody. What a stage did is one line of the ledger, written in one step with its version. So a chain that is killed
finds its finished stages there when the same command runs again, and neither pays nor publishes twice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from noria.core.experiments.gates import Receipt
from noria.core.files import read_bytes
from noria.core.records import json_values
from noria.skills.bank.bank import Bank, BankFolder
from noria.skills.routing.routers import Router, Routing
from noria.skills.stages.route_optimizer import RouteResult
from noria.skills.traffic.samples import Sample, to_json

Change = tuple[Bank, dict[str, Any]]


class Chain:
    """Runs stages on a folder whose lock is held, and takes up those that are finished.

    A stage is finished where the ledger says so for the same settings, files and samples, and nothing happened to the
    bank since: no roll-back, no import, no edit by hand.

    Args:
        folder: the bank's folder.
        bank: the bank as it is in the folder.
        settings: settings of the command; files that they name count by their content.
        samples: the traffic.
        by: who runs it.
        dry: whether nothing is published.
    """

    def __init__(
        self,
        folder: BankFolder,
        bank: Bank,
        settings: Mapping[str, Any],
        samples: Sequence[Sample],
        *,
        by: str,
        dry: bool = False,
    ) -> None:
        self.folder, self.by, self.dry = folder, by, dry
        entries = folder.ledger.entries()
        key = _key(settings, samples)
        mine = [entry for entry in entries if str(entry.get("run", "")).startswith(key)]
        run = mine[-1]["run"] if mine else ""
        versions = [entry for entry in entries if "version" in entry]
        moved = [entry for entry in versions if mine and entry["number"] > mine[-1]["number"]]
        fresh = (
            not mine or bool(moved) or (bool(versions) and folder.version(versions[-1]["version"]) != bank)
        )
        self.run = f"{key}-{len(entries)}" if fresh else run
        self.done = {} if fresh else {entry["stage"]: entry for entry in mine if entry["run"] == run}

    def stage(self, name: str, bank: Bank, run: Callable[[Bank], Change]) -> Change:
        """Run a stage unless it is finished, publish its bank, and write what happened to the ledger.

        Args:
            name: name of the stage.
            bank: the bank before it.
            run: makes the bank after it, and a summary of JSON values; `waiting` in it means that the stage is not
                finished: it waits for a person.
        """
        entry = self.done.get(name)
        if entry is not None and not entry["summary"].get("waiting"):
            version = entry.get("version")
            return (self.folder.version(version) if version else bank), dict(entry["summary"])
        after, summary = run(bank)
        self.done.clear()  # a later stage of the run before began from another bank
        if not self.dry:
            self.folder.record(
                bank, after, by=self.by, stage=name, run=self.run, summary=json_values(summary)
            )
        return after, summary


def _key(settings: Mapping[str, Any], samples: Sequence[Sample]) -> str:
    """Digest of settings, the files that they name, and samples."""
    digest = hashlib.sha256(json.dumps(dict(settings), sort_keys=True, default=str).encode())
    for value in settings.values():
        if isinstance(value, Path) and value.is_file():
            digest.update(read_bytes(value))
    for sample in samples:
        digest.update(json.dumps(to_json(sample), sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]


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
