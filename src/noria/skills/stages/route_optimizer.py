"""Stage 2, the Route Optimizer: descriptions repaired from misroutes, by Update, Merge and Discard (Algorithm 2).

Known of the paper: three operations, at least 30 failures for an update, at most four rounds, F1 that may not drop, and
evidence of both cases, misrouted samples (A) and rightly routed ones (B). Reconstructed: the causes are classified
before, what is better together is found on the pool, and the gate compares one candidate in pairs on requests that
nothing is optimised on. A merge is made only where body, files and tools are equal, so that nothing is lost.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from pydantic import Field

from noria.core.config import Config
from noria.core.experiments.gates import PairedScores, Receipt, Rule
from noria.core.statistics.intervals import mcnemar
from noria.skills.bank.bank import Bank, check_lock
from noria.skills.bank.skill import Skill
from noria.skills.proposing.protocols import DescribeTask, Misroute, Proposer
from noria.skills.proposing.safety import description_faults
from noria.skills.routing.confusion import RouteScores, evaluate_routes, symmetric_confusion
from noria.skills.routing.routers import Router
from noria.skills.stages.gates import GateSettings, Memory, decide
from noria.skills.traffic.samples import NO_SKILL, Sample

RouterMaker = Callable[[Bank], Router]
"""Makes a router of a bank, calibrated on the pool that is optimised on."""


class RouteConfig(Config):
    """Settings of stage 2."""

    route_rounds: int = Field(4, ge=1, le=20, description="Most rounds of the optimizer.")
    least_failures: int = Field(
        30, ge=1, description="Misroutes of a skill from which its description is redrawn."
    )
    repeats: int = Field(1, ge=1, le=20, description="Decisions drawn for each query.")
    merge_above: float = Field(
        0.35, gt=0, le=1, description="Symmetric confusion above which twins are merged."
    )
    discard_below: float = Field(
        0.002, ge=0, lt=1, description="Share of the traffic below which a skill is discarded."
    )
    discard: bool = Field(False, description="Discard skills that no traffic needs.")
    attempts: int = Field(2, ge=1, le=5, description="Proposals for a skill in a round.")
    rivals: int = Field(
        200,
        ge=0,
        description="Requests of other skills, those that went astray first, that a proposer sees for each skill.",
    )


@dataclass(frozen=True)
class Operation:
    """One change of the bank: `update` of a description, `merge` into another skill, `discard`."""

    kind: Literal["update", "merge", "discard"]
    skill: str
    into: str = ""
    description: str = ""
    evidence: tuple[str, ...] = ()

    def apply(self, bank: Bank) -> Bank:
        """The bank after the change."""
        if self.kind == "update":
            return bank.with_skill(bank.skills[self.skill].with_description(self.description))
        if self.kind == "merge":
            kept = bank.skills[self.into].with_description(self.description)
            return bank.without(self.skill, alias=self.into).with_skill(kept)
        return bank.without(self.skill)

    def to_json(self) -> dict[str, Any]:
        """JSON values of the operation."""
        return {"operation": self.kind, "skill": self.skill, "into": self.into, "description": self.description,
                "evidence": list(self.evidence[:50])}  # fmt: skip


@dataclass(frozen=True)
class RouteRound:
    """One round: what was proposed, what stood against proposals, what was accepted, and the gate's receipts."""

    number: int
    proposed: tuple[Operation, ...]
    refused: tuple[tuple[str, str], ...]
    accepted: tuple[Operation, ...]
    receipts: tuple[Receipt, ...]
    causes: Mapping[str, int]
    macro_f1: float


@dataclass(frozen=True)
class RouteResult:
    """Outcome of stage 2.

    Attributes:
        bank: the bank after it.
        before, after: scores on the gate's pool.
        rounds: what happened.
        missing: samples that no skill of the bank is for, by the label that people gave them.
        visual: samples whose picture was misread: for the owners of the tools.
        few: skills whose misroutes are too few for an update, with their number.
    """

    bank: Bank
    before: RouteScores
    after: RouteScores
    rounds: tuple[RouteRound, ...]
    missing: Mapping[str, tuple[Sample, ...]]
    visual: tuple[Sample, ...]
    few: Mapping[str, int]


