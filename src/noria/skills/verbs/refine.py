"""`noria skills refine`: stage 3, bodies repaired from judged answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from pydantic import Field

from noria.skills.stages.body_refiner import RefineConfig
from noria.skills.stages.gates import GateSettings
from noria.skills.verbs.options.bank import BankArgument, ByOption, RubricOption, TrafficOptions, read_traffic
from noria.skills.verbs.options.models import ModelOptions, RouterOptions
from noria.skills.verbs.options.stages import run_stage, share, tools_of
from noria.verbs.command import command as make_command
from noria.verbs.options import JsonOption, refuse_given
from noria.verbs.tables import table


class RefineVerbConfig(
    BankArgument,
    ByOption,
    RefineConfig,
    GateSettings,
    RubricOption,
    TrafficOptions,
    RouterOptions,
    ModelOptions,
    JsonOption,
):
    """Settings of `noria skills refine`."""

    canaries: Path | None = Field(
        None, description="Samples whose recorded answers are bad, for the judge to reject."
    )


@make_command(RefineVerbConfig)
def command(config: RefineVerbConfig) -> None:
    """Judge answers by rules and by a model, and repair bodies where enough of them are Poor.

    Without a server the recorded answers are judged and nothing can be repaired: a repair has to be answered anew.
    """
    if config.proposer == "gepa":
        refuse_given(
            config, "proposer", because="GEPA proposes descriptions alone", mend="give --proposer chat"
        )
    result = run_stage(config, "refine", refine_stage)
    if config.as_json:
        click.echo(json.dumps(result, indent=2, ensure_ascii=False))
        return
    click.echo(summary(result))


def refine_stage(config: Any, bank: Any, pools: Any) -> tuple[Any, dict[str, Any]]:
    """Stage 3 on dealt pools: the bank after it, and its summary."""
    from noria.skills.assistants.assistants import CachedAssistant
    from noria.skills.stages.body_refiner import Surroundings, refine_bodies
    from noria.skills.stages.chain import routed
    from noria.skills.stages.gates import Canary

    rubric = config.load()
    judge, final = config.judges(config.bank, rubric)
    known = read_traffic(config.canaries) if config.canaries is not None else []
    router = config.maker(pools["optimise"], config.asker(config.bank))(bank)
    around = Surroundings(
        CachedAssistant(config.assistant(config.bank)),
        rubric,
        judge,
        final,
        config.proposing(config.bank),
        config.part(GateSettings),
        [Canary(s, s.response) for s in known if s.response is not None],
        tools_of(bank),
    )
    sides = [_with_routes(pools[name], router, routed) for name in ("optimise", "body_gate")]
    result = refine_bodies(bank, sides[0], sides[1], around, config.part(RefineConfig))
    return result.bank, refine_summary(result)


def _with_routes(samples: Any, router: Any, routed: Any) -> Any:
    """Samples with the skill that answered them where that is recorded, else the one they are routed to."""
    pairs, _ = routed(router, samples)
    chosen = {sample.id: skill for sample, skill in pairs}
    made = []
    for sample in samples:
        recorded = sample.response.skill if sample.response is not None else None
        skill = recorded or (
            sample.route if sample.route not in ("", "none", "error") else chosen.get(sample.id)
        )
        if skill is not None:
            made.append((sample, skill))
    return made


def refine_summary(result: Any) -> dict[str, Any]:
    """JSON values of stage 3, for the ledger and the page."""
    from noria.core.records import json_values
    from noria.skills.stages.body_refiner import round_json

    def shares(rows: Any) -> list[dict[str, Any]]:
        return [vars(row) | {"share": row.share, "triggered": row.triggered} for row in rows]

    receipts = [one.receipt for one in result.rounds if one.receipt is not None]
    values: dict[str, Any] = json_values(
        {
            "before": shares(result.before),
            "after": shares(result.after),
            "blame": dict(result.blame),
            "score_before": result.score_before,
            "score_after": result.score_after,
            "rounds": [round_json(one) for one in result.rounds],
            "receipt": receipts[-1].to_json() if receipts else None,
        }
    )
    return values


def summary(result: dict[str, Any]) -> str:
    """The summary of stage 3 in words."""
    after = {(row["skill"], row["dimension"]): row for row in result["after"]}
    rows = [["skill", "dimension", "answers", "Poor before", "after", "allowed", "missing", ""]]
    for row in result["before"]:
        later = after.get((row["skill"], row["dimension"]), {})
        due = "repair" if row["triggered"] else "too few" if row["answers"] < row["least"] else ""
        rows.append(
            [row["skill"], row["dimension"], str(row["applies"]), share(row["share"]), share(later.get("share")),
             share(row["threshold"]), str(row["missing"]), due]
        )  # fmt: skip
    lines = [table(rows, names=2)]
    lines.append("blame: " + ", ".join(f"{count} {name}" for name, count in result["blame"].items()))
    for one in result["rounds"]:
        said = "; ".join(e["text"] for e in one["edits"]) or "nothing proposed"
        why = "; ".join(one["refused"]) or (one["receipt"] or {}).get("reason", "no note has enough support")
        lines.append(f"round {one['round']} {one['skill']}: {one['decision']}: {said[:120]} ({why[:160]})")
    lines.append(f"mean score {share(result['score_before'])} → {share(result['score_after'])}")
    return "\n".join(lines)
