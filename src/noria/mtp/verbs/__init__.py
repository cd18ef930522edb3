"""The verbs of `noria mtp`. They parse, call a job, and print what came of it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from noria.core.errors import require
from noria.core.progress import Progress
from noria.mtp.types import MAX_GAMMA, Rule
from noria.verbs import DOWNLOAD, JSON, PATH, QUIET, SETTINGS, numbers, output, plain_warnings, table

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["group"]

MODEL = click.option("--model", metavar="MODEL", help="Where the run's model is now.")
REMOTE = click.option("--trust-remote-code", is_flag=True, help="Let code that comes with the model run.")
GAMMA = click.option(
    "--gamma", type=click.IntRange(1, MAX_GAMMA), default=3, show_default=True, help="Drafts a round."
)
RULE = click.option(
    "--rule",
    type=click.Choice(get_args(Rule)),
    default="rejection",
    show_default=True,
    help="How drafts are verified.",
)


def sampling(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of how tokens are drawn."""
    for option in (
        click.option("--min-p", type=float, default=0.0, help="Least share of the best token's probability."),
        click.option("--top-p", type=float, default=1.0, help="Mass of the tokens that are kept."),
        click.option("--top-k", type=int, default=0, help="Number of tokens that are kept (0: all)."),
        click.option(
            "--temperature", "-t", type=float, help="Of both sides (default: the run's, else 1; 0 is greedy)."
        ),
    ):
        command = option(command)
    return command


@click.group(context_settings=SETTINGS)
def group() -> None:
    """Multi-token-prediction heads that keep RL rollouts fast (Bebop).

    SOURCE is a run folder, a model folder or hub id with a head in its files, or "small", which ships.
    """
    plain_warnings()


@group.command(short_help="Write the policy's own text, to train and score on.")
@click.argument("source")
@click.option(
    "--prompts", type=PATH, required=True, metavar="FILE", help="Prompts or chats: .jsonl or .parquet."
)
@output("The .jsonl file to write.", required=True)
@click.option(
    "--max-new-tokens", type=click.IntRange(1), default=512, show_default=True, help="Of each completion."
)
@click.option(
    "--samples", type=click.IntRange(1), default=1, show_default=True, help="Completions of each prompt."
)
@sampling
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of all completions.")
@click.option(
    "--gamma",
    type=click.IntRange(0, MAX_GAMMA),
    default=0,
    show_default=True,
    help="Drafts a round (0: none).",
)
@RULE
@click.option(
    "--batch-size", type=click.IntRange(1), default=64, show_default=True, help="Requests decoded together."
)
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), help="Of the weights (default fp32).")
@MODEL
@DOWNLOAD
@REMOTE
@QUIET
def sample(
    source: str,
    prompts: Path,
    output: str,
    max_new_tokens: int,
    samples: int,
    temperature: float | None,
    top_k: int,
    top_p: float,
    min_p: float,
    seed: int,
    gamma: int,
    rule: Rule,
    batch_size: int,
    precision: str | None,
    model: str | None,
    allow_download: bool,
    trust_remote_code: bool,
    quiet: bool,
) -> None:
    """Write the policy's own completions of prompts; the same command goes on with a job that was stopped."""
    done = _jobs().sample(
        source,
        prompts,
        output,
        max_new_tokens=max_new_tokens,
        params=_params(temperature, top_k, top_p, min_p),
        own_temperature=temperature is None,
        gamma=gamma,
        rule=rule,
        samples=samples,
        seed=seed,
        batch_size=batch_size,
        model=model,
        precision=precision,
        allow_download=allow_download,
        trust_remote_code=trust_remote_code,
        progress=Progress(quiet=quiet),
    )
    click.echo(f"samples  {done.path}   {done.samples:,} completions")
    if done.invalid:
        click.echo(f"warning  {done.invalid:,} ended early: the model's logits were not finite there")
    click.echo(f"next     noria mtp train --model {model or source} --data {done.path}")


