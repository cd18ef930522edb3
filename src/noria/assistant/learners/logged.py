"""What the log says of another choice of backends, where experiments have dealt requests with known probabilities.

An experiment of two bundles is a randomised policy over backends: a request goes to the backend that its arm's bundle
chooses. Off-policy estimates read from it what another router would have earned (:mod:`noria.core.experiments`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from noria.assistant.learners.around import parts_of, through
from noria.assistant.learners.replaying import route_of
from noria.core.chat import Message
from noria.core.errors import MissingExtra, NoriaError
from noria.core.experiments.gates import Rule
from noria.core.experiments.off_policy import OffPolicy, off_policy
from noria.core.learning.dataset import Row
from noria.core.learning.learner import Candidate, Parent
from noria.core.traces.chats import chat_span, conversation

Chooses = Callable[[Sequence[Message]], str]
"""Names the backend that a bundle sends a conversation to."""


@dataclass(frozen=True)
class LoggedValues:
    """What the log says.

    Attributes:
        notes: estimates as JSON values, or why there are none.
        rule: rule of the gate that follows; None where the log says too little.
    """

    notes: Mapping[str, Any]
    rule: Rule | None = None


@dataclass(frozen=True)
class _Round:
    group: str
    reward: float
    propensity: float
    candidate: float
    parent: float


def logged_values(
    rows: Sequence[Row], parent: Parent, candidate: Candidate, backends: Sequence[str], *, seed: int
) -> LoggedValues:
    """Estimate from the log what the candidate and its parent would have earned.

    Args:
        rows: rows of the gates' split.
        parent: the bundle that serves.
        candidate: a part that chooses backends.
        backends: names of the backends.
        seed: seed of the resampling.
    """
    sides = chooses(parent, backends, candidate), chooses(parent, backends)
    rounds = _rounds(rows, parent, backends, sides)
    if not rounds:
        return LoggedValues(
            {"rounds": 0, "why": "no experiment has dealt these requests to several backends"}
        )
    new, old = (
        off_policy(
            [one.reward for one in rounds],
            [one.propensity for one in rounds],
            [getattr(one, side) for one in rounds],
            generator=np.random.default_rng(seed),
            clusters=[one.group for one in rounds],
        )
        for side in ("candidate", "parent")
    )
    notes = {"rounds": len(rounds), "candidate": _said(new), "parent": _said(old)}
    if new.snips is None or old.snips is None:
        return LoggedValues(notes)
    worse = new.snips.high < old.snips.low
    words = f"{new.snips.effect:.3g} by the log, {old.snips.effect:.3g} before, over {len(rounds)} rounds"
    return LoggedValues(notes, Rule("log", "failed" if worse else "passed", words))


def chooses(parent: Parent, backends: Sequence[str], candidate: Candidate | None = None) -> Chooses:
    """The choice of backends by a bundle, or by a bundle with a candidate in it."""
    route, passing = route_of(parent), through(parts_of(parent, backends, candidate))
    return lambda messages: passing(route, messages).backend


def _rounds(
    rows: Sequence[Row], parent: Parent, backends: Sequence[str], sides: tuple[Chooses, Chooses]
) -> list[_Round]:
    """The rated requests that one experiment dealt, and the probability of the backend that answered."""
    arms: dict[str, dict[str, str]] = defaultdict(dict)
    dealt = [row for row in rows if row.example is not None and len(row.view.trace.assignments) == 1]
    for row in dealt:
        one = row.view.trace.assignments[0]
        arms[one.experiment][one.arm] = row.view.trace.bundle
    bundles = {bundle for found in arms.values() for bundle in found.values()}
    known = {bundle: found for bundle in bundles if (found := _chooses_of(parent, bundle, backends))}
    rounds = []
    for row in dealt:
        one, span = row.view.trace.assignments[0], chat_span(row.view)
        messages = None if span is None else conversation(span, lambda digest: b"")
        both = [known.get(bundle) for bundle in arms[one.experiment].values()]
        if messages is None or span is None or len(both) != 2 or None in both or row.example is None:
            continue
        if row.example.score is None or not 0 < one.propensity < 1:
            continue
        by_arm = {arm: known[bundle](messages) for arm, bundle in arms[one.experiment].items()}
        chance = sum(
            one.propensity if arm == one.arm else 1 - one.propensity
            for arm, backend in by_arm.items()
            if backend == span.name
        )
        if chance > 0:
            taken = [float(side(messages) == span.name) for side in sides]
            rounds.append(_Round(row.example.group, row.example.score, chance, taken[0], taken[1]))
    return rounds


def _chooses_of(parent: Parent, bundle: str, backends: Sequence[str]) -> Chooses | None:
    """The choice of a bundle of the log; None where it is gone or cannot be opened here."""
    try:
        return chooses(Parent(parent.store.load_bundle(bundle), parent.store), backends)
    except (NoriaError, MissingExtra):
        return None


def _said(estimate: OffPolicy) -> dict[str, Any]:
    if estimate.snips is None:
        return {"why": estimate.refused, "effective rounds": round(estimate.ess, 1)}
    snips = estimate.snips
    return {
        "mean": snips.effect,
        "low": snips.low,
        "high": snips.high,
        "effective rounds": round(estimate.ess, 1),
    }