@dataclass
class _State:
    bank: Bank
    missing: dict[str, dict[str, Sample]] = field(default_factory=lambda: defaultdict(dict))
    visual: dict[str, Sample] = field(default_factory=dict)
    few: dict[str, int] = field(default_factory=dict)


def optimize_routes(
    bank: Bank,
    pool: Sequence[Sample],
    gate_set: Sequence[Sample],
    make_router: RouterMaker,
    proposer: Proposer,
    config: RouteConfig,
    settings: GateSettings,
    *,
    memory: Memory | None = None,
    known_tools: Sequence[str] = (),
) -> RouteResult:
    """Repair the descriptions of a bank.

    Args:
        bank: the bank.
        pool: samples that failures and evidence come from.
        gate_set: samples of other leakage groups that decide.
        make_router: makes a router of a bank.
        proposer: proposes descriptions and causes.
        config: settings of the stage.
        settings: settings of the gate.
        memory: rejected proposals, which are not tried again.
        known_tools: names of every tool, which a description may not bring in.

    Returns:
        The result, whose bank differs from `bank` in descriptions, merged and discarded skills alone.
    """
    state, memory = _State(bank), memory or Memory()
    first = evaluate_routes(make_router(bank), gate_set, _names(bank), repeats=config.repeats)
    rounds = []
    for number in range(1, config.route_rounds + 1):
        made = _round(
            state, pool, gate_set, make_router, proposer, config, settings, memory, known_tools, number
        )
        rounds.append(made)
        if not made.proposed:
            break  # what a gate rejected is not proposed again, so the next round tries another text
    check_lock("route", bank, state.bank)
    last = evaluate_routes(make_router(state.bank), gate_set, _names(state.bank), repeats=config.repeats)
    missing = {label: tuple(found.values()) for label, found in state.missing.items()}
    return RouteResult(
        state.bank, first, last, tuple(rounds), missing, tuple(state.visual.values()), state.few
    )


def _names(bank: Bank) -> list[str]:
    return [skill.name for skill in bank.routed()]


def _round(
    state: _State,
    pool: Sequence[Sample],
    gate_set: Sequence[Sample],
    make_router: RouterMaker,
    proposer: Proposer,
    config: RouteConfig,
    settings: GateSettings,
    memory: Memory,
    known_tools: Sequence[str],
    number: int,
) -> RouteRound:
    bank = state.bank
    scores = evaluate_routes(make_router(bank), pool, _names(bank), repeats=config.repeats)
    by_cause = _causes(state, scores, proposer)
    operations: list[Operation] = []
    refused: list[tuple[str, str]] = []
    for skill in bank.routed():
        own = [m for m in by_cause["boundary"] if skill.name in (m.expected, m.chosen)]
        if len(own) < config.least_failures:
            if own:
                state.few[skill.name] = len(own)
            continue
        found, faults = _update(skill, bank, own, scores, pool, proposer, memory, known_tools, config)
        refused += [(skill.name, fault) for fault in faults]
        operations += [found] if found else []
    operations += _merges(bank, scores, config)
    operations += _discards(bank, pool, config) if config.discard else []
    chosen = _combined(state, operations, scores, make_router, config, settings)
    accepted, receipts = _gate(state, chosen, gate_set, make_router, config, settings, number)
    for operation in operations:
        if operation not in accepted and operation.kind == "update":
            memory.reject(operation.skill, operation.description)
    causes = {name: len(found) for name, found in by_cause.items()}
    return RouteRound(number, tuple(operations), tuple(refused), accepted, receipts, causes, scores.macro_f1)