@group.command(short_help="Train a head on the policy's own text.")
@click.option("--model", metavar="MODEL", help='Model folder, hub id, .gguf file, or "small".')
@click.option("--data", metavar="FILE", help="The policy's own text: .jsonl or .parquet.")
@click.option("--config", type=PATH, metavar="FILE", help="YAML file of settings.")
@output("Run folder (default runs/mtp/NAME).")
@DOWNLOAD
@REMOTE
@QUIET
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
def train(
    model: str | None,
    data: str | None,
    config: Path | None,
    output: str | None,
    allow_download: bool,
    trust_remote_code: bool,
    quiet: bool,
    settings: tuple[str, ...],
) -> None:
    """Train a head; the same command goes on with a run that was stopped.

    Settings are KEY=VALUE, such as loss=ce or lr=2e-5; they beat the file.
    """
    from noria.mtp.verbs.settings import resolve

    resolved, folder = resolve(model=model, data=data, file=config, output=output, overrides=settings)
    done = _jobs().train(
        resolved,
        folder,
        allow_download=allow_download,
        trust_remote_code=trust_remote_code,
        progress=Progress(quiet=quiet),
    )
    if done.report is None:  # another process of this training speaks
        return
    click.echo(f"run     {done.folder}   {done.step:,} steps")
    if done.score is not None:
        lengths = ", ".join(
            f"{served.length.effect:.2f} by {rule.replace('_', '-')}"
            for rule, found in done.score.rules.items()
            for served in found.served.values()
        )
        click.echo(f"length  {lengths}, on held-out text")
    click.echo(f"report  {done.report}")
    click.echo(f"next    noria mtp advise {done.folder} --data {resolved.data}")
    click.echo(f"        noria mtp export {done.folder} --output {done.folder.name}-model")


@group.command("eval", short_help="Score a head by every rule of verification.")
@click.argument("source")
@click.option(
    "--data", type=PATH, required=True, metavar="FILE", help="Text the policy wrote with these settings."
)
@GAMMA
@click.option(
    "--rules",
    default=",".join(get_args(Rule)),
    show_default=True,
    metavar="LIST",
    help="Rules of verification.",
)
@sampling
@click.option("--length", type=click.IntRange(4), default=1024, show_default=True, help="Of a packed row.")
@click.option("--batch-size", type=click.IntRange(1), default=8, show_default=True, help="Rows at a time.")
@MODEL
@JSON
@output("Folder of the results (default: evaluation, in the run).")
@DOWNLOAD
@REMOTE
@QUIET
def evaluate(
    source: str,
    data: Path,
    gamma: int,
    rules: str,
    temperature: float | None,
    top_k: int,
    top_p: float,
    min_p: float,
    length: int,
    batch_size: int,
    model: str | None,
    as_json: bool,
    output: str | None,
    allow_download: bool,
    trust_remote_code: bool,
    quiet: bool,
) -> None:
    """Score a head from text alone: how many drafts each rule would accept.

    The text must be the policy's own, drawn with the same temperature and filters.
    """
    results, page = _jobs().evaluate(
        source,
        data,
        output,
        gamma=gamma,
        rules=_rules(rules),
        params=_params(temperature, top_k, top_p, min_p),
        own_temperature=temperature is None,
        length=length,
        batch_size=batch_size,
        model=model,
        allow_download=allow_download,
        trust_remote_code=trust_remote_code,
        progress=Progress(quiet=quiet),
    )
    if as_json:
        click.echo(json.dumps(results, indent=1))
        return
    places = [f"A{n}" for n in range(1, gamma + 1)]
    lines = [["rule", "accept length", "95 %", *places, "over positions"]]
    for rule, found in results["rules"].items():
        own, alike = found["accept_length"], found["over_positions"]["accept_length"]
        rates = [f"{rate['mean']:.3f}" for rate in found["prefix_rates"]]
        lines.append(
            [rule.replace("_", "-"), f"{own['mean']:.3f}", _span(own), *rates, f"{alike['mean']:.3f}"]
        )
    click.echo(table(lines))
    click.echo(
        "\naccept length: tokens a round of a decoder; An: rounds whose first n drafts are all accepted;\n"
        "over positions: the accept length if every token of the text counted the same"
    )
    click.echo(
        f"{results['chains']:,} chains; entropy {results['target_entropy']:.3f} nats of the policy, "
        f"{results['draft_entropy']:.3f} of the head"
    )
    click.echo(f"report  {page}\ndata    {page.with_suffix('.json')}")


