"""The verbs of `noria grounding`. They parse, call a job, and print what came of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from noria.core.errors import ConfigError, require
from noria.verbs import JSON, PATH, QUIET, SETTINGS, output, plain_warnings, table

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["group"]

DATA = click.option(
    "--data", type=PATH, metavar="DIR", help="Folder of the annotations, one JSON file a video."
)
JUDGE = click.option("--judge", metavar="NAME", help="Which judgement of the run.")
PROTOCOLS = ["unified", "staged", "per-item", "permute"]
CONTROLS = ["none", "blind", "transcript", "black", "shuffled", "reversed", "cropped-box", "oracle"]


def server(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that name a server."""
    for option in (
        click.option("--requests-per-minute", type=float, help="At most."),
        click.option(
            "--timeout", type=float, default=300.0, show_default=True, help="Seconds of an attempt."
        ),
        click.option(
            "--in-flight", type=click.IntRange(1), default=16, show_default=True, help="Requests at once."
        ),
        click.option("--prices", metavar="IN,OUT", help="Per million tokens; a budget needs them."),
        click.option("--key-env", metavar="NAME", help="Environment variable that holds the key."),
        click.option("--model", metavar="NAME", help="The model's name on the server."),
        click.option(
            "--url", metavar="URL", help="Of an OpenAI-compatible API, such as http://127.0.0.1:8000/v1."
        ),
    ):
        command = option(command)
    return command


