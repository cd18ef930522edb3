"""Stage 3, the Body Refiner: bodies repaired from judged answers (Algorithm 3).

Known of the paper: two paths of judging, tiers aggregated over answers, a repair only where a skill has at least 50
answers and the Poor share of a dimension is above its threshold, at most three rounds, and a score that may not drop;
its ablations leave out the judge path, the rule path, the induction or the aggregation. Reconstructed: notes need
support from several leakage groups, edits are typed and stand at sections, and the gate compares pairs with cached
routes: only samples that an edit reaches are answered anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field

from noria.core.config import Config
from noria.core.errors import ConfigError, DataError
from noria.core.experiments.gates import PairedScores, Receipt
from noria.skills.assistants.assistants import CachedAssistant
from noria.skills.bank.bank import Bank, check_lock
from noria.skills.bank.editing import Edit, apply_edits
from noria.skills.bank.skill import Skill
from noria.skills.judging.attribution import Note, PoorShare, blame, induce, poor_shares
from noria.skills.judging.judges import BodyJudge, Judged, judge_answers
from noria.skills.judging.rubric import Rubric
from noria.skills.proposing.protocols import EditTask, Proposer
from noria.skills.proposing.safety import edit_faults
from noria.skills.stages.gates import (
    Canary,
    GateSettings,
    Memory,
    canary_rule,
    decide,
    growth_rule,
    length_rule,
)
from noria.skills.traffic.samples import Response, Sample


class RefineConfig(Config):
    """Settings of stage 3; the four switches are the paper's ablations."""

    body_rounds: int = Field(3, ge=1, le=20, description="Most rounds of repair.")
    edits: int = Field(5, ge=1, le=20, description="Most edits of a body in a round.")
    use_judge: bool = Field(True, description="Judge answers by the judge path.")
    use_rules: bool = Field(True, description="Judge answers by the rule path.")
    use_induction: bool = Field(True, description="Ask for notes with support from several groups.")
    use_aggregation: bool = Field(True, description="Ask for the number of answers and the Poor share.")


@dataclass(frozen=True)
class BodyRound:
    """One round of one skill: the notes, the edits, what stood against them, and the gate's receipt."""

    number: int
    skill: str
    dimensions: tuple[str, ...]
    notes: tuple[Note, ...]
    edits: tuple[Edit, ...]
    refused: tuple[str, ...]
    receipt: Receipt | None
    accepted: bool


@dataclass(frozen=True)
class RefineResult:
    """Outcome of stage 3: the bank, what happened, Poor shares before and after, blame on the pool."""

    bank: Bank
    rounds: tuple[BodyRound, ...]
    before: tuple[PoorShare, ...]
    after: tuple[PoorShare, ...]
    blame: Mapping[str, int]
    score_before: float
    score_after: float


@dataclass(frozen=True)
class Surroundings:
    """Assistant, judges, proposer and gate that stage 3 works with.

    Attributes:
        assistant: answers samples; its answers are kept by body.
        rubric: the rubric.
        judge: judge of the feedback; None for the rules alone.
        gate_judge: judge of the gate, blind and another one.
        proposer: proposes edits.
        settings: the gate.
        canaries: bad answers that a judge must not like.
        known_tools: every tool that there is.
        memory: rejected proposals.
    """

    assistant: CachedAssistant
    rubric: Rubric
    judge: BodyJudge | None
    gate_judge: BodyJudge | None
    proposer: Proposer
    settings: GateSettings
    canaries: Sequence[Canary] = ()
    known_tools: Sequence[str] = ()
    memory: Memory | None = None