@group.command(short_help="Say whether speculation pays here, and with how many drafts.")
@click.argument("source")
@click.option(
    "--data", type=PATH, required=True, metavar="FILE", help="Text the policy wrote with these settings."
)
@click.option(
    "--batch-size", type=click.IntRange(1), default=1, show_default=True, help="Requests decoded together."
)
@click.option(
    "--gammas", default="1,2,3,4,5", show_default=True, metavar="LIST", help="Drafts a round to consider."
)
@sampling
@click.option(
    "--context", type=click.IntRange(1), default=256, show_default=True, help="Tokens before those timed."
)
@click.option("--rounds", type=click.IntRange(2), default=20, show_default=True, help="Timed of each kind.")
@click.option(
    "--least", type=float, default=1.0, show_default=True, help="Speed-up that would be worth the trouble."
)
@click.option("--length", type=click.IntRange(4), default=1024, show_default=True, help="Of a packed row.")
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), help="Of the weights.")
@MODEL
@JSON
@DOWNLOAD
@REMOTE
@QUIET
def advise(
    source: str,
    data: Path,
    batch_size: int,
    gammas: str,
    temperature: float | None,
    top_k: int,
    top_p: float,
    min_p: float,
    context: int,
    rounds: int,
    least: float,
    length: int,
    precision: str | None,
    model: str | None,
    as_json: bool,
    allow_download: bool,
    trust_remote_code: bool,
    quiet: bool,
) -> None:
    """Measure acceptance and times on this machine, and say whether MTP pays."""
    found, timing = _jobs().advise(
        source,
        data,
        batch_size=batch_size,
        gammas=_counts(gammas),
        params=_params(temperature, top_k, top_p, min_p),
        own_temperature=temperature is None,
        context=context,
        rounds=rounds,
        least=least,
        length=length,
        precision=precision,
        model=model,
        allow_download=allow_download,
        trust_remote_code=trust_remote_code,
        progress=Progress(quiet=quiet),
    )
    if as_json:
        click.echo(json.dumps(_advice(found, timing), indent=1))
        return
    lines = [["rule", "drafts", "tokens a round", "break even", "speed-up", "95 %"]]
    for rule, advice in found.by_rule.items():
        for option in advice.options:
            gain = {"low": option.speed_up.low, "high": option.speed_up.high}
            lines.append(
                [
                    rule.replace("_", "-"),
                    str(option.gamma),
                    f"{option.length.effect:.2f}",
                    f"{option.break_even:.2f}",
                    f"{option.speed_up.effect:.2f}x",
                    _span(gain, digits=2),
                ]
            )
    click.echo(table(lines))
    click.echo(
        f"\nmeasured at batch {batch_size}: a plain step {timing.step * 1e3:.3g} ms, a draft "
        f"{timing.draft * 1e3:.3g} ms, verification "
        + ", ".join(f"{seconds * 1e3:.3g} ms of {g}" for g, seconds in timing.verify.items())
    )
    click.echo(f"advice  {found.verdict}")


@group.command(short_help="Test whether an engine samples by the model's law.")
@click.argument("source")
@click.option(
    "--engine",
    default="noria",
    show_default=True,
    metavar="NAME",
    help="noria, transformers, or module:name of a callable (prompt, n, params, seed) -> sequences.",
)
@click.option("--plain", is_flag=True, help="Our decoder without drafts.")
@click.option("--server", metavar="URL", help="An OpenAI-compatible server of the same weights instead.")
@click.option("--served-model", metavar="NAME", help="The model's name there (default: the only one).")
@click.option("--prompt", "prompts", multiple=True, metavar="TEXT", help="To go on from; may be given again.")
@GAMMA
@RULE
@click.option(
    "--samples",
    type=click.IntRange(50),
    default=4000,
    show_default=True,
    help="Sequences a statistical check.",
)
@click.option("--depth", type=click.IntRange(1), help="Tokens whose joint law is tested (default gamma + 1).")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the first request.")
@click.option(
    "--alpha", type=float, default=1e-3, show_default=True, help="Chance of convicting a lossless engine."
)
@MODEL
@JSON
@DOWNLOAD
@REMOTE
@QUIET
def audit(
    source: str,
    engine: str,
    plain: bool,
    server: str | None,
    served_model: str | None,
    prompts: tuple[str, ...],
    gamma: int,
    rule: Rule,
    samples: int,
    depth: int | None,
    seed: int,
    alpha: float,
    model: str | None,
    as_json: bool,
    allow_download: bool,
    trust_remote_code: bool,
    quiet: bool,
) -> None:
    """Test whether an engine samples by the law of the model; exits 1 if it does not.

    A server's key is read from OPENAI_API_KEY.
    """
    jobs = _jobs()
    report = jobs.audit_engine(
        source,
        engine=engine,
        prompts=prompts or jobs.PROMPTS,
        gamma=gamma,
        rule=rule,
        samples=samples,
        depth=depth,
        seed=seed,
        alpha=alpha,
        plain=plain,
        server=None if server is None else jobs.Server(server, served_model),
        model=model,
        allow_download=allow_download,
        trust_remote_code=trust_remote_code,
        progress=Progress(quiet=quiet),
    )
    click.echo(report.to_json() if as_json else report.table())
    if report.verdict == "fail":
        click.get_current_context().exit(1)


