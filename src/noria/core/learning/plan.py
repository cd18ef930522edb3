"""The settings of a turn, and the record by which there is one turn at a time."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from noria.core.config import Config
from noria.core.errors import RunError
from noria.core.experiments.gates import GateConfig
from noria.core.experiments.lifecycle import ExperimentConfig
from noria.core.learning.dataset import FreezeConfig
from noria.core.storage.control import Control

TURN = "turn"
"""Kind of the control documents of turns, by their number in six digits."""
EXPERIMENT = "experiment"
"""Kind of the control documents of experiments."""
LEASE = "turn"
"""Name of the lease that the process of a turn holds."""
_LEASE_SECONDS = 60.0
_OWN = {"name", "champion", "challenger", "salt"}

Outcome = Literal["handed over", "registered", "rejected", "nothing", "blocked", "stopped"]
"""
handed over   the candidate passed and an experiment waits for it
registered    the candidate passed and is kept; no experiment was made
rejected      the gate refused the candidate
nothing       the learner proposed nothing, or what is there already
blocked       evidence is missing: too few rated traces, too many invalid verdicts
stopped       the budget or the time was spent, somebody ended it or switched learning off, its settings changed, or a
              person was erased whose words it learnt from
"""


class TurnConfig(Config):
    """Settings of a turn: its evidence, its budget, and the experiment that follows."""

    freeze: FreezeConfig = FreezeConfig()
    gate: GateConfig = GateConfig()
    alpha: float = Field(0.05, gt=0, lt=0.5, description="Level of the gates of all turns together.")
    least_score: float = Field(0.5, ge=0, le=1, description="Score from which an answer is good.")
    least_rated: int = Field(100, ge=0, description="Rated traces below which a turn is underpowered.")
    most_invalid: float = Field(
        0.2, ge=0, le=1, description="Largest share of invalid verdicts; more of them block the turn."
    )
    money: float | None = Field(None, ge=0, description="Most that the turn may cost; any by default.")
    seconds: float | None = Field(None, gt=0, description="Longest time of the turn; any by default.")
    seed: int = Field(0, ge=0, description="Seed of the learner's random generators.")
    experiment: dict[str, Any] = Field(
        default_factory=dict, description="Settings of the experiment that differ from their defaults."
    )

    @field_validator("experiment")
    @classmethod
    def _settings(cls, values: dict[str, Any]) -> dict[str, Any]:
        if own := _OWN & values.keys():
            raise ValueError(f"the turn itself sets {', '.join(sorted(own))}")
        ExperimentConfig(name="n", champion="a", challenger="b", salt="saltsalt", **values)
        return values


@dataclass(frozen=True)
class TurnPlan:
    """A turn that is planned.

    Attributes:
        number: number of the turn, from 1.
        round: number of its gate among the gates that decided, from 1; its α follows from that.
        at: second since 1970 at which it was planned.
        reason: reason for which the turn was due.
        parent: content hash of the bundle that a candidate would change.
        learner: name of the learner.
        by: person or schedule that started the turn.
    """

    number: int
    round: int
    at: float
    reason: str
    parent: str
    learner: str
    by: str = "schedule"


def open_turn(control: Control) -> TurnPlan | None:
    """The turn that was planned and did not end; None where there is none."""
    for document in control.read_all(TURN):
        if document.value and document.value["state"] == "open":
            return TurnPlan(**document.value["plan"])
    return None


def plan_turn(
    control: Control, *, parent: str, learner: str, reason: str, now: float, by: str = "schedule"
) -> TurnPlan:
    """Plan the next turn, or return the one that did not end.

    Raises:
        StaleVersion: another process planned one at the same moment.
    """
    present = open_turn(control)
    if present is not None:
        return present
    turns = control.read_all(TURN)
    rounds = sum(bool(document.value and document.value.get("gated")) for document in turns)
    plan = TurnPlan(len(turns) + 1, rounds + 1, now, reason, parent, learner, by)
    value = {"state": "open", "plan": vars(plan)}
    control.write(TURN, f"{plan.number:06d}", value, based_on=0, by=by)
    return plan


def end_turn(
    control: Control,
    plan: TurnPlan,
    outcome: Outcome,
    *,
    gated: bool,
    receipt: str,
    candidate: str | None = None,
) -> None:
    """Note how a turn ended; once more changes nothing.

    Args:
        control: where turns are kept.
        plan: the turn.
        outcome: outcome of the turn.
        gated: whether its gate decided, which spends the α of its round.
        receipt: SHA-256 of its receipt.
        candidate: content hash of what its learner proposed; None where it proposed nothing.
    """
    key = f"{plan.number:06d}"
    document = control.read(TURN, key)
    ended = {"gated": gated, "receipt": receipt, "candidate": candidate}
    value: Mapping[str, Any] = {"state": outcome, "plan": vars(plan), **ended}
    if document is None or document.value is None or document.value["state"] != "open":
        return
    control.write(TURN, key, value, based_on=document.version, by=plan.learner)


def rejected_candidates(control: Control, parent: str) -> frozenset[str]:
    """Content hashes of the candidates that a gate or an experiment rejected as successors of a bundle.

    Asked again and again for the same candidate, a gate would let it pass in the end.
    """
    lost = {
        one.value.get("turn")
        for one in control.read_all(EXPERIMENT)
        if one.value and one.value.get("stage") in ("rolled back", "futile", "stopped")
    }
    ended = [one.value for one in control.read_all(TURN) if one.value and one.value.get("candidate")]
    return frozenset(
        value["candidate"]
        for value in ended
        if value["plan"]["parent"] == parent
        and (value["state"] == "rejected" or value["plan"]["number"] in lost)
    )


def why_ended(control: Control, plan: TurnPlan) -> str:
    """Why a turn is not open any more, in words; empty while it is."""
    document = control.read(TURN, f"{plan.number:06d}")
    value = {} if document is None or document.value is None else document.value
    return (
        "" if value.get("state") == "open" else str(value.get("reason") or "another process ended the turn")
    )


def abandon_turn(control: Control, plan: TurnPlan, *, by: str, reason: str) -> None:
    """End a turn by hand that cannot resume, such as one whose learner fails each time. Its α stays unspent.

    Raises:
        RunError: the turn ended already.
    """
    key = f"{plan.number:06d}"
    document = control.read(TURN, key)
    if document is None or document.value is None or document.value["state"] != "open":
        raise RunError("there is no such turn under way", where=f"turn {plan.number}")
    value = {"state": "stopped", "plan": vars(plan), "gated": False, "receipt": None, "reason": reason}
    control.write(TURN, key, value, based_on=document.version, by=by)


class Held:
    """The lease of a turn; `lost` says why it is not held any more."""

    def __init__(self) -> None:
        self.lost = ""


@contextlib.contextmanager
def holding(control: Control, folder: Path, *, seconds: float = _LEASE_SECONDS) -> Iterator[Held]:
    """Hold the lease of turns, renewed by a thread while the block runs.

    The holder is named by machine and folder, so that a turn that was killed resumes at once, while every other one
    waits until the lease ran out.

    Raises:
        RunError: another turn holds it.
    """
    holder = f"{socket.gethostname()}:{folder.resolve()}"
    lease = control.acquire(LEASE, holder, seconds=seconds)
    if lease is None:
        raise RunError("another turn is under way", where=str(folder), mend="wait until it ends")
    held, ended = Held(), threading.Event()

    def renew() -> None:
        while not ended.wait(seconds / 4):
            try:
                again = control.acquire(LEASE, holder, seconds=seconds)
            except RunError:  # the store may be back at the next try, before the lease ends
                continue
            if again is None or again.token != lease.token:
                held.lost = "another turn took over"
                return

    thread = threading.Thread(target=renew, name="lease of a turn", daemon=True)
    thread.start()
    try:
        yield held
    finally:
        ended.set()
        thread.join()
        if not held.lost:
            control.release(lease)