def refine_bodies(
    bank: Bank,
    pool: Sequence[tuple[Sample, str | None]],
    gate_set: Sequence[tuple[Sample, str | None]],
    around: Surroundings,
    config: RefineConfig,
) -> RefineResult:
    """Repair the bodies of a bank.

    Args:
        bank: the bank.
        pool: samples that failures come from, each with the skill that it is routed to; routes stay as they are.
        gate_set: samples of other leakage groups that decide, with their routes.
        around: what the stage works with.
        config: settings of the stage.

    Returns:
        The result, whose bank differs from `bank` in bodies alone.

    Raises:
        ConfigError: there are no rules, and no judge of the feedback or of the gate.
    """
    if around.gate_judge is None and not around.rubric.rules:
        raise ConfigError(
            "neither rules nor a judge for the gate to score answers by",
            where="--rubric, --final-judge-model",
            mend="give a rubric with rules, or the name of a second model",
        )
    start, memory = bank, around.memory or Memory()
    judged = _judge_pool(bank, pool, around, config)
    before, first = poor_shares(judged, around.rubric), _mean(judged)
    counts: dict[str, int] = {}
    for one in judged:
        counts[blame(one)] = counts.get(blame(one), 0) + 1
    rounds: list[BodyRound] = []
    for number in range(1, config.body_rounds + 1):
        due = _triggered(judged, bank, around.rubric, config)
        made = [
            _repair(bank, name, dimensions, judged, gate_set, around, config, memory, number, len(due))
            for name, dimensions in due.items()
        ]
        for done, candidate in made:
            rounds.append(done)
            if candidate is not None:
                bank = bank.with_skill(candidate.skills[done.skill])
        if not any(done.accepted for done, _ in made):
            break
        judged = _judge_pool(bank, pool, around, config)
    check_lock("refine", start, bank)
    after = poor_shares(judged, around.rubric)
    return RefineResult(bank, tuple(rounds), tuple(before), tuple(after), counts, first, _mean(judged))


def _judge_pool(
    bank: Bank, cases: Sequence[tuple[Sample, str | None]], around: Surroundings, config: RefineConfig
) -> list[Judged]:
    answers = around.assistant.answer([s for s, _ in cases], [k for _, k in cases], bank)
    bodies = {name: skill.body for name, skill in bank.skills.items()}
    pairs = [(sample, response) for (sample, _), response in zip(cases, answers, strict=True)]
    judge = around.judge if config.use_judge else None
    return judge_answers(pairs, around.rubric, judge, bodies=bodies, use_rules=config.use_rules)


def _triggered(
    judged: Sequence[Judged], bank: Bank, rubric: Rubric, config: RefineConfig
) -> dict[str, list[str]]:
    """Dimensions to repair by skill; without aggregation, every dimension with a single Poor answer."""
    found: dict[str, list[str]] = {}
    for share in poor_shares(judged, rubric):
        due = share.triggered if config.use_aggregation else share.poor > 0
        if due and share.skill in bank.skills:
            found.setdefault(share.skill, []).append(share.dimension)
    return found


def _repair(
    bank: Bank,
    name: str,
    dimensions: Sequence[str],
    judged: Sequence[Judged],
    gate_set: Sequence[tuple[Sample, str | None]],
    around: Surroundings,
    config: RefineConfig,
    memory: Memory,
    number: int,
    parts: int,
) -> tuple[BodyRound, Bank | None]:
    """One skill's repair in one round, and the bank with it where the gate accepts."""
    skill = bank.skills[name]
    groups = around.rubric.least_support if config.use_induction else 1
    most = config.edits if config.use_induction else 1
    notes = induce(judged, around.rubric, name, dimensions, least_groups=groups, most=most)
    good = [
        (j.sample, j.response)
        for j in judged
        if j.response.skill == name and j.tiers and set(j.tiers.values()) == {"Good"}
    ]
    edits = (
        around.proposer.edits(EditTask(skill, notes, good[:12], config.edits, number - 1)) if notes else []
    )
    queries = [j.sample.query for j in judged]
    edits, refused = _safe_edits(skill, edits, around.known_tools, queries)
    try:
        body = apply_edits(skill.body, edits)
    except DataError as error:
        body, refused = skill.body, [*refused, str(error)]
    if memory.known(name, body):
        body, refused = skill.body, [*refused, "it was rejected before"]

    def record(receipt: Receipt | None, accepted: bool) -> BodyRound:
        return BodyRound(
            number, name, tuple(dimensions), tuple(notes), tuple(edits), tuple(refused), receipt, accepted
        )

    if not edits or body == skill.body:
        return record(None, False), None
    candidate = bank.with_skill(skill.with_body(body))
    receipt = gate_bodies(bank, candidate, gate_set, around, number, parts, changed=name)
    if not receipt.accepted:
        memory.reject(name, body)
    return record(receipt, receipt.accepted), candidate if receipt.accepted else None


