"""`noria skills evaluate`: how well a bank routes and answers."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import click
from pydantic import Field

from noria.core.files import write_atomic
from noria.skills.verbs.options.bank import BankArgument, RubricOption, TrafficOptions
from noria.skills.verbs.options.models import ModelOptions, RouterOptions
from noria.skills.verbs.options.stages import share
from noria.verbs.command import command as make_command
from noria.verbs.options import JsonOption, refuse_given
from noria.verbs.tables import table


class EvaluateConfig(BankArgument, RubricOption, TrafficOptions, RouterOptions, ModelOptions, JsonOption):
    """Settings of `noria skills evaluate`."""

    pool: str = Field("test", description="Pool that is scored, or all.")
    repeats: int = Field(1, ge=1, le=20, description="Decisions drawn for each request.")
    probes: int = Field(
        50, ge=0, le=10_000,
        description="Answers that the judge judges three times more: drawn again, dimensions in reverse, padded.",
    )  # fmt: skip
    scores: Path | None = Field(
        None, description="File for a line a request, which `noria skills gate` reads."
    )


@make_command(EvaluateConfig)
def command(config: EvaluateConfig) -> None:
    """Score routes over the whole bank, with none and errors as what they are, and answers by rules and judges."""
    result = run(config)
    if config.as_json:
        click.echo(json.dumps(result, indent=2, ensure_ascii=False))
        return
    route = result["routes"]
    rows = [["skill", "F1", "triggered", "not", "error"]]
    for name, value in route["f1"].items():
        rows.append([name, share(value), *(share(v) for v in route["trigger"].get(name, (None,) * 3))])
    click.echo(table(rows))
    click.echo(
        f"macro F1 {share(route['macro_f1'])}, accuracy {share(route['accuracy'])}, errors {share(route['errors'])}, "
        f"unstable {share(route['unstable'])}, calibration error {share(route['calibration'])}"
    )
    for name, missing in result["catalogue"].items():
        if missing:
            click.echo(f"{name} of the catalogue: {', '.join(missing)}")
    rows = [["skill", "offered", "chosen", "used", "helped"]]
    rows += [
        [f["skill"], *(str(f[k]) if f[k] is not None else "-" for k in rows[0][1:])] for f in result["funnel"]
    ]
    click.echo(table(rows))
    never = [f["skill"] for f in result["funnel"] if not f["chosen"]]
    if never:
        click.echo(f"never chosen: {', '.join(never)}")
    for line in _judge_lines(result["judge"]):
        click.echo(line)
    if result["unscored"]:
        click.echo(f"{result['unscored']} answers are not scored: give rules with --rubric, or --judge-model")
    if result["answers"]:
        a = result["answers"]
        click.echo(
            f"answers: score {share(a['score'])} of 100 in {', '.join(a['dimensions']) or 'no dimension'} over "
            f"{a['judged']} of {a['answers']}; {a['blame']}"
        )


def _judge_lines(judge: dict[str, Any]) -> list[str]:
    """What is known of the judge, in lines."""
    if not judge:
        return []
    lines = [
        f"judge over {judge['probed']} answers: the same points on a second draw {share(judge['retest'])}, "
        f"with the dimensions in reverse {share(judge['order'])}"
    ]
    bias, mean = judge["length_bias"], judge["people_would_say"]
    if bias is not None:
        lines.append(
            f"padding adds {share(bias['effect'])} points [{share(bias['low'])}, {share(bias['high'])}]"
        )
    if mean is not None:
        rho = ", ".join(f"{name} {share(value)}" for name, value in judge["spearman"].items())
        lines += [
            f"judge against {judge['labelled']} answers of people: rank correlation {rho}",
            f"people would say {share(mean['effect'])} [{share(mean['low'])}, {share(mean['high'])}]",
        ]
    return lines


def run(config: EvaluateConfig) -> dict[str, Any]:
    """Evaluate: routes, the funnel, the catalogue and, where there are answers, their scores.

    Raises:
        ConfigError: there is no such pool, or an option has no effect. DataError: the traffic cannot be read.
    """
    from noria.core.errors import ConfigError
    from noria.core.records import json_values
    from noria.skills.bank.catalogue import catalogue
    from noria.skills.routing.confusion import evaluate_routes, set_scores
    from noria.skills.stages.chain import scores_json
    from noria.skills.traffic.sources import funnel

    refuse_given(config, "proposer", because="nothing is proposed")
    judged = config.judge_model is not None or config.final_judge_model is not None
    if not judged:
        refuse_given(config, "probes", because="no model judges", mend="give --judge-model, too")
    bank, pools = config.folder().load(), config.pools()
    if config.pool != "all" and config.pool not in pools:
        raise ConfigError(
            f"there is no pool {config.pool!r}", where="--pool", mend=f"pools: all, {', '.join(pools)}"
        )
    samples = [s for pool in pools.values() for s in pool] if config.pool == "all" else pools[config.pool]
    offered = bank.routed(config.project)
    shown = catalogue(offered, budget=config.catalogue_chars, per_skill=config.description_chars)
    router = config.maker(pools["optimise"], config.asker(config.bank))(bank)
    scores = evaluate_routes(router, samples, [s.name for s in offered], repeats=config.repeats)
    decisions = {s.id: d[0] for s, d, _ in scores.rows}
    known = [s for s in samples if s.id in decisions]
    able = judged or bool(config.load().rules)
    answers, judge = _answers(config, bank, known, decisions) if able else ([], None)
    if config.scores is not None:
        _write(config.scores, scores, answers)
    helped = {s.id: value >= 0.5 for s in samples for name, value in s.human.items() if name == "helpful"}
    names = [s.name for s in offered]
    values: dict[str, Any] = json_values(
        {
            "routes": scores_json(scores) | {"trigger": dict(scores.trigger)},
            "several": list(set_scores(known, [decisions[s.id] for s in known])),
            "catalogue": {"dropped": list(shown.dropped), "cut": list(shown.cut)},
            "funnel": [vars(f) for f in funnel(samples, names, list(shown.descriptions), helped)],
            "answers": _answers_json(answers),
            "unscored": 0 if able else sum(s.response is not None for s in samples),
            "judge": _judge_json(config, answers, judge),
        }
    )
    return values


def _answers_json(answers: Any) -> dict[str, Any]:
    """Mean score of the answers that have one, and what is to blame for the others."""
    from noria.skills.judging.attribution import blame
    from noria.skills.judging.rubric import DIMENSIONS

    if not answers:
        return {}
    scores = [a.score for a in answers if a.score is not None]
    blames = Counter(blame(one) for one in answers)
    return {
        "answers": len(answers),
        "dimensions": [name for name in DIMENSIONS if any(name in one.tiers for one in answers)],
        "judged": len(scores),
        "score": sum(scores) / len(scores) if scores else None,
        "blame": ", ".join(f"{count} {name}" for name, count in blames.items()),
    }


def _answers(config: EvaluateConfig, bank: Any, samples: Any, decisions: Any) -> Any:
    """Answers judged; none where nothing was recorded and there is no server."""
    from noria.skills.judging.judges import judge_answers

    if config.url is None:
        samples = [s for s in samples if s.response is not None]
    if not samples:
        return [], None
    rubric = config.load()
    feedback, final = config.judges(config.bank, rubric)
    skills = [
        s.response.skill if config.url is None and s.response else decisions[s.id].skill for s in samples
    ]
    answers = config.assistant(config.bank).answer(samples, skills, bank)
    judge = final or feedback
    return judge_answers(list(zip(samples, answers, strict=True)), rubric, judge), judge


def _judge_json(config: EvaluateConfig, answers: Any, judge: Any) -> dict[str, Any]:
    """Agreement of the judge with itself and with people, its bias for length, and the mean that people would give."""
    from noria.skills.judging.quality import judge_quality, people_points, prediction_powered
    from noria.skills.judging.rubric import all_score

    rubric = config.load()
    scored = [a for a in answers if a.score is not None]
    people: dict[str, float] = {}
    for one in scored:
        score = all_score(people_points(one.sample, rubric), rubric, cards=bool(one.sample.cards))
        if score is not None:
            people[one.sample.id] = score
    labelled = [a for a in scored if a.sample.id in people]
    others = [a for a in scored if a.sample.id not in people]
    if judge is None or not scored:
        return {}
    cases = [(a.sample, a.response) for a in [*labelled, *others]]
    quality = judge_quality(cases[: max(len(labelled), config.probes)], rubric, judge, probes=config.probes)
    mean = None
    if labelled:
        ours = [a.score for a in labelled]
        mean = vars(
            prediction_powered([a.score for a in others], ours, [people[a.sample.id] for a in labelled])
        )
    return vars(quality) | {
        "probed": min(config.probes, len(cases)),
        "length_bias": None if quality.length_bias is None else vars(quality.length_bias),
        "people_would_say": mean,
    }


def _write(path: Path, scores: Any, answers: Any) -> None:
    """Write a line a request: its id, group, skill, whether it is routed right, and its score."""
    judged = {a.sample.id: a for a in answers}
    lines = []
    for sample, decisions, hits in scores.rows:
        errors = all(d.outcome == "error" for d in decisions)
        one = judged.get(sample.id)
        row = {
            "id": sample.id,
            "group": sample.group,
            "slice": sample.expected[0],
            "route": None if errors else sum(hits) / len(hits),
            "score": None if one is None or one.score is None else one.score / 100,
            "unsafe": False if one is None else one.unsafe,
        }
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    write_atomic(path, "".join(lines))