def media(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of how a clip is sent."""
    for option in (
        click.option("--audio", is_flag=True, help="Send the sound, too."),
        click.option(
            "--side",
            type=click.IntRange(16),
            default=512,
            show_default=True,
            help="Pixels of the longer side.",
        ),
        click.option(
            "--frames", type=click.IntRange(1), default=16, show_default=True, help="Frames of a clip."
        ),
        click.option(
            "--send",
            type=click.Choice(["frames", "video"]),
            default="frames",
            show_default=True,
            help="Images, or the file.",
        ),
    ):
        command = option(command)
    return command


def scoring(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of scoring."""
    for option in (
        click.option(
            "--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the bootstrap."
        ),
        click.option(
            "--draws", type=click.IntRange(100), default=2000, show_default=True, help="Of the bootstrap."
        ),
        click.option("--bca", is_flag=True, help="BCa intervals in the place of percentile ones."),
        click.option(
            "--thresholds", metavar="A,B,C", default=".5,.7,.5", show_default=True, help="θ1, θ2, θ3."
        ),
    ):
        command = option(command)
    return true_levels(command)


def true_levels(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of what level a score is."""
    for option in (
        click.option(
            "--neuroticism",
            type=click.Choice(["as-released", "flipped"]),
            default="as-released",
            show_default=True,
            help="Polarity of its score.",
        ),
        click.option(
            "--bins",
            type=click.Choice(["paper", "official"]),
            default="paper",
            show_default=True,
            help="Edges of the levels.",
        ),
    ):
        command = option(command)
    return command


@click.group(context_settings=SETTINGS)
def group() -> None:
    """Ask whether a right rating is grounded in what the model saw (MM-OCEAN).

    SOURCE is a run folder, or a file of predictions with --data. Results are aggregates over videos; nothing here
    rates a person.
    """
    plain_warnings()


def _jobs() -> ModuleType:
    return require("noria.grounding.verbs.jobs", "grounding")


# -- data -------------------------------------------------------------------------------------------------------------


@group.command(short_help="Check annotations and count what is in them.")
@click.argument("data", type=PATH)
@JSON
def validate(data: Path, as_json: bool) -> None:
    """Check every record of a folder. A fault that keeps a record from being scored ends with exit code 1."""
    found = _jobs().validate(data)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        known = found["statistics"]
        rows = [["", "count"], *([name, f"{known[name]:,}"] for name in COUNTED)]
        click.echo(table(rows))
        kinds: dict[str, list[str]] = {}
        for problem in found["problems"]:
            kinds.setdefault(problem["kind"], []).append(
                f"{problem['video']} {problem['field']}: {problem['what']}"
            )
        for kind, where in kinds.items():
            click.echo(f"\n{kind}: {len(where)}, first {where[0]}")
        click.echo(f"\n{len(found['problems'])} problems, {found['grave']} grave")
    sys.exit(1 if found["grave"] else 0)


COUNTED = ("videos", "sources", "observations", "boxes", "analyses", "questions")


@group.command(short_help="Make SynthOCEAN: clips, records and questions with known answers.")
@output("Folder to write annotations/ and videos/ into.", required=True)
@click.option("--count", type=click.IntRange(2, 100_000), default=100, show_default=True, help="Clips.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.argument("knobs", nargs=-1, metavar="[KNOB=VALUE]...")
@QUIET
def synth(output: str, count: int, seed: int, knobs: tuple[str, ...], quiet: bool) -> None:
    """Knobs: confounder, visibility, leak, solvable, label_noise, width, height, fps, two_clips."""
    from noria.core.config import load_config
    from noria.core.files import output_path

    jobs = _jobs()
    folder = output_path(output)
    corpus = jobs.synth(folder, count, load_config(jobs.Knobs, overrides=knobs), seed, quiet=quiet)
    click.echo(f"{len(corpus)} clips    {folder / 'videos'}\nannotations  {folder / 'annotations'}")


@group.command(short_help="Write a benchmark of one's own consented clips, with a chat model.")
@click.argument("clips", type=PATH)
@click.option("--videos", type=PATH, metavar="DIR", help="Folder of the clips.")
@output("Folder of the benchmark; the same command goes on with it.", required=True)
@click.option(
    "--rounds", type=click.IntRange(0), default=3, show_default=True, help="Of the artefact adversary."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--budget", type=float, help="Most that it may cost; needs --prices.")
@server
@media
@QUIET
def build(
    clips: Path,
    videos: Path | None,
    output: str,
    rounds: int,
    seed: int,
    budget: float | None,
    quiet: bool,
    **options: Any,
) -> None:
    """CLIPS is a .jsonl file: video_id, video_path, transcription, original_scores, and "consent": true."""
    from noria.core.files import output_path

    jobs = _jobs()
    folder = output_path(output)
    settings = jobs.BuildSettings(rounds=rounds, seed=seed)
    built = jobs.build(
        clips, videos, _server(options), folder, settings, _media(options), budget=budget, quiet=quiet
    )
    questions = sum(len(record.mcq_questions) for record in built.corpus)
    click.echo(f"{len(built.corpus)} videos, {questions} questions: {folder / 'annotations'}")
    for number, share in enumerate(built.rounds):
        words = "too few to tell" if share is None else f"{100 * share:.1f} % answered without seeing"
        click.echo(f"round {number}: {words}")
    for name, why in sorted(built.dropped.items()):
        click.echo(f"left out: {name}: {why}")


@group.group(short_help="Sheets for people to verify observations and questions on.")
def review() -> None:
    """Write a CSV sheet, have people fill in its verdicts, and take it in again."""


@review.command("export")
@click.argument("data", type=PATH)
@output("The .csv file to write.", required=True)
def review_export(data: Path, output: str) -> None:
    """Write one row an observation and a question."""
    from noria.core.files import output_path

    jobs, sheets = _jobs(), require("noria.grounding.building.review", "grounding")
    path = output_path(output)
    click.echo(f"{sheets.export_sheet(jobs.load_corpus(data), path)} rows: {path}")


@review.command("apply")
@click.argument("data", type=PATH)
@click.argument("sheet", type=PATH)
@output("Folder of the reviewed annotations.", required=True)
def review_apply(data: Path, sheet: Path, output: str) -> None:
    """Apply the verdicts of a sheet: correct, corrected (with a correction), delete."""
    from noria.core.files import output_path

    jobs, sheets = _jobs(), require("noria.grounding.building.review", "grounding")
    found = sheets.apply_sheet(jobs.load_corpus(data), sheet)
    folder = output_path(output)
    jobs.save_corpus(found.corpus, folder)
    click.echo(f"{folder}: " + ", ".join(f"{n} {verdict}" for verdict, n in sorted(found.counts.items())))


@review.command("agreement")
@click.argument("sheets", type=PATH, nargs=-1, required=True)
def review_agreement(sheets: tuple[Path, ...]) -> None:
    """Krippendorff's alpha of several people's sheets of the same records."""
    alpha = require("noria.grounding.building.review", "grounding").review_agreement(sheets)
    click.echo("undefined" if alpha is None else f"alpha {alpha:.3f}")


# -- asking -----------------------------------------------------------------------------------------------------------


@group.command(short_help="Ask a model a whole benchmark.")
@DATA
@click.option("--videos", type=PATH, metavar="DIR", help="Folder of the clips.")
@server
@click.option(
    "--hf", metavar="MODEL", help="A Hugging Face image-text-to-text model here, in the place of a server."
)
@click.option("--dtype", type=click.Choice(["auto", "fp32", "bf16", "fp16"]), default="auto", help="Of --hf.")
@click.option("--allow-download", is_flag=True, help="Fetch --hf from the hub.")
@click.option("--protocol", type=click.Choice(PROTOCOLS), default="staged", show_default=True)
@click.option(
    "--control", type=click.Choice(CONTROLS), default="none", show_default=True, help="What is shown instead."
)
@click.option(
    "--orders", type=click.IntRange(1), default=6, show_default=True, help="Of options, under permute."
)
@media
@click.option("--max-tokens", type=click.IntRange(1), default=4096, show_default=True)
@click.option("--temperature", type=float, default=0.0, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of orders and strangers.")
@click.option("--json-mode", is_flag=True, help="Have the server hold the reply to JSON.")
@click.option("--no-fallback", is_flag=True, help="No follow-up for what a unified reply lacks.")
@click.option("--budget", type=float, help="Most that the run may cost; needs --prices.")
@click.option("--cache", type=PATH, metavar="DIR", help="Kept answers, shared by runs.")
@click.option("--keep-errors", is_flag=True, help="Going on, leave what ended in an error.")
@output("The run folder (default runs/grounding/MODEL-PROTOCOL-CONTROL).")
@QUIET
def run(
    data: Path | None,
    videos: Path | None,
    hf: str | None,
    dtype: str,
    allow_download: bool,
    no_fallback: bool,
    keep_errors: bool,
    output: str | None,
    quiet: bool,
    **options: Any,
) -> None:
    """Ask the model; the same command goes on with a run that was stopped or killed."""
    if data is None:
        raise ConfigError(
            "no annotations", where="--data", mend="give the folder that holds one JSON file a video"
        )
    jobs = _jobs()
    here = None if hf is None else jobs.Hugging(model=hf, dtype=dtype, allow_download=allow_download)
    same = (
        "protocol",
        "control",
        "orders",
        "max_tokens",
        "temperature",
        "seed",
        "json_mode",
        "budget",
        "cache",
    )
    config = jobs.RunConfig(
        data=data,
        videos=videos,
        server=None if options["url"] is None and hf is not None else _server(options),
        hugging=here,
        media=_media(options),
        fallback=not no_fallback,
        **{name: options[name] for name in same},
    )
    done = jobs.run(config, output=output, quiet=quiet, retry_errors=not keep_errors)
    click.echo("  ".join(f"{status} {n}" for status, n in sorted(done.counts.items())))
    click.echo(f"run  {done.folder}")
    if failed := done.counts.get("error", 0):
        click.echo(f"{failed} failed; the same command asks them again", err=True)
        if failed == sum(done.counts.values()):
            click.get_current_context().exit(1)


@group.command(short_help="Judge the reasons that a model gave.")
@click.argument("run", type=PATH)
@click.option(
    "--rubric",
    type=click.Choice(["atomic", "graded", "rules"]),
    default="atomic",
    show_default=True,
    help="Yes/no items, the paper's four grades, or rules without a model.",
)
@click.option("--judges", type=click.IntRange(1), default=1, show_default=True, help="Draws of the model.")
@click.option(
    "--quorum", type=click.IntRange(1), help="Valid verdicts an item needs (default: more than half)."
)
@click.option("--temperature", type=float, help="Of the judges (default: 0 for one draw, .7 for several).")
@click.option("--budget", type=float, help="Most that the judgement may cost; needs --prices.")
@click.option("--cache", type=PATH, metavar="DIR", help="Kept answers, shared by runs.")
@true_levels
@DATA
@server
@JSON
@QUIET
def judge(
    run: Path,
    rubric: str,
    bins: str,
    neuroticism: str,
    data: Path | None,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Judge the rationales of a run; what is judged already is kept."""
    servers = [] if rubric == "rules" else [_server(options)]
    same = ("judges", "quorum", "temperature", "budget", "cache")
    found = _jobs().judge(
        run,
        servers,
        rubric,
        bins=bins,
        polarity=neuroticism.replace("-", "_"),
        data=data,
        quiet=quiet,
        **{name: options[name] for name in same},
    )
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    states = "  ".join(f"{status} {n}" for status, n in sorted(found["counts"].items()))
    click.echo(f"{found['cases']} rationales  {states}")
    for what, alpha in found["agreement"].items():
        click.echo(f"agreement on {what}: {'undefined' if alpha is None else f'{alpha:.3f}'}")
    for name in found["same_family"]:
        click.echo(f"noria: warning: {name} judges a model of its own family", err=True)
    click.echo(f"judgement  {found['folder']}")


# -- scores -----------------------------------------------------------------------------------------------------------


@group.command(short_help="Score a model's answers.")
@click.argument("source", type=PATH)
@DATA
@JUDGE
@click.option("--compat", type=click.Choice(["official"]), help="The released scorer's definitions.")
@click.option("--subset", type=PATH, metavar="FILE", help="Only these questions: clean.json of the audit.")
@scoring
@output("Where scores.json goes (default: the run folder).")
@JSON
def score(
    source: Path,
    data: Path | None,
    judge: str | None,
    compat: str | None,
    subset: Path | None,
    output: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Print every figure with its interval, and write scores.json."""
    from noria.core.files import output_path

    jobs = _jobs()
    opened = jobs.open_source(source, data=data, judge=judge)
    settings = _settings(options)
    if compat:
        a, b, c = (float(x) for x in settings.theta)
        click.echo(json.dumps(jobs.official(opened, (a, b, c)), indent=2))
        return
    path = output_path(output) if output else (source / "scores.json" if source.is_dir() else None)
    found = jobs.score(opened, settings, subset=subset, write=path)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    click.echo(_figures([found]))
    guess = found["references"]
    click.echo(
        f"\nreferences: one level for all T1 {_cent(guess['T1_constant'])}, best letter T3 "
        f"{_cent(guess['T3_letter'])}, "
        f"a guesser's PR {_cent(guess['PR_guess'])}"
    )
    gaps = found["counts"]
    click.echo(
        f"missing: {gaps['levels_missing']} of {gaps['levels']} levels, {gaps['answers_missing']} of "
        f"{gaps['questions']} "
        f"answers, {gaps['rationales_missing']} rationales, {gaps['judgements_missing']} judgements"
    )
    asked = found.get("samples", {"states": {}, "never_asked": 0})
    if set(asked["states"]) - {"ok"} or asked["never_asked"]:
        states = [*sorted(asked["states"].items()), ("never asked", asked["never_asked"])]
        told = ", ".join(f"{n:,} {state}" for state, n in states if n)
        click.echo(f"samples: {told}; what was not answered counts as wrong")
    if path:
        click.echo(f"scores  {path}")


@group.command(short_help="Find what is wrong with questions and labels.")
@click.argument("data", type=PATH)
@output("Folder for audit.json, clean.json and audit.html.", required=True)
@click.option("--no-blind", is_flag=True, help="Leave the blind classifiers out.")
@click.option(
    "--ladder",
    is_flag=True,
    help="Score the reference readers, too: constant, leak, blind, transcript, oracle.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@JSON
@QUIET
def audit(
    data: Path, output: str, no_blind: bool, ladder: bool, seed: int, as_json: bool, quiet: bool
) -> None:
    """Letters, lengths, leaks, labels, and who answers without seeing; and the subset that is clean."""
    from noria.core.files import output_path

    folder = output_path(output)
    found = _jobs().audit(data, folder, blind=not no_blind, ladder=ladder, seed=seed, quiet=quiet)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    click.echo(
        f"always Medium: T1 {_cent(found['constant']['T1'])}, passes the rating {_cent(found['constant']['r1'])}"
    )
    leaks = found["leaks"]
    click.echo(f"levels told by the questions: {leaks['pairs']}, right {_cent(leaks['pairs_right'])}")
    click.echo(f"T1 of reading them alone: {_cent(leaks['T1_of_reading_them'])}")
    click.echo(f"neuroticism looks {found['polarity']['verdict'].replace('_', ' ')}")
    if found["blind"]:
        rows = [["answered without seeing, %", *found["blind"]["accuracy"]["all"]]]
        for name, row in found["blind"]["accuracy"].items():
            rows.append([name, *("-" if v is None else f"{100 * v:.1f}" for v in row.values())])
        click.echo(table(rows))
    if found.get("ladder"):
        click.echo(_figures(found["ladder"]))
    click.echo(
        f"clean: {found['clean']['questions']} of {found['questions']} questions\naudit  {folder / 'audit.html'}"
    )


@group.command(short_help="Compare models on the same videos.")
@click.argument("sources", type=PATH, nargs=-1, required=True)
@DATA
@JUDGE
@scoring
@JSON
def compare(
    sources: tuple[Path, ...], data: Path | None, judge: str | None, as_json: bool, **options: Any
) -> None:
    """Paired differences with intervals, McNemar's tests, corrected for how many there are."""
    jobs = _jobs()
    opened = [jobs.open_source(source, data=data, judge=judge) for source in sources]
    found = jobs.compare(opened, _settings(options))
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for pair in found["pairs"]:
        click.echo(f"{pair['first']}  against  {pair['second']}")
        rows = [["figure", "first", "second", "difference", "95 % from", "to", "p (Holm)"]]
        for row in pair["rows"]:
            values = (row[key] for key in ("first", "second", "difference", "low", "high", "adjusted"))
            rows.append([row["name"], *("-" if v is None else f"{v:.3f}" for v in values)])
        click.echo(table(rows) + "\n")
    if len(found["models"]) > 2:
        for name, pairs in found["family"].items():
            click.echo(
                f"{name}, all pairs together: " + ", ".join(f"{pair} p={p:.3f}" for pair, p in pairs.items())
            )


@group.command(short_help="Write a page of one model, or a board of several.")
@click.argument("sources", type=PATH, nargs=-1, required=True)
@DATA
@JUDGE
@scoring
@output("The .html file (default report.html in the first run).")
def report(
    sources: tuple[Path, ...], data: Path | None, judge: str | None, output: str | None, **options: Any
) -> None:
    """Figures with intervals, references, thresholds and comparisons on one page."""
    from noria.core.files import output_path

    jobs = _jobs()
    opened = [jobs.open_source(source, data=data, judge=judge) for source in sources]
    if output is None and not sources[0].is_dir():
        raise ConfigError("a file has no folder for its page", where="--output", mend="give it")
    path = output_path(output) if output else sources[0] / "report.html"
    jobs.report(opened, _settings(options), path)
    click.echo(f"report  {path}")


@group.command(short_help="Hand a benchmark or answers to another tool.")
@click.argument("source", type=PATH)
@click.option("--to", "kind", type=click.Choice(["official", "lmms-eval", "inspect"]), required=True)
@DATA
@click.option("--videos", type=PATH, metavar="DIR", help="Folder of the clips, for tasks that show them.")
@click.option(
    "--frames", type=click.IntRange(1), default=16, show_default=True, help="Frames of a clip, for inspect."
)
@output("File (official) or folder (tasks) to write.", required=True)
def export(source: Path, kind: str, data: Path | None, videos: Path | None, frames: int, output: str) -> None:
    """Write a run's answers for the released scorer, or annotations SOURCE as a task of lmms-eval or inspect_ai."""
    from noria.core.files import output_path

    path = output_path(output)
    written = _jobs().export(source, kind, path, data=data, videos=videos, frames=frames)
    click.echo(f"{kind}  {written}")


# -- what they share --------------------------------------------------------------------------------------------------


def _server(options: dict[str, Any]) -> Any:
    if not options["url"] or not options["model"]:
        raise ConfigError("no model to ask", where="--url", mend="give --url and --model")
    from noria.core.config import load_config

    chat = require("noria.core.chat", "grounding")
    values: dict[str, Any] = {
        "url": options["url"],
        "model": options["model"],
        "key_env": options["key_env"],
        "in_flight": options["in_flight"],
        "timeout": options["timeout"],
        "requests_per_minute": options["requests_per_minute"],
    }
    if options["prices"]:
        prices = options["prices"].split(",")
        if len(prices) != 2:
            raise ConfigError(f"{options['prices']!r}", where="--prices", mend="write IN,OUT such as 0.1,0.4")
        values["prices"] = {"input": _number(prices[0]), "output": _number(prices[1])}
    return load_config(chat.ChatServer, base=values)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"{text!r} is no number", where="--prices") from None


def _media(options: dict[str, Any]) -> Any:
    settings = require("noria.grounding.asking.media", "grounding").MediaSettings
    return settings(
        send=options["send"], frames=options["frames"], side=options["side"], audio=options["audio"]
    )


def _settings(options: dict[str, Any]) -> Any:
    parts = [part.strip() for part in options["thresholds"].split(",")]
    kind = require("noria.grounding.scoring.evaluation", "grounding").ScoreSettings
    scoring = require("noria.grounding.scoring.rates", "grounding")
    try:
        scoring.Theta(*parts)
    except (ValueError, TypeError, ZeroDivisionError):
        raise ConfigError(
            f"{options['thresholds']!r}",
            where="--thresholds",
            mend="write three numbers in (0, 1], such as .5,.7,.5",
        ) from None
    return kind(
        bins=options["bins"],
        polarity=options["neuroticism"].replace("-", "_"),
        theta=tuple(parts),
        draws=options["draws"],
        seed=options["seed"],
        method="bca" if options["bca"] else "percentile",
    )


def _cent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _figures(scores: Sequence[dict[str, Any]]) -> str:
    pages = require("noria.grounding.verbs.pages", "grounding")
    names = require("noria.grounding.scoring.evaluation", "grounding").SUMMARY
    if len(scores) == 1:
        rows = [["figure", "value [95 %]"], *([name, pages.cell(scores[0], name) or "-"] for name in names)]
        return table(rows)
    return table(
        [["", *names], *([s["name"], *(pages.cell(s, name) or "-" for name in names)] for s in scores)]
    )