def _safe_edits(
    skill: Skill, edits: Sequence[Edit], known_tools: Sequence[str], queries: Sequence[str]
) -> tuple[list[Edit], list[str]]:
    """Edits that nothing stands against by themselves or together with those before, and what stood against others."""
    kept: list[Edit] = []
    refused: list[str] = []
    for edit in edits:
        try:
            body = apply_edits(skill.body, [*kept, edit])
        except DataError as error:
            refused.append(str(error))
            continue
        faults = edit_faults(skill, [*kept, edit], body, known_tools=known_tools, queries=queries)
        if faults:
            refused += faults
        else:
            kept.append(edit)
    return kept, refused


def gate_bodies(
    bank: Bank,
    candidate: Bank,
    gate_set: Sequence[tuple[Sample, str | None]],
    around: Surroundings,
    number: int,
    parts: int = 1,
    *,
    changed: str,
) -> Receipt:
    """Compare a candidate with its parent on the samples that its change reaches; the others have a gain of zero.

    `parts` skills are tried in this round and share its α.
    """
    reached = [(sample, skill) for sample, skill in gate_set if skill == changed]
    sides: list[list[Judged]] = []
    for side in (bank, candidate):
        answers: list[Response] = around.assistant.answer(
            [s for s, _ in reached], [k for _, k in reached], side
        )
        pairs = [(sample, response) for (sample, _), response in zip(reached, answers, strict=True)]
        sides.append(judge_answers(pairs, around.rubric, around.gate_judge))
    scores = [np.array([np.nan if j.score is None else j.score / 100 for j in side], float) for side in sides]
    errors = [np.array([j.unsafe for j in side], bool) for side in sides]
    pairs_of = PairedScores(
        [s.id for s, _ in reached], [s.group for s, _ in reached], scores[0], scores[1],
        [s.expected[0] if s.expected else "unlabelled" for s, _ in reached], errors[0], errors[1],
    )  # fmt: skip
    gain = (
        float(np.nanmean(scores[1] - scores[0]))
        if len(reached) and not np.isnan(scores[1] - scores[0]).all()
        else 0.0
    )
    texts = [side.skills[changed].body for side in (bank, candidate)]
    rules = [length_rule(*sides), growth_rule(texts[0], texts[1], gain, around.settings)]
    if around.gate_judge is not None:
        canary = canary_rule(around.canaries, around.rubric, around.gate_judge, {})
        rules += [canary] if canary else []
    return decide(pairs_of, around.settings, number=number, parts=parts, rules=rules)


def _mean(judged: Sequence[Judged]) -> float:
    known = [j.score for j in judged if j.score is not None]
    return float(np.mean(known)) if known else float("nan")


def round_json(one: BodyRound) -> dict[str, Any]:
    """JSON values of a round."""
    return {
        "round": one.number,
        "skill": one.skill,
        "operation": "edit",
        "dimensions": list(one.dimensions),
        "notes": [
            {"say": n.say, "key": n.key, "groups": n.groups, "support": list(n.support[:50])}
            for n in one.notes
        ],
        "edits": [vars(edit) | {"support": list(edit.support[:50])} for edit in one.edits],
        "refused": list(one.refused),
        "receipt": None if one.receipt is None else one.receipt.to_json(),
        "decision": "accepted" if one.accepted else "rejected",
    }
