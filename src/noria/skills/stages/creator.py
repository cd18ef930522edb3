"""Stage 1, the Skill Creator: skills from task specifications and trajectories (Algorithm 1).

Known of the paper: inputs, an Engineer Loop that validates and returns, and a Human Reflection Gate before the bank.
Reconstructed: three rounds of the loop, five to ten trial queries, and examples picked for quality and variety.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from pydantic import Field

from noria.core.config import Config
from noria.skills.assistants.assistants import Assistant
from noria.skills.bank.bank import Bank
from noria.skills.bank.reading import parse_skill
from noria.skills.bank.skill import Skill, make_skill
from noria.skills.judging.rubric import Rubric
from noria.skills.judging.rules import check_rules
from noria.skills.proposing.protocols import Brief, Proposer, TaskSpec
from noria.skills.proposing.safety import description_faults, edit_faults
from noria.skills.proposing.terms import telling_terms
from noria.skills.routing.encoders import Encoder
from noria.skills.stages.human import Decision, HumanGate
from noria.skills.stages.missing import missing_skills
from noria.skills.traffic.samples import NO_SKILL, Sample


class CreateConfig(Config):
    """Settings of stage 1."""

    drafts: int = Field(3, ge=1, le=10, description="Rounds of the Engineer Loop.")
    examples: int = Field(8, ge=0, le=50, description="Good and bad examples that an author sees.")
    trials: int = Field(6, ge=0, le=50, description="Requests of the trial run.")
    good: float = Field(80.0, ge=0, le=100, description="Score from which an answer is a good example.")
    bad: float = Field(50.0, ge=0, le=100, description="Score below which an answer is a bad example.")


@dataclass(frozen=True)
class Created:
    """Outcome of one task: the skill, the rounds of the loop, faults that stayed, and the person's decision."""

    task: str
    state: Literal["added", "quarantined", "rejected", "waiting", "nothing"]
    skill: Skill | None
    rounds: int
    faults: tuple[str, ...] = ()
    decision: Decision | None = None


def create_skills(
    tasks: Sequence[TaskSpec],
    samples: Sequence[Sample],
    bank: Bank,
    proposer: Proposer,
    gate: HumanGate,
    config: CreateConfig,
    *,
    encoder: Encoder,
    tools: Sequence[str] = (),
    rubric: Rubric | None = None,
    assistant: Assistant | None = None,
    scores: Mapping[str, float] | None = None,
) -> tuple[Bank, list[Created]]:
    """Write the skills that a specification asks for and the bank lacks.

    Args:
        tasks: tasks of the specification.
        samples: trajectories; those that expect a task's skill are its own.
        bank: the bank.
        proposer: the author.
        gate: asks a person.
        config: settings of the stage.
        encoder: finds varied examples.
        tools: every tool that there is; any by default.
        rubric: rules that a trial run may not break as a whole.
        assistant: makes the trial run; none without one.
        scores: J_all by sample, which tells good examples from bad ones; without any, all of a task's are shown.

    Returns:
        The bank with what was approved, and what became of each task.
    """
    made = []
    for task in tasks:
        if task.name in bank.skills:
            continue
        brief = _brief(task, samples, bank, config, encoder, scores or {})
        skill, rounds, faults = engineer_loop(
            brief, proposer, config, tools=tools, rubric=rubric, assistant=assistant, bank=bank
        )
        if skill is None:
            made.append(Created(task.name, "nothing", None, rounds, tuple(faults)))
            continue
        if faults:
            made.append(Created(task.name, "quarantined", skill, rounds, tuple(faults)))
            continue
        known = "good" if any(sample.id in (scores or {}) for sample, _ in brief.good) else "unjudged"
        decision = gate.ask(
            skill, f"{len(brief.good)} {known} and {len(brief.bad)} other examples, {rounds} rounds"
        )
        if decision.answer == "approve" and decision.content == skill.digest:
            bank = bank.with_skill(skill)
            made.append(Created(task.name, "added", skill, rounds, (), decision))
        else:
            state: Literal["rejected", "waiting"] = "rejected" if decision.answer == "reject" else "waiting"
            made.append(Created(task.name, state, skill, rounds, (), decision))
    return bank, made


def engineer_loop(
    brief: Brief,
    proposer: Proposer,
    config: CreateConfig,
    *,
    tools: Sequence[str],
    rubric: Rubric | None,
    assistant: Assistant | None,
    bank: Bank,
) -> tuple[Skill | None, int, list[str]]:
    """Write, check and return with the faults, at most `config.drafts` times: the draft, the rounds, what stayed."""
    skill, faults = None, ["nothing was proposed"]
    for number in range(1, config.drafts + 1):
        draft = proposer.author(brief)
        if draft is None:
            return skill, number, faults
        skill = make_skill(brief.task.name, draft.description, draft.body, tools=brief.task.tools)
        faults = draft_faults(
            skill, brief, tools, config=config, rubric=rubric, assistant=assistant, bank=bank
        )
        if not faults:
            return skill, number, []
        brief = replace(brief, faults=faults, draft=skill)
    return skill, config.drafts, faults


