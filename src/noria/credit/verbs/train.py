"""`noria credit train`: GRPO with credit of tokens, in a run folder that resumes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from noria.core.errors import ConfigError
from noria.core.models.config import ModelOptions
from noria.core.pages.charts import Figure, curves
from noria.core.pages.report import RunPage, RunRecord, run_page
from noria.core.progress import Progress, Task
from noria.core.runs.outputs import check_run_folder, is_run, named_run
from noria.core.runs.run import Run, save_settings, settled
from noria.credit.training.config import TrainConfig
from noria.verbs.command import command as make_command
from noria.verbs.options import OutputOption, QuietOption

if TYPE_CHECKING:
    from noria.credit.training.trainer import StepResult

CHARTS = {
    "Reward": {"reward": "reward", "answered": "share with an answer"},
    "Credit": {
        "credit/mean_weight": "mean weight",
        "credit/advantage_on_chosen": "share of the advantage on chosen tokens",
    },
    "Share of rollouts that fell back to even credit": {"credit/fallback": "share of rollouts"},
    "Flow": {
        "credit/concentration": "concentration",
        "credit/lost": "share of the question that is lost",
    },
    "Tokens of a response": {"length": "tokens"},
    "Entropy": {"entropy": "nats a token"},
    "Seconds of a step": {
        "rollout_seconds": "rollout",
        "score_seconds": "scoring",
        "learn_seconds": "learning",
    },
}
"""The charts of a training's page: figures of the log by title, with the name of each line."""


class TrainJobConfig(TrainConfig, ModelOptions, OutputOption, QuietOption):
    """Settings of `noria credit train`: those of the training, the model's loading and the output."""


@dataclass(frozen=True)
class TrainResult:
    """The files and the outcome of a training.

    Attributes:
        folder: folder of the run.
        report: page of the run.
        model: folder of the policy for `from_pretrained`; None where weights of its kind cannot be written.
        steps: number of steps done in all.
        reward: mean reward of the last tenth of the steps; None where there were none.
    """

    folder: Path
    report: Path
    model: Path | None
    steps: int
    reward: float | None


@make_command(TrainJobConfig, extra="credit", needs=("torch", "transformers"))
def command(config: TrainJobConfig) -> None:
    """Train a policy by GRPO with credit of tokens; the same command resumes a run that was stopped."""
    result = run(config, Progress(quiet=config.quiet))
    click.echo(f"run     {result.folder}   {result.steps:,} steps")
    if result.reward is not None:
        click.echo(f"reward  {result.reward:.3f} in the last tenth of them")
    click.echo(f"model   {result.model or 'in its checkpoints only: weights of its kind cannot be written'}")
    click.echo(f"report  {result.report}")
    click.echo(
        "next    noria credit train with another --credit or --seed, "
        f"then noria credit compare {result.folder} OTHER"
    )


def run(job: TrainJobConfig, progress: Progress) -> TrainResult:
    """Train a policy, or resume its training, and write its page and the policy.

    Raises:
        NoriaError: a user can mend the input; nothing was written then, or the last checkpoint is whole.
        DivergenceError: loss, gradient or logits are not finite; the last checkpoint is whole.
    """
    config, folder = named_run(
        "credit",
        job.part(TrainConfig),
        needed={
            "model": "a model folder, a hub id, or small",
            "data": "a .jsonl or .parquet file of questions, chains, or gym:FAMILY",
        },
        output=job.output,
        label=lambda c: f"{Path(str(c.model)).stem or 'model'}-{c.credit}-{c.seed}",
    )
    check_run_folder(folder)
    model_name, data = str(config.model), str(config.data)
    if is_run(Path(model_name).expanduser()):
        raise ConfigError("it is a run, not a model", where="--model", mend="give the model folder inside it")

    from noria.core.models.loading import save_language_model
    from noria.core.runs.checkpoints import fingerprint
    from noria.core.training.loop import training
    from noria.credit.loading import open_policy
    from noria.credit.tasks.files import read_questions
    from noria.credit.tasks.questions import digest_of
    from noria.credit.training.trainer import CreditTrainer

    questions = read_questions(data, number=config.questions, seed=config.seed)
    policy = open_policy(model_name, job)
    trainer = CreditTrainer(policy.model, policy.tokenizer, questions, config)
    trainer.credit.check(policy.model)
    inputs = {"model": (model_name, fingerprint(policy.model)), "data": (data, digest_of(questions))}
    identity = settled(folder, config.model_dump(mode="json", exclude={"steps"}), inputs)
    with progress, Run.open(folder, config=identity) as run:
        save_settings(folder, config)
        all_read = Path(data).is_file() and len(questions) == config.questions
        more = ", as many as questions= lets be read" if all_read else ""
        progress.say(f"{len(questions):,} questions{more}")
        with training(run, progress, config.steps, page=write_run_page) as task:
            trainer.train(run, on_step=_watch(progress, task, config.answer))
        written = None
        with contextlib.suppress(
            ValueError
        ):  # transformers cannot write every kind: weights out of a GGUF file
            save_language_model(policy.model, policy.tokenizer, folder / "model")
            written = folder / "model"
        page = write_run_page(folder)
        rewards = [row["reward"] for row in run.metrics()]
    late = rewards[-max(1, len(rewards) // 10) :]
    return TrainResult(folder, page, written, trainer.step, sum(late) / len(late) if late else None)


def _watch(progress: Progress, task: Task, answer: str) -> Callable[[StepResult], None]:
    """A callback that shows the reward of every step, and warns once where answers are not found."""
    warned = False

    def watch(result: StepResult) -> None:
        nonlocal warned
        figures = result.figures
        fallback = figures.get("credit/fallback", 0.0)
        if not warned and (figures["answered"] < 0.5 or fallback > 0.5):
            warned = True
            progress.say(
                f"warning: step {result.step}: an answer was found in {figures['answered']:.0%} of the responses "
                f"(answer={answer}), and {fallback:.0%} of those learned from share credit evenly"
            )
        share = f", fallback {fallback:.0%}" if fallback else ""
        task.at(result.step, f"reward {figures['reward']:.3f}{share}")

    return watch


# -- the page ---------------------------------------------------------------------------------------------------------


def _page(run: RunRecord) -> RunPage:
    config, rows = run.config, run.rows
    intro = (
        f"{config.get('model')} trained on {config.get('data')} with the credit {config.get('credit')}: {run.steps:,} "
        f"steps of {config.get('prompts')} × {config.get('group')} rollouts."
    )
    if rows and not any(row.get("credit/fallback") for row in rows):
        intro += " No rollout fell back to even credit."
    # A line of zeros shows nothing.
    shown = {t: names for t, names in CHARTS.items() if any(row.get(key) for row in rows for key in names)}
    blocks: list[Figure | str] = [*curves(rows, shown)] or ["Nothing was logged yet."]
    return RunPage(f"GRPO with the credit {config.get('credit')}", intro, [("While training", blocks)])


write_run_page = run_page("credit", _page)
"""Write `report.html` of a training: `write_run_page(folder, *, stopped="")`."""