@group.command("rl-report", short_help="Read an RL run's log: is it entropy, or the head?")
@click.argument("log", type=PATH)
@output("Folder of the results (default: rl-report, beside the log).")
@click.option("--entropy-field", metavar="NAME", help="Of the policy's entropy, nats.")
@click.option("--length-field", metavar="NAME", help="Of the accept length.")
@click.option("--early", type=click.IntRange(1), help="First steps that the slope is fitted on.")
@click.option("--slope", type=float, help="Tokens a nat, instead of fitting it.")
@JSON
def rl_report(
    log: Path,
    output: str | None,
    entropy_field: str | None,
    length_field: str | None,
    early: int | None,
    slope: float | None,
    as_json: bool,
) -> None:
    """Split the change of accept length over an RL run in entropy's part and the head's.

    LOG has a record a step: .jsonl, .parquet, or the trainer_state.json of transformers and TRL.
    """
    results, page = _jobs().rl_report(
        log, output, entropy=entropy_field, length=length_field, early=early, slope=slope
    )
    if as_json:
        click.echo(json.dumps(results, indent=1))
        return
    click.echo(results["verdict"])
    click.echo(f"report  {page}\ndata    {page.with_suffix('.json')}")


@group.command(short_help="Write the model with the head in its own files.")
@click.argument("source")
@output("Folder to write; must not exist.", required=True)
@click.option("--gamma", type=click.IntRange(1, MAX_GAMMA), help="Drafts a round of the engines (default 3).")
@RULE
@click.option("--overwrite", is_flag=True, help="Replace an earlier export.")
@MODEL
@DOWNLOAD
@REMOTE
def export(
    source: str,
    output: str,
    gamma: int | None,
    rule: Rule,
    overwrite: bool,
    model: str | None,
    allow_download: bool,
    trust_remote_code: bool,
) -> None:
    """Write the model with the head in its own files, and print how engines serve it."""
    done = _jobs().export(
        source,
        output,
        gamma=gamma,
        rule=rule,
        overwrite=overwrite,
        model=model,
        allow_download=allow_download,
        trust_remote_code=trust_remote_code,
    )
    click.echo(
        f"model  {done.folder}   a head of {done.layers} layer{'s' * (done.layers > 1)}, {done.layout} names"
    )
    if done.serving.note is not None:
        click.echo(f"note   {done.serving.note}. For an engine that can:")
    click.echo(done.serving.text(str(done.folder)))


@group.command(short_help="Write a run's report again.")
@click.argument("source", type=PATH)
def report(source: Path) -> None:
    """Write a run's report again, from the files in its folder."""
    click.echo(f"report  {_jobs().report(source)}")


# -- helpers ----------------------------------------------------------------------------------------------------------


def _jobs() -> ModuleType:
    """The jobs need PyTorch; say which extra brings it. What its libraries only remark on is left unsaid."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    require("torch", "mtp")
    return require("noria.mtp.verbs.jobs", "mtp")


def _params(temperature: float | None, top_k: int, top_p: float, min_p: float) -> Any:
    require("torch", "mtp")
    from noria.mtp.acceptance.sampling import SamplingParams

    warm = 1.0 if temperature is None else temperature
    return SamplingParams(temperature=warm, top_k=top_k, top_p=top_p, min_p=min_p)


def _rules(text: str) -> list[Rule]:
    from noria.core.errors import ConfigError

    known = {str(rule): rule for rule in get_args(Rule)}
    names = [name.strip().replace("-", "_") for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise ConfigError(f"no rule {name!r}", where="--rules", mend=f"choose from {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(names)] or list(known.values())


def _counts(text: str) -> list[int]:
    from noria.core.errors import ConfigError

    found = numbers(text, "--gammas", "1,2,3") or []
    if any(not number.is_integer() for number in found):
        raise ConfigError(f"{text!r} is no list of counts", where="--gammas", mend="write it as 1,2,3")
    return [int(number) for number in found]


def _span(value: dict[str, Any], *, digits: int = 3) -> str:
    ends = [value["low"], value["high"]]
    if any(end is None or end != end for end in ends):
        return "-"
    return " … ".join(f"{end:.{digits}f}" for end in ends)


def _advice(found: Any, timing: Any) -> dict[str, Any]:
    def ends(value: Any) -> dict[str, float | None]:
        named = {"mean": value.effect, "low": value.low, "high": value.high}
        return {name: end if end == end else None for name, end in named.items()}

    return {
        "rule": found.rule,
        "gamma": None if found.rule is None else found.by_rule[found.rule].gamma,
        "verdict": found.verdict,
        "seconds": {"step": timing.step, "draft": timing.draft, "verify": dict(timing.verify)},
        "rules": {
            rule: [
                {
                    "gamma": option.gamma,
                    "accept_length": ends(option.length),
                    "break_even": option.break_even,
                    "speed_up": ends(option.speed_up),
                }
                for option in advice.options
            ]
            for rule, advice in found.by_rule.items()
        },
    }