def draft_faults(
    skill: Skill,
    brief: Brief,
    tools: Sequence[str],
    *,
    config: CreateConfig,
    rubric: Rubric | None = None,
    assistant: Assistant | None = None,
    bank: Bank | None = None,
) -> list[str]:
    """Faults of a draft: the standard, tools that are not there, copies of requests, a failed trial run."""
    read, problems = parse_skill(skill.name, skill.source, skill.files)
    faults = [p.what for p in problems if p.severity == "error"]
    if read is None:
        return faults
    faults += [f"there is no tool {name!r}" for name in skill.tools if tools and name not in tools]
    queries = [sample.query for sample, _ in [*brief.good, *brief.bad]]
    known = {"known_tools": tools, "queries": queries}
    blank = make_skill(
        skill.name, brief.task.purpose, " ".join([*brief.task.format, *brief.task.rules]), tools=skill.tools
    )
    faults += description_faults(blank, skill.description, **known)
    faults += [f for f in edit_faults(blank, [], skill.body, **known) if "grows" not in f]
    if assistant is not None and bank is not None and config.trials and not faults:
        faults += _trial(skill, brief, config.trials, rubric, assistant, bank)
    return faults


def _trial(
    skill: Skill, brief: Brief, trials: int, rubric: Rubric | None, assistant: Assistant, bank: Bank
) -> list[str]:
    """Faults of a trial run: answers that failed, and hard rules that every answer broke."""
    samples = [sample for sample, _ in brief.good][:trials]
    if not samples:
        return []
    answers = assistant.answer(samples, [skill.name] * len(samples), bank.with_skill(skill))
    failed = [a.error for a in answers if a.error]
    if len(failed) == len(answers):
        return [f"every trial failed: {failed[0]}"]
    broken: dict[str, int] = {}
    for sample, answer in zip(samples, answers, strict=True):
        if not answer.error and rubric is not None:
            for violation in check_rules(rubric.rules, sample, answer, skill=skill.name).violations:
                if violation.severity == "hard":
                    broken[violation.say] = broken.get(violation.say, 0) + 1
    answered = len(answers) - len(failed)
    return [f"no trial answer keeps: {say}" for say, count in broken.items() if count == answered]


def _brief(
    task: TaskSpec,
    samples: Sequence[Sample],
    bank: Bank,
    config: CreateConfig,
    encoder: Encoder,
    scores: Mapping[str, float],
) -> Brief:
    own = [s for s in samples if task.name in s.expected]
    rest = [s for s in samples if s.expected and task.name not in s.expected]
    good = [s for s in own if s.id in scores and scores[s.id] >= config.good] or own
    bad = [s for s in own if s.id in scores and scores[s.id] < config.bad]
    chosen = varied(good, encoder, max(config.examples, 60))
    return Brief(
        task,
        [(s, s.response) for s in chosen],
        [(s, s.response) for s in [*varied(bad, encoder, config.examples), *varied(rest, encoder, 120)]],
        bank.skills.get(task.reference) if task.reference else None,
        others={name: skill.description for name, skill in bank.skills.items()},
    )


def varied(samples: Sequence[Sample], encoder: Encoder, most: int) -> list[Sample]:
    """Samples far from each other: each next one has the least highest cosine to those chosen, one a group first."""
    if len(samples) <= most:
        return list(samples)
    vectors = encoder.encode([s.text for s in samples])
    chosen = [0]
    near = vectors @ vectors[0]
    while len(chosen) < most:
        near[chosen] = np.inf
        n = int(near.argmin())
        chosen.append(n)
        near = np.maximum(near, vectors @ vectors[n])
    return [samples[n] for n in sorted(chosen)]


def wanted_tasks(samples: Sequence[Sample], bank: Bank, encoder: Encoder) -> list[TaskSpec]:
    """Tasks that traffic asks for and no skill is for, as drafts that a person completes: by label, else by cluster."""
    found: dict[str, list[Sample]] = {}
    for sample in samples:
        if sample.expected and not {*sample.expected} & {*bank.skills, NO_SKILL}:
            found.setdefault(sample.expected[0], []).append(sample)
    lost = [s for s in samples if not s.expected and s.route in ("", NO_SKILL)]
    for number, cluster in enumerate(missing_skills(lost, encoder), start=1):
        found[f"new-{number}"] = list(cluster.samples)
    rest = [s.query for s in samples]
    made: list[TaskSpec] = []
    for name, own in found.items():
        terms = telling_terms([s.query for s in own], rest, most=6) or [own[0].query[:60]]
        slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:64] or f"task-{len(made) + 1}"
        made.append(TaskSpec(name=slug, purpose=f"{len(own)} requests about {', '.join(terms)}."[:500]))
    return made