def _causes(state: _State, scores: RouteScores, proposer: Proposer) -> dict[str, list[Misroute]]:
    """Misroutes by their cause; errors of the router are no misroutes, and are reported by the scores."""
    wrong = []
    for sample, decisions, hits in scores.rows:
        bad = next(
            (d for d, hit in zip(decisions, hits, strict=True) if not hit and d.outcome != "error"), None
        )
        if bad is not None:
            wrong.append(
                Misroute(sample, sample.expected[0], bad.label, max(bad.scores.values(), default=0.0))
            )
    shown = {skill.name: skill.description for skill in state.bank.routed()}
    found: dict[str, list[Misroute]] = {"boundary": [], "missing": [], "visual": [], "unknown": []}
    for misroute, cause in zip(wrong, proposer.causes(wrong, shown), strict=True):
        found[cause or "unknown"].append(misroute)
        if cause == "missing":
            state.missing[misroute.expected][misroute.sample.id] = misroute.sample
        elif cause == "visual":
            state.visual[misroute.sample.id] = misroute.sample
    return found


def _update(
    skill: Skill,
    bank: Bank,
    own: Sequence[Misroute],
    scores: RouteScores,
    pool: Sequence[Sample],
    proposer: Proposer,
    memory: Memory,
    known_tools: Sequence[str],
    config: RouteConfig,
) -> tuple[Operation | None, list[str]]:
    """A new description that nothing stands against, and what stood against the others."""
    kept = [s for s, decisions, hits in scores.rows if all(hits) and decisions[0].skill == skill.name]
    taken = [(m.sample, m.expected) for m in own if m.chosen == skill.name]
    rivals = [(s, d[0].label) for s, d, hits in scores.rows if all(hits) and d[0].skill != skill.name]
    task = DescribeTask(
        skill,
        {other.name: other.description for other in bank.routed() if other.name != skill.name},
        [m.sample for m in own if m.expected == skill.name],
        [*taken, *rivals[: max(0, config.rivals - len(taken))]],
        kept,
    )
    faults: list[str] = []
    for attempt in range(config.attempts):
        text = proposer.describe(DescribeTask(**{**vars(task), "attempt": attempt}))
        if text is None:
            continue
        if memory.known(skill.name, text):
            faults.append("it was rejected before")
            continue
        wrong = description_faults(skill, text, known_tools=known_tools, queries=[s.query for s in pool])
        if not wrong:
            return Operation(
                "update", skill.name, description=text, evidence=tuple(m.sample.id for m in own)
            ), faults
        faults += wrong
    return None, faults


def _merges(bank: Bank, scores: RouteScores, config: RouteConfig) -> list[Operation]:
    """Twins that are confused: body, files and tools equal, so that one may stand for both."""
    found = []
    skills = bank.routed()
    for n, one in enumerate(skills):
        for other in skills[n + 1 :]:
            same = all(
                one.components[part] == other.components[part] for part in ("body", "static", "operators")
            )
            if same and symmetric_confusion(scores, one.name, other.name) > config.merge_above:
                place = {label: k for k, label in enumerate(scores.labels)}
                rows = [int(scores.matrix[place[s.name]].sum()) for s in (one, other)]
                kept, gone = (one, other) if rows[0] >= rows[1] else (other, one)
                text = f"{kept.description.rstrip('. ')}. {gone.description}"[:1024]
                found.append(Operation("merge", gone.name, kept.name, text))
    return found[:1]


def _discards(bank: Bank, pool: Sequence[Sample], config: RouteConfig) -> list[Operation]:
    wanted = Counter(label for sample in pool for label in sample.expected)
    total = max(1, len(pool))
    return [
        Operation("discard", skill.name)
        for skill in bank.routed()
        if wanted[skill.name] / total < config.discard_below
    ]


def _applied(bank: Bank, operations: Sequence[Operation]) -> Bank:
    for operation in operations:
        bank = operation.apply(bank) if operation.skill in bank.skills else bank
    return bank


