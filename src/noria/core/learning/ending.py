"""The end of a turn: its receipt and its page stay, and of what people wrote nothing does.

```
<folder>/receipt.json report.html      how it ended
         spent.json                    what it cost, and what a killed process may have paid in vain
         1-freeze/ … 6-hand-over/      result.json of each stage, and the counts and digests of the data
```

The frozen traces, the answers that were paid for, the learner's work and a candidate that is not among the versions go.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from noria.core.errors import NoriaError, RunError
from noria.core.files import disk_errors, lock, write_atomic
from noria.core.learning.dataset import held_traces
from noria.core.learning.plan import Outcome, TurnPlan, abandon_turn, end_turn, holding, open_turn
from noria.core.learning.receipt import write_receipt_page
from noria.core.learning.spending import Spending
from noria.core.records import json_object, json_values
from noria.core.storage.control import Control

STAGES = ("1-freeze", "2-attribute", "3-propose", "4-gate", "5-register", "6-hand-over")
ERASED = "a person was erased whose words it learnt from"
"""Why an erasure stops a turn."""
_STAY = {
    "config.json", "versions.json", "metrics.jsonl", "receipt.json", "report.html", "result.json", "spent.json", ".lock"
}  # fmt: skip
_STAY_INSIDE = {*STAGES, "dataset"}
_PAID = "paid.sqlite"


def write_receipt(
    folder: Path,
    plan: TurnPlan,
    results: Mapping[str, Mapping[str, Any]],
    outcome: Outcome,
    reason: str,
    spending: Spending,
) -> dict[str, Any]:
    """Write the receipt of what was done, all of it or what the turn got to.

    It names what was paid for results. What a killed process paid in vain counts against the budget, and stands in
    `spent.json`.

    Args:
        folder: folder of the turn.
        plan: the turn.
        results: results of the stages that were done, by name.
        outcome: outcome of the turn.
        reason: reason of the outcome, in words.
        spending: what the turn paid.

    Raises:
        RunError: the disk refuses.
    """
    freeze, causes, proposal, gate, register, hand_over = (results.get(name) for name in STAGES)
    receipt = {
        "turn": vars(plan),
        "outcome": outcome,
        "reason": reason,
        "data": freeze and {"digest": freeze["dataset"], "counts": freeze["counts"]},
        "failures": causes and {"counts": causes["counts"], "causes": causes["causes"]},
        "candidate": proposal if proposal and "kind" in proposal else None,
        "gate": gate and gate["receipt"],
        "gate notes": gate and gate["notes"],
        "artefact": register and register.get("artefact"),
        "bundle": register and register.get("bundle"),
        "experiment": hand_over and hand_over.get("experiment"),
        "spent": {"money": spending.cost, "of unknown cost": spending.unknown},
        "stages": [name for name in STAGES if name in results],
    }
    write_atomic(folder / "receipt.json", json.dumps(json_values(receipt), indent=1) + "\n")
    return json_object(folder / "receipt.json", "a receipt")


def finish(folder: Path, plan: TurnPlan, control: Control, receipt: Mapping[str, Any]) -> None:
    """Do what follows a receipt: remove what people wrote, write the page, end the turn; once more changes nothing.

    Raises:
        RunError: the disk refuses.
    """
    remove_texts(folder)
    if (folder / "config.json").exists() and not (
        folder / "report.html"
    ).exists():  # a turn that never ran has no page
        write_receipt_page(folder, receipt)
    end_turn(
        control,
        plan,
        receipt["outcome"],
        gated=bool(receipt["gate"]),
        receipt=hashlib.sha256((folder / "receipt.json").read_bytes()).hexdigest(),
        candidate=receipt["candidate"] and receipt["candidate"]["digest"],
    )


def stop_turn(folder: Path, plan: TurnPlan, control: Control, reason: str) -> dict[str, Any]:
    """End a turn that no process works at, and that cannot or must not resume, as stopped; its receipt.

    A turn whose receipt is there ends as that says. What was paid stands in the receipt.

    Args:
        folder: folder of the turn, which may not exist yet.
        plan: the turn, which is open.
        control: turns and leases.
        reason: reason in words, for the receipt.

    Raises:
        RunError: a process works at the turn, another turn is under way, or the disk refuses.
    """
    with lock(folder), holding(control, folder):
        if (folder / "receipt.json").exists():
            receipt = json_object(folder / "receipt.json", "a receipt")
        else:
            paths = {name: folder / name / "result.json" for name in STAGES}
            results = {
                name: json_object(path, "a stage's result") for name, path in paths.items() if path.exists()
            }
            spending = Spending(folder / _PAID)
            try:
                receipt = write_receipt(folder, plan, results, "stopped", reason, spending)
            finally:
                spending.close()
        finish(folder, plan, control, receipt)
    return receipt


# -- what people wrote ------------------------------------------------------------------------------------------------


def remove_texts(folder: Path) -> None:
    """Remove what people wrote from the folder of a turn, or of what has its frozen data in `dataset/`.

    Raises:
        RunError: the disk refuses.
    """
    with contextlib.suppress(RunError):  # a file that cannot be read goes, too
        _note_spent(folder)
    with disk_errors(folder):
        for path in sorted(folder.iterdir()):
            if path.name in _STAY_INSIDE and path.is_dir():
                for inner in path.iterdir():
                    if inner.name not in ("result.json", "dataset.json"):
                        _remove(inner)
            elif path.name not in _STAY:
                _remove(path)


def remove_old_texts(home: Path, control: Control) -> None:
    """Remove what people wrote from the turns of a folder, the open one apart: what a kill or an earlier version left.

    Raises:
        RunError: the disk refuses.
    """
    plan = open_turn(control)
    for folder in sorted(home.glob("[0-9]*")):
        if folder.is_dir() and (plan is None or folder.name != f"{plan.number:06d}"):
            remove_texts(folder)


def forget_traces(home: Path, control: Control, traces: Collection[str]) -> None:
    """Stop the open turn if it learns from one of these traces, and remove what people wrote from all that ended.

    A process that works at the turn finds its files gone, and ends before its next piece of work.

    Args:
        home: folder of the turns.
        control: turns and leases.
        traces: ids of traces that are erased, or that somebody who is erased spoke of.

    Raises:
        RunError: the disk refuses.
    """
    plan = open_turn(control)
    folder = None if plan is None else home / f"{plan.number:06d}"
    if plan is not None and folder is not None and folder.is_dir() and holds_any(folder / "1-freeze", traces):
        try:
            stop_turn(folder, plan, control, ERASED)
        except NoriaError:  # a process works at it, or a file of it is damaged
            with contextlib.suppress(RunError):  # it has just ended by itself
                abandon_turn(control, plan, by="erasure", reason=ERASED)
            remove_texts(folder)
    remove_old_texts(home, control)


def forget_frozen(home: Path, traces: Collection[str]) -> None:
    """Remove what people wrote from those folders of `home` whose `dataset/` holds one of these traces.

    Raises:
        RunError: the disk refuses.
    """
    for folder in sorted(home.glob("[0-9]*")):
        if folder.is_dir() and holds_any(folder / "dataset", traces):
            remove_texts(folder)


def holds_any(folder: Path, traces: Collection[str]) -> bool:
    """Whether frozen data hold one of these traces; also where that cannot be known, such as while they are frozen."""
    if not traces:
        return False
    held = held_traces(folder)
    return held is None or not held.isdisjoint(traces)


def _note_spent(folder: Path) -> None:
    if not (folder / _PAID).exists():
        return
    spending = Spending(folder / _PAID)
    try:
        spent = {"money": spending.cost, "paid in vain at most": max(0.0, spending.committed - spending.cost)}
        write_atomic(folder / "spent.json", json.dumps(spent, indent=1) + "\n")
    finally:
        spending.close()


def _remove(path: Path) -> None:
    """Remove a file or a folder, which another process may be removing, too."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        if not path.exists():
            return
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
