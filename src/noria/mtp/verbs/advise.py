"""`noria mtp advise`: does speculation pay on this machine, and with how many drafts?"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import click
from pydantic import Field, field_validator

from noria.core.progress import Progress
from noria.mtp.config import SourceOptions
from noria.mtp.types import MAX_GAMMA, Rule
from noria.mtp.verbs.scores import TextOptions, finish_score, interval_text, read_text
from noria.verbs.command import command as make_command
from noria.verbs.options import JsonOption, QuietOption
from noria.verbs.tables import table

if TYPE_CHECKING:
    from noria.mtp.acceptance.advice import RuleAdvice, Timing

RULES: tuple[Rule, ...] = ("rejection", "target_only")


class AdviseConfig(TextOptions, SourceOptions, JsonOption, QuietOption):
    """Settings of `noria mtp advise`."""

    batch_size: int = Field(1, ge=1, description="Requests decoded together.")
    gammas: list[Annotated[int, Field(ge=1, le=MAX_GAMMA)]] = Field(
        [1, 2, 3, 4, 5],
        min_length=1,
        description="Drafts of a round to consider, apart by commas (default: as many of these as the head can make).",
    )
    context: int = Field(256, ge=1, description="Tokens before those that are timed.")
    rounds: int = Field(20, ge=2, description="Timed passes of each kind.")
    least: float = Field(1.0, description="Speed-up that would be worth the trouble.")

    @field_validator("gammas", mode="before")
    @classmethod
    def _counts(cls, value: Any) -> Any:
        if isinstance(value, list) and not all(isinstance(number, int) for number in value):
            raise ValueError(f"{','.join(map(str, value))} is no list of counts, such as 1,2,3")
        return value


@make_command(AdviseConfig, extra="mtp", needs=("torch", "transformers"))
def command(config: AdviseConfig) -> None:
    """Measure acceptance and times on this machine, and say whether MTP pays."""
    result, timing = run(config, Progress(quiet=config.quiet))
    if config.as_json:
        click.echo(json.dumps(advice_values(result, timing), indent=1))
        return
    from noria.mtp.training.evaluate import interval_values

    lines = [["rule", "drafts", "tokens a round", "break even", "speed-up", "95 %"]]
    for rule, advice in result.by_rule.items():
        for option in advice.options:
            cells = [
                f"{option.length.effect:.2f}",
                f"{option.break_even:.2f}",
                f"{option.speed_up.effect:.2f}x",
            ]
            ends = interval_text(interval_values(option.speed_up), digits=2)
            lines.append([rule.replace("_", "-"), str(option.gamma), *cells, ends])
    click.echo(table(lines))
    click.echo(
        f"\nmeasured at batch {config.batch_size}: a plain step {timing.step * 1e3:.3g} ms, a draft "
        f"{timing.draft * 1e3:.3g} ms, verification "
        + ", ".join(f"{seconds * 1e3:.3g} ms of {g}" for g, seconds in timing.verify.items())
    )
    click.echo(f"advice  {result.verdict}")


def run(config: AdviseConfig, progress: Progress) -> tuple[RuleAdvice, Timing]:
    """Weigh this head's acceptance against measured times.

    Raises:
        NoriaError: anything that a user can mend.
    """
    from noria.mtp.acceptance.advice import advise_rule
    from noria.mtp.decoding.timing import measure
    from noria.mtp.heads.loading import open_policy
    from noria.mtp.training.evaluate import evaluate_head

    source = open_policy(config)
    policy, head = source.policy, source.head
    assert head is not None
    source.check_gamma(max(config.gammas) if "gammas" in config.model_fields_set else None)
    gammas = sorted({g for g in config.gammas if g <= head.most_drafts})
    params = source.sampling_params(config)
    with progress:
        rows = read_text(config.data, policy, config.length, progress).rows
        task = progress.task("score", len(rows))
        score = evaluate_head(
            policy.model,
            head,
            rows,
            gamma=gammas[-1],
            served=gammas,
            rules=RULES,
            params=params,
            vocab=policy.vocab,
            on_rows=task.at,
        )
        finish_score(task, score)
        task = progress.task("time")
        timing = measure(
            policy.model,
            head,
            gammas=gammas,
            batch_size=config.batch_size,
            context=config.context,
            rounds=config.rounds,
            params=params,
            vocab=policy.vocab,
        )
        task.done()
    rates = {rule: {g: score.rules[rule].served[g].rates for g in gammas} for rule in RULES}
    return advise_rule(rates, timing, least=config.least), timing


def advice_values(result: RuleAdvice, timing: Timing) -> dict[str, Any]:
    """JSON values of an advice and the times behind it."""
    from noria.mtp.training.evaluate import interval_values

    return {
        "rule": result.rule,
        "gamma": None if result.rule is None else result.by_rule[result.rule].gamma,
        "verdict": result.verdict,
        "seconds": {"step": timing.step, "draft": timing.draft, "verify": dict(timing.verify)},
        "rules": {
            rule: [
                {
                    "gamma": option.gamma,
                    "accept_length": interval_values(option.length),
                    "break_even": option.break_even,
                    "speed_up": interval_values(option.speed_up),
                }
                for option in advice.options
            ]
            for rule, advice in result.by_rule.items()
        },
    }
