"""`noria mtp train`: a head on the policy's own text, in a run folder that resumes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from noria.core.errors import ConfigError
from noria.core.files import write_atomic
from noria.core.models.config import ModelOptions
from noria.core.pages.charts import Figure, lines, series
from noria.core.pages.report import RunPage, RunRecord, run_page
from noria.core.progress import Progress, Task
from noria.core.records import json_values
from noria.core.runs.outputs import check_run_folder, is_run, named_run
from noria.core.runs.run import Run, save_settings, settled
from noria.mtp.config import TrainConfig
from noria.mtp.verbs.scores import acceptance_figures, finish_score, read_text
from noria.verbs.command import command as make_command
from noria.verbs.options import OutputOption, QuietOption

if TYPE_CHECKING:
    from noria.core.models.loading import LanguageModel
    from noria.mtp.data import Rows
    from noria.mtp.heads.head import MTPHead
    from noria.mtp.training.evaluate import HeadScore
    from noria.mtp.training.losses import LossTerms


SCORE, START = "score.json", "start-score.json"
"""Acceptance on held-out text, after training and before."""


class TrainJobConfig(TrainConfig, ModelOptions, OutputOption, QuietOption):
    """Settings of `noria mtp train`: those of the training, and how it is run."""


@dataclass(frozen=True)
class TrainResult:
    """The files and the outcome of a training.

    Attributes:
        folder: the run's folder.
        report: the run's page; None in the other processes of a distributed training.
        data: the text that was trained on.
        steps: number of steps made in all.
        score: score of the head on held-out text; None if there was too little text to hold any out.
    """

    folder: Path
    report: Path | None
    data: str
    steps: int
    score: HeadScore | None


@make_command(TrainJobConfig, extra="mtp", needs=("torch", "transformers"))
def command(config: TrainJobConfig) -> None:
    """Train a head; the same command resumes a run that was stopped.

    Settings are also KEY=VALUE, such as loss=ce or lr=2e-5; they beat the file, and options beat them.
    """
    result = run(config, Progress(quiet=config.quiet))
    if result.report is None:  # another process of this training speaks
        return
    click.echo(f"run     {result.folder}   {result.steps:,} steps")
    if result.score is not None:
        lengths = ", ".join(
            f"{served.length.effect:.2f} by {rule.replace('_', '-')}"
            for rule, score in result.score.rules.items()
            for served in score.served.values()
        )
        click.echo(f"length  {lengths}, on held-out text")
    click.echo(f"report  {result.report}")
    click.echo(f"next    noria mtp advise {result.folder} --data {result.data}")
    click.echo(f"        noria mtp export {result.folder} --output {result.folder.name}-model")


def run(job: TrainJobConfig, progress: Progress) -> TrainResult:
    """Train a head, or resume its training, score it on held-out text and write its page.

    Raises:
        NoriaError: anything that a user can mend; nothing was written then, or the last checkpoint is whole.
        DivergenceError: the run blew up.
    """
    config, folder = named_run(
        "mtp",
        job.part(TrainConfig),
        needed={
            "model": "a model folder, a hub id, or small",
            "data": "the .jsonl or .parquet file of the policy's own text",
        },
        output=job.output,
        label=lambda c: f"{Path(str(c.model)).stem or 'model'}-{c.loss}",
    )
    check_run_folder(folder)
    model_name, data = str(config.model), str(config.data)
    if is_run(Path(model_name).expanduser()):
        raise ConfigError("it is a run, not a model", where="--model", mend="give the model itself")

    from noria.core.models.loading import open_language_model
    from noria.core.runs.checkpoints import fingerprint
    from noria.core.training.loop import training
    from noria.core.training.parallel import Parallel
    from noria.mtp.heads.layouts import layout_of
    from noria.mtp.heads.loading import fresh_or_stored
    from noria.mtp.training.trainer import HeadTrainer

    parallel = Parallel("mtp")
    policy = open_language_model(
        model_name,
        precision=config.precision,
        device=parallel.device,
        allow_download=job.allow_download,
        trust_remote_code=job.trust_remote_code,
    )
    with progress if parallel.main else Progress(quiet=True) as progress:
        text = read_text(Path(data), policy, config.length, progress).rows
        rows, held = text.held_out(config.seed)
        head, stored = fresh_or_stored(policy, config)
        if head.layout is not layout_of(
            policy.model.config
        ):  # found in the files: the run's head is read by it
            config = config.model_copy(update={"layout": head.layout.name})
        inputs = {"model": (model_name, fingerprint(policy.model)), "data": (data, text.digest())}
        trainer = HeadTrainer(policy.model, head, rows, config, vocab_size=policy.vocab, parallel=parallel)
        parameters = sum(p.numel() for p in head.parameters())
        origin = "from the model's files" if stored else "new"
        progress.say(f"{parameters / 1e6:,.2f} million parameters to train, {origin}; loss {config.loss}")
        identity = settled(folder, config.model_dump(mode="json", exclude={"steps"}), inputs)
        with Run.open(folder, config=identity, writer=parallel.main) as run:
            parallel.barrier()
            if parallel.main:
                save_settings(folder, config)
            # Every process scores: a sharded backbone runs in all of them or in none.
            if held is not None and not trainer.resume(run):
                before = _score(policy, head, held, config, progress)
                if parallel.main:
                    _keep_score(folder / START, before, 0)
            with training(run, progress, config.steps, page=write_run_page) as task:
                trainer.train(run, on_step=_watch(progress, task))
            score = None if held is None else _score(policy, head, held, config, progress)
            if score is not None and parallel.main:
                _keep_score(folder / SCORE, score, trainer.step)
            page = write_run_page(folder) if parallel.main else None
            parallel.barrier()
    return TrainResult(folder, page, data, trainer.step, score)


def _keep_score(path: Path, score: HeadScore, step: int) -> None:
    record = json_values(score.to_json() | {"step": step, "text": "held-out text"})
    write_atomic(path, json.dumps(record, indent=1) + "\n")


def _watch(progress: Progress, task: Task) -> Callable[[int, LossTerms], None]:
    """Show loss and acceptance of every step, and once what is odd about them."""
    warned = False

    def watch(step: int, terms: LossTerms) -> None:
        nonlocal warned
        if not warned and (warning := terms.warning):
            progress.say(f"warning: {warning}")
            warned = True
        alphas = " ".join(f"{alpha:.3f}" for alpha in terms.acceptance.tolist())
        task.at(step, f"loss {float(terms.loss.detach()):.4f}  acceptance {alphas}")

    return watch


def _score(
    policy: LanguageModel, head: MTPHead, rows: Rows, config: TrainConfig, progress: Progress
) -> HeadScore:
    """Score the head as it drafts, also where it was trained with another chain attention."""
    from noria.mtp.acceptance.sampling import SamplingParams
    from noria.mtp.training.evaluate import evaluate_head

    task = progress.task("score", len(rows))
    score = evaluate_head(
        policy.model,
        head,
        rows,
        gamma=min(3, config.train_gamma),
        params=SamplingParams(temperature=config.temperature),
        vocab=policy.vocab,
        batch_size=config.batch_size,
        on_rows=task.at,
    )
    finish_score(task, score)
    return score


# -- the page ---------------------------------------------------------------------------------------------------------


def _page(run: RunRecord) -> RunPage:
    config = run.config
    intro = (
        f"A head for {config.get('model')}, trained on {config.get('data')} with the loss {config.get('loss')}: "
        f"{run.steps:,} steps of {config.get('batch_size')} rows, {config.get('train_gamma')} drafts deep."
    )
    sections: list[tuple[str, Sequence[Figure | str]]] = []
    if score := run.file(SCORE):
        blocks = acceptance_figures(score, before=run.file(START))
        sections.append((f"Acceptance on {score['text']}", blocks))
    sections.append(("While training", _curves(run.rows) or ["Nothing was logged yet."]))
    return RunPage(str(config.get("loss")), intro, sections)


write_run_page = run_page("mtp", _page)
"""Write `report.html` of a training from its settings, metrics and score."""


def _curves(rows: Sequence[Mapping[str, Any]]) -> list[Figure | str]:
    rates = sorted({name for row in rows for name in row if name.startswith("conditional_rate_")})
    groups = (
        ("Loss", {"loss": "loss"}),
        (
            "Conditional rate of each draft, over the positions of the batches",
            {name: f"draft {name.removeprefix('conditional_rate_')}" for name in rates},
        ),
        ("Gradient norm before clipping", {"grad_norm": "gradient"}),
    )
    return [Figure.chart(title, lines(points)) for title, names in groups if (points := series(rows, names))]