def _combined(
    state: _State,
    operations: Sequence[Operation],
    parent: RouteScores,
    make_router: RouterMaker,
    config: RouteConfig,
    settings: GateSettings,
) -> tuple[Operation, ...]:
    """The operations that are better together, found on the pool alone: the gate sees one candidate and spends once.

    All of them where they gain and no skill falls below its floor, else one after the other, the best alone first, each
    kept where it adds to what is kept.
    """
    samples = [sample for sample, _, _ in parent.rows]

    def gain(chosen: Sequence[Operation]) -> float:
        candidate = _applied(state.bank, chosen)
        after = evaluate_routes(make_router(candidate), samples, _names(candidate), repeats=config.repeats)
        change = np.nan_to_num(_present(after, candidate) - _present(parent))
        for label in {s.expected[0] for s in samples}:
            own = np.array([s.expected[0] == label for s in samples])
            if own.sum() >= settings.slice_items and change[own].mean() < -settings.floor:
                return -np.inf
        return float(change.mean())

    if len(operations) < 2 or gain(operations) > 0:
        return tuple(operations)
    alone = sorted(
        ((gain([one]), n) for n, one in enumerate(operations)), key=lambda pair: (-pair[0], pair[1])
    )
    kept: list[Operation] = []
    best = 0.0
    for _, number in alone:
        value = gain([*kept, operations[number]])
        if value > best:
            kept, best = [*kept, operations[number]], value
    return tuple(kept)


def _gate(
    state: _State,
    operations: Sequence[Operation],
    gate_set: Sequence[Sample],
    make_router: RouterMaker,
    config: RouteConfig,
    settings: GateSettings,
    number: int,
) -> tuple[tuple[Operation, ...], tuple[Receipt, ...]]:
    """The operations where the gate accepts them together, and its receipt."""
    if not operations:
        return (), ()
    parent = evaluate_routes(make_router(state.bank), gate_set, _names(state.bank), repeats=config.repeats)
    candidate = _applied(state.bank, operations)
    receipt = _compare(parent, make_router(candidate), candidate, gate_set, config, settings, number)
    if not receipt.accepted:
        return (), (receipt,)
    state.bank = candidate
    return tuple(operations), (receipt,)


def _compare(
    parent: RouteScores,
    router: Router,
    candidate: Bank,
    gate_set: Sequence[Sample],
    config: RouteConfig,
    settings: GateSettings,
    number: int,
) -> Receipt:
    after = evaluate_routes(router, gate_set, _names(candidate), repeats=config.repeats)
    right = [_present(parent), _present(after, candidate)]
    rows = [sample for sample, _, _ in parent.rows]
    pairs = PairedScores(
        [s.id for s in rows], [s.group for s in rows], right[0], right[1], [s.expected[0] for s in rows]
    )
    outcome: Literal["passed", "failed"] = "passed" if after.macro_f1 >= parent.macro_f1 else "failed"
    first, second = (side > 0.5 for side in right)
    p = mcnemar(int((second & ~first).sum()), int((first & ~second).sum()), mid=True)
    moved = "no request moved" if p is None else f"McNemar p {p:.2g}"
    rule = Rule("macro F1", outcome, f"{parent.macro_f1:.3f} before, {after.macro_f1:.3f} after, {moved}")
    return decide(pairs, settings, number=number, rules=[rule])


def _present(scores: RouteScores, bank: Bank | None = None) -> np.ndarray:
    """[samples] share of right decisions, NaN where every one is an error; merged skills count by their new name."""
    values = []
    for sample, decisions, hits in scores.rows:
        valid = [
            hit or (bank is not None and _led(sample, d.label, bank))
            for d, hit in zip(decisions, hits, strict=True)
            if d.outcome != "error"
        ]
        values.append(sum(valid) / len(valid) if valid else np.nan)
    return np.array(values, float)


def _led(sample: Sample, label: str, bank: Bank) -> bool:
    return label != NO_SKILL and any(bank.present_name(name) == label for name in sample.expected)
